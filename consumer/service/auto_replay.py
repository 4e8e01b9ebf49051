"""Inside the service: unauthorized dead letters return by themselves, and the nearest deadline is known.

1. They return after a token was loaded and the Registry has accepted a submission; the nearest deadline
   first, at a bounded rate. One is sent as a probe when nothing else comes. What died again with that token
   waits for the next one.
2. They stay behind fresh journeys: while the service is paused none returns (but the probe, which may be
   what ends the pause), and while it is busy only those whose deadline is near. What was returned too
   often is left for a person.
3. Any number of replicas may do this at once: the broker gives each message to one of them. None holds
   them for long: what is in hand is seen by nobody else.
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
from consumer.deadletters.hand import DeadLetterMessage
from consumer.deadletters.record import NO_DEADLINE, Record, read
from consumer.deadletters.replay import REPLAYED, Publisher, ReplayToQueue
from consumer.deadletters.selection import Range, Selection
from consumer.deadletters.sweep import QueueReaders, Sweep, take
from consumer.deadletters.underway import BatchResult, Result, in_thread
from consumer.errors import BrokerError
from consumer.metrics import Metrics

log = logging.getLogger("journey_consumer.returner")

MOST_REPLAYS = 5
#: Held at once: less than at the command line, because the service's memory is not ours alone.
MOST_BYTES = 4 * 1024 * 1024
#: Journeys with less than this left do not wait behind fresh ones.
URGENT_SECONDS = 3 * 3600.0
_URGENT = Selection(left=Range(None, URGENT_SECONDS))
#: Rounds after a token was loaded, soon at first, then seldom: another replica may hold them all, and end.
ROUNDS, FIRST_ROUND_SECONDS, ROUND_SECONDS = 30, 1.0, 60.0
#: How long they are kept waiting in hand when the service becomes busy meanwhile, then given back: a
#: dead letter in hand is seen by nobody else.
BUSY_SECONDS = 5.0
#: A round lasts so long, then all that is in hand is given back for a moment.
HOLD_SECONDS = 30.0
MOST_LOOKED_AT = 1_000
#: Of the metric: nobody could look.
UNKNOWN = float("nan")
_POLL_SECONDS = 0.2
_ACCEPTED_WITHIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What the service tells of itself: ``paused`` by the gate, ``busy`` with fresh journeys."""

    paused: Callable[[], bool]
    busy: Callable[[], bool]
    successes: Callable[[], int]


class AutoReplayer:
    """``taps`` finds the dead-letter queues by reason; blocking, raises BrokerError. ``now`` is aware.

    ``shared`` tells whether somebody else was reading the queue of a reason when ``taps`` found it.
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

    async def run(self, surroundings: ServiceState) -> None:
        """Do it until cancelled."""
        tasks = []
        if self._returning:
            tasks.append(self._return_for_ever(surroundings))
        if self._look_seconds:
            tasks.append(self._look_for_ever())
        await asyncio.gather(*tasks)
        await asyncio.Event().wait()  # nothing to do is no reason to end

    # --- returning ------------------------------------------------------------------------

    async def _return_for_ever(self, around: ServiceState) -> None:
        while True:
            await self._token_changed.wait()
            self._token_changed.clear()
            self._successes_before = around.successes()
            first = min(FIRST_ROUND_SECONDS, self._round_seconds)
            rounds, pause, told = 0, first, ""
            while rounds < ROUNDS:
                try:
                    returned = await self._return(around)
                    # Behind an outage, fresh ones or another replica they wait for as long as it takes.
                    waits = around.paused() or around.busy() or self._shared(Reason.UNAUTHORIZED)
                    rounds += not (returned or waits)
                    pause, told = (first if returned else pause), ""
                except BrokerError as error:
                    if str(error) != told:  # it may last: a queue that was deleted, a permission
                        told = str(error)
                        log.info("dead letters can not be returned now", extra={"reason": told})
                except Exception:
                    rounds += 1
                    log.exception("dead letters could not be returned; this is tried again")
                if self._token_changed.is_set():
                    break
                await _wait_for(self._token_changed, pause)
                pause = min(2 * pause, self._round_seconds)

    async def _return(self, around: ServiceState) -> int:
        """One round: probe unless the token is known to be good, then the rest; how many of these went."""
        if not self._is_accepted(around):
            if not around.busy():  # otherwise the fresh ones tell
                await self._probe()
            before = self._now()
            while not self._is_accepted(around):
                waited = (self._now() - before).total_seconds()
                if waited > _ACCEPTED_WITHIN_SECONDS or self._token_changed.is_set():
                    return 0  # refused, or nothing to probe with: the next round asks again
                await asyncio.sleep(_POLL_SECONDS)
        if around.paused():
            return 0
        return await self._sweep(around, _URGENT if around.busy() else Selection())

    def _is_accepted(self, around: ServiceState) -> bool:
        return around.successes() > self._successes_before

    def _skip(self, record: Record, _delivery: Delivery) -> str | None:
        """Why one stays. What never returned is not asked when it died: another replica's clock said so."""
        if record.replays and record.died is not None and record.died >= self._token_loaded_at:
            return "died again with this token"
        if record.replays >= MOST_REPLAYS:
            return "returned too often"
        return "beyond saving" if record.is_lost(self._now()) else None

    async def _probe(self) -> None:
        """Send the most urgent of the first few, without a look at all of them."""
        taps = await in_thread(self._taps, [Reason.UNAUTHORIZED])
        for reason, make in taps.items():
            tap = make()
            try:
                await in_thread(tap.open)
                taken = await in_thread(take, tap, reason, MOST_LOOKED_AT)
                wanted = [dead for dead in taken if self._skip(dead.record, dead.delivery) is None]
                for dead in sorted(wanted, key=lambda dead: dead.record.urgency)[:1]:
                    acted = await self._to_queue([dead])
                    if acted.results[0].gone:
                        await in_thread(tap.acknowledge, [dead.delivery])
                        await in_thread(tap.finish)
                        self._tell({acted.results[0].outcome: 1}, {})
            finally:
                await in_thread(tap.close)

    async def _sweep(self, around: ServiceState, selection: Selection) -> int:
        """Return what may, for a while; how many that were."""
        until = asyncio.get_running_loop().time() + HOLD_SECONDS

        async def act(batch: Sequence[DeadLetterMessage]) -> BatchResult:
            if asyncio.get_running_loop().time() > until:
                return BatchResult(
                    [Result("waits", gone=False)] * len(batch), "others may see them for a moment"
                )
            if not await self._may_go(batch, around):
                return BatchResult([Result("waits", gone=False)] * len(batch), "the service is busy")
            return await self._to_queue(batch)

        taps = await in_thread(self._taps, [Reason.UNAUTHORIZED])
        sweep = Sweep(taps, selection, now=self._now, skip=self._skip, most_bytes=MOST_BYTES)
        tally = await sweep.run(act, rate=self._per_second)
        if tally.acted:
            self._tell(tally.outcomes, tally.skipped)
        return tally.outcomes[REPLAYED]

    def _tell(self, outcomes: Mapping[str, int], skipped: Mapping[str, int]) -> None:
        log.info(
            "unauthorized dead letters returned",
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

    # --- looking --------------------------------------------------------------------------

    async def _look_for_ever(self) -> None:
        told = dict[str, str]()
        while True:
            try:
                taps = await in_thread(self._taps, ())
            except BrokerError as error:
                self._know_nothing("", str(error), told)
            except Exception:
                log.exception("dead letters could not be looked at; this is tried again")
            else:
                told.pop("", None)
                for reason, gauge in self._metrics.dead_letters_oldest_deadline.items():
                    if reason not in taps:
                        gauge.set(UNKNOWN)
                for reason, make in taps.items():
                    await self._look(reason, make, told)
            await asyncio.sleep(self._look_seconds)

    async def _look(self, reason: str, make: Callable[[], QueueReader], told: dict[str, str]) -> None:
        """At one queue: whatever is wrong with it, the others are looked at all the same."""
        now = self._now().timestamp()
        try:
            urgency = await in_thread(_nearest, make, reason, now)
        except BrokerError as error:
            self._know_nothing(reason, str(error), told)
            return
        except Exception:
            self._metrics.dead_letters_oldest_deadline[reason].set(UNKNOWN)
            log.exception("dead letters could not be looked at; this is tried again")
            return
        told.pop(reason, None)
        found = 0.0 if urgency is None or urgency == NO_DEADLINE else urgency
        if self._shared(reason):  # what others hold is not seen: what was known of them may still be so
            before = self._deadlines.get(reason, 0.0)
            found = min((each for each in (before, found) if each > now), default=found)
        self._deadlines[reason] = found
        self._metrics.dead_letters_oldest_deadline[reason].set(found)

    def _know_nothing(self, reason: str, why: str, told: dict[str, str]) -> None:
        """Of a queue, or of all; said once for each cause."""
        for each, gauge in self._metrics.dead_letters_oldest_deadline.items():
            if reason in ("", each):
                gauge.set(UNKNOWN)
        if told.get(reason) != why:
            told[reason] = why
            log.info("dead letters can not be looked at now", extra={"reason": why})


def _nearest(make: Callable[[], QueueReader], reason: str, now: float) -> float | None:
    """The most urgent that can be saved of the first ``MOST_LOOKED_AT`` of a queue.

    One that is lost when none can be saved; None for an empty queue.
    """
    tap = make()
    try:
        left, urgencies = min(tap.open(), MOST_LOOKED_AT), list[float]()
        while left > 0 and (batch := tap.take(left)):
            left -= len(batch)
            urgencies += (read(each, reason).urgency for each in batch)
        savable = [each for each in urgencies if each > now]
        return min(savable or urgencies, default=None)
    finally:
        tap.close()


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
