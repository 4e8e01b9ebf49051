"""What ``journey-consumer publish`` is made of: where lines come from, how they go out, what is shown.

``source`` yields lines, ``sender`` publishes them, ``view`` shows how far it is. None knows the others.
"""

from consumer.publishing.sender import Sender, Target
from consumer.publishing.source import generated_lines, read_lines
from consumer.publishing.view import Progress

__all__ = ["Progress", "Sender", "Target", "generated_lines", "read_lines"]
