"""Outcome events: a CloudEvents 1.0 message for each final result, for the operator's own systems.

1. Ids, codes and the Registry's own date; never a value of the payload.
2. Fire and forget: published on a connection of its own, so that an exchange that is missing, full or slow
   neither delays nor endangers settlement. What cannot be published is dropped and counted.
3. An event that is consumed as if it were a journey makes no event: a binding that leads back to our queue
   would otherwise make events without end.
4. An event is made after its delivery was acknowledged: a crash in between loses it. A redelivery makes an
   event of the same id again.
"""

import asyncio
import json
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from consumer.core.clock import iso_utc
from consumer.core.outcome import Acknowledge, AlreadyRegistered, DeadLetter, Registered
from consumer.core.outgoing import PERSISTENT, Outgoing
from consumer.core.protocols import Publisher
from consumer.errors import PublishError, PublishFailure
from consumer.metrics import Metrics
from consumer.service.inflight import Entry, HandlingResult

TYPE_PREFIX: Final = "journey-consumer.journey."
CONTENT_TYPE: Final = "application/cloudevents+json"
#: Tells an event from a journey.
MARK: Final = "x-outcome-event"
#: Events that wait for their confirm; beyond that they are dropped.
MOST_WAITING: Final = 10_000


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

    def settled(self, entry: Entry, result: HandlingResult, outcome: str) -> None:
        """Publish the event of a delivery that was settled as ``outcome``; never raises, never waits."""
        if MARK in entry.delivery.headers:
            return
        if self._waiting >= MOST_WAITING:
            self._metrics.events["dropped"].inc()
            return
        self._waiting += 1
        event = build_event(entry, result, outcome, source=self._source, now=self._now())
        body = json.dumps(event, separators=(",", ":")).encode()
        properties = {"content_type": CONTENT_TYPE, "delivery_mode": PERSISTENT}
        self._publisher.submit(
            Outgoing(self._exchange, outcome, body, {MARK: True}, properties)
        ).add_done_callback(self._ended)

    def _ended(self, future: "asyncio.Future[None]") -> None:
        self._waiting -= 1
        error = None if future.cancelled() else future.exception()
        if isinstance(error, PublishError) and error.kind is PublishFailure.RETURNED:
            self._metrics.events["unrouted"].inc()
        elif error is not None or future.cancelled():
            self._metrics.events["dropped"].inc()
        else:
            self._metrics.events["published"].inc()


def build_event(
    entry: Entry, result: HandlingResult, outcome: str, *, source: str, now: datetime
) -> dict[str, Any]:
    """Return the event in structured mode. The same outcome of the same journey has the same ``id``."""
    journey_id = entry.journey_id
    message_id, replays = entry.delivery.message_id, entry.tracking.replays
    subject = journey_id or message_id
    data: dict[str, Any] = {
        "outcome": outcome,
        "journey_id": journey_id,
        "message_id": message_id,
        "attempts": result.attempts,
        "replays": replays,
    }
    match result.disposition:
        case Acknowledge(outcome=Registered(status=status, created_at=created_at)):
            data |= {"status": status, "created_at": created_at}
        case Acknowledge(outcome=AlreadyRegistered(status=status, proof=proof, detail=detail)):
            data |= {"status": status, "proof": proof, **({"detail": detail} if detail else {})}
        case DeadLetter(detail=detail, status=status):
            data |= {"status": status, "detail": detail}
        case _:
            pass  # not final: never here
    event = {
        "specversion": "1.0",
        "id": f"{subject or uuid.uuid4()}/{outcome}/{replays}",
        "source": source,
        "type": TYPE_PREFIX + outcome,
        "time": iso_utc(now),
        "datacontenttype": "application/json",
        "data": data,
    }
    return event if subject is None else event | {"subject": subject}
