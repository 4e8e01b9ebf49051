"""What ``journey-consumer publish`` is made of: where lines come from, how they go out, what is shown.

``source`` yields lines, ``connect`` reaches the broker, ``sender`` publishes, ``view`` shows how far it is.
"""

from consumer.publishing.connect import Target, build_connections, connect
from consumer.publishing.sender import Sender
from consumer.publishing.source import generated_lines, read_lines
from consumer.publishing.view import Progress

__all__ = ["Progress", "Sender", "Target", "build_connections", "connect", "generated_lines", "read_lines"]
