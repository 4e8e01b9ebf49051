"""From a delivery to a journey that may be sent, or to the reason why it may not.

The plain payload is validated as it came. Only what is refused is looked at again: a stray
``api_version`` is cut out, a CloudEvent that is not labelled as one is unwrapped. With an ``EventMapping``
the payload is what it makes of the event. Pure; no payload value ever gets into a reason.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import schemas
from consumer.core.cloudevents import Payload, Unreadable, strip_api_version, unwrap, unwrap_structured
from consumer.core.delivery import Delivery
from consumer.core.outcome import Invalid
from schemas import Journey

if TYPE_CHECKING:  # its libraries are loaded by those who use one
    from consumer.core.mapping import EventMapping


@dataclass(frozen=True, slots=True)
class Ready:
    """A valid journey and the bytes to send for it: the operator's own unless a mapping made them."""

    journey: Journey
    body: bytes


def parse(
    delivery: Delivery, version: Literal["v2", "v3"], mapping: "EventMapping | None" = None
) -> Ready | Invalid:
    """Unwrap, map and validate; never raises, whatever the bytes."""
    payload = unwrap(delivery)
    if isinstance(payload, Unreadable):
        return Invalid(payload.detail)
    if mapping is not None:
        event = unwrap_structured(payload.body)
        return map_and_validate(event.body if isinstance(event, Payload) else payload.body, version, mapping)
    first = _validate(payload.body, version)
    if isinstance(first, Ready):
        return first
    body = payload.body
    event = unwrap_structured(body)
    if isinstance(event, Payload):
        body = event.body
        first = _validate(body, version)
    if isinstance(first, Invalid):
        # On the 2023 server this key overrides the path: it must never get through.
        stripped = strip_api_version(body)
        if stripped is not None:
            return _validate(stripped, version)
    return first


def map_and_validate(event: bytes, version: Literal["v2", "v3"], mapping: "EventMapping") -> Ready | Invalid:
    """Validate what the mapping makes; a field that is missing then is one that it could not make."""
    body = mapping.apply(event)
    if isinstance(body, str):
        return Invalid(body)
    verdict = _validate(body, version)
    if isinstance(verdict, Invalid) and verdict.detail.startswith("missing at "):
        return Invalid(verdict.detail.replace("missing", "mapping", 1))
    return verdict


def _validate(body: bytes, version: Literal["v2", "v3"]) -> Ready | Invalid:
    match schemas.validate(version, body):
        case Journey() as journey:
            return Ready(journey, body)
        case schemas.Refusal(violations=violations):
            first = violations[0]
            return Invalid(f"{first.code} at {first.path}" if first.path else first.code)
