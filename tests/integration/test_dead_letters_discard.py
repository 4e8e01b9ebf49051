"""``dead-letters discard``: what a person must type, and what is written down before anything is gone."""

import base64
import contextlib
import json
import resource
import signal
import stat
import subprocess
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import amqp
import pytest

from tests.broker import Broker
from tests.deadletters import (
    BROKEN,
    INVALID,
    Terminal,
    broken,
    command,
    environment,
    ids,
    on_terminal,
    only_json,
    put,
    typed,
)
from tests.waiting import wait_until

WHY = "test drive of the new app"
DISCARD = ["discard", "--reason", "invalid", "--why", WHY]
END_OF_FILE = "\x04"


@pytest.fixture
def broker(broker: Broker) -> Broker:
    """With three invalid dead letters."""
    put(broker, INVALID, *map(broken, range(3)), **BROKEN)
    return broker


def await_untouched(broker: Broker, count: int = 3) -> None:
    """All are where they were."""
    wait_until(lambda: broker.depth(INVALID) == (count, 0), 10, "all are given back")


# --- what a person types ----------------------------------------------------------------------


@contextlib.contextmanager
def asked(broker: Broker, *args: str) -> Iterator[Terminal]:
    """A terminal on which the question has been asked."""
    with on_terminal(broker, *args) as terminal:
        terminal.read_until("dead letters will be removed. Type ")
        terminal.read_until(" to continue: ")
        yield terminal


def test_the_right_number_discards(broker: Broker) -> None:
    """How many there are is asked for, and typed; then they are gone."""
    with asked(broker, *DISCARD) as terminal:
        assert "3 dead letters will be removed. Type 3 to continue: " in terminal.shown
        terminal.type("3\n")
        terminal.read_until("3  discarded")
        assert terminal.process.wait(20) == 0
    wait_until(lambda: broker.depth(INVALID).total == 0, 10, "they are gone")


@pytest.mark.parametrize("keys", ["2\n", "\n", "y\n", "33\n", END_OF_FILE])
def test_anything_else_discards_nothing(broker: Broker, keys: str) -> None:
    """A wrong number, nothing, a yes, the end of the input: exit 1, and all are still there."""
    with asked(broker, *DISCARD) as terminal:
        terminal.type(keys)
        terminal.read_until("nothing was done")
        assert terminal.process.wait(20) == 1
    await_untouched(broker)


def test_an_interrupt_at_the_question_discards_nothing(broker: Broker) -> None:
    """SIGINT: exit 130."""
    with asked(broker, *DISCARD) as terminal:
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(20) == 130
    await_untouched(broker)


def test_a_limit_is_what_is_asked_about(broker: Broker) -> None:
    """With --limit the number to type is that one, and so many are discarded."""
    with asked(broker, *DISCARD, "--limit", "2") as terminal:
        terminal.type("2\n")
        assert terminal.process.wait(20) == 0
    await_untouched(broker, 1)


def test_what_came_after_the_question_stays(broker: Broker) -> None:
    """No confirmation covers a dead letter that was not there, also when it does not tell when it died."""
    with asked(broker, *DISCARD) as terminal:
        put(broker, INVALID, broken(9), **BROKEN)
        terminal.type("3\n")
        assert terminal.process.wait(20) == 0
    await_untouched(broker, 1)
    assert ids(broker, INVALID) == ["j-9"]


def test_without_a_terminal_it_must_be_said(broker: Broker) -> None:
    """Standard input is no terminal: without --yes it is refused as a wrong usage."""
    done = typed(broker, *DISCARD)
    assert done.returncode == 2
    assert "--yes is needed" in done.stderr
    await_untouched(broker)


# --- what is written down ---------------------------------------------------------------------


def test_the_archive_is_enough_to_publish_it_again(broker: Broker, tmp_path: Path) -> None:
    """Body, properties and headers of any kind: published from its line, it is the same message."""
    broker.purge(INVALID)
    headers = {
        **BROKEN,
        "number": 2**40,
        "yes": True,
        "nothing": None,
        "share": 0.5,
        "price": Decimal("12.50"),
        "when": datetime(2026, 11, 23, 10, 20, 30),  # noqa: DTZ001 as py-amqp gives them
        "bytes": b"\xff\xfe",
        "list": [1, "two", {"three": b"\x80"}],
        "x-death": [{"queue": "operator", "time": datetime(2026, 11, 22, 1, 2, 3)}],  # noqa: DTZ001
        "text": "Solène \u2028 \U0001f697",
    }
    properties: dict[str, Any] = {
        "content_type": "application/octet-stream",
        "content_encoding": "none",
        "delivery_mode": 2,
        "priority": 7,
        "correlation_id": "c-1",
        "reply_to": "answers",
        "expiration": "86400000",
        "message_id": "m-1",
        "timestamp": 1_795_000_000,
        "type": "journey",
        "app_id": "operator",
    }
    broker.publish(INVALID, b'{"a": 1}', b"\xff\x00 no text", headers=headers, **properties)
    before = broker.messages(INVALID)
    audit, archive = tmp_path / "audit.jsonl", tmp_path / "archive.jsonl"
    done = typed(broker, *DISCARD, "--yes", "--audit", str(audit), "--archive", str(archive))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 dead letters, 2 selected\n  2  discarded\n")
    wait_until(lambda: broker.depth(INVALID).total == 0, 10, "they are gone")
    for file in (audit, archive):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for line in archive.read_text().splitlines():
        publish_from(broker, only_json(line))
    after = broker.messages(INVALID)
    assert [(each.body, each.headers, each.properties) for each in after] == [
        (each.body, each.headers, each.properties) for each in before
    ]


def publish_from(broker: Broker, line: dict[str, Any]) -> None:
    """Publish what an archive line tells of, by nothing but that line."""
    body = line["body"].encode() if "body" in line else base64.b64decode(line["body_base64"])
    message = amqp.Message(
        body, application_headers=untagged(line["headers"]), **untagged(line["properties"])
    )
    with broker.channel() as channel:
        channel.confirm_select()
        channel.basic_publish_confirm(message, "", INVALID, mandatory=True)


def untagged(value: Any) -> Any:
    """Undo how the archive writes what JSON has no word for."""
    match value:
        case {"$bytes": str(text)}:
            return base64.b64decode(text)
        case {"$time": str(text)}:
            return datetime.fromisoformat(text).replace(tzinfo=None)
        case {"$decimal": str(text)}:
            return Decimal(text)
        case dict():
            return {key: untagged(each) for key, each in value.items()}
        case list():
            return [untagged(each) for each in value]
    return value


def test_the_audit_tells_who_what_and_why(broker: Broker, tmp_path: Path) -> None:
    """One line for each, in the order of the queue's letters; no value of a payload; the archive is noted."""
    audit, archive = tmp_path / "audit.jsonl", tmp_path / "archive.jsonl"
    options = ["--yes", "--audit", str(audit), "--archive", str(archive), "--json"]
    done = typed(broker, *DISCARD, *options)
    assert only_json(done.stdout)["outcomes"] == {"discarded": 3}
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert sorted(line["journey_id"] for line in lines) == ["j-0", "j-1", "j-2"]
    kept = [json.loads(line)["key"] for line in archive.read_text().splitlines()]
    assert [line["key"] for line in lines] == kept
    for line in lines:
        assert (line["event"], line["why"], line["archived"]) == ("dead letter discarded", WHY, True)
        assert (line["reason"], line["detail"]) == ("invalid", "out_of_range at passenger.seats")
        assert line["by"]
        assert datetime.fromisoformat(line["ts"]) < datetime.fromisoformat(line["deadline"])
    assert "+33" not in audit.read_text()


def test_printed_audit_lines_have_standard_output(broker: Broker) -> None:
    """Audit lines alone; how it went is told on standard error. A dry run has no audit lines."""
    dry = typed(broker, *DISCARD, "--dry-run", "--json")
    assert only_json(dry.stdout)["selected"] == 3
    assert not Path("dead-letters-audit.jsonl").exists()
    done = typed(broker, *DISCARD, "--yes", "--json", "--audit", "-")
    assert [only_json(line)["why"] for line in done.stdout.splitlines()] == [WHY] * 3
    assert only_json(done.stderr)["outcomes"] == {"discarded": 3}


def test_audit_lines_have_a_file_by_default(broker: Broker) -> None:
    """In the current directory, appended to; the result has standard output for itself."""
    for journey_id in ("j-0", "j-1"):
        done = typed(broker, *DISCARD, "--journey", journey_id, "--yes", "--json")
        assert only_json(done.stdout)["outcomes"] == {"discarded": 1}
    lines = map(only_json, Path("dead-letters-audit.jsonl").read_text().splitlines())
    assert [line["journey_id"] for line in lines] == ["j-0", "j-1"]


def test_where_the_default_file_cannot_be_it_says_what_to_do(broker: Broker) -> None:
    """As in a pod, whose file system is read-only; nothing is discarded."""
    Path("dead-letters-audit.jsonl").mkdir()
    done = typed(broker, *DISCARD, "--yes")
    assert done.returncode == 1
    assert "dead-letters-audit.jsonl cannot be written: " in done.stderr
    assert done.stderr.endswith("--audit names another file, or - to print the lines\n")
    await_untouched(broker)


@pytest.mark.parametrize("option", ["--archive", "--audit"])
@pytest.mark.parametrize("file", ["/dev/full", "{missing}/file"])
def test_what_can_not_be_written_down_stays(broker: Broker, tmp_path: Path, option: str, file: str) -> None:
    """A full disk, a directory that is not there: nothing is discarded, and the error says which file."""
    file = file.format(missing=tmp_path / "missing")
    other = {"--archive": "--audit", "--audit": "--archive"}[option]
    done = typed(broker, *DISCARD, "--yes", option, file, other, str(tmp_path / "other"))
    assert done.returncode == 1
    assert f"journey-consumer: {file} cannot be written: " in done.stderr
    assert "Traceback" not in done.stderr
    await_untouched(broker)


def test_a_full_standard_output_discards_nothing(broker: Broker) -> None:
    """The same where the audit lines go without a file."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command(*DISCARD, "--yes", "--audit", "-"),
            env=environment(broker),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "journey-consumer: the audit lines cannot be written: No space left on device\n"
    await_untouched(broker)


def test_a_disk_that_fills_up_spoils_no_later_line(broker: Broker, tmp_path: Path) -> None:
    """What was torn off stays one bad line: run again, each line that follows can be read."""
    archive = tmp_path / "archive.jsonl"
    options = ["--yes", "--archive", str(archive), "--audit", str(tmp_path / "audit.jsonl")]
    done = subprocess.run(
        command(*DISCARD, *options),
        env=environment(broker),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000)),
    )
    assert done.returncode == 1
    assert str(archive) in done.stderr
    await_untouched(broker)
    assert archive.stat().st_size == 1_000
    assert typed(broker, *DISCARD, *options).returncode == 0
    whole = [json.loads(line) for line in archive.read_text().splitlines()[-3:]]
    assert {json.loads(line["body"])["operator_journey_id"] for line in whole} == {"j-0", "j-1", "j-2"}
