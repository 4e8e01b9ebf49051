"""Replaying, without a broker: the order of things, and what a failure leaves behind."""

import asyncio

import pytest

from consumer.deadletters import Moved, replay
from consumer.delivery import Delivery
from consumer.errors import BrokerError, PublishError
from consumer.history import history, replay_headers
from consumer.messages import Outgoing


class Queue:
    """A dead-letter queue in memory that writes down what happens to it."""

    def __init__(self, count: int, journal: list[str]) -> None:
        self.ready = [Delivery(b"%d" % number, tag=number) for number in range(count)]
        self.journal = journal
        self.acknowledged: list[bytes] = []

    def open(self) -> int:
        """Connect."""
        return len(self.ready)

    def take(self, most: int) -> list[Delivery]:
        """Take the oldest."""
        batch, self.ready = self.ready[:most], self.ready[most:]
        return batch

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Remove."""
        self.journal += [f"ack {d.body.decode()}" for d in deliveries]
        self.acknowledged += [d.body for d in deliveries]

    def close(self) -> None:
        """Disconnect."""
        self.journal.append("close")


class Broker:
    """Confirms each publish a moment later, or fails those that the test names."""

    def __init__(self, journal: list[str], *failing: bytes) -> None:
        self.journal = journal
        self.failing = failing

    def submit(self, outgoing: Outgoing) -> asyncio.Future[None]:
        """Publish."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def end() -> None:
            self.journal.append(f"confirm {outgoing.body.decode()}")
            if outgoing.body in self.failing:
                future.set_exception(PublishError("nacked"))
            else:
                future.set_result(None)

        loop.call_later(0.001, end)
        return future


async def test_every_acknowledgement_follows_its_confirm() -> None:
    """First the confirm, then the acknowledgement, then the tap is closed."""
    journal: list[str] = []
    result = await replay(Queue(3, journal), Broker(journal), "q")
    assert result == Moved(3, 3)
    assert journal[-1] == "close"
    for number in range(3):
        assert journal.index(f"confirm {number}") < journal.index(f"ack {number}")


async def test_what_was_not_confirmed_is_not_acknowledged() -> None:
    """One failure among many: only that one stays, and it is an error."""
    journal: list[str] = []
    queue = Queue(5, journal)
    with pytest.raises(PublishError, match=r"1 dead letters stay .* 4 were moved"):
        await replay(queue, Broker(journal, b"2"), "q")
    assert queue.acknowledged == [b"0", b"1", b"3", b"4"]
    assert journal[-1] == "close"


async def test_a_queue_that_is_emptied_by_somebody_else_ends_it() -> None:
    """Fewer messages than there were at the start: what was moved is told."""
    journal: list[str] = []

    class Shared(Queue):
        def open(self) -> int:
            return super().open() + 10

    moved: list[int] = []
    assert await replay(Shared(3, journal), Broker(journal), "q", on_moved=moved.append) == Moved(13, 3)
    assert moved == [3]


async def test_a_limit_leaves_the_rest_untouched() -> None:
    """What is beyond the limit is not even taken."""
    journal: list[str] = []
    queue = Queue(5, journal)
    assert await replay(queue, Broker(journal), "q", limit=2) == Moved(5, 2)
    assert [d.body for d in queue.ready] == [b"2", b"3", b"4"]


async def test_a_tap_that_does_not_open_is_closed_all_the_same() -> None:
    """No connection is left behind by a queue that is missing."""
    journal: list[str] = []

    class Missing(Queue):
        def open(self) -> int:
            raise BrokerError("no such queue")

    with pytest.raises(BrokerError, match="no such queue"):
        await replay(Missing(0, journal), Broker(journal), "q")
    assert journal == ["close"]


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
    assert replay_headers(delivery, history(delivery)) == {
        "mine": "kept",
        "x-replays": 1,
        "x-original-exchange": "e",
        "x-original-routing-key": "k",
    }
