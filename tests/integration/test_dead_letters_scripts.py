"""``dead-letters`` in a script: exit codes, JSON for machines, how much and how fast; from no queues on."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumer.commands import cli
from tests.broker import Broker
from tests.deadletters import (
    BROKEN,
    INVALID,
    QUEUE,
    REFUSED,
    REPAIR,
    UNAUTHORIZED,
    broken,
    environment,
    ids,
    journey,
    only_json,
    put,
    started,
    typed,
)
from tests.ledger import TOPOLOGY
from tests.local_registry import TOKEN, LocalRegistry
from tests.waiting import wait_until

Straight = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def straight(broker: Broker, sandbox: LocalRegistry) -> Straight:
    """Type ``replay --to registry``."""

    def run(*args: str, token: str = TOKEN) -> "subprocess.CompletedProcess[str]":
        registry = {"REGISTRY_URL": sandbox.url, "REGISTRY_TOKEN": token}
        return typed(broker, "replay", "--to", "registry", "--yes", *args, **registry)

    return run


def test_from_nothing_to_an_empty_summary(vhost: Broker) -> None:
    """On a new virtual host: no queue is an error, ``declare`` makes them, then there are no dead letters."""
    before = typed(vhost, "summary")
    assert before.returncode == 1
    assert before.stderr == (
        f"journey-consumer: there is no dead-letter queue of {QUEUE!r}: is BROKER_QUEUE right?\n"
    )
    declared = subprocess.run(
        [sys.executable, "-m", "consumer", "declare"],
        env=environment(vhost),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert declared.returncode == 0, declared.stderr
    expected = {spec.name for spec in (TOPOLOGY.main, *TOPOLOGY.support())}
    assert set(vhost.queue_depths()) == expected
    assert declared.stdout.count("declared ") == len(expected) + 1  # the dead-letter exchange
    after = typed(vhost, "summary")
    assert (after.returncode, after.stdout, after.stderr) == (0, f"No dead letters of {QUEUE!r}.\n", "")


def test_one_json_document_each(broker: Broker, tmp_path: Any) -> None:
    """What a script reads is one document and nothing else; ``list`` has one for each line."""
    put(broker, INVALID, *map(broken, range(3)), **BROKEN)
    put(broker, UNAUTHORIZED, *map(journey, range(10, 12)), **REFUSED)

    def told(*args: str) -> dict[str, Any]:
        done = typed(broker, *args, "--json")
        assert done.returncode == 0, done.stderr
        return only_json(done.stdout)

    assert told("summary")["total"]["count"] == 5
    assert told("show", "j-1")["reason"] == "invalid"
    lines = typed(broker, "list", "--json").stdout.splitlines()
    assert [only_json(line)["reason"] for line in lines].count("invalid") == 3
    written = told("edit", "--out", str(tmp_path / "edit.jsonl"), "--reason", "invalid")
    assert written == {"written": 3, "file": str(tmp_path / "edit.jsonl")}
    edited = told("edit", "--pipe", REPAIR, "--limit", "2", "--audit", str(tmp_path / "audit"))
    assert edited == {
        "waiting": 5,
        "selected": 5,
        "skipped": {},
        "outcomes": {"edited and sent": 2},
        "missed": 0,
        "dry_run": False,
        "trouble": None,
    }
    assert told("replay", "--dry-run", "--reason", "unauthorized")["dry_run"] is True
    assert told("replay", "--reason", "unauthorized")["outcomes"] == {"replayed": 2}
    discard = ["discard", "--reason", "invalid", "--why", "x", "--yes", "--audit", str(tmp_path / "audit")]
    assert told(*discard)["outcomes"] == {"discarded": 1}
    assert told("replay", "--yes")["waiting"] == 0


def test_exit_codes(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """0 all is well, 1 trouble or refused, 2 not as it is used; each with a sentence and nothing moved."""
    put(broker, INVALID, *map(broken, range(3)), **BROKEN)
    away = {"BROKER_URL": "amqp://guest:hidden@127.0.0.1:1/x"}
    for expected, said, args, variables in [
        (0, "", ["list"], {}),
        (0, "", ["replay", "--dry-run"], {}),
        (0, "", ["replay", "--reason", "unauthorized"], {}),
        (1, "cannot connect to the broker", ["summary"], away),
        (1, "no dead letter has this", ["show", "j-99"], {}),
        (1, "still invalid as v3: j-0: out_of_range", ["edit", "--pipe", REPAIR.replace("3", "0")], {}),
        (1, "the command exited with 3", ["edit", "--pipe", "exit 3"], {}),
        (1, "cannot be written", ["edit", "--out", "/no/such/directory/file"], {}),
        (2, "cannot be read", ["edit", "--apply", "/no/such/file"], {}),
        (2, "needs a filter", ["discard", "--why", "x", "--yes"], {}),
        (2, "--why must not be empty", ["discard", "--reason", "invalid", "--why", " ", "--yes"], {}),
        (2, "must be one of invalid, ", ["replay", "--reason", "nonsense"], {}),
        (2, "; a status is --status", ["list", "--reason", "401"], {}),
        (2, "cannot help: `edit` changes them", ["replay", "--reason", "invalid"], {}),
        (2, "--yes is needed", ["replay"], {}),
        (2, "must be a SHA-256", ["list", "--person", "+33639981234"], {}),
        (2, "must be from 0.001", ["replay", "--rate", "0"], {}),
        (2, "must be at least 1", ["replay", "--limit", "0"], {}),
        (2, "must be a range", ["replay", "--left", "soon"], {}),
        (2, "not allowed with argument", ["edit", "--pipe", "cat", "--out", "x"], {}),
        (2, "BROKER_URL", ["summary"], {"BROKER_URL": "not a url"}),
        (0, "", ["summary"], {"BROKER_PREFETCH": "10", "REGISTRY_CONCURRENCY": "5", "HTTP_PORT": "x"}),
        (0, "did you mean BROKER_QUEUE?", ["summary"], {"BROKER_QUEU": "x"}),
    ]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**environment(broker), **variables}.items():
                patch.setenv(name, value)
            try:
                code: object = cli.main(["dead-letters", *args])
            except SystemExit as ended:  # argparse's own way
                code = ended.code
        told = capsys.readouterr().err
        assert (code, said in told) == (expected, True), (args, code, told)
        assert "hidden" not in told
    wait_until(lambda: broker.depth(INVALID) == (3, 0), 10, "nothing has moved")
    assert broker.depth(QUEUE).total == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("args", [["replay", "--yes", "--unchanged"], ["edit", "--pipe", REPAIR]])
def test_exit_code_130_when_stopped(broker: Broker, args: list[str], number: signal.Signals) -> None:
    """The first signal ends it after its batch: what was sent is gone from its queue, and counted."""
    put(broker, INVALID, *map(broken, range(200)), **BROKEN)
    with started(broker, *args, "--rate", "50", "--json") as process:
        wait_until(lambda: broker.depth(QUEUE).total > 0 or process.poll() is not None, 30, "it moves")
        process.send_signal(number)
        told, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopping after this batch" in said
    (sent,) = only_json(told)["outcomes"].values()
    wait_until(lambda: broker.depth(INVALID) == (200 - sent, 0), 10, "the rest is given back")
    assert broker.depth(QUEUE).ready == sent < 200


def test_an_edit_that_is_only_tried(broker: Broker) -> None:
    """--dry-run judges every edited payload, says what would be sent and why not the rest; nothing moves."""
    put(broker, INVALID, *map(broken, range(12)), **BROKEN)
    repair_some = """sed '/"j-1/!s/"seats": 9/"seats": 3/; /"j-1"/s/"seats": 9/"seats": 0/'"""
    done = typed(broker, "edit", "--dry-run", "--pipe", repair_some, "--json")
    assert done.returncode == 1
    told = only_json(done.stdout)
    assert told["dry_run"] is True
    assert told["outcomes"] == {"would be sent": 9, "unchanged": 2, "still invalid": 1}
    assert done.stderr == "still invalid as v3: j-1: out_of_range at passenger.seats\n"
    assert typed(broker, "edit", "--dry-run", "--pipe", REPAIR).returncode == 0
    wait_until(lambda: broker.depth(INVALID) == (12, 0), 10, "nothing has moved")
    assert broker.depth(QUEUE).total == 0


# --- straight to the Registry -----------------------------------------------------------------


def test_a_limit_straight_to_the_registry(broker: Broker, sandbox: LocalRegistry, straight: Straight) -> None:
    """So many of the most urgent are submitted, and no other is; run again it goes on with the next."""
    hours = [2, 22, 5, 21, 1, 20]
    put(broker, UNAUTHORIZED, *(journey(each, hours_ago=each) for each in hours), **REFUSED)
    done = straight("--limit", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 dead letters, 6 selected\n  2  registered\n  4  not processed\n")
    assert set(sandbox.journeys) == {"j-22", "j-21"}
    assert len(sandbox.requests) == 2
    wait_until(lambda: broker.depth(UNAUTHORIZED) == (4, 0), 10, "the rest is given back")
    assert straight("--limit", "1").returncode == 0
    assert set(sandbox.journeys) == {"j-22", "j-21", "j-20"}
    wait_until(lambda: broker.depth(UNAUTHORIZED) == (3, 0), 10, "the rest is given back")
    assert ids(broker, UNAUTHORIZED) == ["j-2", "j-5", "j-1"]
    assert broker.depth(QUEUE).total == 0


def test_a_rate_straight_to_the_registry(broker: Broker, sandbox: LocalRegistry, straight: Straight) -> None:
    """Twenty at ten a second take two seconds less one batch, also by the Registry's clock."""
    put(broker, UNAUTHORIZED, *map(journey, range(20)), **REFUSED)
    started_at = time.monotonic()
    assert straight("--rate", "10").returncode == 0
    assert time.monotonic() - started_at > 1.7
    times = sorted(request.time for request in sandbox.requests)
    assert len(sandbox.journeys) == len(times) == 20
    assert times[-1] - times[0] > 1.7
    assert json.loads(straight("--json").stdout)["waiting"] == 0


@pytest.mark.parametrize("failing", ["token", "down", "early"])
def test_nothing_registered_is_not_success(
    broker: Broker, sandbox: LocalRegistry, straight: Straight, failing: str
) -> None:
    """A few that fail are no trouble for others, and yet not done: exit code 1, all where they were."""
    hours_ago = -2.0 if failing == "early" else 2.0
    put(broker, UNAUTHORIZED, *(journey(number, hours_ago=hours_ago) for number in range(3)), **REFUSED)
    if failing == "down":
        sandbox.faults.maintenance = True
    told = straight(token="another" if failing == "token" else TOKEN)
    assert told.returncode == 1
    assert {"token": "unauthorized", "down": "unavailable", "early": "early"}[failing] in told.stdout
    wait_until(lambda: broker.depth(UNAUTHORIZED) == (3, 0), 10, "they are given back")


def test_a_registry_that_asks_to_wait_for_long_is_not_waited_for(
    broker: Broker, sandbox: LocalRegistry, straight: Straight
) -> None:
    """An error in words: no command waits so long while it holds dead letters."""
    put(broker, UNAUTHORIZED, *map(journey, range(3)), **REFUSED)
    sandbox.faults.for_next(3, throttle={"retry_after_seconds": 900})
    told = straight()
    assert told.returncode == 1
    asked = r"the Registry asks to wait for (?:90[01]|89\d) s: run this again after that"
    assert re.search(asked, told.stderr)
    wait_until(lambda: broker.depth(UNAUTHORIZED) == (3, 0), 10, "they are given back")


def test_a_slow_pace_does_not_outlast_the_broker(broker: Broker, sandbox: LocalRegistry) -> None:
    """Batches are as large as a few seconds: what is registered leaves the queue while the others wait."""
    put(broker, UNAUTHORIZED, *map(journey, range(40)), **REFUSED)  # 16 may go at once, then one a second
    settings = {"REGISTRY_URL": sandbox.url, "REGISTRY_TOKEN": TOKEN, "REGISTRY_RATE_PER_MINUTE": "60"}
    with started(broker, "replay", "--to", "registry", "--yes", **settings) as process:
        wait_until(lambda: broker.depth(UNAUTHORIZED).total <= 25, 30, "some are gone")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130


def test_what_the_registry_has_already_is_gone_too(
    broker: Broker, sandbox: LocalRegistry, straight: Straight
) -> None:
    """A dead letter that lies there twice: registered once, answered 409 once, and both leave the queue."""
    put(broker, UNAUTHORIZED, *map(journey, range(3)), **REFUSED)
    for message in broker.messages(UNAUTHORIZED):
        broker.publish(UNAUTHORIZED, message.body, headers=REFUSED)
    told = only_json(straight("--json").stdout)
    assert told["outcomes"] == {"registered": 3, "already registered": 3}
    assert sandbox.requests_by_status == {201: 3, 409: 3, 200: 3}  # 200: what the 409 hides is asked
    wait_until(lambda: broker.depth(UNAUTHORIZED).total == 0, 10, "they are gone")


def test_trouble_is_in_the_document_too(broker: Broker, straight: Straight) -> None:
    """A refused token: exit 1, the reason on standard error and in the one document."""
    put(broker, UNAUTHORIZED, *map(journey, range(30)), **REFUSED)
    done = straight("--json", token="another")
    assert done.returncode == 1
    trouble = only_json(done.stdout)["trouble"]
    assert "journeys in a row ended as unauthorized" in trouble
    assert done.stderr == f"journey-consumer: {trouble}\n"
    wait_until(lambda: broker.depth(UNAUTHORIZED) == (30, 0), 10, "all are given back")


def test_an_export_takes_the_most_urgent(broker: Broker, tmp_path: Path) -> None:
    """With --limit a person edits what has the least time left, wherever in the queue it lies."""
    ages = enumerate((2, 22, 5, 21, 1))
    put(broker, INVALID, *(journey(each, hours_ago=hours) for each, hours in ages), **BROKEN)
    file = tmp_path / "edit.jsonl"
    assert typed(broker, "edit", "--limit", "2", "--out", str(file)).returncode == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["payload"]["operator_journey_id"] for line in lines] == ["j-1", "j-3"]


def test_another_consumer_is_warned_about(broker: Broker) -> None:
    """What another consumer holds is not seen: the command says so."""
    put(broker, UNAUTHORIZED, *map(journey, range(40)), **REFUSED)
    assert typed(broker, "summary").stderr == ""
    with started(broker, "replay", "--yes", "--rate", "5") as process:
        wait_until(lambda: broker.depth(UNAUTHORIZED).unacked > 0, 20, "it holds them")
        told = typed(broker, "summary")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert told.returncode == 0
    assert f"'{UNAUTHORIZED}' has another consumer" in told.stderr


def test_what_steers_a_terminal_is_not_printed(broker: Broker) -> None:
    """Ids, codes and payloads are the operator's bytes: escape sequences among them stay letters."""
    evil = "\x1b]0;title\x07\x1b[31m\u202e"
    payload = {**journey(1), "operator_journey_id": evil, "note\x9b31m": 1}
    put(broker, INVALID, payload, **{"x-reason": "invalid", "x-detail": evil, "mine\x1b": evil})
    for args in (
        ["summary"],
        ["list"],
        ["show", evil],
        ["show", evil, "--reveal"],
        ["edit", "--pipe", REPAIR],
    ):
        told = typed(broker, *args)
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(told.stdout + told.stderr), args


@pytest.mark.parametrize(
    "args", [["summary"], ["summary", "--json"], ["list", "--json"], ["replay", "--yes"]]
)
def test_a_full_disk_behind_the_output_is_told_in_words(broker: Broker, args: list[str]) -> None:
    """No traceback; what was sent is sent, and the exit code says that not everything went well."""
    put(broker, UNAUTHORIZED, *map(journey, range(3)), **REFUSED)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "consumer", "dead-letters", *args],
            env=environment(broker), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "journey-consumer: the result cannot be written: the disk is full\n"


def test_a_line_without_a_dead_letter_is_reported(broker: Broker, tmp_path: Path) -> None:
    """It was replayed meanwhile, or its key was changed."""
    put(broker, INVALID, broken(1), **BROKEN)
    file = tmp_path / "edit.jsonl"
    file.write_text('{"key": "no such key", "payload": {}}\n')
    told = typed(broker, "edit", "--apply", str(file))
    assert told.returncode == 0
    assert f"1 lines of {file} match no dead letter in the queues" in told.stderr
