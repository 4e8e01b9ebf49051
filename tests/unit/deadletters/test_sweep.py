"""Sweeps over queues in memory: the order, what is acknowledged and when, what a failure leaves behind."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.broker.queue_reader import BATCH_BYTES
from consumer.core.delivery import Delivery
from consumer.core.headers import replay_headers, tracking_headers
from consumer.core.outgoing import Outgoing
from consumer.deadletters.actions import ReplayToQueue
from consumer.deadletters.record import read
from consumer.deadletters.selection import Selection
from consumer.deadletters.sweep import (
    Act,
    BatchResult,
    DeadLetterMessage,
    Nearest,
    ReorderBuffer,
    Result,
    Sweep,
    Tally,
)
from consumer.deadletters.view import show_tally
from consumer.errors import BrokerError, PublishFailure
from consumer.errors import PublishError as Unconfirmed
from tests.waiting import await_until

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Queue:
    """A dead-letter queue in memory that writes down what happens to it; opened as often as wanted."""

    def __init__(self, *hours_left: float) -> None:
        self.messages = {
            f"{number}-{hours:g}": json.dumps(
                {"start": {"datetime": (NOW + timedelta(hours=hours - 24)).isoformat()}, "id": number}
            ).encode()
            for number, hours in enumerate(hours_left)
        }
        self.journal: list[str] = []
        self.at_least: list[int] = []
        self.headers: dict[str, object] = {}
        self.broken_after: int | None = None
        self.message_id: str | None = None
        self.batch = 1_000

    def __call__(self) -> "Queue":
        self._untaken, self._given = list(self.messages), 0
        return self

    def open(self, at_least: int = 0) -> int:
        """Connect."""
        self.journal.append("open")
        self.at_least.append(at_least)
        return len(self._untaken)

    def read(self, most: int) -> list[Delivery]:
        """Take the oldest."""
        if self.broken_after is not None and self._given >= self.broken_after:
            raise BrokerError("the connection was lost")
        most = min(most, self.batch)
        taken, self._untaken = self._untaken[:most], self._untaken[most:]
        self._given += len(taken)
        return [
            Delivery(
                self.messages[name], headers=self.headers, properties={"message_id": self.message_id or name}
            )
            for name in taken
        ]

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Remove."""
        for delivery in deliveries:
            assert delivery.message_id is not None
            self.journal.append(f"ack {delivery.message_id}")
            del self.messages[delivery.message_id]

    def finish(self) -> None:
        """Nothing is on its way."""

    def keep_alive(self) -> None:
        """Nothing to keep."""

    def close(self) -> None:
        """Disconnect."""
        self.journal.append("close")


class Broker:
    """Confirms each publish a moment later, or fails those that the test names."""

    def __init__(self, queue: Queue, *failing: str) -> None:
        self.queue = queue
        self.failing = failing

    def submit(self, outgoing: Outgoing) -> asyncio.Future[None]:
        """Publish."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        name = outgoing.properties["message_id"]

        def end() -> None:
            self.queue.journal.append(f"confirm {name}")
            if name in self.failing:
                future.set_exception(Unconfirmed(PublishFailure.NACKED))
            else:
                future.set_result(None)

        loop.call_later(0.001, end)
        return future


def sweep(queue: Queue, **more: object) -> Sweep:
    """One over this queue alone."""
    return Sweep({"unauthorized": queue}, Selection(), now=lambda: NOW, **more)  # type: ignore[arg-type]


async def test_every_acknowledgement_follows_its_confirm() -> None:
    """First the confirm, then the acknowledgement, then the reader is closed; the most urgent first."""
    queue = Queue(5, 1, 3)
    tally = await sweep(queue).run(ReplayToQueue(Broker(queue), "q"))
    assert (tally.waiting, tally.selected, dict(tally.outcomes)) == (3, 3, {"replayed": 3})
    assert (queue.journal[0], queue.journal[-1]) == ("open", "close")
    assert queue.journal.count("open") == 1, "one pass"
    acks = [entry for entry in queue.journal if entry.startswith("ack")]
    assert acks == ["ack 1-1", "ack 2-3", "ack 0-5"]
    for entry in acks:
        assert queue.journal.index(entry.replace("ack", "confirm")) < queue.journal.index(entry)


async def test_what_was_not_confirmed_is_not_acknowledged() -> None:
    """One failure among many: only that one stays, and the sweep ends."""
    queue = Queue(1, 2, 3, 4)
    tally = await sweep(queue).run(ReplayToQueue(Broker(queue, "2-3"), "q"))
    assert list(queue.messages) == ["2-3"]
    assert tally.trouble is not None
    assert "publishing 1 dead letters failed (nacked); they stay in their queues" in tally.trouble


async def test_a_lost_connection_ends_it_and_closes_what_is_open() -> None:
    """What was acknowledged by then stays done, everything else stays."""
    queue = Queue(*range(1, 2001))
    one = sweep(queue)
    assert (await one.count()).selected == 2000
    queue.broken_after = 1500
    with pytest.raises(BrokerError, match="lost"):
        await sweep(queue, most_held=500).run(ReplayToQueue(Broker(queue), "q"))
    assert queue.journal[-1] == "close"
    assert 500 <= len(queue.messages) < 2000


def refusing(met: list[str]) -> Act:
    """An action that leaves everything in its queue, and appends the message ids to ``met``."""

    async def refuse(batch: Sequence[DeadLetterMessage]) -> BatchResult:
        met.extend(str(dead.record.message_id) for dead in batch)
        return BatchResult([Result("rejected", ack=False)] * len(batch))

    return refuse


async def test_what_stays_is_not_met_again_in_the_same_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when all is given back and read once more, because nothing may be held for long."""
    monkeypatch.setattr("consumer.deadletters.sweep.MOST_HELD_SECONDS", 0.0)
    queue, met = Queue(4, 3, 2, 1, 0.5), list[str]()
    tally = await sweep(queue, most_held=2).run(refusing(met), batch=1)
    assert met == ["1-3", "2-2", "3-1", "4-0.5", "0-4"]
    assert len(queue.at_least) > 2, "it is read more than once"
    assert tally.outcomes == {"rejected": 5}
    assert (tally.waiting, tally.read, tally.selected, tally.missed) == (5, 5, 5, 0)
    assert len(queue.messages) == 5


async def test_what_was_given_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker takes back on its own time; to read before that would miss the most urgent."""
    monkeypatch.setattr("consumer.deadletters.sweep.MOST_HELD_SECONDS", 0.0)
    queue = Queue(4, 3, 2, 1)
    tally = await sweep(queue).run(ReplayToQueue(Broker(queue), "q"), batch=1)
    assert queue.at_least == [0, 4 - 1, 4 - 2, 4 - 3, 0][: len(queue.at_least)]
    assert [entry for entry in queue.journal if "ack" in entry] == [
        "ack 3-1",
        "ack 2-2",
        "ack 1-3",
        "ack 0-4",
    ]
    assert (tally.acted, tally.selected, tally.missed) == (4, 4, 0)


async def test_what_came_meanwhile_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead letters that arrive during a sweep are for the next one, also when all is read once more."""
    monkeypatch.setattr("consumer.deadletters.sweep.MOST_HELD_SECONDS", 0.0)
    queue, met = Queue(4, 3, 2), list[float]()

    async def act(batch: Sequence[DeadLetterMessage]) -> BatchResult:
        met.extend((dead.record.urgency - NOW.timestamp()) / 3600 for dead in batch)
        queue.messages[f"new-{len(met)}"] = next(iter(Queue(1).messages.values()))
        return BatchResult([Result("replayed", ack=True)] * len(batch))

    tally = await sweep(queue).run(act, batch=1)
    assert met == [2, 3, 4]
    assert (tally.waiting, tally.read, tally.missed) == (3, 3, 0)


async def test_what_died_meanwhile_is_left_alone() -> None:
    """A journey that was replayed and died again during the sweep is not replayed once more."""
    queue = Queue(1, 2, 3, 4)
    queue.batch = 1
    broker = Broker(queue)

    async def act(batch: Sequence[DeadLetterMessage]) -> BatchResult:
        queue.headers = {"x-last-failure": (NOW + timedelta(seconds=5)).isoformat()}
        return await ReplayToQueue(broker, "q")(batch)

    tally = await sweep(queue, most_held=2).run(act, batch=1)
    assert (tally.acted, tally.missed) == (2, 2)
    assert len(queue.messages) == 2
    assert "2  left in the queue: died after this command began" in show_tally(tally)


@pytest.mark.parametrize("ahead", [timedelta(seconds=5), timedelta(minutes=50), timedelta(days=4000)])
async def test_who_wrote_them_may_have_another_clock(ahead: timedelta) -> None:
    """A death in the future by our clock was before the look all the same; one far away is no date."""
    queue = Queue(1, 2)
    queue.headers = {"x-last-failure": (NOW + ahead).isoformat()}
    tally = await sweep(queue).run(ReplayToQueue(Broker(queue), "q"))
    assert (tally.acted, tally.missed) == (2, 0)


class Shared(Queue):
    """After it was opened another consumer takes the most urgent."""

    def open(self, at_least: int = 0) -> int:
        waiting = super().open(at_least)
        self._untaken.remove("0-1")
        del self.messages["0-1"]
        return waiting


async def test_what_another_consumer_took_is_counted() -> None:
    """A replay is not done when some of what was there could not be read."""
    queue = Shared(1, 2, 3)
    tally = await sweep(queue).run(ReplayToQueue(Broker(queue), "q"))
    assert (tally.acted, tally.missed) == (2, 1)
    assert "1  no longer in the queue (taken by another consumer)" in show_tally(tally)
    assert "not processed" not in show_tally(tally)


async def test_a_limit_misses_nothing() -> None:
    """What a limit leaves out is not processed, and not missing."""
    queue = Queue(1, 2, 3)
    tally = await sweep(queue).run(ReplayToQueue(Broker(queue), "q"), limit=2)
    assert (tally.acted, tally.missed) == (2, 0)
    assert "1  not processed" in show_tally(tally)


async def test_copies_of_one_message_are_acted_upon_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the same bytes and id are two dead letters, also when they stay and all is read once more."""
    monkeypatch.setattr("consumer.deadletters.sweep.MOST_HELD_SECONDS", 0.0)
    queue, met = Queue(4, 3, 2, 1), list[str]()
    twin = queue.messages["0-4"]
    queue.messages = {"a": twin, "b": twin, **dict(list(queue.messages.items())[1:])}
    queue.message_id = "the same"
    tally = await sweep(queue, most_held=2).run(refusing(met), batch=1)
    assert len(met) == 5
    assert (tally.outcomes, tally.missed) == ({"rejected": 5}, 0)


async def test_large_ones_are_bounded_in_bytes() -> None:
    """So large that a few are as much as may be held: the others wait in their queue."""
    queue = Queue(*range(1, 41))
    queue.messages = {name: body + b" " * 2_000_000 for name, body in queue.messages.items()}
    queue.batch = 2
    most = 0

    async def act(batch: Sequence[DeadLetterMessage]) -> BatchResult:
        nonlocal most
        most = max(most, len(queue.messages) - len(queue._untaken))
        return BatchResult([Result("replayed", ack=True)] * len(batch))

    tally = await sweep(queue, most_bytes=8 * 1024 * 1024).run(act)
    assert tally.outcomes == {"replayed": 40}
    assert most <= 12, "a buffer and a batch of 8 MiB, and what is being read"


class Slow(Queue):
    """Takes its time to connect."""

    def open(self, at_least: int = 0) -> int:
        """Connect, a moment later."""
        time.sleep(0.2)
        return super().open(at_least)


async def test_cancelling_while_it_connects_leaves_nothing_open() -> None:
    """A thread cannot be interrupted: what it opens in the end is closed, and not before."""
    queue = Slow(1)
    task = asyncio.create_task(sweep(queue).count())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert queue.journal == ["open", "close"]


async def test_heartbeats_are_answered_while_a_batch_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """On every connection, also that of a queue which has been read to its end."""
    monkeypatch.setattr("consumer.deadletters.sweep.KEEP_ALIVE_SECONDS", 0.01)
    queues = {"expired": Queue(1), "unauthorized": Queue(2)}
    answered: Counter[str] = Counter()

    async def act(batch: Sequence[DeadLetterMessage]) -> BatchResult:
        for name, queue in queues.items():
            monkeypatch.setattr(queue, "keep_alive", lambda name=name: answered.update([name]))
        await await_until(lambda: min(answered["expired"], answered["unauthorized"]) >= 2)
        return BatchResult([Result("replayed", ack=True)] * len(batch))

    tally = await Sweep(queues, Selection(), now=lambda: NOW).run(act)
    assert tally.outcomes == {"replayed": 2}


async def test_stopping_ends_after_the_current_batch() -> None:
    """What was begun is finished and acknowledged; nothing else is touched."""
    queue = Queue(*range(1, 21))
    one = sweep(queue)

    async def act(batch: Sequence[DeadLetterMessage]) -> BatchResult:
        one.stop()
        return BatchResult([Result("replayed", ack=True)] * len(batch))

    tally = await one.run(act, rate=25)
    assert tally.outcomes == {"replayed": 5}
    assert len(queue.messages) == 15


async def test_reading_is_shown_and_can_be_stopped() -> None:
    """Reading shows its progress; stopped, it ends before the first batch, nothing done."""
    queue, seen = Queue(*range(1, 2501)), list[tuple[bool, int]]()
    one = sweep(queue)

    def show(tally: Tally) -> None:
        seen.append((tally.reading, tally.read))
        if tally.read == 2000:
            one.stop()

    tally = await one.run(ReplayToQueue(Broker(queue), "q"), show=show)
    assert seen == [(True, 1000), (True, 2000)]
    assert show_tally(tally) == "stopped after reading 2,000 of 2,500 dead letters; nothing was done"
    assert len(queue.messages) == 2500
    assert queue.journal == ["open", "close"]


# --- the order ----------------------------------------------------------------------------------

HOURS = st.lists(st.integers(1, 20), max_size=40)


@given(st.lists(HOURS, min_size=1, max_size=3), st.integers(1, 12), st.integers(1, 5), st.integers(1, 50))
async def test_the_nearest_of_those_held_goes_first(
    queues: list[list[int]], most_held: int, batch: int, limit: int
) -> None:
    """Whatever lies in however many queues: each batch is the nearest of what was held then."""
    readers = {f"queue-{number}": Queue(*hours) for number, hours in enumerate(queues)}
    count = sum(map(len, queues))
    seen, order = list[float](), list[float]()

    async def act(dead_letters: Sequence[DeadLetterMessage]) -> BatchResult:
        held = sorted(seen)
        for earlier in order:
            held.remove(earlier)
        assert len(held) == min(most_held, count - len(order)), "as many are held as may be"
        urgencies = [dead.record.urgency for dead in dead_letters]
        assert urgencies == held[: min(batch, limit - len(order))]
        order.extend(urgencies)
        return BatchResult([Result("replayed", ack=True)] * len(dead_letters))

    def skip(dead: DeadLetterMessage) -> str | None:
        seen.append(dead.record.urgency)
        return None

    one = Sweep(readers, Selection(), now=lambda: NOW, skip=skip, most_held=most_held)  # type: ignore[arg-type]
    tally = await one.run(act, batch=batch, limit=limit)
    assert tally.acted == len(order) == min(limit, count)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), max_size=40),
    st.integers(1, 20),
    st.integers(1, 99),
)
def test_a_buffer_gives_the_nearest_and_is_bounded(
    sizes: list[tuple[int, int]], most: int, most_bytes: int
) -> None:
    """In number and bytes; what has one deadline keeps its order, and everything comes out once."""
    buffer, left, out = ReorderBuffer(most, most_bytes), list(enumerate(sizes)), list[int]()
    held: list[tuple[int, int]] = []
    while left or held:
        while left and buffer.room:
            assert len(held) < most
            assert sum(sizes[number][1] for _, number in held) < most_bytes
            number, (hours, size) = left.pop(0)
            buffer.push(dead(number, hours, size))
            held.append((hours, number))
        assert len(buffer) == len(held)
        batch = [each.delivery.tag for each in buffer.pop(3)]
        held.sort()
        assert batch == [number for _, number in held[:3]]
        held = held[3:]
        out += batch
    assert sorted(out) == list(range(len(sizes)))


def dead(number: int, hours: int, size: int) -> DeadLetterMessage:
    """One with so many hours left and ``size`` bytes."""
    ((_, body),) = Queue(hours).messages.items()
    record = read(Delivery(body), "rejected")
    return DeadLetterMessage(record, Delivery(b" " * size, tag=number), Queue()())


def test_a_batch_is_bounded_in_bytes() -> None:
    """Large bodies leave the buffer a few at a time."""
    buffer = ReorderBuffer(100, 10**9)
    for number in range(20):
        buffer.push(dead(number, 1, 2_000_000))
    sizes = []
    while batch := buffer.pop(1_000):
        sizes.append(sum(len(each.delivery.body) for each in batch))
    assert sum(sizes) == 40_000_000
    assert max(sizes) < BATCH_BYTES + 2_000_000


ITEMS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50)), max_size=40)


@given(ITEMS, st.integers(1, 50), st.integers(1, 500))
def test_the_nearest_are_kept_in_order(items: list[tuple[int, int]], limit: int, most_bytes: int) -> None:
    """As sorting all of them would give, without a gap; the bytes are bounded, unless one exceeds them."""
    nearest = Nearest(limit, most_bytes)
    for number, (hours, size) in enumerate(items):
        each = dead(number, hours, size)
        nearest.add(each)
    kept = [int(each.delivery.tag) for each in nearest.entries()]
    assert kept == sorted(range(len(items)), key=lambda number: items[number][0])[: len(kept)]
    assert (len(nearest), nearest.matching) == (len(kept), len(items))
    assert len(kept) <= limit
    assert len(kept) <= 1 or sum(items[number][1] for number in kept) <= most_bytes
    if sum(size for _, size in items) <= most_bytes:
        assert len(kept) == min(limit, len(items))


def test_a_replayed_message_starts_a_new_life() -> None:
    """Attempts, visits and reasons are gone, the origin and the operator's headers stay, replays count up."""
    dead = {
        "x-reason": "rejected",
        "x-detail": "d",
        "x-status": 400,
        "x-attempts": 9,
        "x-visits": 4,
        "x-first-failure": "2026-11-23T15:00:00Z",
        "x-last-failure": "2026-11-23T16:00:00Z",
        "x-consumer-version": "1",
        "x-death": [{"queue": "q"}],
        "x-delivery-count": 3,
        "x-original-exchange": "e",
        "x-original-routing-key": "k",
        "mine": "kept",
    }
    delivery = Delivery(b"{}", headers=dead)
    assert replay_headers(delivery, tracking_headers(delivery)) == {
        "mine": "kept",
        "x-replays": 1,
        "x-original-exchange": "e",
        "x-original-routing-key": "k",
    }
