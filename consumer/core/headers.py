"""Our headers on a message: attempts, delayed retries, origin.

1. Reading never fails: an operator's header of the same name but another type, negative or absurd reads as
   if it were missing, and the next write replaces it.
2. We write text or whole numbers, and never a value of the payload.
3. The operator's own headers are kept. Those that the broker would obey are kept only in a dead letter, where
   they have no effect: see ``_STEERING``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from consumer.core.clock import iso_utc
from consumer.core.delivery import Delivery
from consumer.core.outcome import DeadLetter, Delay

ATTEMPTS: Final = "x-attempts"
DELAYED_RETRIES: Final = "x-visits"
FIRST_FAILURE: Final = "x-first-failure"
LAST_FAILURE: Final = "x-last-failure"
ORIGINAL_EXCHANGE: Final = "x-original-exchange"
ORIGINAL_ROUTING_KEY: Final = "x-original-routing-key"
REPLAYS: Final = "x-replays"
REASON: Final = "x-reason"
DETAIL: Final = "x-detail"
STATUS: Final = "x-status"
CONSUMER_VERSION: Final = "x-consumer-version"

_MOST = 10_000  # above every count that we write
_LONGEST_SHORTSTR = 255  # bytes: AMQP's bound for the names of exchanges and routing keys
_LONGEST_DETAIL = 200

# ``x-delivery-count`` belongs to the queue that delivered.
_BROKERS = frozenset({"x-delivery-count"})
# In a delay queue the broker would obey these: ``CC`` and ``BCC`` send a copy to the queues they name, and
# an ``x-death`` that names our queue is a cycle when the delay ends: RabbitMQ drops the message silently.
_STEERING = _BROKERS | {
    "CC",
    "BCC",
    "x-death",
    "x-first-death-exchange",
    "x-first-death-queue",
    "x-first-death-reason",
    "x-last-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
}

# What describes one failure: a replay starts without it.
_FAILURE = frozenset(
    {REASON, DETAIL, STATUS, ATTEMPTS, DELAYED_RETRIES, FIRST_FAILURE, LAST_FAILURE, CONSUMER_VERSION}
)


@dataclass(frozen=True, slots=True)
class TrackingHeaders:
    """A message's past. ``first_failure`` is ISO-8601 with a zone; counts are 0 and up."""

    attempts: int = 0
    delayed_retries: int = 0
    first_failure: str | None = None
    original_exchange: str = ""
    original_routing_key: str = ""
    replays: int = 0


def tracking_headers(delivery: Delivery) -> TrackingHeaders:
    """Read the headers of ``delivery``; its origin is itself unless they say otherwise."""
    headers = delivery.headers
    exchange = _name(headers.get(ORIGINAL_EXCHANGE))
    routing_key = _name(headers.get(ORIGINAL_ROUTING_KEY))
    return TrackingHeaders(
        attempts=_count(headers.get(ATTEMPTS)),
        delayed_retries=_count(headers.get(DELAYED_RETRIES)),
        first_failure=_moment(headers.get(FIRST_FAILURE)),
        original_exchange=delivery.exchange if exchange is None else exchange,
        original_routing_key=delivery.routing_key if routing_key is None else routing_key,
        replays=_count(headers.get(REPLAYS)),
    )


def dead_letter_headers(
    delivery: Delivery,
    past: TrackingHeaders,
    disposition: DeadLetter,
    now: datetime,
    version: str,
    *,
    attempts: int,
) -> dict[str, Any]:
    """Return the headers of the dead letter: the operator's, and why, when and where from."""
    failed_at = iso_utc(now)
    headers = _kept(delivery.headers, _BROKERS | {STATUS})  # a replayed one may carry an old status
    if disposition.status is not None:
        headers[STATUS] = disposition.status
    return headers | {
        REASON: str(disposition.reason),
        DETAIL: disposition.detail[:_LONGEST_DETAIL],
        ATTEMPTS: attempts,
        FIRST_FAILURE: past.first_failure or failed_at,
        LAST_FAILURE: failed_at,
        ORIGINAL_EXCHANGE: past.original_exchange,
        ORIGINAL_ROUTING_KEY: past.original_routing_key,
        CONSUMER_VERSION: version,
    }


def delay_headers(
    delivery: Delivery, past: TrackingHeaders, disposition: Delay, attempts: int, now: datetime
) -> dict[str, Any]:
    """Return the headers for a delay queue: one more delayed retry, and why."""
    headers = republish_headers(delivery, past, attempts, now)
    headers.pop(STATUS, None)
    if disposition.status is not None:
        headers[STATUS] = disposition.status
    if disposition.failed:
        headers.setdefault(FIRST_FAILURE, iso_utc(now))
    retries = past.delayed_retries + disposition.counts
    return headers | {DELAYED_RETRIES: retries, DETAIL: disposition.detail[:_LONGEST_DETAIL]}


def republish_headers(
    delivery: Delivery, past: TrackingHeaders, attempts: int, now: datetime
) -> dict[str, Any]:
    """Return the headers for the end of our own queue. Counts no delayed retry."""
    headers = _kept(delivery.headers, _STEERING | {FIRST_FAILURE})
    first_failure = past.first_failure or (iso_utc(now) if attempts else None)
    if first_failure is not None:
        headers[FIRST_FAILURE] = first_failure
    return headers | {
        ATTEMPTS: attempts,
        DELAYED_RETRIES: past.delayed_retries,
        ORIGINAL_EXCHANGE: past.original_exchange,
        ORIGINAL_ROUTING_KEY: past.original_routing_key,
    }


def replay_headers(delivery: Delivery, past: TrackingHeaders) -> dict[str, Any]:
    """Return the headers for a replay: what describes the failure is dropped, one more replay counted."""
    headers = _kept(delivery.headers, _STEERING | _FAILURE)
    return headers | {
        REPLAYS: past.replays + 1,
        ORIGINAL_EXCHANGE: past.original_exchange,
        ORIGINAL_ROUTING_KEY: past.original_routing_key,
    }


def _kept(headers: Mapping[str, Any], dropped: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if name not in dropped}


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= _MOST else 0


def _name(value: Any) -> str | None:
    fits = isinstance(value, str) and len(value.encode("utf-8", "replace")) <= _LONGEST_SHORTSTR
    return value if fits else None


def _moment(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return value if moment.tzinfo is not None else None
