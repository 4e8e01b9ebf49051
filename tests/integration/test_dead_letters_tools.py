"""Reading, editing and discarding dead letters on a real broker."""

import hashlib
import json
import random
import stat
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from consumer.broker.connection import ConnectionFactory
from consumer.broker.declare import ensure
from consumer.commands import cli
from consumer.publishing import samples
from tests.broker import Broker
from tests.ledger import TOPOLOGY
from tests.local_registry import TOKEN, LocalRegistry
from tests.waiting import wait_until

QUEUE = TOPOLOGY.queue
INVALID = TOPOLOGY.dead_letter_queue("invalid")
UNAUTHORIZED = TOPOLOGY.dead_letter_queue("unauthorized")
REFUSED = {"x-reason": "unauthorized", "x-detail": "token_refused", "x-status": 401, "x-attempts": 3}
BROKEN = {"x-reason": "invalid", "x-detail": "out_of_range at passenger.seats", "x-attempts": 0}
REJECTED = TOPOLOGY.dead_letter_queue("rejected")
TERMS = {"x-reason": "rejected", "x-detail": "-32422 distance_too_short", "x-status": 422}
PHONE = "+33639981234"


@pytest.fixture
def broker(vhost: Broker, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """A virtual host with our queues, and the environment that names it."""
    connection = ConnectionFactory([vhost.url]).connect("test")
    try:
        ensure(connection, TOPOLOGY, declare=True)
    finally:
        connection.collect()
    for name, value in {
        "BROKER_URL": vhost.url,
        "BROKER_QUEUE": QUEUE,
        "REGISTRY_API_VERSION": "v3",
        "RETRY_DELAYS_SECONDS": "1,2",
    }.items():
        monkeypatch.setenv(name, value)
    return vhost


def journey(number: int, **changes: Any) -> dict[str, Any]:
    """A v3 journey with a known phone."""
    payload = samples.journey("v3", random.Random(number), datetime.now(UTC))
    payload["operator_journey_id"] = f"j-{number}"
    payload["driver"]["identity"]["phone"] = PHONE
    return payload | changes


def broken(number: int) -> dict[str, Any]:
    """A journey with one seat too many."""
    payload = journey(number)
    payload["passenger"]["seats"] = 9
    return payload


def put(broker: Broker, queue: str, *payloads: dict[str, Any], **headers: Any) -> None:
    """Dead letters, with their journey's id as message id."""
    for payload in payloads:
        broker.publish(
            queue, samples.encode(payload), headers=headers, message_id=payload["operator_journey_id"]
        )


def run(*args: str) -> int:
    """Run the command in this process."""
    return cli.main(["dead-letters", *args])


def ids(broker: Broker, queue: str) -> list[str]:
    """The message ids in a queue."""
    return [str(message.properties["message_id"]) for message in broker.messages(queue)]


# --- reading --------------------------------------------------------------------------------


def test_a_summary_groups_and_leaves_everything_as_it_was(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Order and number stay; the broker counts one delivery more, and that is all."""
    put(broker, UNAUTHORIZED, *(journey(number) for number in range(30)), **REFUSED)
    put(broker, INVALID, journey(90, start={"lat": 1}), **BROKEN)
    assert run("summary") == 0
    text = capsys.readouterr().out
    assert "token_refused" in text
    assert "31 dead letters of 'journeys': 30 can be registered, 0 are too late, 1 have no" in text
    assert run("summary", "--json", "--status", "401") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["total"]["count"] == 30
    (group,) = told["groups"]
    assert (group["reason"], group["detail"], group["status"]) == ("unauthorized", "token_refused", 401)
    assert 0 < group["tightest_left_seconds"] < 86_400
    wait_until(lambda: broker.depth(UNAUTHORIZED).ready == 30, 10, "everything is given back")
    messages = broker.messages(UNAUTHORIZED)
    assert [message.properties["message_id"] for message in messages] == [f"j-{each}" for each in range(30)]
    assert {message.delivery_count for message in messages} == {2}  # two summaries
    assert PHONE not in text


def test_a_queue_that_may_drop_messages_is_not_read(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    """RabbitMQ 4 drops after 20 deliveries unless told otherwise; --force looks all the same."""
    broker.delete_queue(INVALID)
    broker.declare(INVALID, arguments={"x-queue-type": "quorum", "x-delivery-limit": 20})
    put(broker, INVALID, journey(1), **BROKEN)
    assert run("summary") == 1
    assert "x-delivery-limit is not ours" in capsys.readouterr().err
    assert broker.messages(INVALID)[0].delivery_count == 0
    assert run("summary", "--force") == 0
    assert "1 dead letters" in capsys.readouterr().out


def test_showing_masks_and_revealing_is_logged(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing of a person on the screen, unless asked for; then who saw what is written down first."""
    put(broker, INVALID, broken(1), broken(2), **BROKEN, mine="Solène")
    assert run("show", "j-1") == 0
    text = capsys.readouterr().out
    assert PHONE not in text
    assert "Solène" not in text
    assert "out_of_range at passenger.seats" in text
    assert run("list", "--json", "--limit", "1") == 0
    assert PHONE not in capsys.readouterr().out
    audit = tmp_path / "audit.jsonl"
    assert run("show", "j-1", "--reveal", "--audit", str(audit)) == 0
    assert PHONE in capsys.readouterr().out
    (line,) = map(json.loads, audit.read_text().splitlines())
    assert (line["event"], line["journey_id"]) == ("dead letter revealed", "j-1")
    assert line["by"]
    assert PHONE not in audit.read_text()
    assert run("show", "j-3") == 1


def test_a_list_is_in_the_order_of_urgency(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """The nearest deadline on top; --limit keeps the top."""
    payloads = [journey(number) for number in range(12)]
    put(broker, UNAUTHORIZED, *payloads, **REFUSED)
    assert run("list", "--json", "--limit", "5") == 0
    shown = [json.loads(line)["journey_id"] for line in capsys.readouterr().out.splitlines()]
    wanted = sorted(payloads, key=lambda payload: str(payload["start"]["datetime"]))
    assert shown == [payload["operator_journey_id"] for payload in wanted][:5]
    assert run("list", "--journey", "j-3") == 0
    assert "1 of 1 dead letters" in capsys.readouterr().out


# --- straight to the Registry ---------------------------------------------------------------


def test_straight_to_the_registry(
    broker: Broker,
    sandbox: LocalRegistry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the Registry has leaves the queue; what it was never sent stays, untouched."""
    monkeypatch.setenv("REGISTRY_URL", sandbox.url)
    monkeypatch.setenv("REGISTRY_TOKEN", TOKEN)
    put(broker, UNAUTHORIZED, journey(1), journey(2), journey(2), broken(3), **REFUSED)
    assert run("replay", "--to", "registry", "--yes", "--json") == 1, "not all of them are registered"
    outcomes = json.loads(capsys.readouterr().out)["outcomes"]
    assert outcomes.pop("invalid") == 1
    assert sum(outcomes.values()) == 3
    assert sorted(sandbox.journeys) == ["j-1", "j-2"]
    wait_until(lambda: broker.depth(UNAUTHORIZED) == (1, 0), 10, "the invalid one is given back")
    assert ids(broker, UNAUTHORIZED) == ["j-3"]
    put(broker, UNAUTHORIZED, journey(4), **REFUSED)
    assert run("replay", "--to", "registry", "--journey", "j-4") == 0


def test_a_refused_token_ends_it_early(
    broker: Broker,
    sandbox: LocalRegistry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No journey is the cause: all stay, and the error says so."""
    monkeypatch.setenv("REGISTRY_URL", sandbox.url)
    monkeypatch.setenv("REGISTRY_TOKEN", "another-token")
    monkeypatch.setenv("REGISTRY_CONCURRENCY", "2")
    put(broker, UNAUTHORIZED, *(journey(number) for number in range(40)), **REFUSED)
    assert run("replay", "--to", "registry", "--yes") == 1
    assert "journeys in a row ended as unauthorized" in capsys.readouterr().err
    wait_until(lambda: broker.depth(UNAUTHORIZED) == (40, 0), 10, "all are given back")


# --- discard --------------------------------------------------------------------------------


def test_discarding_is_written_down(broker: Broker, tmp_path: Path) -> None:
    """An audit line for each, the archive holds all of it, and only then is it gone."""
    put(broker, INVALID, broken(1), broken(2), **BROKEN)
    put(broker, UNAUTHORIZED, journey(3), **REFUSED)
    audit, archive = tmp_path / "audit.jsonl", tmp_path / "archive.jsonl"
    why = "test drive of the new app"
    options = ["--why", why, "--yes", "--audit", str(audit), "--archive", str(archive)]
    assert run("discard", "--reason", "invalid", *options) == 0
    wait_until(lambda: broker.depth(INVALID).total == 0, 10, "they are gone")
    assert ids(broker, UNAUTHORIZED) == ["j-3"]
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(line["journey_id"], line["why"]) for line in lines] == [("j-1", why), ("j-2", why)]
    kept = [json.loads(line) for line in archive.read_text().splitlines()]
    assert [json.loads(line["body"])["operator_journey_id"] for line in kept] == ["j-1", "j-2"]
    assert kept[0]["headers"]["x-detail"] == BROKEN["x-detail"]
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600


def test_discarding_needs_a_filter_a_reason_and_a_yes(
    broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise nothing is touched; nor is it when the archive cannot be written."""
    put(broker, INVALID, broken(1), **BROKEN)
    assert run("discard", "--why", "x", "--yes") == 2
    assert "needs a filter" in capsys.readouterr().err
    assert run("discard", "--reason", "invalid", "--why", " ", "--yes") == 2
    assert run("discard", "--reason", "invalid", "--why", "x") == 2  # no terminal to ask
    missing = tmp_path / "missing" / "archive"
    assert run("discard", "--reason", "invalid", "--why", "x", "--yes", "--archive", str(missing)) == 1
    assert run("discard", "--reason", "invalid", "--why", "x", "--yes", "--archive", "/dev/full") == 1
    wait_until(lambda: broker.depth(INVALID) == (1, 0), 10, "it is still there")


# --- edit -----------------------------------------------------------------------------------


def test_an_edited_file_is_sent_and_the_note_names_the_path(broker: Broker, tmp_path: Path) -> None:
    """Export, edit, apply: what is valid goes back with a note, what is not stays."""
    put(broker, INVALID, broken(1), broken(2), broken(3), **BROKEN)
    file, audit = tmp_path / "edit.jsonl", tmp_path / "audit.jsonl"
    assert run("edit", "--out", str(file)) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["payload"]["passenger"]["seats"] = 2
    lines[1]["payload"]["passenger"]["seats"] = 0
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert broker.depth(INVALID).ready == 3
    assert run("edit", "--apply", str(file), "--dry-run") == 1
    assert run("edit", "--apply", str(file), "--audit", str(audit)) == 1  # one is still invalid
    (sent,) = broker.messages(QUEUE)
    assert json.loads(sent.body) == lines[0]["payload"]
    assert (sent.headers["x-edited"], sent.headers["x-replays"]) == ("passenger.seats", 1)
    assert "x-reason" not in sent.headers
    wait_until(lambda: broker.depth(INVALID) == (2, 0), 10, "the others stay")
    (line,) = map(json.loads, audit.read_text().splitlines())
    assert (line["event"], line["journey_id"], line["changed"]) == (
        "dead letter edited",
        "j-1",
        "passenger.seats",
    )


def test_lines_that_a_limit_left_out_are_not_called_unknown(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With more than is held at once the limit is reached before all is read."""
    put(broker, INVALID, broken(1), broken(2), broken(3), **BROKEN)
    file = tmp_path / "edit.jsonl"
    assert run("edit", "--out", str(file)) == 0
    file.write_text(file.read_text().replace('"seats": 9', '"seats": 2'))
    monkeypatch.setattr("consumer.deadletters.sweep.MOST_HELD", 1)
    capsys.readouterr()
    assert run("edit", "--apply", str(file), "--limit", "1", "--audit", str(tmp_path / "audit")) == 0
    told = capsys.readouterr()
    assert "1  edited and sent" in told.out
    assert "match no dead letter" not in told.err


def test_another_journey_is_not_smuggled_in(broker: Broker) -> None:
    """The id of a journey that the Registry may know must not be given to another one."""
    put(broker, INVALID, broken(1), **BROKEN)
    command = "sed -e 's/\"seats\": 9/\"seats\": 2/' -e 's/j-1/j-9/'"
    assert run("edit", "--pipe", command) == 1
    wait_until(lambda: broker.depth(INVALID) == (1, 0), 10, "it stays")
    assert broker.depth(QUEUE).total == 0


def test_a_command_edits_them_all(broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    """--pipe; a command that fails touches nothing."""
    put(broker, INVALID, *(broken(number) for number in range(20)), **BROKEN)
    assert run("edit", "--pipe", "exit 3") == 1
    assert "the command exited with 3" in capsys.readouterr().err
    wait_until(lambda: broker.depth(INVALID) == (20, 0), 10, "all stay")
    assert run("edit", "--pipe", "echo nonsense") == 1
    assert run("edit", "--pipe", 'sed \'s/"seats": 9/"seats": 3/\'') == 0
    assert "20  edited and sent" in capsys.readouterr().out
    wait_until(lambda: broker.depth(INVALID).total == 0, 10, "they are gone")
    assert {json.loads(message.body)["passenger"]["seats"] for message in broker.messages(QUEUE)} == {3}


# --- what cannot be posted again, and persons -------------------------------------------------


def test_what_is_refused_for_good_is_neither_savable_nor_replayed(
    broker: Broker, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The Registry has stored the id and answers 409 for ever; only who asks for it sends it."""
    put(broker, REJECTED, journey(1), **TERMS)
    put(broker, UNAUTHORIZED, journey(2), **REFUSED)
    assert run("summary", "--json") == 0
    total = json.loads(capsys.readouterr().out)["total"]
    assert (total["savable"], total["refused_for_good"]) == (1, 1)
    assert run("replay", "--yes", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["outcomes"] == {"replayed": 1}
    (skipped,) = result["skipped"]
    assert skipped.startswith("refused for good: the Registry would answer 409")
    assert run("edit", "--pipe", "cat", "--json") == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == {
        "refused for good: the Registry would answer 409": 1
    }
    assert run("edit", "--out", str(tmp_path / "out.jsonl")) == 0
    assert "1 are left out: refused for good" in capsys.readouterr().err
    assert ids(broker, REJECTED) == ["j-1"]
    assert run("replay", "--reason", "rejected", "--unchanged") == 0
    assert ids(broker, QUEUE) == ["j-2", "j-1"]


def test_a_person_is_found_and_erased_without_being_shown(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the hash of the phone in E.164, of a driver or a passenger; audit lines do not hold it either."""
    other = journey(2)
    other["driver"]["identity"]["phone"] = "+33639980000"
    third = journey(3)
    third["driver"], third["passenger"]["identity"]["phone"] = other["driver"], PHONE
    put(broker, INVALID, journey(1), other, third, **BROKEN)
    person = hashlib.sha256(PHONE.encode()).hexdigest()
    assert run("list", "--person", person, "--json") == 0
    told = capsys.readouterr().out
    assert {json.loads(line)["journey_id"] for line in told.splitlines()} == {"j-1", "j-3"}
    assert PHONE not in told
    assert run("discard", "--person", person, "--why", "erasure request", "--yes") == 0
    assert ids(broker, INVALID) == ["j-2"]
    audit = Path("dead-letters-audit.jsonl").read_text()
    assert len(audit.splitlines()) == 2
    assert PHONE not in audit
    assert person not in audit
