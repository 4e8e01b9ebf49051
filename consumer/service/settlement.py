"""The one exit door: every delivery is settled here, exactly once, and counted here.

1. Publish with a confirm, then acknowledge. A publish that fails is tried again; it is never
   followed by an acknowledgement.
2. Counted and logged after the acknowledgement was written, so that metrics and queues agree.
3. A delivery whose connection is gone is not settled at all: the broker delivers it again.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol, assert_never

from consumer import __version__
from consumer.core.delivery import Delivery
from consumer.core.headers import dead_letter_headers, delay_headers, republish_headers
from consumer.core.outcome import (
    Acknowledge,
    AlreadyRegistered,
    DeadLetter,
    Delay,
    Release,
    Republish,
)
from consumer.core.outgoing import UNENCODABLE, Outgoing, bare, copy_of
from consumer.core.topology import Topology
from consumer.errors import PublishError, PublishFailure
from consumer.logs import SettlementLog
from consumer.metrics import Metrics
from consumer.service.result import HandlingResult

REGISTRATION_DEADLINE = timedelta(hours=24)
PUBLISH_RETRY_BASE_SECONDS, PUBLISH_RETRY_CAP_SECONDS = 0.2, 5.0


class Consumer(Protocol):
    """What settling needs of the consuming side."""

    def is_current(self, delivery: Delivery) -> bool:
        """Whether ``delivery`` can still be acknowledged."""

    def acknowledge(self, delivery: Delivery) -> bool:
        """Acknowledge; False when the delivery's connection is gone."""


class Publisher(Protocol):
    """What settling needs of the publishing side."""

    delay_queues: bool

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[None]":
        """Publish; the future ends with the broker's confirm or with ``PublishError``."""


class Settler:
    """Carries out dispositions. ``utc_now`` is an aware clock.

    ``on_settled`` hears of each final fate by its metric's name, after the acknowledgement; it must not
    wait. ``successes`` counts what the Registry has taken.
    """

    def __init__(
        self,
        *,
        consumer: Consumer,
        publisher: Publisher,
        topology: Topology,
        metrics: Metrics,
        settlement_log: SettlementLog,
        utc_now: Callable[[], datetime],
        hold_limit_seconds: float,
        on_settled: Callable[[Delivery, HandlingResult, str], None] = lambda _delivery, _fate, _name: None,
    ) -> None:
        self._on_settled = on_settled
        self.successes = 0
        self._consumer = consumer
        self._publisher = publisher
        self._topology = topology
        self._metrics = metrics
        self._log = settlement_log
        self._now = utc_now
        self._hold_limit = hold_limit_seconds
        self._publishing: set[asyncio.Future[None]] = set()
        self._draining = asyncio.Event()

    async def settle(self, delivery: Delivery, fate: HandlingResult) -> bool:
        """Settle ``delivery``; False when it was left to the broker (released or out of date)."""
        match fate.disposition:
            case Acknowledge():
                return self._acknowledge(delivery, fate)
            case DeadLetter() | Delay() | Republish():
                outgoing = await self._outgoing(delivery, fate, fate.disposition)
                return await self._publish(delivery, outgoing) and self._acknowledge(delivery, fate)
            case Release():
                self._metrics.returned["released"].inc()
                return False
            case _ as unreachable:
                assert_never(unreachable)

    @property
    def publishing(self) -> int:
        """Publishes that the broker has not confirmed yet."""
        return len(self._publishing)

    def begin_drain(self) -> None:
        """The process drains: what waits here for its delay goes back to the queue now."""
        self._draining.set()

    def forget_unconfirmed(self) -> None:
        """The consuming connection was lost: what was not published yet must not be any more."""
        for future in self._publishing:
            if not future.done():
                future.set_exception(PublishError(PublishFailure.OUT_OF_DATE))

    async def _outgoing(
        self, delivery: Delivery, fate: HandlingResult, disposition: DeadLetter | Delay | Republish
    ) -> Outgoing:
        headers: Mapping[str, Any]
        match disposition:
            case DeadLetter():
                headers = dead_letter_headers(
                    delivery,
                    fate.tracking_headers,
                    disposition,
                    self._now(),
                    __version__,
                    attempts=fate.attempts,
                )
                exchange, key = self._topology.dead_letter_exchange, disposition.reason.value
            case Delay():
                headers = delay_headers(
                    delivery, fate.tracking_headers, disposition, fate.attempts, self._now()
                )
                exchange, key = "", self._topology.delay_queue(disposition.seconds)
                if not self._publisher.delay_queues:
                    # No queue that waits on this transport: wait here, unacknowledged.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(disposition.seconds, self._hold_limit)):
                            await self._draining.wait()
                    key = self._topology.queue
            case Republish():
                headers = republish_headers(delivery, fate.tracking_headers, fate.attempts, self._now())
                exchange, key = "", self._topology.queue
            case _ as unreachable:
                assert_never(unreachable)
        return copy_of(delivery, exchange=exchange, routing_key=key, headers=headers)

    async def _publish(self, delivery: Delivery, outgoing: Outgoing) -> bool:
        """Publish until confirmed; False once the delivery is out of date."""
        failures = 0
        while self._consumer.is_current(delivery):
            future = self._publisher.submit(outgoing)
            self._publishing.add(future)
            try:
                await future
            except PublishError as error:
                if str(error) == UNENCODABLE and (smaller := bare(outgoing)) != outgoing:
                    outgoing = smaller
                    continue
                failures += 1
                delay = min(PUBLISH_RETRY_CAP_SECONDS, PUBLISH_RETRY_BASE_SECONDS * 2 ** min(failures, 8))
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 jitter
            else:
                return True
            finally:
                self._publishing.discard(future)
        return False

    def _acknowledge(self, delivery: Delivery, fate: HandlingResult) -> bool:
        if not self._consumer.acknowledge(delivery):
            return False
        self._count(delivery, fate)
        return True

    def _count(self, delivery: Delivery, fate: HandlingResult) -> None:
        """Every counter and the log line of a settled delivery."""
        metrics, journey, now = self._metrics, fate.journey, self._now()
        age = (now - journey.start).total_seconds() if journey is not None else None
        detail: str | None = None
        status: int | None
        match fate.disposition:
            case Acknowledge(outcome=outcome):
                status = outcome.status
                self.successes += 1
                metrics.last_success.set(now.timestamp())
                if isinstance(outcome, AlreadyRegistered):
                    name = "already_registered"  # its age tells of the repetition, not of the registration
                else:
                    name = "registered"
                    if age is not None:
                        metrics.journey_age.observe(max(age, 0.0))
            case DeadLetter(reason=reason, detail=detail, status=status):
                name = reason.value
                metrics.dead_letter(reason, detail)
                if age is not None and age > REGISTRATION_DEADLINE.total_seconds():
                    metrics.deadline_missed.inc()
            case Delay(detail=detail, status=status):
                name = "delayed"
            case Republish(detail=detail):
                name, status = "returned", None
            case Release():  # never acknowledged, so never here
                return
            case _ as unreachable:
                assert_never(unreachable)
        metrics.settlement_duration.observe(time.monotonic() - delivery.received_at)
        self._count_fate(delivery, fate, name)
        self._log.settled(
            outcome=name,
            journey_id=journey.journey_id if journey is not None else None,
            message_id=delivery.message_id,
            attempts=fate.attempts,
            status=status,
            detail=detail,
            age_seconds=age,
            redelivered=delivery.redelivered,
        )

    def _count_fate(self, delivery: Delivery, fate: HandlingResult, name: str) -> None:
        """Count where it went; a final fate is also told to who listens."""
        if name not in self._metrics.journeys:
            self._metrics.returned[name].inc()
            return
        self._metrics.journeys[name].inc()
        if fate.tracking_headers.replays:
            self._metrics.replays[name].inc()
        self._on_settled(delivery, fate, name)
