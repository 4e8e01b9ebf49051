"""What is known of a dead letter: its ids, why it died, until when its journey can be registered. Pure.

1. Reading never fails: an operator's own message, half a payload or a header of another type reads
   as "not known" (None).
2. The payload is read leniently, because an invalid journey has a deadline, too.
3. A record holds ids, codes, dates and sizes; never any other value of the payload, nor of a header that is
   not what we would have written.
4. The reason is that of the queue, also for a dead letter that was moved there by hand.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from consumer.core.clock import REGISTRATION_WINDOW, iso_utc
from consumer.core.cloudevents import Payload, unwrap, unwrap_structured
from consumer.core.delivery import Delivery
from consumer.core.headers import DETAIL, LAST_FAILURE, STATUS, tracking_headers
from consumer.core.outcome import Reason
from consumer.core.topology import DELIVERY_LIMIT
from consumer.deadletters.masking import STATUSES, is_detail
from schemas.dates import instant
from schemas.phone import e164

#: The detail of what the broker itself dead-lettered, by the reason in ``x-death``.
BROKER_DETAILS: Final = {
    "delivery_limit": "delivery_limit", "expired": "expired", "maxlen": "overflow", "rejected": "rejected"
}  # fmt: skip
#: Sorts after every deadline.
NO_DEADLINE: Final = float("inf")
#: Replaces a detail that is not ours: an operator's own header of that name may hold anything.
FOREIGN_DETAIL: Final = "(not ours)"
V2_ID: Final = "journey_id"
V3_ID: Final = "operator_journey_id"
#: Records hold so much of an id.
LONGEST_ID: Final = 256
#: The code of a journey that violates the Registry's terms: it has stored the id, and always answers 409.
_TERMS_VIOLATED: Final = "-32422"
#: No journey is nested deeper than six levels; what is too deep for recursion is not a payload.
_DEEPEST = 64


@dataclass(frozen=True, slots=True)
class Record:
    """One dead letter. Dates are aware, in UTC; what is not known is None.

    ``reason`` is that of its queue; ``start`` and so ``deadline`` come from the payload.
    """

    reason: str
    message_id: str | None
    journey_id: str | None
    detail: str | None
    status: int | None
    attempts: int
    replays: int
    died: datetime | None
    start: datetime | None
    size: int

    @property
    def deadline(self) -> datetime | None:
        return None if self.start is None else self.start + REGISTRATION_WINDOW

    @property
    def is_refused_for_good(self) -> bool:
        """Whether it can never be posted again, in time or not, because it violates the Registry's terms."""
        return self.reason == Reason.REJECTED and self._violates_terms

    @property
    def _violates_terms(self) -> bool:
        return self.detail is not None and self.detail.partition(" ")[0] == _TERMS_VIOLATED

    @property
    def urgency(self) -> float:
        """The deadline in seconds since 1970, to sort by: the smallest is the most urgent."""
        if self.deadline is None or self.is_refused_for_good:
            return NO_DEADLINE
        return self.deadline.timestamp()

    def left(self, now: datetime) -> float | None:
        """Seconds until the deadline; negative when it has passed."""
        return None if self.deadline is None else (self.deadline - now).total_seconds()

    def age(self, now: datetime) -> float | None:
        """Seconds since the death."""
        return None if self.died is None else (now - self.died).total_seconds()

    def is_too_late(self, now: datetime) -> bool | None:
        """Whether the deadline has passed; None when it is not known."""
        if self.reason == Reason.EXPIRED and (self.deadline is None or self._violates_terms):
            return True
        return None if self.deadline is None else self.deadline <= now

    def as_json(self, now: datetime) -> dict[str, Any]:
        """The record as ``--json`` shows it."""
        left = self.left(now)
        dates = {"died": self.died, "start": self.start, "deadline": self.deadline}
        return {
            "reason": self.reason,
            "detail": self.detail,
            "status": self.status,
            "journey_id": self.journey_id,
            "message_id": self.message_id,
            "attempts": self.attempts,
            "replays": self.replays,
            **{name: None if date is None else iso_utc(date) for name, date in dates.items()},
            "left_seconds": None if left is None else round(left, 3),
            "refused_for_good": self.is_refused_for_good,
            "size_bytes": self.size,
        }


def read(delivery: Delivery, queue_reason: str) -> Record:
    """Read a dead letter from the queue of ``queue_reason``; never raises."""
    headers = delivery.headers
    past = tracking_headers(delivery)
    payload = payload_of(delivery)
    message_id, journey_id = delivery.message_id, next(iter(ids_of(payload).values()), None)
    status = headers.get(STATUS)
    return Record(
        reason=queue_reason,
        message_id=None if message_id is None else message_id[:LONGEST_ID],
        journey_id=None if journey_id is None else journey_id[:LONGEST_ID],
        detail=_detail(headers, queue_reason),
        status=status if type(status) is int and status in STATUSES else None,
        attempts=past.attempts,
        replays=past.replays,
        died=_died(headers),
        start=_start(payload),
        size=len(delivery.body),
    )


def payload_of(delivery: Delivery) -> Any:
    """The payload as JSON, out of its CloudEvent if it came in one; None when it is not JSON, or too deep."""
    found = unwrap(delivery)
    if not isinstance(found, Payload):
        return None
    event = unwrap_structured(found.body)
    body = event.body if isinstance(event, Payload) else found.body
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return None
    may_be_deep = body.count(b"{") + body.count(b"[") > _DEEPEST
    return None if may_be_deep and is_too_deep(payload) else payload


def is_too_deep(value: Any, levels: int = _DEEPEST) -> bool:
    """Whether JSON is nested deeper than ``levels``."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(is_too_deep(each, levels - 1) for each in inner)


def fingerprint(delivery: Delivery) -> str:
    """The same for the same body and message id, and for nothing else."""
    digest = hashlib.blake2b((delivery.message_id or "").encode("utf-8", "replace"), digest_size=12)
    digest.update(b"\0")
    digest.update(delivery.body)
    return digest.hexdigest()


def ids_of(payload: Any) -> dict[str, str]:
    """The ids in a payload of either version, the id of the journey first.

    v2 calls the journey ``journey_id``, and ``operator_journey_id`` is its trip; v3, which alone has a
    ``start`` at the root, calls the journey ``operator_journey_id``.
    """
    if not isinstance(payload, dict):
        return {}
    names = (V3_ID, V2_ID) if "start" in payload else (V2_ID, V3_ID)
    return {name: value for name in names if isinstance(value := payload.get(name), str) and value}


def person_hashes(payload: Any) -> Iterator[str]:
    """SHA-256 in hex of whatever may be a person's phone (in E.164, too) or id, wherever it stands.

    An operator's own event, or a refused payload, may have it under any key. A text that is a hash already
    (``identity_key``) is given as it is.
    """
    if isinstance(payload, dict | list):
        for each in payload.values() if isinstance(payload, dict) else payload:
            yield from person_hashes(each)
    elif isinstance(payload, str | int):
        text = str(payload)
        digits = sum(map(str.isdigit, text))
        number = e164(text) if digits >= _PHONE_DIGITS and len(text) <= _LONGEST_PHONE else None
        yield text.lower()
        for each in (text, number):
            if each is not None:
                yield hashlib.sha256(each.encode("utf-8", "replace")).hexdigest()


_PHONE_DIGITS, _LONGEST_PHONE = 6, 32


def _detail(headers: Mapping[str, Any], queue_reason: str) -> str | None:
    """Ours; else, in the queue that the broker fills, why it did, which its newest ``x-death`` tells."""
    value = headers.get(DETAIL)
    if value is None:
        match headers.get("x-death"):
            case [{"reason": str(reason)}, *_] if queue_reason == DELIVERY_LIMIT:
                return BROKER_DETAILS.get(reason)
        return None
    return value if isinstance(value, str) and is_detail(value) else FOREIGN_DETAIL


def _start(payload: Any) -> datetime | None:
    """The trip's start (v3), or the earlier one of both persons (v2)."""
    if not isinstance(payload, dict):
        return None
    starts = [_instant(place) for place in (payload, payload.get("driver"), payload.get("passenger"))]
    return min((start for start in starts if start is not None), default=None)


def _instant(place: Any) -> datetime | None:
    start = place.get("start") if isinstance(place, dict) else None
    text = start.get("datetime") if isinstance(start, dict) else None
    if not isinstance(text, str) or len(text) > 64:  # noqa: PLR2004 the Registry's own bound
        return None
    try:
        return min(instant(text), datetime.max.replace(tzinfo=UTC) - REGISTRATION_WINDOW)
    except (ValueError, TypeError, AttributeError, OverflowError):  # not a date that any version accepts
        return None


def _died(headers: Mapping[str, Any]) -> datetime | None:
    """Our header; else the broker's, which keeps the latest death first."""
    text = headers.get(LAST_FAILURE)
    if isinstance(text, str):
        try:
            moment = datetime.fromisoformat(text)
            return moment.astimezone(UTC) if moment.tzinfo is not None else None
        except (ValueError, OverflowError):  # not a date, or out of range in UTC
            return None
    match headers.get("x-death"):
        case [{"time": datetime() as time}, *_]:
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return None
