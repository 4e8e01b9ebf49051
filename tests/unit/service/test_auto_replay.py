"""The service's own look at dead letters: what it tells, and that nothing in it ends the service."""

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumer.core.delivery import Delivery
from consumer.deadletters.sweep import QueueReaders
from consumer.errors import BrokerError
from consumer.metrics import Metrics
from consumer.service import auto_replay as auto_replayer
from consumer.service.auto_replay import AutoReplayer, ServiceState
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


QUIET = ServiceState(paused=lambda: False, busy=lambda: False, successes=lambda: 0)


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

    state = ServiceState(paused=lambda: False, busy=lambda: False, successes=broken)
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
