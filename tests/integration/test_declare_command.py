"""``journey-consumer declare`` against a real broker: what exists afterwards, who may use it."""

from collections.abc import Iterator

import pytest

from consumer.broker.connection import ConnectionFactory
from consumer.broker.declare import ensure
from consumer.commands import cli
from consumer.core.topology import Topology
from tests.broker import Broker

QUEUE = "operator.trips"


@pytest.fixture(autouse=True)
def _environment(vhost: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of a user who may declare."""
    monkeypatch.setenv("BROKER_URL", vhost.url)
    monkeypatch.setenv("BROKER_QUEUE", QUEUE)


@pytest.fixture
def modest(vhost: Broker) -> Iterator[str]:
    """The URL of a user who may use queues and declare none."""
    with vhost.user(configure="") as url:
        yield url


def test_a_service_that_may_not_declare_finds_everything(
    vhost: Broker, modest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the command, a user without the right to declare can verify and use every queue."""
    topology = Topology(queue=QUEUE)
    assert cli.main(["declare"]) == 0
    expected = {spec.name for spec in (topology.main, *topology.support())}
    assert set(vhost.queue_depths()) == expected
    said = capsys.readouterr().out
    assert all(f"declared {name}\n" in said for name in expected)
    connection = ConnectionFactory([modest]).connect("test")
    try:
        assert ensure(connection, topology, declare=False) == []
    finally:
        connection.collect()


def test_it_can_run_before_every_upgrade(vhost: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """The second time nothing is declared; an existing queue and what lies in it stay as they are."""
    vhost.declare(QUEUE, arguments={"x-max-length": 5})
    vhost.publish(QUEUE, b"journey")
    assert cli.main(["declare"]) == 0
    capsys.readouterr()
    assert cli.main(["declare"]) == 0
    assert capsys.readouterr().out == "0 declared; everything exists\n"
    assert vhost.depth(QUEUE).ready == 1


def test_a_missing_permission_fails_with_a_sentence(
    modest: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job of a deployment fails with a reason in its log."""
    monkeypatch.setenv("BROKER_URL", modest)
    assert cli.main(["declare"]) == 1
    assert "the broker refuses to declare" in capsys.readouterr().err


def test_the_next_address_is_tried(
    vhost: Broker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One address of several that answers is enough; none that answers is a failure without a password."""
    monkeypatch.setenv("BROKER_URL", f"amqp://guest:hidden@127.0.0.1:1/{vhost.vhost};{vhost.url}")
    assert cli.main(["declare"]) == 0
    monkeypatch.setenv("BROKER_URL", f"amqp://guest:hidden@127.0.0.1:1/{vhost.vhost}")
    assert cli.main(["declare"]) == 1
    said = capsys.readouterr().err
    assert "connection refused: no server listens on this address and port" in said
    assert "hidden" not in said


def test_other_brokers_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only AMQP brokers have queues to declare."""
    monkeypatch.setenv("BROKER_URL", "memory://")
    assert cli.main(["declare"]) == 2
    assert "amqp://" in capsys.readouterr().err
