"""Reading dead-letter queues: ``read_queues`` at all of them, or a ``Sweep`` that acts on what is selected.

1. Order: nearest deadline first among those held: up to ``MOST_HELD`` dead letters or ``MOST_BYTES`` at once.
   They are read in one pass, from all queues in turn; those with one deadline keep their order.
2. A dead letter is acknowledged only after the action returned ``ack`` for it. Whatever interrupts the sweep,
   the others stay in their queue; closing a reader gives them back in their order.
3. One batch is acted upon while the next one is read. Heartbeats are answered while the sweep waits.
4. What died after the first batch is left alone, so that nothing is replayed twice in one sweep. The time of
   death is that of the process that wrote the dead letter, whose clock may be ahead of ours.
"""

import asyncio
import heapq
import itertools
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ParamSpec, TypeVar

from consumer.broker.queue_reader import BATCH_BYTES, QueueReader
from consumer.core.delivery import Delivery
from consumer.deadletters.record import Record, fingerprint, payload_of, read
from consumer.deadletters.selection import Selection

#: Held at once, besides the batch that is being acted upon. The last batch read may exceed the bytes.
MOST_HELD = 10_000
MOST_BYTES = 16 * 1024 * 1024
BATCH = 1_000
READ_AT_ONCE = 1_000
KEEP_ALIVE_SECONDS = 5.0
#: After this time everything that is held is given back for a moment: RabbitMQ closes a channel that does not
#: acknowledge a delivery within 30 minutes (``consumer_timeout``).
MOST_HELD_SECONDS = 600.0
#: Clocks are not farther apart than this: a later death is not a usable date.
_CLOCKS_APART = timedelta(hours=1)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class DeadLetterMessage:
    """A dead letter that was read and not acknowledged, with the reader to acknowledge it on."""

    record: Record
    delivery: Delivery
    reader: QueueReader

    @property
    def key(self) -> str:
        return fingerprint(self.delivery)

    def matches(self, selection: Selection, now: datetime) -> bool:
        """Whether it is selected; its payload is read only when a person is looked for."""
        return selection.matches(self.record, now) and (
            not selection.persons or selection.names(payload_of(self.delivery))
        )


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one dead letter, in a word for the summary; ``ack`` removes it from its queue."""

    outcome: str
    ack: bool


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The results of a batch, in its order; ``trouble`` is why the sweep should end now."""

    results: Sequence[Result]
    trouble: str | None = None


Act = Callable[[Sequence[DeadLetterMessage]], Awaitable[BatchResult]]
QueueReaders = Mapping[str, Callable[[], QueueReader]]
#: Why to leave out a dead letter that is selected, in a word for the summary; None: do not.
Skip = Callable[[DeadLetterMessage], str | None]


@dataclass(slots=True)
class Tally:
    """The counts of a sweep so far; ``reading`` until the first batch.

    ``waiting`` were in the queues when they were opened, and ``read`` of those have been read. ``taken`` were
    no longer in the queue; ``died_since`` died after the first batch.
    """

    reading: bool = True
    waiting: int = 0
    read: int = 0
    selected: int = 0
    taken: int = 0
    died_since: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    trouble: str | None = None

    @property
    def acted(self) -> int:
        return self.outcomes.total()

    @property
    def missed(self) -> int:
        return self.taken + self.died_since

    @property
    def to_act(self) -> int:
        """How many there are to act upon, at most: those selected, and those that were not read yet."""
        return self.selected + self.waiting - self.read


class ReorderBuffer:
    """Gives the nearest deadline first of what it holds; equal ones in the order in which they came."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._heap: list[tuple[float, int, DeadLetterMessage]] = []
        self._arrivals = itertools.count()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def room(self) -> int:
        """How many more may be read now."""
        return self._most - len(self._heap) if self._bytes < self._most_bytes else 0

    def push(self, dead: DeadLetterMessage) -> None:
        heapq.heappush(self._heap, (dead.record.urgency, next(self._arrivals), dead))
        self._bytes += len(dead.delivery.body)

    def pop(self, most: int) -> list[DeadLetterMessage]:
        """Up to ``most``, or the first that together exceed ``BATCH_BYTES``."""
        batch, size = list[DeadLetterMessage](), 0
        while self._heap and len(batch) < most and size < BATCH_BYTES:
            batch.append(heapq.heappop(self._heap)[2])
            size += len(batch[-1].delivery.body)
        self._bytes -= size
        return batch


class Nearest:
    """Keeps the ``limit`` dead letters with the nearest deadline, of ``most_bytes`` of bodies at most.

    Once one had to be dropped, none with the same deadline or a farther one is kept.
    """

    def __init__(self, limit: int, most_bytes: int = 64 * 1024 * 1024) -> None:
        self._limit = limit
        self._most_bytes = most_bytes
        self._heap: list[tuple[float, int, DeadLetterMessage]] = []  # the farthest deadline on top
        self._dropped: float | None = None
        self._bytes = 0
        self.matching = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, dead: DeadLetterMessage) -> None:
        self.matching += 1
        urgency = dead.record.urgency
        if self._dropped is not None and urgency >= self._dropped:
            return
        heapq.heappush(self._heap, (-urgency, -self.matching, dead))
        self._bytes += len(dead.delivery.body)
        while len(self._heap) > self._limit or (self._bytes > self._most_bytes and len(self._heap) > 1):
            farthest, _, dropped = heapq.heappop(self._heap)
            self._dropped = -farthest
            self._bytes -= len(dropped.delivery.body)

    def entries(self) -> list[DeadLetterMessage]:
        """Those that are kept, the nearest deadline first."""
        return [dead for _, _, dead in sorted(self._heap, reverse=True)]


class _Pace:
    """At most ``rate`` a second, in batches that last a fifth of a second, of ``most`` at most."""

    def __init__(self, rate: float | None, most: int) -> None:
        self._rate = rate
        self._due = 0.0
        self.batch = most if rate is None else max(1, min(most, int(rate / 5)))

    async def wait(self, count: int) -> None:
        """Until ``count`` more may go."""
        if self._rate is None:
            return
        now = time.monotonic()
        await asyncio.sleep(max(0.0, self._due - now))
        self._due = max(self._due, now) + count / self._rate


class _Held:
    """What one pass has open and holds: readers, the buffer, and the one batch that is being acted upon."""

    def __init__(self, buffer: ReorderBuffer) -> None:
        self.buffer = buffer
        self.readers: list[QueueReader] = []
        self.unread: deque[tuple[str, QueueReader, int]] = deque()  # reason, reader, how many are left
        self.batch: Sequence[DeadLetterMessage] = ()
        self.acting: asyncio.Future[BatchResult] | None = None
        self._alive_at = time.monotonic()

    async def wait(self, work: Awaitable[T]) -> T:
        """Wait for ``work``, and answer the heartbeats of all readers meanwhile."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=KEEP_ALIVE_SECONDS))[0]:
                await self.keep_alive()
        except BaseException:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        return task.result()

    async def keep_alive(self, after_seconds: float = 0.0) -> None:
        """Answer the heartbeats of all readers, unless that was done less than ``after_seconds`` ago."""
        if time.monotonic() - self._alive_at >= after_seconds:
            for reader in self.readers:
                await in_thread(reader.keep_alive)
            self._alive_at = time.monotonic()

    async def close(self) -> None:
        """Cancel the batch if there is one, and give back everything that was not acknowledged."""
        if self.acting is not None:
            self.acting.cancel()
            await asyncio.gather(self.acting, return_exceptions=True)
        for reader in self.readers:
            await in_thread(reader.close)


class Sweep:
    """One run over ``queues``. ``now`` is an aware clock; the bounds are the module's unless given."""

    def __init__(
        self,
        queues: QueueReaders,
        selection: Selection,
        *,
        now: Callable[[], datetime],
        skip: Skip = lambda _dead: None,
        most_held: int | None = None,
        most_bytes: int | None = None,
    ) -> None:
        self._queues = queues
        self._selection = selection
        self._began = self._latest_death = now()
        self._skip = skip
        self._bounds = most_held or MOST_HELD, most_bytes or MOST_BYTES
        self._there: Counter[str] = Counter()
        self._stay: Counter[str] = Counter()
        self._stopping = False
        self._limit = sys.maxsize
        self._show: Callable[[Tally], None] = lambda _tally: None
        self.tally = Tally()

    def stop(self) -> None:
        """End after the batch that is being acted upon."""
        self._stopping = True

    async def count(self, show: Callable[[Tally], None] = lambda _tally: None) -> Tally:
        """Count what is selected, and act on nothing."""
        self.tally = tally = Tally()

        def see(dead: DeadLetterMessage) -> None:
            tally.waiting += 1
            tally.read += 1
            self._selects(dead)
            show(tally)

        self._there = await read_queues(self._queues, see)
        tally.reading = False
        return tally

    async def run(
        self,
        act: Act,
        *,
        limit: int | None = None,
        rate: float | None = None,
        batch: int | None = None,
        show: Callable[[Tally], None] = lambda _tally: None,
    ) -> Tally:
        """Act on up to ``limit``, ``rate`` a second at most, until done, stopped or in trouble.

        ``batch`` bounds what is acted upon at once (None: ``BATCH``). Raises BrokerError; what was acted upon
        by then stays done.
        """
        self.tally, self._show = Tally(), show
        self._limit = sys.maxsize if limit is None else limit
        pace, first = _Pace(rate, batch or BATCH), True
        while not await self._pass(act, pace, first=first):
            first = False
        self.tally.taken = self.tally.waiting - self.tally.read
        if self._is_over:
            self.tally.taken = self.tally.died_since = 0
        self.tally.reading = self.tally.reading and self._stopping
        return self.tally

    @property
    def _is_over(self) -> bool:
        return self._stopping or self.tally.trouble is not None or self.tally.acted >= self._limit

    async def _pass(self, act: Act, pace: _Pace, *, first: bool) -> bool:
        """Read the queues to their end; False when all was given back before, to be read once more."""
        held, stayed = _Held(ReorderBuffer(*self._bounds)), self._stay.copy()
        ends_at, acted = time.monotonic() + MOST_HELD_SECONDS, False
        try:
            await self._open(held, first=first)
            while True:
                while held.unread and held.buffer.room and not self._is_over:
                    await self._read(held, stayed)
                    self._show(self.tally)
                    if held.acting is not None and held.acting.done():
                        await self._settle(held)
                await self._settle(held)
                done = self._is_over or not held.buffer
                if done or (acted and time.monotonic() >= ends_at):
                    break
                batch = held.buffer.pop(min(pace.batch, self._limit - self.tally.acted))
                await held.wait(pace.wait(len(batch)))
                self.tally.reading, acted = False, True
                held.batch, held.acting = batch, asyncio.ensure_future(act(batch))
            for reader in held.readers:
                await in_thread(reader.finish)
        finally:
            await held.close()
        return done

    async def _open(self, held: _Held, *, first: bool) -> None:
        """Open all queues. What came after the first pass began is not read."""
        tally, there = self.tally, Counter[str]()
        for reason, make in self._queues.items():
            held.readers.append(reader := make())
            # What a look, or the last pass, gave back may take a moment to be there again.
            waiting = await in_thread(reader.open, self._there[reason])
            there[reason] = waiting if first else min(waiting, self._there[reason])
            if there[reason]:
                held.unread.append((reason, reader, there[reason]))
        if first:
            self._there, tally.waiting = there, there.total()
        else:  # all of these are read again
            tally.read = tally.waiting - self._there.total()
            tally.selected = tally.acted - self._stay.total()
            tally.died_since = 0
            tally.skipped.clear()

    async def _read(self, held: _Held, stayed: Counter[str]) -> None:
        """Read from the first queue, and put it behind the others."""
        reason, reader, left = held.unread.popleft()
        taken = await in_thread(read_batch, reader, reason, min(READ_AT_ONCE, left, held.buffer.room))
        self.tally.read += len(taken)
        if taken and left > len(taken):
            held.unread.append((reason, reader, left - len(taken)))
        for dead in taken:
            if self._is_wanted(dead, stayed):
                held.buffer.push(dead)
        await held.keep_alive(KEEP_ALIVE_SECONDS)

    def _selects(self, dead: DeadLetterMessage) -> bool:
        """Whether it is selected and not skipped; it is counted as one of them."""
        if not dead.matches(self._selection, self._began):
            return False
        if (skipped := self._skip(dead)) is not None:
            self.tally.skipped[skipped] += 1
            return False
        self.tally.selected += 1
        return True

    def _is_wanted(self, dead: DeadLetterMessage, stayed: Counter[str]) -> bool:
        """Whether to act on it; ``stayed`` are those of earlier passes that this pass has not met yet."""
        died = dead.record.died
        if died is not None and died <= self._began + _CLOCKS_APART:
            if self.tally.reading:
                self._latest_death = max(self._latest_death, died)
            elif died > self._latest_death:
                self.tally.died_since += dead.matches(self._selection, self._began)
                return False
        if not self._selects(dead):
            return False
        if stayed and stayed[key := dead.key]:
            stayed[key] -= 1
            return False
        return True

    async def _settle(self, held: _Held) -> None:
        """Wait for the batch, count its results, and acknowledge what the action is done with."""
        if held.acting is None:
            return
        acted = await held.wait(held.acting)
        held.acting = None
        self.tally.trouble = acted.trouble
        done: dict[QueueReader, list[Delivery]] = {}
        for dead, result in zip(held.batch, acted.results, strict=True):
            self.tally.outcomes[result.outcome] += 1
            if result.ack:
                done.setdefault(dead.reader, []).append(dead.delivery)
                self._there[dead.record.reason] -= 1
            else:
                self._stay[dead.key] += 1
        for reader, deliveries in done.items():
            await in_thread(reader.acknowledge, deliveries)
        self._show(self.tally)


async def read_queues(
    queues: QueueReaders, see: Callable[[DeadLetterMessage], None], most: int = sys.maxsize
) -> Counter[str]:
    """Show ``see`` the first ``most`` dead letters of each queue; returns how many they were."""
    counts: Counter[str] = Counter()
    for reason, make in queues.items():
        reader = make()
        try:
            await in_thread(reader.open)
            while left := min(READ_AT_ONCE, most - counts[reason]):
                batch = await in_thread(read_batch, reader, reason, left)
                counts[reason] += len(batch)
                for dead in batch:
                    see(dead)
                if not batch:
                    break
        finally:
            await in_thread(reader.close)
    return counts


def read_batch(reader: QueueReader, reason: str, most: int) -> list[DeadLetterMessage]:
    """Take up to ``most`` dead letters of the queue of ``reason``. Blocking; raises BrokerError."""
    return [DeadLetterMessage(read(delivery, reason), delivery, reader) for delivery in reader.read(most)]


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do blocking ``work`` in a thread.

    A thread cannot be interrupted: when cancelled, this waits for its end first, so that two threads never
    use one connection, and none is opened that nothing closes.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.gather(thread, return_exceptions=True)
        raise
