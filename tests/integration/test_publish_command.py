"""``journey-consumer publish`` against a real broker: what the queue holds afterwards, what is printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from consumer.commands import cli
from tests.broker import Broker
from tests.sqs import SqsServer
from tests.waiting import wait_until

QUEUE = "try.journeys"


def publish(broker: Broker, *args: str) -> int:
    """Run the command in this process; returns its exit code."""
    return cli.main(["publish", "--broker-url", broker.url, *args])


def test_every_line_arrives_unchanged(
    vhost: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines arrive byte for byte and in order, persistent, as JSON, named by their journey; blanks do not."""
    lines = [
        b'{"journey_id": "j-1", "x": "\xc3\xa9"}',
        b'{"operator_journey_id":"op","journey_id":"j-2"}',
        b"  not json \xff\xfe",
        b'{"data": {"operator_journey_id": "op-3"}}',
    ]
    file = tmp_path / "lines"
    file.write_bytes(lines[0] + b"\n\n" + b"\n".join(lines[1:]))
    vhost.declare(QUEUE)
    assert publish(vhost, "--queue", QUEUE, "--raw", str(file)) == 0
    seen = vhost.messages(QUEUE)
    assert [message.body for message in seen] == lines
    ids = [message.properties["message_id"] for message in seen]
    assert ids[0:2] == ["j-1", "j-2"]
    assert ids[3] == "op-3"
    assert len(ids[2]) == 36
    assert {message.properties["delivery_mode"] for message in seen} == {2}
    assert {message.properties["content_type"] for message in seen} == {"application/json"}
    assert capsys.readouterr().out.startswith("4 confirmed")


def test_standard_input_through_a_pipe(vhost: Broker) -> None:
    """`-` reads a pipe; without a terminal the result is one plain line."""
    vhost.declare(QUEUE)
    lines = b"".join(b'{"journey_id":"j-%d"}\n' % number for number in range(5000))
    done = subprocess.run(
        [sys.executable, "-m", "consumer", "publish", "--queue", QUEUE, "-"],
        input=lines,
        capture_output=True,
        env=os.environ | {"BROKER_URL": vhost.url},
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().startswith(f"5000 confirmed, published to the queue '{QUEUE}'")
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""
    assert vhost.depth(QUEUE).ready == 5000


def test_a_missing_queue_is_named(vhost: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A queue that does not exist is an error with its name; nothing is declared."""
    file = tmp_path / "lines"
    file.write_bytes(b"{}\n")
    assert publish(vhost, "--queue", "no.such.queue", str(file)) == 1
    assert "the queue 'no.such.queue' does not exist" in capsys.readouterr().err
    assert vhost.queue_depths() == {}


def test_an_exchange_without_binding_fails(
    vhost: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that no queue receives is not counted as published: exit 1, and which line it was."""
    file = tmp_path / "lines"
    file.write_bytes(b"{}\n{}\n")
    args = ("--exchange", "amq.direct", "--routing-key", "nowhere", str(file))
    assert publish(vhost, *args) == 1
    output = capsys.readouterr()
    assert "line 1 did not reach the exchange 'amq.direct'" in output.err
    assert "no queue receives" in output.err
    assert "confirmed" not in output.out


def test_an_exchange_that_routes(vhost: Broker, tmp_path: Path) -> None:
    """With --exchange and --routing-key lines go where the operator's own would go."""
    vhost.declare(QUEUE)
    with vhost.channel() as channel:
        channel.queue_bind(QUEUE, "amq.topic", "journey.#")
    file = tmp_path / "lines"
    file.write_bytes(b"{}\n")
    assert publish(vhost, "--exchange", "amq.topic", "--routing-key", "journey.done", str(file)) == 0
    (seen,) = vhost.messages(QUEUE)
    assert (seen.exchange, seen.routing_key) == ("amq.topic", "journey.done")


def test_a_full_queue_fails(vhost: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A publish that the broker refuses ends the command with exit 1."""
    vhost.declare(QUEUE, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    file = tmp_path / "lines"
    file.write_bytes(b"{}\n" * 200)
    assert publish(vhost, "--queue", QUEUE, str(file)) == 1
    assert "the queue may be full" in capsys.readouterr().err


def test_the_second_broker_serves_when_the_first_is_down(vhost: Broker, tmp_path: Path) -> None:
    """Of several addresses the first that answers is used."""
    vhost.declare(QUEUE)
    file = tmp_path / "lines"
    file.write_bytes(b"{}\n")
    urls = f"amqp://guest:guest@127.0.0.1:1/x;{vhost.url}"
    assert cli.main(["publish", "--broker-url", urls, "--queue", QUEUE, str(file)]) == 0
    assert vhost.depth(QUEUE).ready == 1


def test_an_unreachable_broker_is_named_without_its_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No broker: exit 1 in one line that shows the address and not the password."""
    file = tmp_path / "lines"
    file.write_bytes(b"{}\n")
    url = "amqp://somebody:hunter2@127.0.0.1:1/x"
    assert cli.main(["publish", "--broker-url", url, "--queue", QUEUE, str(file)]) == 1
    output = capsys.readouterr().err
    assert "amqp://127.0.0.1:1/x: connection refused: no server listens on this address and port" in output
    assert "hunter2" not in output
    assert output.count("\n") == 1


def test_generated_journeys_are_published(vhost: Broker) -> None:
    """--generate needs no file: invented journeys of the wanted version arrive."""
    vhost.declare(QUEUE)
    assert publish(vhost, "--queue", QUEUE, "--generate", "25", "--api-version", "v3") == 0
    seen = vhost.messages(QUEUE)
    assert len({json.loads(message.body)["operator_journey_id"] for message in seen}) == 25
    assert [json.loads(m.body)["operator_journey_id"] for m in seen] == [
        m.properties["message_id"] for m in seen
    ]


def test_publish_to_sqs(sqs: SqsServer, tmp_path: Path) -> None:
    """The lines wait in the queue, in kombu's envelope; no other queue is created."""
    (tmp_path / "lines").write_bytes(b'{"journey_id":"j-1"}\n{"journey_id":"j-2"}\n')
    queue = "published.journeys"
    assert cli.main(["publish", "--broker-url", sqs.url, "--queue", queue, str(tmp_path / "lines")]) == 0
    assert len(sqs.client.list_queues(QueueNamePrefix="published")["QueueUrls"]) == 1
    waiting = [json.loads(body) for body in sqs.take(queue)]
    assert {message["properties"]["message_id"] for message in waiting} == {"j-1", "j-2"}


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], "either FILE"),
        (["--generate", "1", "file"], "either FILE"),
        (["--routing-key", "k", "-"], "--routing-key needs --exchange"),
        (["no-such-file"], "FILE cannot be read"),
        (["--broker-url", "nonsense", "-"], "BROKER_URL must be"),
        (["--broker-url", "memory://", "--generate", "1"], "no other process"),
    ],
)
def test_unusable_arguments_are_refused(
    args: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unusable arguments end with exit 2 and a sentence, before anything is published."""
    assert cli.main(["publish", *args]) == 2
    assert complaint in capsys.readouterr().err


def test_lines_longer_than_a_piece_of_the_file(vhost: Broker, tmp_path: Path) -> None:
    """A line that is read in several pieces arrives whole."""
    vhost.declare(QUEUE)
    file = tmp_path / "lines"
    big = b'{"x":"' + b"a" * 700_000 + b'"}'
    file.write_bytes(b"\n".join([big, b"{}", big]) + b"\n")
    assert publish(vhost, "--queue", QUEUE, str(file)) == 0
    assert [len(message.body) for message in vhost.messages(QUEUE)] == [len(big), 2, len(big)]


def test_lines_are_published_as_they_arrive(vhost: Broker) -> None:
    """A pipe that stays open does not hold back the lines that came through it."""
    vhost.declare(QUEUE)
    process = subprocess.Popen(
        [sys.executable, "-m", "consumer", "publish", "--queue", QUEUE, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"BROKER_URL": vhost.url},
    )
    with process:
        assert process.stdin is not None
        process.stdin.write(b"{}\n")
        process.stdin.flush()
        wait_until(lambda: vhost.depth(QUEUE).ready == 1, 20, "the first line arrives")
        assert process.poll() is None
        process.stdin.close()
        assert process.wait(20) == 0


def test_a_document_over_many_lines_is_one_message(vhost: Broker, tmp_path: Path) -> None:
    """And an array is one message for each element."""
    vhost.declare(QUEUE)
    file = tmp_path / "document"
    file.write_text('{\n  "journey_id": "j-1"\n}\n')
    assert publish(vhost, "--queue", QUEUE, str(file)) == 0
    file.write_text('[{"journey_id": "j-2"},\n {"journey_id": "j-3"}]\n')
    assert publish(vhost, "--queue", QUEUE, str(file)) == 0
    ids = [message.properties["message_id"] for message in vhost.messages(QUEUE)]
    assert ids == ["j-1", "j-2", "j-3"]


def test_what_is_no_object_is_refused_by_its_line(
    vhost: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What comes before it is confirmed; nothing from it on is published."""
    vhost.declare(QUEUE)
    file = tmp_path / "lines"
    file.write_bytes(b"{}\n{}\nnot json\n{}\n")
    assert publish(vhost, "--queue", QUEUE, str(file)) == 1
    assert "line 3 is not a JSON object" in capsys.readouterr().err
    assert vhost.depth(QUEUE).ready == 2
