"""The process: killed, drained, started before its neighbours; and what its probes say meanwhile."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumer.publishing import samples
from consumer.sandbox.answers import Answer
from consumer.sandbox.rules import Verdict
from consumer.service.health import Health
from consumer.service.http import HttpServer
from tests.broker import Broker
from tests.deadletters import typed
from tests.integration.conftest import Run
from tests.ledger import QUEUE, Ledger
from tests.local_registry import LocalRegistry
from tests.rabbit import RabbitNode
from tests.waiting import wait_until


def test_a_first_start_logs_nothing_alarming(run: Run, vhost: Broker) -> None:
    """An empty virtual host: the queues are declared and named, and nobody looks for one before that."""
    service = run(vhost, dead_letters_look_seconds="1", dead_letters_return_unauthorized="true")
    service.await_ready()
    wait_until(
        lambda: service.value("dead_letters_oldest_deadline_timestamp_seconds", reason="invalid") == 0,
        20,
        "dead letters are read",
    )
    lines = service.log_lines()
    assert [line for line in lines if line["level"] != "INFO" or "cannot" in line["event"]] == []
    (exist,) = service.log_lines("queues exist")
    assert {QUEUE, f"{QUEUE}.dead-letter.invalid"} <= set(exist["names"].split(", "))


def test_killed_under_load_and_restarted(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """SIGKILL in full flight loses nothing: what was registered and not acknowledged is found registered."""
    sandbox.faults.latency_seconds = 0.05
    service = run(vhost)
    service.await_ready()
    ledger = Ledger(vhost)
    with ledger.load(share_invalid=0.3):
        for _ in range(3):
            ledger.await_published(len(ledger.published) + 60)
            wait_until(lambda: service.value("in_flight") > 0, 20, "something is in flight")
            service.kill()
            service.start()
            service.await_ready()
    ledger.await_settled(60)
    assert ledger.balance(sandbox, repeated=True).dead.keys() == {"invalid"}


class SilentRegistry(LocalRegistry):
    """Never answers the journey that is called ``silent``, and counts how often it came."""

    silent, asked = "none", 0

    def _verdict(self, request: Any, body: bytes | None, fault: Any) -> Any:
        if self.silent.encode() in (body or b""):
            self.asked += 1
            return Verdict(Answer(0))
        return super()._verdict(request, body, fault)

    async def _send(self, request: Any, answer: Answer, fault: Any) -> Any:
        if answer.status == 0:
            await asyncio.Event().wait()
        return await super()._send(request, answer, fault)


def test_what_kills_the_process_ends_at_the_delivery_limit(run: Run, vhost: Broker) -> None:
    """The process dies whenever it submits one journey: the broker moves it, with its reason; the rest flows.

    What waits behind it in the prefetch is delivered as often, less the first time, and not moved.
    """
    with SilentRegistry() as sandbox:
        limit = {"registry_timeout_seconds": "60", "broker_delivery_limit": "3"}
        service = run(vhost, registry_url=sandbox.url, **limit)
        service.await_ready()
        ledger = Ledger(vhost)
        ((killer, body),) = ledger.journeys(1)
        sandbox.silent = killer
        ledger.publish(10)
        ledger.publish([(killer, body)])
        ledger.publish(10)
        wait_until(lambda: len(sandbox.journeys) == 20, 20, "the others are registered")
        wait_until(lambda: service.value("in_flight") == 1, 20, "it is in flight, alone")
        for life in range(1, 5):
            wait_until(lambda life=life: sandbox.asked == life, 20, "it was submitted")
            service.kill()
            ledger.publish(10 if life == 1 else 0)
            service.start()
        ledger.await_settled()
        account = ledger.balance(sandbox, repeated=True)
        assert sandbox.asked == 4, "delivered once, and again up to the limit"
    assert account.registered == ledger.published.keys() - {killer}
    assert account.dead == {"delivery-limit": {killer}}
    (group,) = json.loads(typed(vhost, "summary", "--json").stdout)["groups"]
    assert (group["reason"], group["detail"], group["count"]) == ("delivery-limit", "delivery_limit", 1)


def test_sigterm_under_load(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """What is in flight is finished and settled, the rest stays in the queue, readiness ends at once."""
    sandbox.faults.latency_seconds = 1.5
    service = run(vhost, registry_concurrency="30", broker_prefetch="60")
    service.await_ready()
    ledger = Ledger(vhost)
    ledger.publish(100)
    wait_until(lambda: service.value("in_flight") == 60, 10, "the prefetch is in flight")
    wait_until(lambda: len(sandbox.journeys) >= 30, 10, "the Registry has the first")
    started = time.monotonic()
    service.signal(signal.SIGTERM)
    said = wait_until(lambda: service.get("/readyz")[1] if not service.ready else "", 1.4, "not ready")
    assert "draining" in said
    assert service.live
    assert service.wait() == 0
    assert time.monotonic() - started < 10
    (drained,) = service.log_lines("drained")
    assert drained["unfinished"] == 0
    account = ledger.balance(sandbox)
    assert len(account.queued) == 100 - len(account.registered) > 0
    assert account.registered >= {line["journey_id"] for line in service.log_lines("settled")}
    assert len(service.log_lines("settled")) == len(account.registered)  # none is to be done twice
    sandbox.faults.clear()
    service.start()
    ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 100


def test_sigterm_while_the_registry_hangs(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """After the drain timeout what could not finish is given back untouched, and the exit is still 0."""
    service = run(vhost, drain_timeout_seconds="1", registry_timeout_seconds="60")
    service.await_ready()
    ledger = Ledger(vhost)
    ledger.publish(1)  # goes alone
    ledger.await_settled()
    sandbox.faults.latency_seconds = 60
    ledger.publish(20)
    wait_until(lambda: service.value("in_flight") == 20, 10, "all hang")
    started = time.monotonic()
    assert service.terminate() == 0
    assert time.monotonic() - started < 8
    (drained,) = service.log_lines("drained")
    assert drained["unfinished"] == 20
    assert vhost.depth(QUEUE).total == 20
    sandbox.faults.clear()
    service.start()
    ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 21


def test_sigterm_while_dead_letters_are_published(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """Confirms that come during the drain are still followed by acknowledgements: no dead letter twice."""
    service = run(vhost)
    service.await_ready()
    ledger = Ledger(vhost)
    with ledger.load(most=400, share_invalid=1.0):
        ledger.await_published(200)
        assert service.terminate() == 0
        service.start()
    ledger.await_settled()
    assert len(ledger.balance(sandbox).dead["invalid"]) == len(ledger.published)


def test_interrupt_while_paused(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """A paused service drains at once, on SIGINT as on SIGTERM; the backlog is where it was."""
    sandbox.down()
    service = run(vhost, breaker_threshold="3", breaker_probe_seconds="30", breaker_probe_cap_seconds="30")
    service.await_ready()
    ledger = Ledger(vhost)
    ledger.publish(200)
    wait_until(lambda: service.value("paused", cause="unavailable") == 1, 15, "paused")
    started = time.monotonic()
    service.signal(signal.SIGINT)
    assert service.wait() == 0
    assert time.monotonic() - started < 5
    sandbox.up()
    service.start()
    ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 200


def test_second_sigterm_ends_at_once(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """Whoever signals twice does not want to wait; what was in flight comes again."""
    service = run(vhost, registry_timeout_seconds="60")
    service.await_ready()
    ledger = Ledger(vhost)
    ledger.publish(1)  # goes alone
    ledger.await_settled()
    sandbox.faults.latency_seconds = 60
    ledger.publish(20)
    wait_until(lambda: service.value("in_flight") == 20, 10, "all hang")
    service.signal(signal.SIGTERM)
    wait_until(lambda: service.log_lines("draining"), 5, "the first one is heard")
    started = time.monotonic()
    assert service.terminate() == 1
    assert time.monotonic() - started < 2
    sandbox.faults.clear()
    service.start()
    ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 21


def test_broker_away_at_the_start_and_later(
    run: Run, own_rabbitmq: RabbitNode, own_vhost: Broker, sandbox: LocalRegistry
) -> None:
    """Live all the time; ready only while the broker is there; SIGTERM ends it without one, too."""
    own_rabbitmq.kill()
    service = run(own_vhost)
    assert (service.live, service.ready) == (True, False)
    own_rabbitmq.start()
    service.await_ready(40)
    ledger = Ledger(own_vhost)
    ledger.publish([*ledger.journeys(50), *ledger.invalid(10)])
    ledger.await_settled()
    ledger.balance(sandbox)
    own_rabbitmq.kill()
    wait_until(lambda: not service.ready, 10, "not ready without a broker")
    beat = "loop_heartbeat_timestamp_seconds"
    seen = service.value(beat)
    wait_until(lambda: service.value(beat) > seen + 1, 10, "the loop goes on")
    assert service.live
    assert service.terminate(10) == 0


def test_registry_away_at_the_start(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """Without a Registry the service is ready and paused; journeys stay in the queue until it is there."""
    sandbox.down()
    service = run(vhost, breaker_threshold="3")
    service.await_ready()
    ledger = Ledger(vhost)
    ledger.publish(50)
    wait_until(lambda: service.value("paused", cause="unavailable") == 1, 15, "paused")
    assert (service.live, service.ready) == (True, True)
    sandbox.up()
    ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 50
    assert service.value("paused", cause="unavailable") == 0


async def test_live_turns_red_when_the_loop_hangs() -> None:
    """The probe is answered from a thread of its own, which sees that the loop's heart has stopped."""
    health = Health(stale_after_seconds=0.3)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    http_server = HttpServer(CollectorRegistry(), health, "127.0.0.1", port)
    http_server.start()

    def status() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    async def beating() -> None:
        while True:
            health.beat()
            await asyncio.sleep(0.05)

    ticking = asyncio.create_task(beating())
    try:
        await asyncio.sleep(0)
        assert await asyncio.to_thread(status) == 200
        seen: list[int] = []

        def hang() -> None:  # a callback that blocks the loop: nothing of it runs until the probe is red
            wait_until(lambda: seen.append(status()) or seen[-1] == 503, 10, "red while the loop hangs")

        asyncio.get_running_loop().call_soon(hang)
        await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        assert seen[-1] == 503
        assert await asyncio.to_thread(status) == 200
    finally:
        ticking.cancel()
        http_server.stop()


def test_sigterm_while_the_broker_does_not_answer(run: Run, vhost: Broker) -> None:
    """A service that is still connecting ends with 0, too."""
    with socket.socket() as deaf:  # accepts and never says a word
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        service = run(vhost, broker_url=vhost.url_at(deaf.getsockname()[1]))
        assert service.live
        assert service.terminate(15) == 0


@pytest.fixture
def odd_output(request: pytest.FixtureRequest) -> Iterator[int]:
    """A standard output that takes nothing: a pipe that nobody reads, one without a reader, a full disk."""
    with contextlib.ExitStack() as stack:
        if request.param == "full disk":
            written = os.open("/dev/full", os.O_WRONLY)
        else:
            read, written = os.pipe()
            stack.callback(os.close, read)
            if request.param == "closed pipe":
                stack.close()
        stack.callback(os.close, written)
        yield written


@pytest.mark.parametrize(
    ("odd_output", "count"),
    [("unread pipe", 3000), ("closed pipe", 300), ("full disk", 300)],
    indirect=["odd_output"],
)
def test_a_log_that_cannot_be_written_stops_nothing(
    run: Run, vhost: Broker, sandbox: LocalRegistry, odd_output: int, count: int
) -> None:
    """Journeys are registered, probes answered, lost lines counted, and SIGTERM ends the process in time."""
    service = run(vhost)
    assert service.terminate() == 0
    service.stdout = odd_output
    service.start()
    service.await_ready()
    ledger = Ledger(vhost)
    journeys = []
    for number, (_, body) in enumerate(ledger.journeys(count)):
        long_id = "\N{AUTOMOBILE}" * 60 + str(number)  # makes a line of 1.6 kB: fewer are needed
        journeys.append((long_id, samples.encode(json.loads(body) | {"journey_id": long_id})))
    ledger.publish(journeys)
    ledger.await_settled(80)
    assert len(ledger.balance(sandbox).registered) == count
    wait_until(lambda: service.value("log_lines_lost_total") > 0, 10, "lost lines are counted")
    assert (service.live, service.ready) == (True, True)
    started = time.monotonic()
    assert service.terminate(20) == 0
    assert time.monotonic() - started < 15


ENDING = """
import sys
from consumer.commands import cli
from consumer.service.lifecycle import Service
async def ending(service):
    if sys.argv[1] == "fails":
        raise KeyError("a value")
Service._tick = ending
sys.exit(cli.main(["run"]))
"""


@pytest.mark.parametrize("end", ["fails", "returns"])
def test_a_background_task_that_ends_is_an_error_of_the_process(end: str) -> None:
    """Exit code 1, and the log names the task; the orchestrator starts the process again."""
    settings = {"BROKER_URL": "memory://", "REGISTRY_URL": "http://localhost:1", "REGISTRY_TOKEN": "x"}
    done = subprocess.run(
        [sys.executable, "-c", ENDING, end],
        env=os.environ | settings | {"HTTP_PORT": "0", "BROKER_QUEUE": "journeys"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    events = {line["event"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert events["a background task has ended"]["task"] == "tick"
    assert {"drained", "uncaught exception"} <= events.keys()
    assert b"a value" not in done.stdout + done.stderr
    assert done.returncode == 1
