"""A message as the rest of the program sees it, and how many of them to consume.

Knows nothing of kombu. ``tag``, ``channel`` and ``generation`` belong to the broker edge:
an acknowledgement is written only on the channel and the connection that delivered.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Mode(Enum):
    """How much to consume: nothing, one delivery at a time to probe with, or up to the prefetch."""

    NONE = "none"
    PROBE = "probe"
    FLOW = "flow"


@dataclass(slots=True, eq=False)
class Delivery:
    """One message handed to us by the broker, not yet settled.

    ``received_at`` is monotonic seconds; ``headers`` and ``properties`` are as the operator
    published them (AMQP basic properties without ``headers``) and must not be changed.
    """

    body: bytes
    headers: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    exchange: str = ""
    routing_key: str = ""
    redelivered: bool = False
    received_at: float = 0.0
    tag: Any = None
    channel: int = 0
    generation: int = 0

    @property
    def content_type(self) -> str | None:
        """The AMQP content type, None when absent or not text."""
        value = self.properties.get("content_type")
        return value if isinstance(value, str) else None

    @property
    def message_id(self) -> str | None:
        """The AMQP message id, None when absent or not text."""
        value = self.properties.get("message_id")
        return value if isinstance(value, str) else None
