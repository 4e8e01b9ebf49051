"""Unauthorized dead letters that return by themselves: how soon, behind what, and by how many replicas."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from consumer.broker.connection import ConnectionFactory
from consumer.broker.publisher import AmqpPublisher
from consumer.broker.queue_reader import AmqpQueueReader
from consumer.core.outgoing import Outgoing
from consumer.metrics import Metrics
from consumer.service import auto_replay as auto_replayer
from consumer.service.auto_replay import AutoReplayer, ServiceState
from tests.broker import Broker
from tests.deadletters import QUEUE, REFUSED, UNAUTHORIZED, ids, journey, put
from tests.integration.conftest import Run
from tests.ledger import TOPOLOGY, Ledger
from tests.local_registry import TOKEN, LocalRegistry
from tests.service import ServiceProcess
from tests.waiting import await_until, wait_until

RETURNING = {
    "registry_api_version": "v3",
    "dead_letters_return_unauthorized": "true",
    "dead_letters_return_per_second": "1000",
}
FAR, URGENT = 2.0, 22.0


def bury(broker: Broker, numbers: range, hours_ago: float = FAR) -> dict[str, bytes]:
    """Journeys that started so long ago and were refused before any token that is in use."""
    return put(broker, UNAUTHORIZED, *(journey(each, hours_ago=hours_ago) for each in numbers), **REFUSED)


def replays(*services: ServiceProcess) -> dict[str, float]:
    """What became of journeys that were sent again, over all replicas."""
    outcomes = ("registered", "already_registered", "unauthorized")
    return {each: sum(it.value("replays_total", outcome=each) for it in services) for each in outcomes}


# --- the whole service ------------------------------------------------------------------------


def test_a_new_token_is_tried_at_once(
    broker: Broker, run: Run, sandbox: LocalRegistry, tmp_path: Path
) -> None:
    """Not after the patience with the old one has ended, which asks ten seconds long whether it works."""
    token = tmp_path / "rotated"
    token.write_text("not-yet-known")
    bury(broker, range(20))
    service = run(broker, registry_token_file=str(token), **RETURNING)
    wait_until(lambda: service.value("token_accepted") == 0, 20, "a probe was refused")
    token.write_text(TOKEN)
    wait_until(lambda: len(sandbox.journeys) == 20, 6, lambda: f"{len(sandbox.journeys)} have returned")
    service.terminate()


def test_two_replicas_return_each_journey_once(
    broker: Broker, run: Run, sandbox: LocalRegistry, tmp_path: Path
) -> None:
    """After a rotation both of them find the dead letters: each is registered, none is lost or left."""
    token = tmp_path / "rotated"
    token.write_text("not-yet-known")
    services = [run(broker, registry_token_file=str(token), **RETURNING) for _ in range(2)]
    for service in services:
        service.await_ready()
    ledger = Ledger(broker, version="v3")
    for journey_id, body in bury(broker, range(400)).items():
        ledger.note(journey_id, body)
    token.write_text(TOKEN)
    wait_until(lambda: len(sandbox.journeys) > 100, 30, lambda: f"{len(sandbox.journeys)} have returned")
    for journey_id, body in bury(broker, range(400, 500)).items():  # more of them come meanwhile
        ledger.note(journey_id, body)
    wait_until(lambda: len(sandbox.journeys) == 500, 60, lambda: f"{len(sandbox.journeys)} have returned")
    ledger.await_settled()
    wait_until(lambda: broker.depth(UNAUTHORIZED).total == 0, 10, "nothing is left")
    wait_until(lambda: sum(replays(*services).values()) >= 500, 10, lambda: replays(*services))
    answers, counted = sandbox.requests_by_status, replays(*services)
    assert counted == {
        "registered": 500,
        "already_registered": answers.get(409, 0),
        "unauthorized": counted["unauthorized"],  # probes with the old token
    }
    assert answers[201] == 500
    for service in services:
        service.terminate()
    assert ledger.balance(sandbox).registered == set(ledger.published)


def test_what_a_killed_replica_held_returns_by_another_one(
    broker: Broker, run: Run, sandbox: LocalRegistry
) -> None:
    """SIGKILL in the middle of returning: the dead letters that it held are seen by the other one."""
    ledger = Ledger(broker, version="v3")
    slow = RETURNING | {"dead_letters_return_per_second": "20"}
    for journey_id, body in bury(broker, range(100)).items():
        ledger.note(journey_id, body)
    first = run(broker, **slow)
    wait_until(lambda: 5 < len(sandbox.journeys) < 50, 30, "it is returning them")
    second = run(broker, **RETURNING)
    wait_until(lambda: broker.depth(UNAUTHORIZED).unacked > 0, 10, "the first one holds them")
    first.kill()
    ledger.publish(5)  # they tell the other one that the token works
    wait_until(lambda: len(sandbox.journeys) == 105, 60, lambda: f"{len(sandbox.journeys)} have returned")
    ledger.await_settled()
    second.terminate()
    assert ledger.balance(sandbox).registered == set(ledger.published)


def test_two_replicas_return_what_an_outage_under_one_token_killed(
    broker: Broker, run: Run, sandbox: LocalRegistry
) -> None:
    """A database that is down answers 401 to a good token; twice, and each journey is registered once."""
    often = RETURNING | {"auth_probe_seconds": "1", "breaker_probe_cap_seconds": "1"}
    services = [run(broker, **often) for _ in range(2)]
    for service in services:
        service.await_ready()
    ledger = Ledger(broker, version="v3")
    for _outage in range(2):
        ledger.publish(10)
        wait_until(lambda: len(sandbox.journeys) == len(ledger.published), 30, "the token is accepted")
        sandbox.revoke(TOKEN)
        ledger.publish(100)
        wait_until(lambda: broker.depth(UNAUTHORIZED).total >= 20, 30, "some are dead")
        wait_until(
            lambda: all(service.value("paused", cause="unauthorized") for service in services), 30, "paused"
        )
        sandbox.accept(TOKEN)
        wait_until(
            lambda: len(sandbox.journeys) == len(ledger.published),
            150,
            lambda: f"{len(sandbox.journeys)} registered",
        )
        wait_until(lambda: broker.depth(UNAUTHORIZED).total == 0, 10, "nothing is left")
    ledger.await_settled()
    for service in services:
        service.terminate()
    assert sandbox.requests_by_status[201] == 220
    assert ledger.balance(sandbox).registered == set(ledger.published)


def test_far_deadlines_wait_behind_fresh_journeys(broker: Broker, run: Run, sandbox: LocalRegistry) -> None:
    """A busy service returns those with less than three hours left; the others when the load has ended."""
    sandbox.faults.latency_seconds = 0.2
    far, urgent = bury(broker, range(30)), bury(broker, range(100, 110), URGENT)
    fresh = put(broker, QUEUE, *(journey(each) for each in range(200, 320)))
    service = run(broker, broker_prefetch="24", registry_concurrency="6", **RETURNING)

    def done() -> int:
        return sum(each in sandbox.journeys for each in fresh)

    wait_until(lambda: broker.depth(UNAUTHORIZED).total == len(far), 10, "the urgent ones return")
    assert done() < 80, "the load was over too early to show anything"
    while (so_far := done()) < 96:  # then fewer than a full prefetch are left
        assert broker.depth(UNAUTHORIZED).total == len(far), f"some returned when {so_far} were done"
    sandbox.faults.latency_seconds = 0.0
    everything = {**far, **urgent, **fresh}
    wait_until(lambda: sandbox.journeys.keys() == everything.keys(), 20, "all have returned")
    service.terminate()
    order = [request.journey_id for request in sandbox.requests if request.status == 201]
    assert max(map(order.index, urgent)) < min(map(order.index, far))


# --- AutoReplayer alone, with a state of the test's choice -----------------------------------


def reader_of(broker: Broker, reason: str) -> AmqpQueueReader:
    """The dead letters of one reason."""
    return AmqpQueueReader(ConnectionFactory([broker.url]), TOPOLOGY.dead_letter_queue(reason))


class Counting(AmqpPublisher):
    """A publisher that counts what it was given."""

    given = 0

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[None]":
        """Count, and publish."""
        self.given += 1
        return super().submit(outgoing)


@asynccontextmanager
async def returning(
    broker: Broker,
    busy: Callable[[], bool],
    *,
    per_second: float,
    shared: Callable[[str], bool] = lambda _reason: False,
) -> AsyncIterator[Counting]:
    """An AutoReplayer on ``broker``, after a token that was accepted at once; its publisher."""
    metrics = Metrics(CollectorRegistry())
    publisher = Counting(
        connections=ConnectionFactory([broker.url]), topology=None, declare=False, metrics=metrics
    )
    publisher.start()
    made = AutoReplayer(
        readers=lambda reasons: {reason: partial(reader_of, broker, reason) for reason in reasons},
        publisher=publisher,
        queue=QUEUE,
        metrics=metrics,
        now=lambda: datetime.now(UTC),
        returning=True,
        per_second=per_second,
        look_seconds=0,
        round_seconds=0.2,
        shared=shared,
    )
    accepted = itertools.count()
    around = ServiceState(
        paused=lambda: False,
        busy=busy,
        successes=lambda: next(accepted),
        refused=lambda: False,
        recoveries=lambda: 0,
        connected=lambda: True,
    )
    running = asyncio.create_task(made.run(around))
    try:
        yield publisher
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await publisher.close()


async def test_a_service_that_becomes_busy_gets_them_back(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in hand when the load begins waits a moment, then in its queue, where everybody sees it."""
    monkeypatch.setattr(auto_replayer, "BUSY_SECONDS", 0.4)
    bury(broker, range(40))
    loaded = False

    def sent() -> int:
        return broker.depth(QUEUE).total

    def busy() -> bool:
        nonlocal loaded
        loaded = loaded or sent() >= 4
        return loaded

    async with returning(broker, busy, per_second=20):
        await await_until(lambda: loaded, 20, "the load begins")
        await await_until(
            lambda: broker.depth(UNAUTHORIZED) == (40 - sent(), 0), 20, "the rest is given back"
        )
        assert sent() < 20
        bury(broker, range(100, 102), URGENT)
        await await_until(lambda: {"j-100", "j-101"} <= set(ids(broker, QUEUE)), 20, "the urgent ones return")
        assert sent() < 22
        await await_until(
            lambda: broker.depth(UNAUTHORIZED).total + sent() == 42, 20, "what returned is acknowledged"
        )
    wait_until(lambda: broker.depth(UNAUTHORIZED).unacked == 0, 10, "the rest is given back")
    assert len(ids(broker, UNAUTHORIZED) + ids(broker, QUEUE)) == 42


async def test_no_load_is_too_long_to_wait_for(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rounds they waited behind fresh journeys, they return when the load has ended."""
    monkeypatch.setattr(auto_replayer, "ROUNDS", 2)
    bury(broker, range(20))
    looks, ended = 0, False

    def busy() -> bool:
        nonlocal looks
        looks += 1
        return not ended

    async with returning(broker, busy, per_second=1000):
        await await_until(lambda: looks > 20, 20, "many rounds")
        assert broker.depth(QUEUE).total == 0
        ended = True
        await await_until(lambda: broker.depth(QUEUE).total == 20, 20, "all return")


async def test_two_at_once_share_them(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker gives some to one and some to the other: each dead letter is sent once."""
    monkeypatch.setattr("consumer.broker.queue_reader.WINDOW", 5)
    monkeypatch.setattr("consumer.broker.queue_reader.IDLE_SECONDS", 0.3)
    expected = bury(broker, range(300))
    async with (
        returning(broker, lambda: False, per_second=500) as one,
        returning(broker, lambda: False, per_second=500) as other,
    ):
        await await_until(lambda: broker.depth(UNAUTHORIZED).total == 0, 40, "all are sent")
    assert sorted(ids(broker, QUEUE)) == sorted(expected)
    assert one.given + other.given == len(expected)
    assert min(one.given, other.given) > 0, "one of them had nothing to do"


async def test_the_urgent_ones_go_first_wherever_they_lie(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind more of the others than are held at once."""
    monkeypatch.setattr(auto_replayer, "MOST_BYTES", 3_000)
    bury(broker, range(40))
    bury(broker, range(100, 103), URGENT)
    async with returning(broker, lambda: False, per_second=1000):
        await await_until(lambda: broker.depth(QUEUE).total == 43, 20, "all are replayed")
    assert sorted(ids(broker, QUEUE)[:3]) == ["j-100", "j-101", "j-102"]


async def test_none_are_held_for_long(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person, or the look for the metric, finds those that still wait, between two rounds."""
    monkeypatch.setattr(auto_replayer, "HOLD_SECONDS", 0.5)
    bury(broker, range(40))

    def seen() -> bool:
        depth = broker.depth(UNAUTHORIZED)
        return depth.unacked == 0 and 0 < depth.ready < 40

    async with returning(broker, lambda: False, per_second=20):
        await await_until(seen, 20, "some have returned, and the others lie in their queue")
        await await_until(lambda: broker.depth(QUEUE).total == 40, 20, "all return")


async def test_another_clock_leaves_none_behind(broker: Broker) -> None:
    """By a replica's clock that is ahead they died after the token was loaded; they return all the same.

    One that has returned, and died again since, waits for the next token.
    """
    ahead = {**REFUSED, "x-last-failure": (datetime.now(UTC) + timedelta(seconds=20)).isoformat()}
    put(broker, UNAUTHORIZED, *map(journey, range(5)), **ahead)
    put(broker, UNAUTHORIZED, journey(9), **ahead, **{"x-replays": 1})
    async with returning(broker, lambda: False, per_second=1000):
        await await_until(lambda: broker.depth(QUEUE).total == 5, 20, "they return")
        await await_until(lambda: broker.depth(UNAUTHORIZED) == (1, 0), 20, "one stays")
    assert ids(broker, UNAUTHORIZED) == ["j-9"]


async def test_what_another_one_holds_is_waited_for(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rounds another replica keeps them: when it is gone they return."""
    monkeypatch.setattr(auto_replayer, "ROUNDS", 2)
    asked, others = 0, True

    def shared(_reason: str) -> bool:
        nonlocal asked
        asked += 1
        return others

    async with returning(broker, lambda: False, per_second=1000, shared=shared):
        await await_until(lambda: asked > 10, 20, "many rounds")
        bury(broker, range(5))
        others = False
        await await_until(lambda: broker.depth(QUEUE).total == 5, 20, "they return")
