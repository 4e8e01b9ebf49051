"""Settles each delivery exactly once: publish with a confirm, acknowledge, count.

1. A publish that fails is tried again; it is never followed by an acknowledgement.
2. Counted and logged after the acknowledgement was written, so that metrics and queues agree.
3. A delivery that is no longer current is not settled: the broker delivers it again.
4. Dead letters that the broker refuses hold a quarter of the prefetch at most; the others are delayed.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, assert_never

from consumer import __version__
from consumer.core.clock import REGISTRATION_WINDOW, backoff_seconds
from consumer.core.headers import dead_letter_headers, delay_headers, republish_headers
from consumer.core.outcome import (
    Acknowledge,
    AlreadyRegistered,
    DeadLetter,
    Delay,
    Disposition,
    Registered,
    Release,
    Republish,
)
from consumer.core.outgoing import Outgoing, bare, copy_of
from consumer.core.protocols import Consumer, Publisher
from consumer.core.topology import Topology
from consumer.errors import PublishError, PublishFailure
from consumer.logs import SettlementLog
from consumer.metrics import Metrics
from consumer.service.inflight import Entry, HandlingResult, State
from consumer.service.outcome_events import OutcomeEvents

PUBLISH_RETRY_BASE_SECONDS, PUBLISH_RETRY_CAP_SECONDS = 0.4, 5.0
#: What can be so for one queue only, and how a person would put it.
_REFUSALS = {
    PublishFailure.NACKED: "nacked: length limit?",
    PublishFailure.RETURNED: "returned: no such queue?",
    PublishFailure.TIMEOUT: "not confirmed: no quorum?",
}

log = logging.getLogger("journey_consumer.service")


class Settler:
    """Carries out dispositions. ``clock`` is monotonic seconds, ``now`` aware.

    ``events`` publishes an event for each final result, after the acknowledgement.
    """

    def __init__(
        self,
        *,
        consumer: Consumer,
        publisher: Publisher,
        topology: Topology,
        metrics: Metrics,
        settlement_log: SettlementLog,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        hold_limit_seconds: float,
        prefetch: int,
        events: OutcomeEvents | None = None,
    ) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._topology = topology
        self._metrics = metrics
        self._log = settlement_log
        self._clock = clock
        self._now = now
        self._hold_limit = hold_limit_seconds
        self._events = events
        self._most_refused = max(1, prefetch // 4)
        self._refused: set[Entry] = set()  # whose dead letter the broker does not take
        self._draining = asyncio.Event()

    async def settle(self, entry: Entry, result: HandlingResult) -> Disposition | None:
        """Settle ``entry`` and return how; None when it was left to the broker (released, not current)."""
        match result.disposition:
            case Acknowledge():
                return self._acknowledge(entry, result)
            case DeadLetter() | Delay() | Republish() as disposition:
                entry.state = State.PUBLISHING
                outgoing = await self._outgoing(entry, disposition, result.attempts)
                try:
                    published = await self._publish(entry, outgoing, disposition)
                except _RefusedError as error:
                    delay = Delay(self._topology.delays_seconds[0], str(error), None, counts=False)
                    return await self.settle(entry, HandlingResult(delay, result.attempts))
                finally:
                    self._refused.discard(entry)
                return self._acknowledge(entry, result) if published else None
            case Release():
                self._metrics.returned["released"].inc()
                return None
            case _ as unreachable:
                assert_never(unreachable)

    def begin_drain(self) -> None:
        """Republish at once what waits here for its delay."""
        self._draining.set()

    def withdraw(self, entries: Iterable[Entry]) -> None:
        """The consuming connection was lost: what was not sent yet must not be published any more."""
        for entry in entries:
            if entry.publish is not None:
                self._publisher.withdraw(entry.publish)

    async def _outgoing(
        self, entry: Entry, disposition: DeadLetter | Delay | Republish, attempts: int
    ) -> Outgoing:
        delivery, tracking = entry.delivery, entry.tracking
        headers: Mapping[str, Any]
        match disposition:
            case DeadLetter():
                headers = dead_letter_headers(
                    delivery, tracking, disposition, self._now(), __version__, attempts=attempts
                )
                exchange, key = self._topology.dead_letter_exchange, disposition.reason.value
            case Delay():
                headers = delay_headers(delivery, tracking, disposition, attempts, self._now())
                exchange, key = "", self._topology.delay_queue(disposition.seconds)
                if not self._publisher.delay_queues:
                    # This transport has no queue that waits: wait here, unacknowledged.
                    entry.waits_for = "delay"
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(disposition.seconds, self._hold_limit)):
                            await self._draining.wait()
                    key = self._topology.queue
            case Republish():
                headers = republish_headers(delivery, tracking, attempts, self._now())
                exchange, key = "", self._topology.queue
            case _ as unreachable:
                assert_never(unreachable)
        return copy_of(delivery, exchange=exchange, routing_key=key, headers=headers)

    async def _publish(self, entry: Entry, outgoing: Outgoing, disposition: Disposition) -> bool:
        """Publish until confirmed; False once the delivery is no longer current.

        Raises _RefusedError when enough refused dead letters wait here already.
        """
        failures = 0
        while self._consumer.is_current(entry.delivery):
            entry.publish = self._publisher.submit(outgoing)
            try:
                await entry.publish
            except PublishError as error:
                if error.kind is PublishFailure.UNENCODABLE and (smaller := bare(outgoing)) != outgoing:
                    outgoing = smaller
                    continue
                if isinstance(disposition, DeadLetter) and error.kind in _REFUSALS:
                    self._note_refusal(entry, disposition, error.kind)
                delay = backoff_seconds(failures, PUBLISH_RETRY_BASE_SECONDS, PUBLISH_RETRY_CAP_SECONDS)
                failures += 1
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 jitter
            else:
                return True
            finally:
                entry.publish = None
        return False

    def _note_refusal(self, entry: Entry, dead_letter: DeadLetter, kind: PublishFailure) -> None:
        self._metrics.dead_letters_refused[dead_letter.reason, kind].inc()
        queue = self._topology.dead_letter_queue(dead_letter.reason)
        if not self._refused:
            log.warning("a dead letter is refused", extra={"queue": queue, "reason": _REFUSALS[kind]})
        full = len(self._refused) >= self._most_refused and entry not in self._refused
        if full and self._publisher.delay_queues:
            raise _RefusedError(f"{dead_letter.reason.value}_{kind.value}")
        self._refused.add(entry)

    def _acknowledge(self, entry: Entry, result: HandlingResult) -> Disposition | None:
        if not self._consumer.acknowledge(entry.delivery):
            return None
        self._count(entry, result)
        return result.disposition

    def _count(self, entry: Entry, result: HandlingResult) -> None:
        """Every counter and the log line of a settled delivery."""
        metrics, journey, now, delivery = self._metrics, entry.journey, self._now(), entry.delivery
        age = (now - entry.start).total_seconds() if entry.start is not None else None
        name, status, detail = _described(result.disposition)
        match result.disposition:
            case Acknowledge(outcome=outcome):
                if isinstance(outcome, AlreadyRegistered):
                    metrics.already_registered[outcome.proof].inc()
                metrics.last_success.set(now.timestamp())
                if age is not None and isinstance(outcome, Registered):
                    metrics.journey_age.observe(max(age, 0.0))
            case DeadLetter(reason=reason, detail=text):
                metrics.dead_letter(reason, text)
                if journey is not None and age is not None and age > REGISTRATION_WINDOW.total_seconds():
                    metrics.deadline_missed.inc()
        metrics.settlement_duration.observe(self._clock() - delivery.received_at)
        if name in metrics.journeys:
            metrics.journeys[name].inc()
            if entry.tracking.replays:
                metrics.replays[name].inc()
            if self._events is not None:
                self._events.settled(entry, result, name)
        else:
            metrics.returned[name].inc()
        self._log.settled(
            outcome=name,
            journey_id=entry.journey_id,
            message_id=delivery.message_id,
            attempts=result.attempts,
            status=status,
            detail=detail,
            age_seconds=age,
            redelivered=delivery.redelivered,
        )


class _RefusedError(Exception):
    """The broker refuses dead letters, and enough of them wait here; the text is the detail of a delay."""


def _described(disposition: Disposition) -> tuple[str, int | None, str | None]:
    """Return the name of a disposition in metrics and log, its HTTP status and its detail."""
    match disposition:
        case Acknowledge(outcome=Registered(status=status)):
            return "registered", status, None
        case Acknowledge(outcome=AlreadyRegistered(status=status, proof=proof, detail=detail)):
            return "already_registered", status, f"{proof}: {detail}" if detail else proof.value
        case DeadLetter(reason=reason, detail=detail, status=status):
            return reason.value, status, detail
        case Delay(detail=detail, status=status):
            return "delayed", status, detail
        case Republish(detail=detail):
            return "returned", None, detail
        case _:
            raise TypeError(f"{type(disposition).__name__} is not settled")
