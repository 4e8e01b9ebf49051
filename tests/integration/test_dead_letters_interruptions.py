"""``dead-letters`` interrupted in the middle: killed, or its broker restarted; then run again.

Each test ends at the Registry: every journey is accepted there once, and nothing is left in any queue.
"""

import contextlib
import json
import signal
from pathlib import Path

import pytest

from consumer.publishing import samples
from tests.broker import Broker
from tests.deadletters import (
    BROKEN,
    INVALID,
    QUEUE,
    REFUSED,
    REPAIR,
    UNAUTHORIZED,
    ids,
    journey,
    put,
    registered_once,
    started,
    typed,
)
from tests.integration.conftest import Run
from tests.ledger import TOPOLOGY, Ledger
from tests.local_registry import LocalRegistry
from tests.waiting import wait_until

_BLOCKED = """integer_to_list(length([Pid || Pid <- rabbit_networking:connections(),
    rabbit_networking:connection_info(Pid, [state]) =:= [{state, blocked}]]))"""


def put_broken(broker: Broker, reason: str, numbers: range) -> dict[str, bytes]:
    """Some that ``REPAIR`` repairs; returns what they are then, by journey id."""
    payloads = [journey(number, seats=9) for number in numbers]
    put(broker, TOPOLOGY.dead_letter_queue(reason), *payloads, **BROKEN | {"x-reason": reason})
    for payload in payloads:
        payload["passenger"]["seats"] = 3
    return {payload["operator_journey_id"]: samples.encode(payload) for payload in payloads}


def kill_in_the_middle(broker: Broker, queue: str, *args: str) -> int:
    """SIGKILL it as soon as something has moved; returns how many lie in both queues."""
    with broker.channel() as channel, started(broker, *args) as process:
        # By one open channel: as fast as the replay itself, also on a machine under load.
        wait_until(
            lambda: channel.queue_declare(QUEUE, passive=True).message_count or process.poll() is not None,
            30,
            "it moves",
            interval=0.001,
        )
        process.kill()
    wait_until(lambda: broker.depth(queue).unacked == 0, 10, "the broker takes them back")
    assert broker.depth(queue).ready > 0, "it was over before it could be killed"
    return len(set(ids(broker, QUEUE)) & set(ids(broker, queue)))


def test_a_replay_that_was_killed(broker: Broker, run: Run, sandbox: LocalRegistry) -> None:
    """At full speed: what was confirmed and not acknowledged is sent twice, everything else once."""
    expected = put(broker, UNAUTHORIZED, *map(journey, range(1_500)), **REFUSED)  # two batches
    args = ["replay", "--reason", "unauthorized"]
    twice = kill_in_the_middle(broker, UNAUTHORIZED, *args)
    assert typed(broker, *args).returncode == 0
    wait_until(lambda: broker.depth(UNAUTHORIZED).total == 0, 10, "the rest is sent")
    assert registered_once(broker, run, sandbox, expected) == twice


def test_an_edit_that_was_killed(broker: Broker, run: Run, sandbox: LocalRegistry) -> None:
    """The same with edited copies: the Registry has the edited payload, byte for byte."""
    expected = put_broken(broker, "invalid", range(300))
    twice = kill_in_the_middle(broker, INVALID, "edit", "--pipe", REPAIR, "--rate", "100")
    assert typed(broker, "edit", "--pipe", REPAIR).returncode == 0
    wait_until(lambda: broker.depth(INVALID).total == 0, 10, "the rest is sent")
    assert registered_once(broker, run, sandbox, expected) == twice


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_replay_that_was_stopped(
    broker: Broker, run: Run, sandbox: LocalRegistry, number: signal.Signals
) -> None:
    """It ends after its batch: nothing lies in both queues, so that the Registry sees each once."""
    expected = put(broker, UNAUTHORIZED, *map(journey, range(300)), **REFUSED)
    args = ["replay", "--reason", "unauthorized"]
    with started(broker, *args, "--rate", "100") as process:
        wait_until(lambda: broker.depth(QUEUE).total > 0, 30, "it moves")
        process.send_signal(number)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    moved, left = set(ids(broker, QUEUE)), set(ids(broker, UNAUTHORIZED))
    assert f"{len(moved):>3}  replayed" in said
    assert moved
    assert left
    assert not moved & left
    assert typed(broker, *args).returncode == 0
    assert registered_once(broker, run, sandbox, expected) == 0


def test_a_broker_restart(own_vhost: Broker, run: Run, sandbox: LocalRegistry, tmp_path: Path) -> None:
    """Replay, edit by a command or a file: each ends with an error in words; run again each finishes."""
    Ledger(own_vhost).declare()
    queues = [UNAUTHORIZED, INVALID, TOPOLOGY.dead_letter_queue("rejected")]
    expected = put(own_vhost, queues[0], *map(journey, range(200)), **REFUSED)
    expected |= put_broken(own_vhost, "invalid", range(200, 400))
    expected |= put_broken(own_vhost, "rejected", range(400, 600))
    file = tmp_path / "edit.jsonl"
    assert typed(own_vhost, "edit", "--reason", "rejected", "--out", str(file)).returncode == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line["payload"]["passenger"]["seats"] = 3
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    commands = [
        ["replay", "--reason", "unauthorized"],
        ["edit", "--reason", "invalid", "--pipe", REPAIR],
        ["edit", "--reason", "rejected", "--apply", str(file)],
    ]
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(own_vhost, *each, "--rate", "40")) for each in commands]
        for queue in queues:
            wait_until(lambda queue=queue: own_vhost.depth(queue).total < 200, 30, "it moves")
        own_vhost.node.set_memory_alarm(on=True)  # what is published from now on is confirmed to nobody
        wait_until(lambda: own_vhost.node.eval(_BLOCKED) == "3", 20, "each has published into the alarm")
        own_vhost.node.restart()
        ends = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    for said, code in ends:
        assert code == 1, said
        assert said.splitlines()[-1].startswith("journey-consumer: "), said
        assert "Traceback" not in said
    for queue, command in zip(queues, commands, strict=True):
        # A node that has just started refuses for a moment, with an error in words each time.
        wait_until(lambda c=command: typed(own_vhost, *c).returncode == 0, 30, "it goes on", interval=0.5)
        wait_until(lambda queue=queue: own_vhost.depth(queue).total == 0, 20, "the rest is sent")
    registered_once(own_vhost, run, sandbox, expected)


def test_a_lost_connection_tells_how_far_it_came(broker: Broker) -> None:
    """In the middle of a replay: an error in words, and what was sent until then is told, and only that."""
    put(broker, UNAUTHORIZED, *map(journey, range(200)), **REFUSED)
    with started(broker, "replay", "--yes", "--json", "--rate", "40") as process:
        wait_until(lambda: broker.depth(UNAUTHORIZED).total <= 180, 30, "it moves")
        assert broker.close_connections() > 0
        said, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in error
    told = json.loads(said)
    assert told["trouble"]
    wait_until(lambda: broker.depth(UNAUTHORIZED).unacked == 0, 10, "the broker takes them back")
    assert 20 <= sum(told["outcomes"].values()) <= broker.depth(QUEUE).ready < 200


def test_a_memory_alarm_is_not_waited_out(own_vhost: Broker) -> None:
    """The broker takes nothing: after the patience for a confirm that is an error, and all stay."""
    Ledger(own_vhost).declare()
    put(own_vhost, UNAUTHORIZED, *map(journey, range(20)), **REFUSED)
    own_vhost.node.set_memory_alarm(on=True)
    told = typed(own_vhost, "replay", "--yes", "--json", BROKER_CONFIRM_TIMEOUT_SECONDS="1")
    assert told.returncode == 1
    assert "the broker blocks publishers: a memory or disk alarm" in told.stderr
    assert json.loads(told.stdout)["outcomes"] == {"not confirmed": 20}
    own_vhost.node.set_memory_alarm(on=False)
    wait_until(lambda: own_vhost.depth(UNAUTHORIZED) == (20, 0), 20, "they are given back")
