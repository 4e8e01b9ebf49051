"""Inside the service: unauthorized dead letters are replayed, and the nearest deadline becomes a metric.

1. They are replayed after a token was loaded, or was accepted again after a refusal (a 401 can be a database
   that is down), once the Registry has accepted a submission; the urgent ones first, at a bounded rate. One
   is sent as a probe when nothing else is. What dies again with the same token waits longer each time.
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
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from consumer.broker.connection import LogOnce
from consumer.broker.queue_reader import QueueReader
from consumer.core.outcome import Acknowledge, DeadLetter, Disposition, Reason
from consumer.core.protocols import Publisher
from consumer.deadletters.actions import MOST_REPLAYS, REPLAYED, ReplayToQueue
from consumer.deadletters.record import NO_DEADLINE, Record
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
#: How long one waits that died again with the token in use; each further time four times as long.
AGAIN_SECONDS, AGAIN_FACTOR = 300.0, 4
#: Rounds after a token was loaded, refused or accepted again, soon at first, then seldom: another replica may
#: hold them all, and stop.
ROUNDS, FIRST_ROUND_SECONDS, ROUND_SECONDS = 30, 1.0, 60.0
#: Refused for so long, the token in use is probed with one of them: the queue may be empty.
PROBE_AFTER_SECONDS = 300.0
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
    """The service's state: ``paused`` by admission, ``busy`` with fresh journeys, ``connected`` to consume.

    ``refused``: the Registry's last word on the token was no; ``recoveries`` counts how often a yes followed.
    """

    paused: Callable[[], bool]
    busy: Callable[[], bool]
    successes: Callable[[], int]
    refused: Callable[[], bool]
    recoveries: Callable[[], int]
    connected: Callable[[], bool]


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
        self._successes_before = self._recoveries = 0
        self._refused = self._probe_sent = False
        self._counted_from: int | None = 0  # the process has registered none yet; None after the first look
        self._probe_from = self._token_loaded_at
        self._next_due: datetime | None = None  # of those that died again
        self._ended: Counter[str] = Counter()  # what became of replayed ones
        self._token_changed = asyncio.Event()
        self._token_changed.set()  # the first token counts: it may be why the service was started again

    def token_changed(self) -> None:
        """A new token is in use."""
        self._token_loaded_at = self._now()
        self._token_changed.set()

    def settled(self, disposition: Disposition) -> None:
        """Note what became of a journey that was replayed."""
        match disposition:
            case Acknowledge():
                self._ended["registered"] += 1
            case DeadLetter(reason=reason):
                self._ended[reason.value] += 1

    async def run(self, state: ServiceState) -> None:
        """Run until cancelled; from the first connection on: at a first start it declares the queues."""
        while not await _until(state.connected, HOLD_SECONDS):
            continue
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
        first = min(FIRST_ROUND_SECONDS, self._round_seconds)
        rounds, pause = 0, first
        # The reason may last: a queue that was deleted, a permission.
        cannot_replay = LogOnce("dead letters cannot be replayed now", logging.INFO, log)
        while True:
            if self._token_changed.is_set() or not rounds:
                pause = first
            rounds = max(rounds, self._rounds_wanted(state))
            replayed = 0
            if rounds:
                try:
                    replayed = await self._round(state)
                    # An outage, fresh journeys or another replica may last for any number of rounds.
                    waits = state.paused() or state.busy() or self._shared(Reason.UNAUTHORIZED)
                    rounds -= not (replayed or waits)
                    pause = first if replayed else pause
                    cannot_replay.reset()
                except BrokerError as error:
                    cannot_replay.warn(error)
                except Exception:
                    rounds -= 1
                    log.exception("replaying dead letters failed; this is tried again")
            if self._ended and not replayed:
                level = logging.INFO if self._ended.keys() == {"registered"} else logging.WARNING
                log.log(level, "replayed dead letters ended", extra={"outcomes": dict(self._ended)})
                self._ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause if rounds else first):
                    await self._token_changed.wait()
            pause = min(2 * pause, self._round_seconds)

    def _rounds_wanted(self, state: ServiceState) -> int:
        """For how many rounds there is a reason since the last call."""
        before = self._refused, self._recoveries
        self._refused, self._recoveries = state.refused(), state.recoveries()
        changed = self._token_changed.is_set()
        unknown = changed or (self._refused and not before[0])
        if unknown:
            self._token_changed.clear()
            # What was registered before the first look was so under the first token: it is accepted.
            counted, self._counted_from = self._counted_from, None
            self._successes_before = state.successes() if counted is None else counted
            self._probe_sent = False
            self._probe_from = self._now() + timedelta(seconds=0 if changed else PROBE_AFTER_SECONDS)
        if self._next_due is not None and self._next_due <= self._now():
            self._next_due = None
            return ROUNDS if unknown else 1
        return ROUNDS if unknown or self._recoveries != before[1] else 0

    async def _round(self, state: ServiceState) -> int:
        """Probe unless the token is known to be good, then replay; returns how many, without the probe."""

        def is_accepted() -> bool:
            return state.successes() > self._successes_before

        if not is_accepted():
            # While busy the fresh ones are the probe; in a pause the one that was sent goes round.
            goes_round = self._probe_sent and state.paused()
            if not (state.busy() or goes_round or self._now() < self._probe_from):
                sent = await self._sweep(self._to_queue, Selection(), most_held=MOST_READ, limit=1)
                self._probe_sent = sent > 0
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
                return not (state.paused() or state.refused()) and (is_urgent or not state.busy())

            waits = [Result("waits", ack=False)] * len(batch)
            if time.monotonic() > until:
                return BatchResult(waits, "given back for a moment, so that others see them")
            if not await _until(may_go, BUSY_SECONDS):
                return BatchResult(waits, "the service is busy, or the token is refused")
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
        record, now = dead.record, self._now()
        if record.replays >= MOST_REPLAYS:
            return "replayed too often"
        if record.is_too_late(now):
            return "too late"
        if record.replays and record.died is not None and record.died >= self._token_loaded_at:
            due = _due(record, record.died)
            if due > now:
                self._next_due = min(due, self._next_due or due)
            if due > now or self._refused:
                return "died again with this token"
        return None

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


def _due(record: Record, died: datetime) -> datetime:
    """When one that died again may be replayed: before half of the time that was left has passed."""
    wait = timedelta(seconds=AGAIN_SECONDS * AGAIN_FACTOR ** (record.replays - 1))
    return died + (wait if record.deadline is None else min(wait, abs(record.deadline - died) / 2))


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until ``condition`` holds; False when it did not within ``seconds``."""
    for _ in range(int(seconds / _POLL_SECONDS)):
        if condition():
            return True
        await asyncio.sleep(_POLL_SECONDS)
    return False
