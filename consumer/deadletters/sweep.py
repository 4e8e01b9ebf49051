"""Going through dead-letter queues: once to look, or in passes to act on what is selected.

1. Looking takes without acknowledging, and giving back restores the order; see ``docs/dead-letters.md``
   for what the broker counts.
2. Acting goes from the nearest deadline to the farthest. A dead letter is acknowledged only after the
   action said that it may go; whatever interrupts it, the others stay in their queue.
3. Memory is bounded by ``MOST_BYTES``, whatever the queues hold; what waits for its turn is packed.
4. What died after the look is left alone: nothing goes round twice in one sweep. When that was is told
   by the clock of whoever wrote the dead letters, which may be ahead of ours.
"""

import time
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from consumer.broker.queue_reader import QueueReader
from consumer.core.delivery import Delivery
from consumer.deadletters.hand import DeadLetterMessage, ReorderBuffer
from consumer.deadletters.order import without
from consumer.deadletters.record import Record, fingerprint, read
from consumer.deadletters.selection import Selection
from consumer.deadletters.underway import Act, BatchResult, InFlightBatch, Pace, alive, in_thread

_READ_AT_ONCE = 1_000
#: Held for their turn at once, packed: some 100,000 journeys.
MOST_BYTES = 32 * 1024 * 1024
#: A pass ends after this time, well before RabbitMQ takes back what is held too long (30 minutes).
PASS_SECONDS = 600.0
#: Clocks are not farther apart than this: a later death is no date at all.
_CLOCKS_APART = timedelta(hours=1)

QueueReaders = Mapping[str, Callable[[], QueueReader]]
#: Why to leave out a dead letter that is selected, in a word for the summary; None: do not.
Skip = Callable[[Record, Delivery], str | None]


@dataclass(slots=True)
class Tally:
    """What a sweep has found and done so far; ``looking`` until all have been seen once.

    ``missed`` were selected, and were not there any more when their turn came.
    """

    looking: bool = True
    waiting: int = 0
    selected: int = 0
    missed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    trouble: str | None = None

    @property
    def acted(self) -> int:
        """How many were acted upon."""
        return self.outcomes.total()


async def look(
    taps: QueueReaders, see: Callable[[Record, Delivery], None], stopping: Callable[[], bool] = lambda: False
) -> Counter[str]:
    """Show ``see`` every dead letter, in the order of the queues; returns how many each queue had."""
    counts: Counter[str] = Counter()
    for reason, make in taps.items():
        tap = make()
        try:
            await in_thread(tap.open)
            while not stopping() and (batch := await in_thread(take, tap, reason, _READ_AT_ONCE)):
                counts[reason] += len(batch)
                for dead in batch:
                    see(dead.record, dead.delivery)
        finally:
            await in_thread(tap.close)
    return counts


class Sweep:
    """One run over ``taps``. ``now`` is an aware clock; ``most_bytes`` is ``MOST_BYTES`` unless given."""

    def __init__(
        self,
        taps: QueueReaders,
        selection: Selection,
        *,
        now: Callable[[], datetime],
        skip: Skip = lambda _record, _delivery: None,
        most_bytes: int | None = None,
    ) -> None:
        self._taps = taps
        self._selection = selection
        self._now = now
        self._began = now()
        self._skip = skip
        self._most_bytes = MOST_BYTES if most_bytes is None else most_bytes
        self._there: Counter[str] = Counter()
        self._stay: Counter[str] = Counter()
        self._latest_death = self._began
        self._stopping = False
        self.tally = Tally()

    def stop(self) -> None:
        """End after the batch that is under way."""
        self._stopping = True

    async def survey(self, on_seen: Callable[[Tally], None] = lambda _tally: None) -> list[float]:
        """Count what is selected, telling ``on_seen`` now and then; returns the urgencies, ascending."""
        found = array("d")
        self.tally = tally = Tally()

        def see(record: Record, delivery: Delivery) -> None:
            tally.waiting += 1
            if tally.waiting % _READ_AT_ONCE == 0:
                on_seen(tally)
            if record.died is not None and record.died <= self._began + _CLOCKS_APART:
                self._latest_death = max(self._latest_death, record.died)
            if self._selection.matches(record, self._began):
                skipped = self._skip(record, delivery)
                if skipped is None:
                    found.append(record.urgency)
                else:
                    tally.skipped[skipped] += 1

        self._there = await look(self._taps, see, lambda: self._stopping)
        tally.looking, tally.selected = self._stopping, len(found)
        return sorted(found)

    async def run(
        self,
        act: Act,
        *,
        limit: int | None = None,
        rate: float | None = None,
        batch: int | None = None,
        show: Callable[[Tally], None] = lambda _tally: None,
    ) -> Tally:
        """Survey, then act on up to ``limit``, ``rate`` a second at most, until done, stopped or in trouble.

        ``batch`` bounds what is acted upon at once (None: 1,000).

        Raises BrokerError; what was acted upon by then stays done. Trouble is told in the tally.
        """
        expected = await self.survey(show)
        show(self.tally)
        pace = Pace(rate, batch)
        while expected and not self._over(limit):
            done = await self._pass(expected, act, limit, pace, show)
            if not done:
                break
            expected = without(expected, done)
        if not self._over(limit):
            self.tally.missed = max(0, self.tally.selected - self.tally.acted)
        return self.tally

    def _over(self, limit: int | None) -> bool:
        tally = self.tally
        return self._stopping or tally.trouble is not None or (limit is not None and tally.acted >= limit)

    def _is_wanted(self, dead: DeadLetterMessage, stayed: Counter[str]) -> bool:
        """Whether to act on it; ``stayed`` are those of earlier passes that this pass has not met yet."""
        record = dead.record
        if not self._selection.matches(record, self._began) or self._skip(record, dead.delivery) is not None:
            return False
        if record.died is not None and self._latest_death < record.died <= self._began + _CLOCKS_APART:
            return False
        if stayed and stayed[key := fingerprint(dead.delivery)]:
            stayed[key] -= 1
            return False
        return True

    async def _pass(
        self,
        expected: Sequence[float],
        act: Act,
        limit: int | None,
        pace: Pace,
        show: Callable[[Tally], None],
    ) -> list[float]:
        """One way through all queues; returns the urgencies of what was acted upon."""
        most = None if limit is None else limit - self.tally.acted
        hand = ReorderBuffer(expected, most=most, most_bytes=self._most_bytes)
        stayed = self._stay.copy()
        ends_at, done, open_taps = time.monotonic() + PASS_SECONDS, list[float](), list[QueueReader]()
        under_way = InFlightBatch(open_taps)

        async def settle() -> None:
            batch, acted = await under_way.end()
            if batch:
                await self._settle(batch, acted)
                done.extend(dead.record.urgency for dead in batch)
                show(self.tally)

        async def act_on_ready(least: int) -> None:
            while hand.has_batch(least):
                await settle()
                if self._over(limit) or time.monotonic() >= ends_at:
                    return
                size = pace.batch if limit is None else min(pace.batch, limit - self.tally.acted)
                batch = hand.take_out(size)
                await alive(pace.wait(len(batch)), open_taps)
                under_way.begin(batch, act)  # the next batch is read meanwhile

        try:
            for reason, make in self._taps.items():
                tap = make()
                open_taps.append(tap)
                # What the look, or the last pass, gave back may take a moment to be there again.
                self._there[reason] = await in_thread(tap.open, self._there[reason])
                while not self._over(limit) and time.monotonic() < ends_at:
                    taken = await in_thread(take, tap, reason, _READ_AT_ONCE)
                    if not taken:
                        break
                    wanted = [dead for dead in taken if self._is_wanted(dead, stayed)]
                    await in_thread(hand.take_in, wanted)
                    await act_on_ready(pace.batch)
            hand.no_more()
            await act_on_ready(1)
            await settle()
            await in_thread(_finish, open_taps)
        finally:
            await under_way.cancel()
            for tap in open_taps:
                await in_thread(tap.close)
        return done

    async def _settle(self, batch: Sequence[DeadLetterMessage], acted: BatchResult) -> None:
        """Count the results, and acknowledge what may go."""
        self.tally.trouble = acted.trouble
        gone: dict[QueueReader, list[Delivery]] = {}
        for dead, result in zip(batch, acted.results, strict=True):
            self.tally.outcomes[result.outcome] += 1
            if result.gone:
                gone.setdefault(dead.tap, []).append(dead.delivery)
                self._there[dead.queue_reason] -= 1
            else:
                self._stay[fingerprint(dead.delivery)] += 1
        for tap, deliveries in gone.items():
            await in_thread(tap.acknowledge, deliveries)


def take(tap: QueueReader, reason: str, most: int) -> list[DeadLetterMessage]:
    """Take up to ``most`` dead letters of the queue of ``reason``. Blocking; raises BrokerError."""
    return [DeadLetterMessage(read(delivery, reason), delivery, tap, reason) for delivery in tap.take(most)]


def _finish(taps: Sequence[QueueReader]) -> None:
    for tap in taps:
        tap.finish()
