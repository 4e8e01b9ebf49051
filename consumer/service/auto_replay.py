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
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from consumer.broker.connection import LogOnce
from consumer.broker.queue_reader import QueueReader
from consumer.core.outcome import Reason
from consumer.core.protocols import Publisher
from consumer.deadletters.actions import MOST_REPLAYS, REPLAYED, ReplayToQueue
from consumer.deadletters.record import NO_DEADLINE
from consumer.deadletters.selection import Range, Selection
from consumer.deadletters.sweep import (
    Act,
    BatchResult,
    DeadLetterMessage,
    QueueReaders,
    Result,
    Sweep,
    in_thread,
    read_queues,
)
from consumer.errors import BrokerError
from consumer.metrics import Metrics

log = logging.getLogger("journey_consumer.auto_replay")

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
MOST_READ = 1_000
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
    """``readers`` finds the dead-letter queues by reason; blocking, raises BrokerError. ``now`` is aware.

    ``shared`` says whether the queue of a reason had another consumer when ``readers`` found it.
    """

    def __init__(
        self,
        *,
        readers: Callable[[Sequence[str]], QueueReaders],
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
        self._readers = readers
        self._to_queue = ReplayToQueue(publisher, queue)
        self._metrics = metrics
        self._now = now
        self._returning = returning
        self._per_second = per_second
        self._look_seconds = look_seconds
        self._round_seconds = round_seconds
        self._shared = shared
        self._deadlines: dict[str, float] = {}
        self._cannot_read: defaultdict[tuple[str, ...], LogOnce] = defaultdict(
            lambda: LogOnce("dead letters cannot be read now", logging.INFO, log)
        )
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
            tasks.append(self._again(lambda: self._replay_forever(state)))
        if self._look_seconds:
            tasks.append(self._again(self._look_forever))
        await asyncio.gather(*tasks)
        await asyncio.Event().wait()  # nothing to do is no reason to end

    async def _again(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception:
                log.exception("looking after dead letters failed; this is tried again")
            await asyncio.sleep(self._round_seconds)
            self._token_changed.set()  # what was begun for this token is begun anew

    # --- replaying ------------------------------------------------------------------------

    async def _replay_forever(self, state: ServiceState) -> None:
        while True:
            await self._token_changed.wait()
            self._token_changed.clear()
            self._successes_before = state.successes()
            first = min(FIRST_ROUND_SECONDS, self._round_seconds)
            rounds, pause = 0, first
            # The reason may last: a queue that was deleted, a permission.
            cannot_replay = LogOnce("dead letters cannot be replayed now", logging.INFO, log)
            while rounds < ROUNDS and not self._token_changed.is_set():
                try:
                    replayed = await self._round(state)
                    # An outage, fresh journeys or another replica may last for any number of rounds.
                    waits = state.paused() or state.busy() or self._shared(Reason.UNAUTHORIZED)
                    rounds += not (replayed or waits)
                    pause = first if replayed else pause
                    cannot_replay.reset()
                except BrokerError as error:
                    cannot_replay.warn(error)
                except Exception:
                    rounds += 1
                    log.exception("replaying dead letters failed; this is tried again")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._token_changed.wait()
                pause = min(2 * pause, self._round_seconds)

    async def _round(self, state: ServiceState) -> int:
        """Probe unless the token is known to be good, then replay; returns how many, without the probe."""

        def is_accepted() -> bool:
            return state.successes() > self._successes_before

        if not is_accepted():
            if not state.busy():  # otherwise the fresh ones are the probe
                await self._sweep(self._to_queue, Selection(), most_held=MOST_READ, limit=1)
            await _until(lambda: is_accepted() or self._token_changed.is_set(), _ACCEPTED_WITHIN_SECONDS)
            if not is_accepted():
                return 0  # refused, or nothing to probe with: the next round asks again
        if state.paused():
            return 0
        replayed = await self._replay(state, _URGENT)  # wherever in the queue they are
        if not (replayed or state.busy() or state.paused()):
            replayed = await self._replay(state, Selection())
        return replayed

    async def _replay(self, state: ServiceState, selection: Selection) -> int:
        """Replay what may be replayed, for ``HOLD_SECONDS`` at most; returns how many."""
        until = time.monotonic() + HOLD_SECONDS

        async def act(batch: Sequence[DeadLetterMessage]) -> BatchResult:
            urgency = min(dead.record.urgency for dead in batch)

            def may_go() -> bool:
                is_urgent = urgency - self._now().timestamp() < URGENT_SECONDS
                return not state.paused() and (is_urgent or not state.busy())

            waits = [Result("waits", ack=False)] * len(batch)
            if time.monotonic() > until:
                return BatchResult(waits, "given back for a moment, so that others see them")
            if not await _until(may_go, BUSY_SECONDS):
                return BatchResult(waits, "the service is busy")
            return await self._to_queue(batch)

        return await self._sweep(act, selection)

    async def _sweep(
        self, act: Act, selection: Selection, *, most_held: int | None = None, limit: int | None = None
    ) -> int:
        readers = await in_thread(self._readers, [Reason.UNAUTHORIZED])
        sweep = Sweep(
            readers, selection, now=self._now, skip=self._skip, most_held=most_held, most_bytes=MOST_BYTES
        )
        tally = await sweep.run(act, limit=limit, rate=self._per_second)
        if tally.acted:
            counts = {"outcomes": dict(tally.outcomes), "skipped": dict(tally.skipped)}
            log.info("unauthorized dead letters replayed", extra=counts)
        return tally.outcomes[REPLAYED]

    def _skip(self, dead: DeadLetterMessage) -> str | None:
        """Why one stays. The time of death counts only after a replay: another replica's clock wrote it."""
        record = dead.record
        if record.replays and record.died is not None and record.died >= self._token_loaded_at:
            return "died again with this token"
        if record.replays >= MOST_REPLAYS:
            return "replayed too often"
        return "too late" if record.is_too_late(self._now()) else None

    # --- the metric -----------------------------------------------------------------------

    async def _look_forever(self) -> None:
        gauges = self._metrics.dead_letters_oldest_deadline
        while True:
            readers: QueueReaders = {}
            with self._unknown_on_error(*gauges):
                readers = await in_thread(self._readers, ())
                for missing in gauges.keys() - readers.keys():
                    gauges[missing].set(UNKNOWN)
            for reason, make in readers.items():
                with self._unknown_on_error(reason):
                    gauges[reason].set(await self._nearest_deadline(reason, make))
            await asyncio.sleep(self._look_seconds)

    @contextlib.contextmanager
    def _unknown_on_error(self, *reasons: str) -> Iterator[None]:
        """Log what fails inside, a lasting reason once; the metric of ``reasons`` is then unknown."""
        try:
            yield
        except Exception as error:
            for reason in reasons:
                self._metrics.dead_letters_oldest_deadline[reason].set(UNKNOWN)
            if isinstance(error, BrokerError):
                self._cannot_read[reasons].warn(error)
            else:
                log.exception("reading dead letters failed; this is tried again")
        else:
            self._cannot_read[reasons].reset()

    async def _nearest_deadline(self, reason: str, make: Callable[[], QueueReader]) -> float:
        """The nearest that has not passed of the first ``MOST_READ``, in seconds since 1970.

        One that has passed when there is no other; 0 for an empty queue.
        """
        now, urgencies = self._now().timestamp(), list[float]()
        await read_queues({reason: make}, lambda dead: urgencies.append(dead.record.urgency), MOST_READ)
        if self._shared(reason) and (before := self._deadlines.get(reason, 0.0)) > now:
            urgencies.append(before)  # what others hold is not seen, but may still be there
        found = min([each for each in urgencies if each > now] or urgencies, default=NO_DEADLINE)
        self._deadlines[reason] = 0.0 if found == NO_DEADLINE else found
        return self._deadlines[reason]


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until ``condition`` holds; False when it did not within ``seconds``."""
    for _ in range(int(seconds / _POLL_SECONDS)):
        if condition():
            return True
        await asyncio.sleep(_POLL_SECONDS)
    return False
