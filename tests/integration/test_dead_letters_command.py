"""``journey-consumer dead-letters replay`` on a real broker: what moves, what stays, what is told."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from consumer import cli
from consumer.broker.declare import ensure
from consumer.broker.dial import Dialer
from consumer.topology import Topology
from tests.broker import Broker
from tests.waiting import wait_until

TOPOLOGY = Topology(queue="operator.journeys")
QUEUE = TOPOLOGY.queue
UNAUTHORIZED = TOPOLOGY.dead_letter_queue("unauthorized")
DEATH = {
    "x-reason": "unauthorized",
    "x-detail": "token_refused",
    "x-status": 401,
    "x-attempts": 3,
    "x-first-failure": "2026-11-23T15:00:00.000Z",
    "x-last-failure": "2026-11-23T15:00:00.000Z",
    "x-original-exchange": "operator",
    "x-original-routing-key": "journey.done",
    "x-consumer-version": "0.1.0",
}


@pytest.fixture
def broker(vhost: Broker, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """A virtual host with our queues, and the environment that names it."""
    connection = Dialer([vhost.url]).dial("test")
    try:
        ensure(connection, TOPOLOGY, declare=True)
    finally:
        connection.collect()
    monkeypatch.setenv("BROKER_URL", vhost.url)
    monkeypatch.setenv("BROKER_QUEUE", QUEUE)
    return vhost


def replay(*args: str) -> int:
    """Run the command in this process; returns its exit code."""
    return cli.main(["dead-letters", "replay", "--reason", "unauthorized", *args])


def test_dead_letters_return_with_body_and_properties(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy is the original with one more replay; nothing of its death goes with it."""
    headers: dict[str, Any] = {"operator-header": "kept", "x-replays": 1, **DEATH}
    broker.publish(
        UNAUTHORIZED, b'{"a":1}', headers=headers, message_id="m-1", content_type="application/json", type="t"
    )
    assert replay() == 0
    (seen,) = broker.messages(QUEUE)
    assert seen.body == b'{"a":1}'
    assert seen.headers == {
        "operator-header": "kept",
        "x-replays": 2,
        "x-original-exchange": "operator",
        "x-original-routing-key": "journey.done",
    }
    assert (seen.properties["message_id"], seen.properties["type"]) == ("m-1", "t")
    assert seen.properties["delivery_mode"] == 2
    assert broker.depth(UNAUTHORIZED).total == 0
    assert capsys.readouterr().out == f"1 of 1 dead letters (unauthorized) moved to '{QUEUE}'\n"


def test_many_move_in_order_and_none_twice(broker: Broker) -> None:
    """Several batches: all of them, each once, oldest first; other reasons stay where they are."""
    bodies = [b'{"n":%d}' % number for number in range(1700)]
    broker.publish_all(((body, DEATH) for body in bodies), UNAUTHORIZED)
    broker.publish(TOPOLOGY.dead_letter_queue("invalid"), b"{}")
    assert replay() == 0
    wait_until(lambda: broker.depth(UNAUTHORIZED).total == 0, 10, "the dead letters are gone")
    assert [message.body for message in broker.messages(QUEUE)] == bodies
    assert broker.depth(TOPOLOGY.dead_letter_queue("invalid")).ready == 1


def test_a_limit_takes_the_oldest(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """--limit moves so many and leaves the rest in their queue."""
    broker.publish(UNAUTHORIZED, *(b"%d" % number for number in range(5)))
    assert replay("--limit", "2") == 0
    assert [message.body for message in broker.messages(QUEUE)] == [b"0", b"1"]
    wait_until(lambda: broker.depth(UNAUTHORIZED).ready == 3, 10, "the rest is given back")
    assert "2 of 5" in capsys.readouterr().out


def test_nothing_to_do_is_no_failure(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty queue: exit 0, and it says so."""
    assert broker.depth(UNAUTHORIZED).total == 0
    assert replay() == 0
    assert "0 of 0" in capsys.readouterr().out


def test_what_the_main_queue_refuses_stays_dead(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """A publish that is not confirmed is never followed by an acknowledgement."""
    broker.delete_queue(QUEUE)
    broker.declare(
        QUEUE, arguments={"x-queue-type": "classic", "x-max-length": 3, "x-overflow": "reject-publish"}
    )
    broker.publish(UNAUTHORIZED, *(b"%d" % number for number in range(8)))
    assert replay() == 1
    told = capsys.readouterr().err
    assert "stay where they are" in told
    wait_until(lambda: broker.depth(UNAUTHORIZED).unacked == 0, 10, "the rest is given back")
    moved = broker.depth(QUEUE).ready
    assert 3 <= moved < 8
    assert broker.depth(UNAUTHORIZED).ready == 8 - moved


def test_a_missing_queue_is_named(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """Without dead-letter queue, or without main queue, nothing moves and the error says which."""
    broker.delete_queue(UNAUTHORIZED)
    assert replay() == 1
    assert UNAUTHORIZED in capsys.readouterr().err
    broker.delete_queue(QUEUE)
    assert replay() == 1
    assert f"the queue '{QUEUE}' does not exist" in capsys.readouterr().err


def test_killed_in_the_middle_nothing_is_lost(broker: Broker) -> None:
    """SIGKILL at any moment: each dead letter is in one queue or the other, some perhaps in both."""
    total = 6000
    bodies = {b'{"n":%d}' % number for number in range(total)}
    broker.publish_all(((body, DEATH) for body in bodies), UNAUTHORIZED)
    command = [sys.executable, "-m", "consumer", "dead-letters", "replay", "--reason", "unauthorized"]
    with subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: broker.depth(QUEUE).total > 0 or process.poll() is not None, 30, "it moves")
        process.kill()
    wait_until(lambda: broker.depth(UNAUTHORIZED).unacked == 0, 10, "the broker takes them back")
    assert broker.depth(UNAUTHORIZED).ready > 0, "it was over before it could be killed"
    seen = [message.body for queue in (QUEUE, UNAUTHORIZED) for message in broker.messages(queue)]
    assert set(seen) == bodies


@pytest.mark.parametrize("args", [["--limit", "0"], ["--limit", "-1"]])
def test_a_limit_must_be_positive(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A limit that makes no sense is refused before anything is connected."""
    assert replay(*args) == 2
    assert "--limit" in capsys.readouterr().err


def test_other_transports_replay_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a transport without AMQP dead letters move as well."""
    monkeypatch.setenv("BROKER_URL", f"filesystem://{tmp_path}")
    monkeypatch.setenv("BROKER_QUEUE", QUEUE)
    lines = tmp_path / "lines"
    lines.write_bytes(b'{"journey_id":"a"}\n{"journey_id":"b"}\n')
    assert cli.main(["publish", "--queue", UNAUTHORIZED, str(lines)]) == 0
    assert len(list(tmp_path.glob(f"*{UNAUTHORIZED}*.msg"))) == 2
    assert replay() == 0
    assert len(list(tmp_path.glob(f"*{UNAUTHORIZED}*.msg"))) == 0
    assert len(list(tmp_path.glob(f"*{QUEUE}.msg"))) == 2
