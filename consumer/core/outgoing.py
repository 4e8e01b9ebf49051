"""What we publish: a copy of a delivery, made safe to publish again. Pure.

A message cannot be republished exactly as it came. Some properties and headers are instructions
to the broker, and obeying them a second time would lose the copy or send it elsewhere; those are
moved to ``x-original-*`` headers, everything else stays as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from consumer.core.delivery import Delivery

PERSISTENT = 2

#: Property -> header that keeps it. ``expiration`` would let a dead letter vanish; ``user_id`` must
#: equal the publishing user or the broker closes the channel.
_MOVED_PROPERTIES = {"expiration": "x-original-expiration", "user_id": "x-original-user-id"}
#: Header -> header that keeps it. ``CC`` and ``BCC`` would route the copy to further queues.
_MOVED_HEADERS = {"CC": "x-original-cc", "BCC": "x-original-bcc"}
#: Counted by the quorum queue that delivered; meaningless in another queue.
_DROPPED_HEADERS = frozenset({"x-delivery-count", "x-acquired-count"})
#: Properties that only the broker may set.
_DROPPED_PROPERTIES = frozenset({"cluster_id"})


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A persistent message to publish with a confirm, mandatory."""

    exchange: str
    routing_key: str
    body: bytes
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]


#: What is kept of headers that are too much for a frame: each header, and all of them; bytes.
_SMALL_HEADER, _SMALL_HEADERS = 512, 16 * 1024


def copy_of(delivery: Delivery, *, exchange: str, routing_key: str, headers: Mapping[str, Any]) -> Outgoing:
    """The delivery's body, properties and ``headers`` (already extended), safe to publish."""
    properties = {k: v for k, v in delivery.properties.items() if k not in _DROPPED_PROPERTIES}
    properties["delivery_mode"] = PERSISTENT
    kept = {k: v for k, v in headers.items() if k not in _DROPPED_HEADERS and k not in _MOVED_HEADERS}
    for name, header in _MOVED_HEADERS.items():
        if name in headers:
            kept.setdefault(header, headers[name])
    for name, header in _MOVED_PROPERTIES.items():
        value = properties.pop(name, None)
        if value is not None:
            kept.setdefault(header, value)
    return Outgoing(exchange, routing_key, delivery.body, kept, properties)


def bare(outgoing: Outgoing) -> Outgoing:
    """The same message with only small ``x-`` headers, in their order, and the properties that name it.

    For headers that were read from the wire but that no frame can hold again: the body counts.
    """
    headers, left = dict[str, Any](), _SMALL_HEADERS
    for name, value in outgoing.headers.items():
        if name.startswith("x-") and isinstance(value, str | int):
            size = len(name.encode("utf-8", "replace")) + len(str(value).encode("utf-8", "replace"))
            if size <= min(_SMALL_HEADER, left):
                headers[name] = value
                left -= size
    names = ("delivery_mode", "message_id", "content_type")
    properties = {k: v for k, v in outgoing.properties.items() if k in names and isinstance(v, str | int)}
    return Outgoing(outgoing.exchange, outgoing.routing_key, outgoing.body, headers, properties)
