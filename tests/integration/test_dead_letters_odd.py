"""Unusual dead letters (headers, copies, compressed bodies) and unusual ways to run the commands."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from consumer.publishing import samples
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
    put,
    started,
    typed,
)
from tests.waiting import wait_until

PERSON = "+33639981234"


# --- what is shown --------------------------------------------------------------------------


def test_a_person_in_any_header_or_field_is_masked(broker: Broker) -> None:
    """Under our names, the broker's and unknown ones, and under harmless keys of the payload."""
    payload = {
        **journey(1),
        "distance": PERSON,
        "operator_class": "Solène",
        "start": {"datetime": f"{PERSON} Solène"},
        "incentives": [{"amount": 33639981234, "siret": "Solène", "index": PERSON}],
    }
    headers: dict[str, Any] = dict.fromkeys(
        (
            "x-phone",
            "x-detail",
            "x-original-routing-key",
            "x-edited",
            "x-consumer-version",
            "x-visits",
            "x-a",
        ),
        PERSON,
    )
    headers |= {"x-solène": 1, "x-death": [{"queue": PERSON, "count": 33639981234, PERSON: "Solène"}]}
    broker.publish(INVALID, samples.encode(payload), headers=headers, content_type="text/Solène")
    for args in (["summary"], ["summary", "--json"], ["list"], ["list", "--json"], ["show", "j-1"]):
        told = typed(broker, *args)
        assert told.returncode == 0, told.stderr
        assert not [each for each in ("39981234", "Sol", "sol", "\\u00e8") if each in told.stdout], args
    revealed = typed(broker, "show", "j-1", "--reveal", "--json")
    assert json.loads(revealed.stdout)["headers"]["x-phone"] == PERSON


def test_what_is_nested_without_end_ends_no_command(broker: Broker) -> None:
    """JSON deeper than Python can follow is shown as what it is to a person: no payload."""
    deep = b'{"operator_journey_id": "deep", "x": ' + b"[" * 900 + b"]" * 900 + b"}"
    broker.publish(INVALID, deep, headers=BROKEN, message_id="m-deep")
    put(broker, INVALID, broken(1), **BROKEN)
    for args in (["list", "--json"], ["list", "--json", "--reveal"], ["show", "m-deep"], ["summary"]):
        told = typed(broker, *args)
        assert told.returncode == 0, told.stderr
    told = typed(broker, "edit", "--pipe", REPAIR)
    assert told.returncode == 0, told.stderr
    assert "1  edited and sent" in told.stdout
    assert [message.body for message in broker.messages(INVALID)] == [deep]


def test_where_it_lies_is_its_reason(broker: Broker) -> None:
    """What was moved to another queue by hand is found there by that queue's name."""
    put(broker, UNAUTHORIZED, journey(1), **BROKEN)
    assert json.loads(typed(broker, "summary", "--json").stdout)["groups"][0]["reason"] == "unauthorized"
    assert typed(broker, "replay", "--reason", "unauthorized").returncode == 0
    assert ids(broker, QUEUE) == ["j-1"]


def test_headers_that_fill_a_frame_stop_no_replay(broker: Broker) -> None:
    """With a count of replays they are more than a frame: that one goes without, all others as they are."""
    broker.publish(UNAUTHORIZED, samples.encode(journey(0)), headers={"big": "x" * 131_000})
    put(broker, UNAUTHORIZED, *map(journey, range(1, 50)), **REFUSED, mine="kept")
    told = typed(broker, "replay", "--reason", "unauthorized")
    assert told.returncode == 0, told.stderr
    messages = broker.messages(QUEUE)
    assert sorted(json.loads(each.body)["operator_journey_id"] for each in messages) == sorted(
        f"j-{number}" for number in range(50)
    )
    assert all(each.headers["x-replays"] == 1 for each in messages)
    assert sum(each.headers.get("mine") == "kept" for each in messages) == 49


# --- editing --------------------------------------------------------------------------------


def test_nothing_is_sent_that_can_not_be_written_down(broker: Broker) -> None:
    """A full disk behind the audit trail is found before the first edited copy goes out."""
    put(broker, INVALID, broken(1), broken(2), **BROKEN)
    for _ in range(2):
        told = typed(broker, "edit", "--pipe", REPAIR, "--audit", "/dev/full")
        assert told.returncode == 1
        assert "/dev/full cannot be written" in told.stderr
    assert broker.depth(QUEUE).total == 0
    assert ids(broker, INVALID) == ["j-1", "j-2"]


def test_an_edit_that_was_not_confirmed_is_told_in_the_audit(broker: Broker, tmp_path: Path) -> None:
    """The main queue takes one and refuses the other: each stays where its last audit line says."""
    broker.delete_queue(QUEUE)
    broker.declare(
        QUEUE, arguments={"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"}
    )
    put(broker, INVALID, broken(1), broken(2), **BROKEN)
    audit = tmp_path / "audit.jsonl"
    told = typed(broker, "edit", "--pipe", REPAIR, "--audit", str(audit))
    assert told.returncode == 1
    last = {line["journey_id"]: line["event"] for line in map(json.loads, audit.read_text().splitlines())}
    (sent,), (stayed,) = ids(broker, QUEUE), ids(broker, INVALID)
    assert last == {sent: "dead letter edited", stayed: "dead letter edit not confirmed"}


def test_an_edited_body_is_not_said_to_be_packed(broker: Broker) -> None:
    """What came compressed is edited as plain JSON, and must not be taken for compressed again."""
    headers = {**BROKEN, "x-detail": "compressed", "compression": "application/x-gzip"}
    broker.publish(INVALID, b"\x1f\x8b", headers=headers, message_id="m-1", content_encoding="gzip")
    line = json.dumps(
        {"key": json.loads(typed(broker, "list", "--json").stdout)["key"], "payload": journey(1)}
    )
    told = typed(broker, "edit", "--pipe", f"cat > /dev/null; echo '{line}'")
    assert told.returncode == 0, told.stdout + told.stderr
    (message,) = broker.messages(QUEUE)
    assert "compression" not in message.headers
    assert "content_encoding" not in message.properties
    assert json.loads(message.body)["operator_journey_id"] == "j-1"


def test_twins_are_edited_by_one_line(broker: Broker, tmp_path: Path) -> None:
    """The same message twice has one line in the file, and both copies are edited by it."""
    payload = broken(1)
    put(broker, INVALID, payload, broken(2), **BROKEN)
    put(broker, INVALID, payload, **BROKEN)
    file = tmp_path / "edit.jsonl"
    assert typed(broker, "edit", "--out", str(file)).returncode == 0
    text = file.read_text()
    assert len(text.splitlines()) == 2
    file.write_text(text.replace('"seats": 9', '"seats": 2'))
    told = typed(broker, "edit", "--apply", str(file))
    assert "3  edited and sent" in told.stdout
    assert ids(broker, INVALID) == []
    assert sorted(ids(broker, QUEUE)) == ["j-1", "j-1", "j-2"]


def test_a_line_that_contradicts_another_sends_nothing(broker: Broker, tmp_path: Path) -> None:
    """It is unknown which of the two was meant; the message names both places."""
    put(broker, INVALID, broken(1), **BROKEN)
    file = tmp_path / "edit.jsonl"
    assert typed(broker, "edit", "--out", str(file)).returncode == 0
    line = file.read_text()
    file.write_text(line + line.replace('"seats": 9', '"seats": 2'))
    told = typed(broker, "edit", "--apply", str(file))
    assert told.returncode == 1
    assert told.stderr.strip().endswith(
        f"{file} at byte {len(line.encode())} and at byte 0 edit one dead letter in two ways"
    )
    assert ids(broker, INVALID) == ["j-1"]
    twice = 'tee /dev/stderr | sed \'s/"seats": 9/"seats": 2/; p; s/"seats": 2/"seats": 1/\''
    told = typed(broker, "edit", "--pipe", twice)
    assert told.returncode == 1
    assert "line 2 of the command's output edits one dead letter in a second way" in told.stderr
    assert ids(broker, INVALID) == ["j-1"]


def test_a_stray_id_of_the_other_version_can_be_taken_out(broker: Broker) -> None:
    """It is what made the payload invalid; the journey stays the same without it."""
    broker.publish(INVALID, samples.encode({**journey(1), "journey_id": "stray"}), headers=BROKEN)
    assert "j-1" in typed(broker, "list").stdout
    told = typed(broker, "edit", "--pipe", 'sed -E \'s/, "journey_id": "stray"//\'')
    assert told.returncode == 0, told.stdout + told.stderr
    assert ids(broker, QUEUE) == ["j-1"]


def test_a_command_that_writes_without_end_is_ended(broker: Broker) -> None:
    """It is told, nothing is sent, and nothing of it goes on."""
    put(broker, INVALID, broken(1), **BROKEN)
    told = typed(broker, "edit", "--pipe", "yes '{}'")
    assert told.returncode == 1
    assert "the command wrote more than" in told.stderr
    assert ids(broker, INVALID) == ["j-1"]


def test_a_key_that_was_not_given_is_an_error(broker: Broker) -> None:
    """A command that changes keys would otherwise leave everything as it is, without a word."""
    put(broker, INVALID, broken(1), **BROKEN)
    told = typed(broker, "edit", "--pipe", """sed 's/"key": "./"key": "zz/'""")
    assert told.returncode == 1
    assert "line 1 of the command's output has a key that was not in its input" in told.stderr


def test_a_child_that_left_the_session_of_a_pipe_is_not_waited_for(broker: Broker) -> None:
    """A child that holds the output open for long does not delay the second interrupt."""
    put(broker, INVALID, broken(1), **BROKEN)
    with started(broker, "edit", "--pipe", "(setsid sleep 30 &); sleep 31") as process:
        shell = psutil.Process(process.pid)
        wait_until(lambda: len(shell.children(recursive=True)) >= 2, 20, "the pipe runs")
        began = time.monotonic()
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert process.wait(20) == 130  # its output stays open: the child has it, too
        assert time.monotonic() - began < 15


def test_an_interrupt_ends_every_process_of_a_pipe(broker: Broker) -> None:
    """The first SIGINT lets the command finish its batch, the second one kills all of it, not one shell."""
    put(broker, INVALID, broken(1), **BROKEN)
    with started(broker, "edit", "--pipe", "(cat; exec sleep 300) | (cat; sleep 300)") as process:
        children = list[psutil.Process]()

        def has_two() -> bool:
            children[:] = psutil.Process(process.pid).children(recursive=True)
            return [child.name() for child in children].count("sleep") >= 1 and len(children) >= 3

        wait_until(has_two, 20, "the pipe runs")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "stopping after this batch" in process.stderr.readline()
        assert all(child.is_running() for child in children)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 130
    wait_until(lambda: not any(map(_runs, children)), 10, "none is left")
    assert ids(broker, INVALID) == ["j-1"]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- where output goes ----------------------------------------------------------------------


def _shell(broker: Broker, line: str) -> "subprocess.CompletedProcess[str]":
    """Run a line of shell in which ``DL`` is the command."""
    return subprocess.run(
        ["bash", "-c", f'DL() {{ {sys.executable} -m consumer dead-letters "$@"; }}; {line}'],
        env=environment(broker),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_reader_that_leaves_is_no_traceback(broker: Broker) -> None:
    """``list --json | head -1`` is a usual thing to type."""
    put(broker, UNAUTHORIZED, *map(journey, range(200)), **REFUSED)
    told = _shell(broker, "DL list --json --limit 200 | head -1")
    assert len(told.stdout.splitlines()) == 1
    assert told.stderr == ""


def test_closed_streams_take_nothing_with_them(broker: Broker, tmp_path: Path) -> None:
    """Without a place for the audit lines nothing goes; with one the result may go nowhere."""
    put(broker, INVALID, broken(1), **BROKEN)
    told = _shell(broker, "DL discard --reason invalid --why test --yes --audit - >&-")
    assert told.returncode == 1
    assert told.stderr == "journey-consumer: the audit lines need --audit FILE when the output is closed\n"
    assert _shell(broker, "DL show j-1 --reveal --audit - 2>&-").stdout == ""
    assert ids(broker, INVALID) == ["j-1"]
    audit = tmp_path / "audit.jsonl"
    told = _shell(broker, f"DL discard --reason invalid --why test --yes --audit {audit} <&- >&- 2>&-")
    assert told.returncode == 0
    assert len(audit.read_text().splitlines()) == 1
    assert ids(broker, INVALID) == []


def test_a_pipe_without_a_reader_is_an_error(broker: Broker, tmp_path: Path) -> None:
    """Opening it would wait without end, deaf to signals."""
    put(broker, INVALID, broken(1), **BROKEN)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    told = typed(broker, "discard", "--reason", "invalid", "--why", "x", "--yes", "--audit", str(fifo))
    assert told.returncode == 1
    assert f"{fifo} cannot be written" in told.stderr
    assert ids(broker, INVALID) == ["j-1"]


def test_an_audit_trail_without_a_disk_is_one(broker: Broker) -> None:
    """A terminal or a pipe takes the lines; they are not said to have failed after they were written."""
    put(broker, INVALID, broken(1), **BROKEN)
    told = typed(broker, "discard", "--reason", "invalid", "--why", "x", "--yes", "--audit", "/dev/stderr")
    assert told.returncode == 0
    assert json.loads(told.stderr)["event"] == "dead letter discarded"
    assert ids(broker, INVALID) == []


def test_letters_that_a_terminal_has_not_are_no_traceback(broker: Broker) -> None:
    """Ids are the operator's; the output may be of another encoding."""
    put(broker, INVALID, {**broken(1), "operator_journey_id": "é漢字"}, **BROKEN)
    for args in (["list"], ["show", "é漢字"], ["summary"]):
        told = typed(broker, *args, PYTHONIOENCODING="ascii")
        assert told.returncode == 0, told.stderr


def test_a_long_id_is_found(broker: Broker) -> None:
    """Records hold its beginning; asked for whole it is the same."""
    long = "j" * 300
    put(broker, INVALID, {**broken(1), "operator_journey_id": long}, **BROKEN)
    assert typed(broker, "show", long).returncode == 0
    assert "1 dead letters" in typed(broker, "summary", "--journey", long).stdout


def test_an_archive_that_others_may_read_is_not_added_to(broker: Broker, tmp_path: Path) -> None:
    """It holds persons; whoever made it said otherwise."""
    put(broker, INVALID, broken(1), **BROKEN)
    archive = tmp_path / "archive.jsonl"
    archive.touch(0o644)
    args = ["discard", "--reason", "invalid", "--why", "test", "--yes", "--audit", str(tmp_path / "audit")]
    told = typed(broker, *args, "--archive", str(archive))
    assert told.returncode == 1
    assert "can be read by other users: chmod 600 it first" in told.stderr
    assert ids(broker, INVALID) == ["j-1"]
    archive.chmod(0o600)
    assert typed(broker, *args, "--archive", str(archive)).returncode == 0
    assert len(archive.read_text().splitlines()) == 1
