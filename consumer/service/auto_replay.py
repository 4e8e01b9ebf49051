"""Inside the service: unauthorized dead letters are replayed, and the nearest deadline becomes a metric.

1. They are replayed after a token was loaded and the Registry has accepted a submission; the urgent ones
   first, at a bounded rate. One is sent as a probe when nothing else is. What died again with that token
   waits for the next one.
2. They wait behind fresh journeys: while the service is paused none is replayed (but the probe, which may
   end the pause), and while it is busy only those whose deadline is near. What was replayed too often is left
   for an operator.
3. Any number of replicas may do this at once: the broker gives each message to one of them. None holds
   them for long: what one holds is not seen by the others.
4. Whatever fails here is logged and tried again later; it never ends the service.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from consumer.broker.queue_reader import QueueReader
from consumer.core.delivery import Delivery
from consumer.core.outcome import Reason
from consumer.core.protocols import Publisher
from consumer.deadletters.actions import REPLAYED, ReplayToQueue
from consumer.deadletters.record import NO_DEADLINE, Record, read
from consumer.deadletters.selection import Range, Selection
from consumer.deadletters.sweep import (
    BatchResult,
    DeadLetterMessage,
    QueueReaders,
    Result,
    Sweep,
    in_thread,
    take,
)
from consumer.errors import BrokerError
from consumer.metrics import Metrics

log = logging.getLogger("journey_consumer.auto_replay")

MOST_REPLAYS = 5
#: Held at once: less than at the command line, because the service's memory is not ours alone.
MOST_BYTES = 4 * 1024 * 1024
#: Journeys with less than this left do not wait behind fresh ones.
URGENT_SECONDS = 3 * 3600.0
_URGENT = Selection(left=Range(None, URGENT_SECONDS))
#: Rounds after a token was loaded, soon at first, then seldom: another replica may hold them all, and stop.
ROUNDS, FIRST_ROUND_SECONDS, ROUND_SECONDS = 30, 1.0, 60.0
#: How long they are held when the service becomes busy meanwhile, then given back.
BUSY_SECONDS = 5.0
#: A round lasts so long, then all that is held is given back for a moment.
HOLD_SECONDS = 30.0
MOST_LOOKED_AT = 1_000
#: Of the metric: the queue could not be read.
UNKNOWN = float("nan")
_POLL_SECONDS = 0.2
_ACCEPTED_WITHIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ServiceState:
    """The service's state: ``paused`` by admission, ``busy`` with fresh journeys."""

    paused: Callable[[], bool]
    busy: Callable[[], bool]
    successes: Callable[[], int]


class AutoReplayer:
    """``taps`` finds the dead-letter queues by reason; blocking, raises BrokerError. ``now`` is aware.

    ``shared`` says whether the queue of a reason had another consumer when ``taps`` found it.
    """

    def __init__(
        self,
        *,
        taps: Callable[[Sequence[str]], QueueReaders],
        publisher: Publisher,
        queue: str,
        metrics: Metrics,
        now: Callable[[], datetime],
        returning: bool,
        per_second: float,
        look_seconds: float,
        round_seconds: float = ROUND_SECONDS,
        shared: Callable[[str], bool] = lambda _reason: False,
    ) -> None:
        self._taps = taps
        self._to_queue = ReplayToQueue(publisher, queue)
        self._metrics = metrics
        self._now = now
        self._returning = returning
        self._per_second = per_second
        self._look_seconds = look_seconds
        self._round_seconds = round_seconds
        self._shared = shared
        self._deadlines: dict[str, float] = {}
        self._token_loaded_at = now()
        self._successes_before = 0
        self._token_changed = asyncio.Event()
        self._token_changed.set()  # the first token counts: it may be why the service was started again

    def token_changed(self) -> None:
        """A new token is in use."""
        self._token_loaded_at = self._now()
        self._token_changed.set()

    async def run(self, state: ServiceState) -> None:
        """Run until cancelled."""
        tasks = []
        if self._returning:
            tasks.append(self._replay_forever(state))
        if self._look_seconds:
            tasks.append(self._look_forever())
        await asyncio.gather(*tasks)
        await asyncio.Event().wait()  # nothing to do is no reason to end

    # --- replaying ------------------------------------------------------------------------

    async def _replay_forever(self, around: ServiceState) -> None:
        while True:
            await self._token_changed.wait()
            self._token_changed.clear()
            self._successes_before = around.successes()
            first = min(FIRST_ROUND_SECONDS, self._round_seconds)
            rounds, pause, logged = 0, first, ""
            while rounds < ROUNDS:
                try:
                    replayed = await self._round(around)
                    # An outage, fresh journeys or another replica may last for any number of rounds.
                    waits = around.paused() or around.busy() or self._shared(Reason.UNAUTHORIZED)
                    rounds += not (replayed or waits)
                    pause, logged = (first if replayed else pause), ""
                except BrokerError as error:
                    if str(error) != logged:  # it may last: a queue that was deleted, a permission
                        logged = str(error)
                        log.info("dead letters cannot be replayed now", extra={"reason": logged})
                except Exception:
                    rounds += 1
                    log.exception("replaying dead letters failed; this is tried again")
                if self._token_changed.is_set():
                    break
                await _wait_for(self._token_changed, pause)
                pause = min(2 * pause, self._round_seconds)

    async def _round(self, around: ServiceState) -> int:
        """Probe unless the token is known to be good, then replay; returns how many, without the probe."""
        if not self._is_accepted(around):
            if not around.busy():  # otherwise the fresh ones are the probe
                await self._probe()
            before = self._now()
            while not self._is_accepted(around):
                waited = (self._now() - before).total_seconds()
                if waited > _ACCEPTED_WITHIN_SECONDS or self._token_changed.is_set():
                    return 0  # refused, or nothing to probe with: the next round asks again
                await asyncio.sleep(_POLL_SECONDS)
        if around.paused():
            return 0
        replayed = await self._sweep(around, _URGENT)  # wherever in the queue they are
        if not (replayed or around.busy() or around.paused()):
            replayed = await self._sweep(around, Selection())
        return replayed

    def _is_accepted(self, around: ServiceState) -> bool:
        return around.successes() > self._successes_before

    def _skip(self, record: Record, _delivery: Delivery) -> str | None:
        """Why one stays. The time of death counts only after a replay: another replica's clock wrote it."""
        if record.replays and record.died is not None and record.died >= self._token_loaded_at:
            return "died again with this token"
        if record.replays >= MOST_REPLAYS:
            return "replayed too often"
        return "too late" if record.is_too_late(self._now()) else None

    async def _probe(self) -> None:
        """Replay the most urgent of the first ``MOST_LOOKED_AT``."""
        taps = await in_thread(self._taps, [Reason.UNAUTHORIZED])
        for reason, make in taps.items():
            reader = make()
            try:
                await in_thread(reader.open)
                taken = await in_thread(take, reader, reason, MOST_LOOKED_AT)
                wanted = [dead for dead in taken if self._skip(dead.record, dead.delivery) is None]
                for dead in sorted(wanted, key=lambda dead: dead.record.urgency)[:1]:
                    acted = await self._to_queue([dead])
                    if acted.results[0].ack:
                        await in_thread(reader.acknowledge, [dead.delivery])
                        await in_thread(reader.finish)
                        self._log({acted.results[0].outcome: 1}, {})
            finally:
                await in_thread(reader.close)

    async def _sweep(self, around: ServiceState, selection: Selection) -> int:
        """Replay what may be replayed, for ``HOLD_SECONDS`` at most; returns how many."""
        until = asyncio.get_running_loop().time() + HOLD_SECONDS

        async def act(batch: Sequence[DeadLetterMessage]) -> BatchResult:
            waits = [Result("waits", ack=False)] * len(batch)
            if asyncio.get_running_loop().time() > until:
                return BatchResult(waits, "given back for a moment, so that others see them")
            if not await self._may_go(batch, around):
                return BatchResult(waits, "the service is busy")
            return await self._to_queue(batch)

        taps = await in_thread(self._taps, [Reason.UNAUTHORIZED])
        sweep = Sweep(taps, selection, now=self._now, skip=self._skip, most_bytes=MOST_BYTES)
        tally = await sweep.run(act, rate=self._per_second)
        if tally.acted:
            self._log(tally.outcomes, tally.skipped)
        return tally.outcomes[REPLAYED]

    def _log(self, outcomes: Mapping[str, int], skipped: Mapping[str, int]) -> None:
        log.info(
            "unauthorized dead letters replayed",
            extra={"outcomes": dict(outcomes), "skipped": dict(skipped)},
        )

    async def _may_go(self, batch: Sequence[DeadLetterMessage], around: ServiceState) -> bool:
        """Wait for a good moment, within a bound; False when none came."""
        for _ in range(int(BUSY_SECONDS / _POLL_SECONDS)):
            left = min(dead.record.urgency for dead in batch) - self._now().timestamp()
            if not around.paused() and (left < URGENT_SECONDS or not around.busy()):
                return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    # --- the metric -----------------------------------------------------------------------

    async def _look_forever(self) -> None:
        logged = dict[str, str]()
        while True:
            try:
                taps = await in_thread(self._taps, ())
            except BrokerError as error:
                self._set_unknown("", str(error), logged)
            except Exception:
                log.exception("reading dead letters failed; this is tried again")
            else:
                logged.pop("", None)
                for reason, gauge in self._metrics.dead_letters_oldest_deadline.items():
                    if reason not in taps:
                        gauge.set(UNKNOWN)
                for reason, make in taps.items():
                    await self._look(reason, make, logged)
            await asyncio.sleep(self._look_seconds)

    async def _look(self, reason: str, make: Callable[[], QueueReader], logged: dict[str, str]) -> None:
        """Read one queue; whatever is wrong with it, the others are read all the same."""
        now = self._now().timestamp()
        try:
            urgency = await in_thread(_nearest, make, reason, now)
        except BrokerError as error:
            self._set_unknown(reason, str(error), logged)
            return
        except Exception:
            self._metrics.dead_letters_oldest_deadline[reason].set(UNKNOWN)
            log.exception("reading dead letters failed; this is tried again")
            return
        logged.pop(reason, None)
        found = 0.0 if urgency is None or urgency == NO_DEADLINE else urgency
        if self._shared(reason):  # what others hold is not seen, but may still be there
            before = self._deadlines.get(reason, 0.0)
            found = min((each for each in (before, found) if each > now), default=found)
        self._deadlines[reason] = found
        self._metrics.dead_letters_oldest_deadline[reason].set(found)

    def _set_unknown(self, reason: str, why: str, logged: dict[str, str]) -> None:
        """The metric of a queue, or of all, is unknown; logged once for each cause."""
        for each, gauge in self._metrics.dead_letters_oldest_deadline.items():
            if reason in ("", each):
                gauge.set(UNKNOWN)
        if logged.get(reason) != why:
            logged[reason] = why
            log.info("dead letters cannot be read now", extra={"reason": why})


def _nearest(make: Callable[[], QueueReader], reason: str, now: float) -> float | None:
    """The nearest deadline that has not passed of the first ``MOST_LOOKED_AT`` of a queue.

    One that has passed when there is no other; None for an empty queue.
    """
    reader = make()
    try:
        left, urgencies = min(reader.open(), MOST_LOOKED_AT), list[float]()
        while left > 0 and (batch := reader.take(left)):
            left -= len(batch)
            urgencies += (read(each, reason).urgency for each in batch)
        in_time = [each for each in urgencies if each > now]
        return min(in_time or urgencies, default=None)
    finally:
        reader.close()


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
