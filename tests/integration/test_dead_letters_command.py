"""``journey-consumer dead-letters replay`` on a real broker: what moves, what stays, what is told."""

import json
import random
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from consumer.broker.connection import ConnectionFactory
from consumer.broker.declare import ensure
from consumer.commands import cli
from consumer.core.topology import Topology
from consumer.publishing import samples
from tests.broker import Broker
from tests.deadletters import on_terminal, started
from tests.sqs import SqsServer
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
    connection = ConnectionFactory([vhost.url]).connect("test")
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


def test_without_a_filter_it_asks(broker: Broker) -> None:
    """Only the number, typed on a terminal, replays everything; in a script --yes is needed."""
    headers = {name: value for name, value in DEATH.items() if name != "x-original-exchange"}
    for number in range(3):
        broker.publish(UNAUTHORIZED, b"%d" % number, headers=headers)
    for typed, moved in (("y", 0), ("3", 3)):
        with on_terminal(broker, "replay", BROKER_QUEUE=QUEUE) as terminal:
            terminal.read_until(
                "3 dead letters will be replayed, as no filter is given. Type 3 to continue: "
            )
            terminal.type(f"{typed}\n")
            assert terminal.wait() == (0 if moved else 1)
        wait_until(lambda: broker.depth(UNAUTHORIZED) == (3 - moved, 0), 10, "given back")  # noqa: B023
        assert broker.depth(QUEUE).total == moved


def test_invalid_ones_are_left_out_unless_asked_for(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unchanged they die again: a replay of everything leaves them, and says so."""
    invalid = TOPOLOGY.dead_letter_queue("invalid")
    broker.publish(invalid, b"{}", headers={"x-reason": "invalid"})
    assert cli.main(["dead-letters", "replay", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == {
        "invalid: only a change can help (--unchanged includes them)": 1
    }
    assert broker.depth(QUEUE).total == 0
    assert cli.main(["dead-letters", "replay", "--reason", "invalid", "--unchanged"]) == 0
    assert broker.depth(QUEUE).total == 1


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
    told = capsys.readouterr().out
    assert told.startswith("1 dead letters, 1 selected\n  1  replayed\n")


def test_many_move_in_order_and_none_twice(broker: Broker) -> None:
    """Several batches: all of them, each once, in order; other reasons stay in their queues."""
    bodies = [b'{"n":%d}' % number for number in range(3700)]
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
    assert "3  not processed" in capsys.readouterr().out


def test_nothing_to_do_is_no_failure(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty queue: exit 0, and it says so."""
    assert broker.depth(UNAUTHORIZED).total == 0
    assert replay() == 0
    assert capsys.readouterr().out == "0 dead letters, 0 selected\n"


def test_what_the_main_queue_refuses_stays_dead(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """A publish that is not confirmed is never followed by an acknowledgement."""
    broker.delete_queue(QUEUE)
    broker.declare(
        QUEUE, arguments={"x-queue-type": "classic", "x-max-length": 3, "x-overflow": "reject-publish"}
    )
    broker.publish(UNAUTHORIZED, *(b"%d" % number for number in range(8)))
    assert replay() == 1
    told = capsys.readouterr().err
    assert "stay in their queues" in told
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
    assert cli.main(["dead-letters", "replay", "--yes"]) == 1
    assert f"the queue '{QUEUE}' does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["--limit", "0"], ["--limit", "-1"]])
def test_a_limit_must_be_positive(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A limit that makes no sense is refused before anything is connected."""
    with pytest.raises(SystemExit) as ended:
        replay(*args)
    assert ended.value.code == 2
    assert "--limit" in capsys.readouterr().err


def test_replay_on_sqs(sqs: SqsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a broker without AMQP dead letters are replayed as well."""
    monkeypatch.setenv("BROKER_URL", sqs.url)
    monkeypatch.setenv("BROKER_QUEUE", QUEUE)
    lines = tmp_path / "lines"
    lines.write_bytes(b'{"journey_id":"a"}\n{"journey_id":"b"}\n')
    assert cli.main(["publish", "--queue", UNAUTHORIZED, str(lines)]) == 0
    assert sqs.count(UNAUTHORIZED) == (2, 0)
    assert replay() == 0
    assert sqs.count(UNAUTHORIZED) == (0, 0)
    assert sqs.count(QUEUE) == (2, 0)


def dead(*ages_hours: float, **headers: Any) -> list[tuple[bytes, dict[str, Any]]]:
    """Dead letters whose journeys started so long ago."""
    made = []
    for number, age in enumerate(ages_hours):
        payload = samples.journey("v3", random.Random(number), datetime.now(UTC))
        start = datetime.now(UTC) - timedelta(hours=age)
        payload["start"]["datetime"] = start.isoformat()
        payload["operator_journey_id"] = f"{age:g}"
        made.append((samples.encode(payload), {**DEATH, **headers}))
    return made


def ids(broker: Broker, queue: str) -> list[str]:
    """The journeys of a queue, in order."""
    return [json.loads(message.body)["operator_journey_id"] for message in broker.messages(queue)]


def test_the_nearest_deadline_goes_first_over_all_queues(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the order and the queue they lie in; those that are too late stay, and are counted."""
    broker.publish_all(dead(2, 22, 30, 5, 1), UNAUTHORIZED)
    broker.publish_all(dead(23, 3, 21.5), TOPOLOGY.dead_letter_queue("exhausted"))
    assert cli.main(["dead-letters", "replay", "--yes", "--json"]) == 0
    assert ids(broker, QUEUE) == ["23", "22", "21.5", "5", "3", "2", "1"]
    assert ids(broker, UNAUTHORIZED) == ["30"]
    told = json.loads(capsys.readouterr().out)
    assert told["outcomes"] == {"replayed": 7}
    assert told["skipped"] == {"too late (--lost includes them)": 1}
    assert cli.main(["dead-letters", "replay", "--yes", "--lost"]) == 0
    assert ids(broker, QUEUE)[-1] == "30"


def test_a_limit_takes_the_most_urgent(broker: Broker) -> None:
    """Not the first in the queue."""
    broker.publish_all(dead(2, 22, 5, 21, 1), UNAUTHORIZED)
    assert replay("--limit", "2") == 0
    assert ids(broker, QUEUE) == ["22", "21"]
    wait_until(lambda: broker.depth(UNAUTHORIZED).ready == 3, 10, "the rest is given back")
    assert ids(broker, UNAUTHORIZED) == ["2", "5", "1"]


def test_a_dry_run_moves_nothing(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """It only says how many."""
    broker.publish_all(dead(2, 22, 5), UNAUTHORIZED)
    assert replay("--dry-run", "--left", "..3h") == 0
    assert capsys.readouterr().out == "3 dead letters, 1 selected\n  1  selected, nothing done\n"
    assert ids(broker, UNAUTHORIZED) == ["2", "22", "5"]
    assert broker.depth(QUEUE).total == 0


def test_what_was_replayed_too_often_is_left_out(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """A journey that fails again and again ends somewhere."""
    broker.publish_all(dead(1, **{"x-replays": 4}) + dead(2, **{"x-replays": 5}), UNAUTHORIZED)
    assert replay() == 0
    assert ids(broker, QUEUE) == ["1"]
    assert broker.messages(QUEUE)[0].headers["x-replays"] == 5
    assert "1  skipped: replayed 5 times already" in capsys.readouterr().out
    assert replay("--max-replays", "6") == 0
    assert ids(broker, QUEUE) == ["1", "2"]


def test_a_rate_is_kept(broker: Broker) -> None:
    """Twenty at ten a second take two seconds, less one batch."""
    broker.publish_all(dead(*range(1, 21)), UNAUTHORIZED)
    started = datetime.now(UTC)
    assert replay("--rate", "10") == 0
    assert (datetime.now(UTC) - started).total_seconds() > 1.7
    assert broker.depth(QUEUE).ready == 20


@pytest.mark.parametrize("window", [70, 4_000], ids=["many channels", "one channel"])
def test_more_than_is_held_is_ordered_within_what_is_held(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """A buffer of 100: each batch is the nearest 50 of those held, and none goes twice."""
    monkeypatch.setattr("consumer.broker.queue_reader.WINDOW", window)
    monkeypatch.setattr("consumer.deadletters.sweep.READ_AT_ONCE", 50)
    monkeypatch.setattr("consumer.deadletters.sweep.BATCH", 50)
    monkeypatch.setattr("consumer.deadletters.sweep.MOST_HELD", 100)
    ages = [round(each / 50, 2) for each in range(50, 1050)]
    random.Random(3).shuffle(ages)
    broker.publish_all(dead(*ages), UNAUTHORIZED)
    assert replay() == 0
    wait_until(lambda: broker.depth(UNAUTHORIZED).total == 0, 10, "the dead letters are gone")
    moved = [float(each) for each in ids(broker, QUEUE)]
    assert sorted(moved) == sorted(ages)
    for start in range(0, 1_000, 50):
        assert moved[start : start + 50] == sorted(moved[start : start + 50], reverse=True)
    expected, held, unread = list[float](), list[float](), list(ages)
    while held or unread:
        room = 100 - len(held)
        held, unread = sorted(held + unread[:room], reverse=True), unread[room:]
        expected, held = expected + held[:50], held[50:]
    assert window == 70 or moved == expected, "one channel gives them in the order of the queue"


def test_a_signal_ends_it_in_order(broker: Broker) -> None:
    """SIGINT: the batch under way is finished, nothing is in two places, the rest stays."""
    broker.publish_all(dead(*(1 + each / 100 for each in range(300))), UNAUTHORIZED)
    with started(broker, "replay", "--yes", "--rate", "50", BROKER_QUEUE=QUEUE) as process:
        wait_until(lambda: broker.depth(QUEUE).total > 0, 30, "it moves")
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=30)[0]
    assert process.returncode == 130
    wait_until(lambda: broker.depth(UNAUTHORIZED).unacked == 0, 10, "the broker takes them back")
    moved, left = ids(broker, QUEUE), ids(broker, UNAUTHORIZED)
    assert f"{len(moved)}  replayed" in told
    assert left
    assert sorted(moved + left) == sorted(f"{1 + each / 100:g}" for each in range(300))
