"""Going through queues in memory: what is acknowledged, when, and what a failure leaves behind."""

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from consumer.core.delivery import Delivery
from consumer.core.headers import replay_headers, tracking_headers
from consumer.core.outgoing import Outgoing
from consumer.deadletters.hand import DeadLetterMessage
from consumer.deadletters.replay import ReplayToQueue
from consumer.deadletters.selection import Selection
from consumer.deadletters.sweep import Sweep, Tally
from consumer.deadletters.underway import BatchResult, Result
from consumer.deadletters.view import show_tally
from consumer.errors import BrokerError, PublishFailure
from consumer.errors import PublishError as Unconfirmed

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
        self._untaken = list(self.messages)
        return self

    def open(self, at_least: int = 0) -> int:
        """Connect."""
        self.journal.append("open")
        self.at_least.append(at_least)
        return len(self._untaken)

    def take(self, most: int) -> list[Delivery]:
        """Take the oldest."""
        if self.broken_after is not None and len(self._untaken) <= len(self.messages) - self.broken_after:
            raise BrokerError("the connection was lost")
        most = min(most, self.batch)
        taken, self._untaken = self._untaken[:most], self._untaken[most:]
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
    """First the confirm, then the acknowledgement, then the tap is closed; the most urgent first."""
    queue = Queue(5, 1, 3)
    tally = await sweep(queue).run(ReplayToQueue(Broker(queue), "q"))
    assert (tally.waiting, tally.selected, dict(tally.outcomes)) == (3, 3, {"replayed": 3})
    assert queue.journal[:2] == ["open", "close"], "the first look changes nothing"
    assert queue.journal[-1] == "close"
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
    assert "1 dead letters stay where they are" in tally.trouble


async def test_a_lost_connection_ends_it_and_closes_what_is_open() -> None:
    """What was acknowledged by then stays done, everything else stays."""
    queue = Queue(*range(1, 2001))
    one = sweep(queue)
    expected = await one.survey()
    assert len(expected) == 2000
    queue.broken_after = 1000
    with pytest.raises(BrokerError, match="lost"):
        await sweep(queue).run(ReplayToQueue(Broker(queue), "q"))
    assert queue.journal[-1] == "close"
    assert len(queue.messages) >= 1000


async def test_what_stays_is_not_met_again_in_the_same_sweep() -> None:
    """Also when more passes follow: each is acted upon once."""
    queue, met = Queue(4, 3, 2, 1, 0.5), list[str]()
    queue.batch = 1

    async def refuse(batch: Sequence[DeadLetterMessage]) -> BatchResult:
        met.extend(str(dead.record.message_id) for dead in batch)
        return BatchResult([Result("rejected", gone=False)] * len(batch))

    tally = await sweep(queue, most_bytes=1).run(refuse)
    assert met == ["4-0.5", "3-1", "2-2", "1-3", "0-4"]
    assert len(queue.at_least) > 2, "more passes follow"
    assert tally.outcomes == {"rejected": 5}
    assert len(queue.messages) == 5


async def test_each_pass_waits_for_what_the_one_before_gave_back() -> None:
    """A broker takes back on its own time; a pass that begins before that would miss the most urgent."""
    queue = Queue(4, 3, 2, 1)
    queue.batch = 1
    await sweep(queue, most_bytes=1).run(ReplayToQueue(Broker(queue), "q"))
    assert queue.at_least == [0, 4, 3, 2, 1]


class DyingAgain(Queue):
    """After the look all have died a second later than before: they were replayed meanwhile."""

    def __call__(self) -> "DyingAgain":
        self.headers = {"x-last-failure": (NOW + timedelta(seconds=len(self.journal))).isoformat()}
        super().__call__()
        return self


async def test_what_died_meanwhile_is_left_alone() -> None:
    """A journey that was replayed and died again during the sweep does not go round."""
    queue = DyingAgain(1, 2)
    tally = await sweep(queue).run(ReplayToQueue(Broker(queue), "q"))
    assert (tally.acted, tally.missed) == (0, 2)
    assert len(queue.messages) == 2


@pytest.mark.parametrize("ahead", [timedelta(seconds=5), timedelta(minutes=50), timedelta(days=4000)])
async def test_who_wrote_them_may_have_another_clock(ahead: timedelta) -> None:
    """A death in the future by our clock was before the look all the same; one far away is no date."""
    queue = Queue(1, 2)
    queue.headers = {"x-last-failure": (NOW + ahead).isoformat()}
    tally = await sweep(queue).run(ReplayToQueue(Broker(queue), "q"))
    assert (tally.acted, tally.missed) == (2, 0)


class Shared(Queue):
    """After the look somebody else takes the most urgent."""

    def __call__(self) -> "Shared":
        if self.journal:
            self.messages.pop("0-1", None)
        super().__call__()
        return self


async def test_what_somebody_else_took_is_told() -> None:
    """A replay is not done when some of what was selected was not there any more."""
    queue = Shared(1, 2, 3)
    tally = await sweep(queue).run(ReplayToQueue(Broker(queue), "q"))
    assert (tally.acted, tally.missed) == (2, 1)
    assert "1  gone when their turn came" in show_tally(tally)
    assert "not come to" not in show_tally(tally)


async def test_a_limit_misses_nothing() -> None:
    """What a limit leaves out is not come to, and not gone."""
    queue = Queue(1, 2, 3)
    tally = await sweep(queue).run(ReplayToQueue(Broker(queue), "q"), limit=2)
    assert (tally.acted, tally.missed) == (2, 0)
    assert "1  not come to" in show_tally(tally)


async def test_twins_are_acted_upon_once_each() -> None:
    """Two of the same bytes and id are two dead letters, also over several passes and when they stay."""
    queue, met = Queue(4, 3, 2, 1), list[float]()
    queue.batch = 1
    twin = queue.messages["0-4"]
    queue.messages = {"a": twin, "b": twin, **dict(list(queue.messages.items())[1:])}
    queue.message_id = "the same"

    async def refuse(batch: Sequence[DeadLetterMessage]) -> BatchResult:
        met.extend((dead.record.urgency - NOW.timestamp()) / 3600 for dead in batch)
        return BatchResult([Result("rejected", gone=False)] * len(batch))

    tally = await sweep(queue, most_bytes=1).run(refuse)
    assert met == [1, 2, 3, 4, 4]
    assert (tally.outcomes, tally.missed) == ({"rejected": 5}, 0)


async def test_large_ones_that_are_due_are_not_collected() -> None:
    """In order, and so large that a few are as much as may be held: they go as they come."""
    queue = Queue(*range(1, 41))
    queue.messages = {name: body + b" " * 2_000_000 for name, body in queue.messages.items()}
    queue.batch = 2
    most = 0

    async def act(batch: Sequence[DeadLetterMessage]) -> BatchResult:
        nonlocal most
        most = max(most, len(queue.messages) - len(queue._untaken))
        return BatchResult([Result("replayed", gone=True)] * len(batch))

    tally = await sweep(queue).run(act)
    assert tally.outcomes == {"replayed": 40}
    assert most <= 12, "two batches of 8 MiB, and what is being read"


class Slow(Queue):
    """Takes its time to connect."""

    def open(self, at_least: int = 0) -> int:
        """Connect, a moment later."""
        time.sleep(0.2)
        return super().open(at_least)


async def test_who_is_cancelled_while_it_connects_leaves_nothing_open() -> None:
    """A thread can not be interrupted: what it opens in the end is closed, and not before."""
    queue = Slow(1)
    task = asyncio.create_task(sweep(queue).survey())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert queue.journal == ["open", "close"]


async def test_stopping_ends_after_the_batch_under_way() -> None:
    """What was begun is finished and acknowledged; nothing else is touched."""
    queue = Queue(*range(1, 21))
    one = sweep(queue)

    async def act(batch: Sequence[DeadLetterMessage]) -> BatchResult:
        one.stop()
        return BatchResult([Result("replayed", gone=True)] * len(batch))

    tally = await one.run(act, rate=25)
    assert tally.outcomes == {"replayed": 5}
    assert len(queue.messages) == 15


async def test_looking_is_shown_and_can_be_stopped() -> None:
    """A long look tells how far it is; told to stop it ends after the batch under way, nothing done."""
    queue, seen = Queue(*range(1, 2501)), list[tuple[bool, int]]()
    one = sweep(queue)

    def show(tally: Tally) -> None:
        seen.append((tally.looking, tally.waiting))
        if tally.waiting == 2000:
            one.stop()

    tally = await one.run(ReplayToQueue(Broker(queue), "q"), show=show)
    assert seen == [(True, 1000), (True, 2000), (True, 2000)]
    assert show_tally(tally) == "stopped after a look at 2,000 dead letters; nothing was done"
    assert len(queue.messages) == 2500
    assert queue.journal == ["open", "close"]


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
