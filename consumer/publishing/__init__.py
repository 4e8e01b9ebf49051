"""What ``journey-consumer publish`` is made of, and invented journeys.

``connect`` reaches the broker, ``lines`` reads and publishes, ``progress`` shows how far it is, ``samples``
invents journeys.
"""

from consumer.publishing.connect import Target, connect, connect_virtual
from consumer.publishing.lines import Sender, generated_lines, outgoing, read_lines
from consumer.publishing.progress import Progress

__all__ = [
    "Progress",
    "Sender",
    "Target",
    "connect",
    "connect_virtual",
    "generated_lines",
    "outgoing",
    "read_lines",
]
