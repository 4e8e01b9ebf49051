"""Outcome events: a CloudEvents 1.0 message for each final fate, for the operator's own systems.

1. Ids, codes and the Registry's own date; never a value of the payload.
2. Fire and forget: published on a connection of its own, so that an exchange that is missing, full or slow
   neither delays nor endangers settlement. What can not be published is dropped, and counted.
3. An event that is consumed as if it were a journey makes no event: a binding that leads back would
   otherwise never come to an end.
4. An event is made after its delivery was acknowledged: a crash in between loses it. A delivery that comes
   again makes an event of the same id again.
"""

import asyncio
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from urllib.parse import quote

from consumer.core.delivery import Delivery
from consumer.core.outcome import Acknowledge, DeadLetter, Registered
from consumer.core.outgoing import PERSISTENT, Outgoing
from consumer.errors import PublishError
from consumer.metrics import Metrics
from consumer.service.result import HandlingResult

TYPE_PREFIX: Final = "journey-consumer.journey."
CONTENT_TYPE: Final = "application/cloudevents+json"
#: Tells an event from a journey.
MARK: Final = "x-outcome-event"
#: Events that wait for their confirm; beyond that they are dropped.
MOST_WAITING: Final = 10_000


class Publisher(Protocol):
    """What publishing events needs."""

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[None]":
        """Publish; the future ends with the confirm or with ``PublishError``."""


class OutcomeEvents:
    """Publishes to ``exchange``, the outcome's name as routing key. ``now`` is an aware clock."""

    def __init__(
        self,
        publisher: Publisher,
        *,
        exchange: str,
        queue: str,
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        self._publisher = publisher
        self._exchange = exchange
        self._source = f"/journey-consumer/{quote(queue)}"
        self._metrics = metrics
        self._now = now
        self._waiting = 0

    def settled(self, delivery: Delivery, fate: HandlingResult, outcome: str) -> None:
        """A delivery was settled with the final fate ``outcome``; never raises, never waits."""
        if MARK in delivery.headers:
            return
        if self._waiting >= MOST_WAITING:
            self._metrics.events["dropped"].inc()
            return
        self._waiting += 1
        event = event_of(delivery, fate, outcome, source=self._source, now=self._now())
        body = json.dumps(event, separators=(",", ":")).encode()
        properties = {"content_type": CONTENT_TYPE, "delivery_mode": PERSISTENT}
        self._publisher.submit(
            Outgoing(self._exchange, outcome, body, {MARK: True}, properties)
        ).add_done_callback(self._ended)

    def _ended(self, future: "asyncio.Future[None]") -> None:
        self._waiting -= 1
        error = None if future.cancelled() else future.exception()
        if isinstance(error, PublishError) and str(error) == "returned":
            self._metrics.events["unrouted"].inc()
        elif error is not None or future.cancelled():
            self._metrics.events["dropped"].inc()
        else:
            self._metrics.events["published"].inc()


def event_of(
    delivery: Delivery, fate: HandlingResult, outcome: str, *, source: str, now: datetime
) -> dict[str, Any]:
    """The event in structured mode. The same fate of the same journey has the same ``id``."""
    journey_id = None if fate.journey is None else fate.journey.journey_id
    subject = journey_id or delivery.message_id
    data: dict[str, Any] = {
        "outcome": outcome,
        "journey_id": journey_id,
        "message_id": delivery.message_id,
        "attempts": fate.attempts,
        "replays": fate.tracking_headers.replays,
    }
    match fate.disposition:
        case Acknowledge(outcome=Registered(status=status, created_at=created_at)):
            data |= {"status": status, "created_at": created_at}
        case Acknowledge(outcome=already):
            data["status"] = already.status
        case DeadLetter(detail=detail, status=status):
            data |= {"status": status, "detail": detail}
        case _:
            pass  # not final: never here
    event = {
        "specversion": "1.0",
        "id": f"{subject or uuid.uuid4()}/{outcome}/{fate.tracking_headers.replays}",
        "source": source,
        "type": TYPE_PREFIX + outcome,
        "time": now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": data,
    }
    return event if subject is None else event | {"subject": subject}
