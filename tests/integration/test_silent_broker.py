"""A broker that accepts connections and falls silent: every call ends, every command and process too."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from consumer.broker import connection as module
from consumer.broker.connection import ConnectionFactory
from consumer.broker.declare import ensure
from consumer.core.topology import Topology
from tests.broker import Broker
from tests.integration.conftest import Run
from tests.ledger import QUEUE, Ledger
from tests.local_registry import LocalRegistry
from tests.proxy import Proxy
from tests.waiting import wait_until

#: Heard of the broker: nothing, a part of its greeting, about the handshake, some answers to declarations.
SILENCES = (0, 100, 540, 560, 700, 1_200)
COMMANDS = (["check"], ["declare"], ["publish", "--generate", "1"], ["dead-letters", "list"])


@pytest.fixture
def proxy(vhost: Broker) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", vhost.node.port) as proxy:
        yield proxy


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("heard", [0, 300, 540, 700, 2_000, 4_000])
def test_every_call_has_a_deadline(
    vhost: Broker, monkeypatch: pytest.MonkeyPatch, heard: int, *, tls: bool
) -> None:
    """Connecting, TLS, opening channels, declaring and closing, wherever the broker stops."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_SECONDS", 0.5)
    ports = vhost.node.ports
    with Proxy("127.0.0.1", ports.tls if tls else vhost.node.port) as proxy:
        proxy.answer_bytes = heard
        url = vhost.url_at(proxy.port)
        if tls:
            url = vhost.tls_url.replace(str(ports.tls), str(proxy.port))
        connections = ConnectionFactory([url], ca_file=str(vhost.node.ca_file), connect_seconds=1.0)
        started = time.monotonic()

        def work() -> None:
            connection = connections.connect("test")
            try:
                for _ in range(20):
                    ensure(connection, Topology("q"), declare=True)
            finally:
                module.close_connection(connection, graceful=True)

        with pytest.raises(TimeoutError):
            work()
        assert time.monotonic() - started < 10
        wait_until(lambda: proxy.connections == 0, 10, "the socket is closed")


def _environment(url: str) -> dict[str, str]:
    return {**os.environ, "BROKER_URL": url, "BROKER_QUEUE": QUEUE, "REGISTRY_TOKEN": "t"}


def test_every_command_says_so_within_half_a_minute(vhost: Broker) -> None:
    """All of them at once, against a broker that falls silent at different moments."""
    Ledger(vhost).declare()
    # Without a broker behind it: RabbitMQ ends a handshake after ten seconds.
    with socket.create_server(("127.0.0.1", 0)) as deaf, Proxy("127.0.0.1", vhost.node.port) as mute:
        module.close_connection(ConnectionFactory([vhost.url_at(mute.port)]).connect("test"), graceful=False)
        mute.answer_bytes = mute.received  # the whole handshake
        runs = []
        started = time.monotonic()
        for port in (deaf.getsockname()[1], mute.port):
            for command in COMMANDS:
                process = subprocess.Popen(
                    [sys.executable, "-m", "consumer", *command],
                    env=_environment(vhost.url_at(port)),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                runs.append((command, process))
        try:
            for command, process in runs:
                said, _ = process.communicate(timeout=max(1.0, started + 30 - time.monotonic()))
                assert process.returncode == 1, (command, said)
                assert "Traceback" not in said
                assert "no answer in time" in said, f"{command}: {said}"
        finally:
            for _, process in runs:
                process.kill()
                process.wait()


@pytest.mark.parametrize("heard", SILENCES)
def test_sigterm_ends_the_process_wherever_the_broker_is_silent(
    run: Run, vhost: Broker, proxy: Proxy, heard: int
) -> None:
    """Connecting, in the handshake, in a declaration: not ready, and it ends within the grace period."""
    proxy.answer_bytes = heard
    service = run(vhost, broker_url=vhost.url_at(proxy.port))
    wait_until(lambda: proxy.accepted >= 2, 15, "both connections are tried")
    assert (service.live, service.ready) == (True, False)
    assert service.terminate(20) == 0


@pytest.mark.parametrize("paused", [False, True], ids=["flow", "paused"])
def test_sigterm_ends_the_process_when_the_broker_freezes(
    run: Run, vhost: Broker, sandbox: LocalRegistry, proxy: Proxy, *, paused: bool
) -> None:
    """With connections that were good, in full flow or paused."""
    service = run(vhost, broker_url=vhost.url_at(proxy.port), breaker_threshold="3")
    service.await_ready()
    ledger = Ledger(vhost)
    if paused:
        sandbox.down()
        ledger.publish(50)
        wait_until(lambda: service.value("paused", cause="unavailable") == 1, 15, "paused")
    else:
        ledger.publish(10)
        ledger.await_settled()
    proxy.blackhole()
    service.signal(signal.SIGTERM)
    assert service.wait(20) == 0


def test_the_next_address_is_tried_after_a_silent_one(
    run: Run, vhost: Broker, sandbox: LocalRegistry, proxy: Proxy
) -> None:
    """A hung node behind a load balancer: accepted, and not a word."""
    proxy.answer_bytes = 0
    service = run(vhost, broker_url=f"{vhost.url_at(proxy.port)};{vhost.url}")
    service.await_ready(40)
    ledger = Ledger(vhost)
    ledger.publish([*ledger.journeys(5), *ledger.invalid(5)])
    ledger.await_settled(40)
    assert len(ledger.balance(sandbox).registered) == 5
