"""The service's own look at dead letters: what it tells, and that nothing in it ends the service."""

import asyncio
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from consumer.core.delivery import Delivery
from consumer.core.outcome import PauseCause
from consumer.deadletters.sweep import QueueReaders
from consumer.errors import BrokerError
from consumer.metrics import Metrics
from consumer.publishing import samples
from consumer.service import auto_replay as auto_replayer
from consumer.service.auto_replay import AutoReplayer, ServiceState
from tests.corridor import QUEUE, THRESHOLD, Corridor, passes, refused, registered
from tests.travel import loop, travelling
from tests.waiting import await_until

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
GAUGE = "journey_consumer_dead_letters_oldest_deadline_timestamp_seconds"


class Queue:
    """A dead-letter queue in memory that gives two messages at a time."""

    def __init__(self, *hours_left: float | None) -> None:
        self._left = [
            Delivery(
                b"{}"
                if hours is None
                else json.dumps(
                    {"start": {"datetime": (NOW + timedelta(hours=hours - 24)).isoformat()}}
                ).encode()
            )
            for hours in hours_left
        ]

    def open(self) -> int:
        """Connect."""
        return len(self._left)

    def read(self, most: int) -> list[Delivery]:
        """Take the oldest two."""
        taken, self._left = self._left[: min(most, 2)], self._left[min(most, 2) :]
        return taken

    def close(self) -> None:
        """Disconnect."""


def hours_left(seconds: float) -> float:
    """How far the gauge's value lies ahead."""
    return (seconds - NOW.timestamp()) / 3600


@pytest.fixture
def registry() -> CollectorRegistry:
    """The metrics of this test."""
    return CollectorRegistry()


def made(
    registry: CollectorRegistry, readers: Callable[[Sequence[str]], QueueReaders], **how: Any
) -> AutoReplayer:
    """One that looks all the time and returns nothing, unless ``how`` says otherwise."""
    publisher: Any = None
    settings: dict[str, Any] = {"returning": False, "per_second": 1, "look_seconds": 0.01, **how}
    return AutoReplayer(
        readers=readers,
        publisher=publisher,
        queue="q",
        metrics=Metrics(registry),
        now=lambda: NOW,
        **settings,
    )


QUIET = ServiceState(
    paused=lambda: False,
    busy=lambda: False,
    successes=lambda: 0,
    refused=lambda: False,
    recoveries=lambda: 0,
    connected=lambda: True,
)


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        ((5, 2, 9), 2),
        ((-7, 9, 2, -1), 2),
        ((-7, -1, -3), -7),
        ((None, 4), 4),
        ((3, 2, 1), 1),
    ],
    ids=["nearest", "lost ones hide none", "all lost", "one without a start", "in the last batch"],
)
async def test_the_nearest_that_can_be_saved_is_told(
    registry: CollectorRegistry, queue: tuple[float | None, ...], expected: float
) -> None:
    """What is lost hides nothing that can still be saved; it is told when there is nothing else."""
    readers: Any = {"invalid": lambda: Queue(*queue)}
    task = asyncio.create_task(made(registry, lambda _reasons: readers).run(QUIET))
    await await_until(lambda: not math.isnan(registry.get_sample_value(GAUGE, {"reason": "invalid"}) or 0.0))
    task.cancel()
    value = registry.get_sample_value(GAUGE, {"reason": "invalid"})
    assert value is not None
    assert hours_left(value) == pytest.approx(expected)


@pytest.mark.parametrize("returning", [False, True])
async def test_a_bug_in_it_does_not_end_the_service(
    registry: CollectorRegistry,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    returning: bool,  # noqa: FBT001
) -> None:
    """Dead letters wait; fresh journeys must not wait for them. It is logged, and tried again."""
    asked = 0

    def broken(_reasons: Sequence[str]) -> QueueReaders:
        nonlocal asked
        asked += 1
        raise RuntimeError("a bug")

    monkeypatch.setattr(auto_replayer, "ROUNDS", 1_000)
    one = made(
        registry, broken, returning=returning, look_seconds=0 if returning else 0.01, round_seconds=0.01
    )
    task = asyncio.create_task(one.run(QUIET))
    await await_until(lambda: asked > 2)
    assert not task.done()
    task.cancel()
    assert "this is tried again" in caplog.text


async def test_a_bug_outside_of_a_round_does_not_end_the_service(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """It begins anew, for the token that it had begun with, and without a second copy of itself."""
    asked = failures = 0

    def found(_reasons: Sequence[str]) -> QueueReaders:
        nonlocal asked
        asked += 1
        return {}

    def broken() -> int:
        nonlocal failures
        if failures < 3:
            failures += 1
            raise RuntimeError("a bug")
        return 0

    state = replace(QUIET, recoveries=broken)
    task = asyncio.create_task(made(registry, found, returning=True, round_seconds=0.01).run(state))
    await await_until(lambda: asked > 3)
    assert not task.done()
    task.cancel()
    assert caplog.text.count("looking after dead letters failed; this is tried again") == failures == 3


async def test_a_lasting_refusal_is_logged_once(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """A queue that was deleted is one line, not one a minute; another reason is a new one."""
    asked = 0

    def refused(_reasons: Sequence[str]) -> QueueReaders:
        nonlocal asked
        asked += 1
        raise BrokerError("the queue does not exist" if asked <= 20 else "not permitted")

    one = made(registry, refused, returning=True, look_seconds=0, round_seconds=0.001)
    caplog.set_level("INFO", logger="journey_consumer.auto_replay")
    task = asyncio.create_task(one.run(QUIET))
    await await_until(lambda: asked > 30)
    task.cancel()
    told = [getattr(record, "reason", None) for record in caplog.records]
    assert told == ["the queue does not exist", "not permitted"]


class Broken(Queue):
    """One that may not be read."""

    def open(self) -> int:
        """Refuse."""
        raise BrokerError("not permitted")


async def test_what_is_wrong_with_one_queue_hides_no_other(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """One that may not be read is unknown, said once; so is one that was deleted; the others are told."""
    caplog.set_level("INFO", logger="journey_consumer.auto_replay")
    readers: Any = {"expired": Broken, "invalid": lambda: Queue(5), "rejected": lambda: Queue(7)}
    looks = 0

    def found(_reasons: Sequence[str]) -> QueueReaders:
        nonlocal looks
        looks += 1
        if looks > 5:
            readers.pop("rejected", None)
        found: QueueReaders = readers
        return found

    def value(reason: str) -> float:
        number = registry.get_sample_value(GAUGE, {"reason": reason})
        assert number is not None
        return number

    task = asyncio.create_task(made(registry, found).run(QUIET))
    await await_until(lambda: hours_left(value("rejected")) == pytest.approx(7))
    await await_until(lambda: looks > 10)
    task.cancel()
    assert hours_left(value("invalid")) == pytest.approx(5)
    assert math.isnan(value("expired"))
    assert math.isnan(value("rejected"))
    assert math.isnan(value("forbidden"))
    assert [getattr(record, "reason", None) for record in caplog.records] == ["not permitted"]


@pytest.mark.parametrize(("seen", "expected"), [((), 3), ((5,), 3), ((2,), 2)])
async def test_what_others_hold_is_not_forgotten(
    registry: CollectorRegistry, seen: tuple[float, ...], expected: float
) -> None:
    """A read while another consumer holds some sees the rest: what was known before may still be there."""
    looks = 0

    def found(_reasons: Sequence[str]) -> QueueReaders:
        nonlocal looks
        looks += 1
        readers: Any = {"unauthorized": lambda: Queue(3) if looks == 1 else Queue(*seen)}
        return readers  # type: ignore[no-any-return]

    one = made(registry, found, shared=lambda _reason: looks > 1)
    task = asyncio.create_task(one.run(QUIET))
    await await_until(lambda: looks > 5)
    task.cancel()
    value = registry.get_sample_value(GAUGE, {"reason": "unauthorized"})
    assert value is not None
    assert hours_left(value) == pytest.approx(expected)


# --- with the whole service, on a travelling clock --------------------------------------------


class LinkReader:
    """Reads a dead-letter queue of a ``MemoryLink``; none is seen by two readers."""

    def __init__(self, corridor: Corridor) -> None:
        self._queue = corridor.link.queues[corridor.topology.dead_letter_queue("unauthorized")]
        self._held: dict[int, Any] = {}

    def open(self, at_least: int = 0) -> int:  # noqa: ARG002 - nothing comes back late
        """Connect."""
        self._left = len(self._queue)
        return self._left

    def read(self, most: int) -> list[Delivery]:
        """Take the oldest."""
        taken = [self._queue.popleft() for _ in range(min(most, self._left, len(self._queue)))]
        self._left -= len(taken)
        deliveries = []
        for tag, stored in enumerate(taken, start=max(self._held, default=0) + 1):
            self._held[tag] = stored
            deliveries.append(Delivery(stored.body, headers=stored.headers, tag=tag))
        return deliveries

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Remove these."""
        for delivery in deliveries:
            del self._held[delivery.tag]

    def finish(self) -> None:
        """Everything is removed at once."""

    def keep_alive(self) -> None:
        """Nobody waits for a heartbeat."""

    def close(self) -> None:
        """Give back what is left."""
        self._queue.extendleft(reversed(self._held.values()))
        self._held.clear()


@pytest.fixture
def without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread takes real time, in which a travelling clock would jump."""

    async def at_once(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs)

    monkeypatch.setattr("consumer.deadletters.sweep.in_thread", at_once)
    monkeypatch.setattr(auto_replayer, "in_thread", at_once)
    monkeypatch.setattr("consumer.service.lifecycle.TICK_SECONDS", 5.0)  # hours of ticks take long


def returning(*answers: Any, **settings: Any) -> Corridor:
    """A service that returns its unauthorized dead letters."""
    corridor = Corridor(*answers, **settings)
    corridor.service._auto_replayer = AutoReplayer(
        readers=lambda _reasons: {"unauthorized": lambda: LinkReader(corridor)},
        publisher=corridor.link,
        queue=QUEUE,
        metrics=corridor.metrics,
        now=lambda: loop().now(),
        returning=True,
        per_second=10_000,
        look_seconds=0,
    )
    return corridor


def publish(corridor: Corridor, *numbers: int) -> None:
    """Put journeys into the queue."""
    for number in numbers:
        corridor.link.put(samples.encode(corridor.payload(number)), properties={"message_id": f"m-{number}"})


def sent_at(corridor: Corridor, number: int) -> list[float]:
    """When a journey was sent."""
    mark = f'"journey-{number}"'.encode()
    return [
        at
        for at, request in zip(corridor.sent_at, corridor.sent, strict=True)
        if mark in bytes(request.content)
    ]


REFUSED_TOKEN = refused(401, -32501)


@pytest.mark.usefixtures("without_threads")
@travelling
async def test_after_each_outage_under_one_token_they_return() -> None:
    """A 401 can be a database that is down: what it killed returns when the same token is accepted again."""
    corridor = returning(registered())
    async with corridor.serving():
        for outage in range(3):
            corridor.answers = [REFUSED_TOKEN]
            publish(corridor, *range(outage * 100, outage * 100 + 30))
            await passes(1800)
            assert corridor.admission.pausing is PauseCause.UNAUTHORIZED
            assert corridor.dead("unauthorized")
            corridor.answers = [registered()]
            await passes(180)
            assert not corridor.dead("unauthorized")
            assert corridor.value("journeys_total", outcome="registered") == 30 * (outage + 1)
    corridor.balance(90)


@pytest.mark.usefixtures("without_threads")
@travelling
async def test_a_dead_letter_ends_the_pause_when_nothing_else_is_there() -> None:
    """The queue is empty: one of them goes round as the probe, the others wait in their queue."""
    corridor = returning(registered(), REFUSED_TOKEN)
    async with corridor.serving():
        publish(corridor, *range(10))
        await passes(1)
        dead = len(corridor.dead("unauthorized"))
        assert dead >= THRESHOLD
        await passes(250)
        assert len(corridor.dead("unauthorized")) == dead, "nothing moves while a person may be looking"
        await passes(2 * 3600)
        assert len(corridor.dead("unauthorized")) == dead - 1
        corridor.answers = [registered()]
        await passes(300)
        assert not corridor.dead("unauthorized")
    assert corridor.value("journeys_total", outcome="registered") == 10


@pytest.mark.usefixtures("without_threads")
@travelling
async def test_a_few_refusals_without_a_pause_return_too() -> None:
    """Fewer than it takes to pause, and hours long: no return is spent before the token is accepted again."""
    corridor = returning(registered(), REFUSED_TOKEN, auth_pause_after=20)
    async with corridor.serving():
        publish(corridor, 0)
        for number in range(1, 9):
            await passes(3600)
            publish(corridor, number)
        await passes(3600)
        assert len(corridor.dead("unauthorized")) == 8
        assert corridor.admission.pausing is None
        assert all(dead.headers.get("x-replays", 0) <= 1 for dead in corridor.dead("unauthorized"))
        corridor.answers = [registered()]
        publish(corridor, 9)
        await passes(600)
    assert not corridor.dead("unauthorized")
    assert corridor.value("journeys_total", outcome="registered") == 10


@pytest.mark.parametrize("seconds_apart", [1, 60, 1800])
@pytest.mark.usefixtures("without_threads")
@travelling
async def test_one_that_is_always_refused_does_not_go_round_for_ever(
    caplog: pytest.LogCaptureFixture, seconds_apart: int
) -> None:
    """Five returns, each later than the one before; nothing is paused, and no success is logged."""
    caplog.set_level("INFO", logger="journey_consumer.auto_replay")

    async def answer(request: httpx.Request) -> httpx.Response:
        return REFUSED_TOKEN if b'"journey-0"' in request.content else registered()

    corridor = returning(answer)
    began = loop().time()
    async with corridor.serving():
        publish(corridor, 1, 0)
        for number in itertools.count(2):
            await passes(seconds_apart if number < 300 else 900)
            if loop().time() - began > 15 * 3600:
                break
            publish(corridor, number)
    (letter,) = corridor.dead("unauthorized")
    assert letter.headers["x-replays"] == 5
    times = sent_at(corridor, 0)
    waits = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert len(waits) == 5
    assert waits == sorted(waits)
    assert waits[1] >= 300
    assert waits[-1] > 3600
    assert corridor.value("breaker_transitions_total", cause="unauthorized", to="open") == 0
    ended = [record for record in caplog.records if record.getMessage() == "replayed dead letters ended"]
    assert [(record.levelname, record.__dict__["outcomes"]) for record in ended] == [
        ("WARNING", {"unauthorized": 1})
    ] * 5
