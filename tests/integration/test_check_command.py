"""``journey-consumer check`` against a real broker and a Registry: its findings; nothing is changed."""

import contextlib
import os
import random
import re
import shlex
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme

from consumer.broker.connection import ConnectionFactory
from consumer.broker.declare import ensure
from consumer.commands import cli
from consumer.core.topology import Topology
from consumer.publishing import samples
from tests.broker import Broker
from tests.integration.conftest import Run
from tests.local_registry import TOKEN as KNOWN_TOKEN
from tests.local_registry import LocalRegistry
from tests.sqs import SqsServer
from tests.waiting import wait_until

QUEUE = "operator.journeys"
TOKEN = "token-that-must-not-show"


class FrontPage(BaseHTTPRequestHandler):
    """A Registry of which only the front page matters; its answers' headers are the class's."""

    status = 200
    date: str | None = None
    body = b""
    about_journeys: tuple[int, bytes] | None = None
    about_readiness: bytes | None = None

    def do_GET(self) -> None:
        """Answer, with the date that the test wants."""
        status, body = self.status, self.body
        if "/journeys/" in self.path and self.about_journeys is not None:
            status, body = self.about_journeys
        elif self.path == "/readyz":
            body = self.about_readiness or b""
        self.send_response_only(status)
        if self.date != "":
            self.send_header("Date", self.date or self.date_time_string())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_CONNECT = do_GET  # noqa: N815 the base class's name

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def page() -> type[FrontPage]:
    """The handler of this test's Registry, to be changed."""
    return type("Page", (FrontPage,), {})


@pytest.fixture
def http_registry(page: type[FrontPage]) -> Iterator[str]:
    """A Registry on loopback over plain HTTP."""
    yield from _serve(page, None)


def _serve(page: type[FrontPage], context: ssl.SSLContext | None) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), page)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    scheme = "http" if context is None else "https"
    try:
        yield f"{scheme}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Check:
    """Runs the command in this process with the environment that a test describes."""

    def __init__(self, patch: pytest.MonkeyPatch, said: pytest.CaptureFixture[str], **environ: str) -> None:
        self._patch, self._said = patch, said
        for name, value in {"HTTP_PORT": "0", "BROKER_QUEUE": QUEUE, **environ}.items():
            patch.setenv(name, value)

    def __call__(self, **environ: str) -> tuple[int, list[str]]:
        """Run; returns the exit code and the lines, which never hold a secret."""
        for name, value in environ.items():
            self._patch.setenv(name, value)
        code = cli.main(["check"])
        told = self._said.readouterr()
        assert TOKEN not in told.out + told.err
        assert "guest:guest" not in told.out + told.err
        return code, [" ".join(line.split()) for line in told.out.splitlines()]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A token file that only its owner can read."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    return file


@pytest.fixture
def check(
    vhost: Broker,
    http_registry: str,
    token_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Check:
    """The command against this test's virtual host and Registry, all in order."""
    return Check(
        monkeypatch,
        capsys,
        BROKER_URL=vhost.url,
        REGISTRY_URL=http_registry,
        REGISTRY_TOKEN_FILE=str(token_file),
    )


def declare(broker: Broker, **changes: Any) -> Topology:
    """Declare our queues as the service would."""
    topology = Topology(queue=QUEUE, **changes)
    connection = ConnectionFactory([broker.url]).connect("test")
    try:
        ensure(connection, topology, declare=True)
    finally:
        connection.collect()
    return topology


def test_all_is_well_before_the_first_start(check: Check, vhost: Broker) -> None:
    """On an empty broker everything is ok, every subject has a line, and nothing is declared."""
    code, lines = check()
    assert code == 0
    notes = [line for line in lines if not line.startswith("ok ")]
    assert notes == ["note credentials whether the token is accepted cannot be known: v2 has no way to ask"]
    subjects = {line.split()[1] for line in lines}
    assert subjects == {
        "configuration",
        "credentials",
        "http",
        "broker",
        "queues",
        "permissions",
        "registry",
        "clock",
    }
    assert any("RabbitMQ 3" in line or "RabbitMQ 4" in line for line in lines)
    assert any(f"'{QUEUE}' does not exist yet and will be declared" in line for line in lines)
    assert vhost.queue_depths() == {}


def test_our_own_queues_are_as_expected_and_their_messages_untouched(check: Check, vhost: Broker) -> None:
    """What the service declares is found without differences; no message is taken, moved or counted."""
    topology = declare(vhost)
    vhost.publish(QUEUE, b"{}", b"{}")
    vhost.publish(topology.dead_letter_queue("invalid"), b"{}")
    before = vhost.queue_depths()
    code, lines = check()
    assert code == 0
    assert f"ok queues '{QUEUE}' holds 2 messages and has 0 consumers" in lines
    assert "ok queues all our 12 own queues and exchanges exist" in lines
    assert [line for line in lines if line.startswith("warn")] == ["warn queues 1 dead letters wait: invalid"]
    assert vhost.queue_depths() == before
    assert {message.delivery_count for message in vhost.messages(QUEUE)} == {0}
    assert not any(message.redelivered for message in vhost.messages(topology.dead_letter_queue("invalid")))


@pytest.mark.parametrize(
    ("arguments", "lost"),
    [
        ({}, "it is no quorum queue"),
        ({"x-queue-type": "quorum"}, "not kept by the broker as a dead letter"),
        ({"x-queue-type": "quorum", "x-delivery-limit": 7}, "is delivered more or less often"),
    ],
)
def test_an_operators_own_queue_is_a_warning_that_says_what_is_lost(
    check: Check, vhost: Broker, arguments: dict[str, Any], lost: str
) -> None:
    """A queue with other arguments does not fail; what is lost with it is a warning."""
    vhost.declare(QUEUE, arguments=arguments)
    code, lines = check()
    assert code == 0
    (warning,) = [line for line in lines if line.startswith("warn")]
    assert lost in warning


@pytest.mark.parametrize(
    ("arguments", "properties", "refused"),
    [
        ({"x-queue-type": "stream"}, {}, f"FAIL queues the queue '{QUEUE}' is a stream, from which"),
        ({}, {"auto_delete": True}, f"FAIL queues the queue '{QUEUE}' is auto-delete: it would be deleted"),
        (
            {},
            {"durable": False, "exclusive": True},
            f"the queue '{QUEUE}' is exclusive to another connection",
        ),
    ],
)
def test_a_queue_that_cannot_be_consumed_without_loss_fails(
    check: Check, vhost: Broker, arguments: dict[str, Any], properties: dict[str, bool], refused: str
) -> None:
    """In words, and also without the permission to declare; the queue is left as it is."""
    with vhost.channel() as channel:
        channel.queue_declare(
            QUEUE, **{"durable": True, "auto_delete": False, **properties}, arguments=arguments
        )
        for declare in ("true", "false"):
            code, lines = check(BROKER_DECLARE=declare)
            assert code == 1
            assert any(refused in line for line in lines if line.startswith("FAIL")), lines
        assert channel.queue_declare(QUEUE, passive=True).consumer_count == 0


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"x-max-length": 9, "x-overflow": "drop-head", "x-dead-letter-strategy": "at-most-once"},
         "it is bounded (max-length 9), beyond which the oldest messages are moved to the exchange"),
        ({"x-max-length-bytes": 9}, "it is bounded (max-length-bytes 9), beyond which publishes are refused"),
        ({"x-message-ttl": 5_000}, "messages that wait longer than 5 s are moved to the exchange"),
        ({"x-expires": 5_000}, "it is deleted, with its messages, 5 s after its last consumer"),
        ({"x-single-active-consumer": True}, "one replica receives everything, the others nothing"),
        ({"x-dead-letter-exchange": "theirs"},
         "what exceeds the delivery limit is moved to the exchange 'theirs', not to our dead-letter queue"),
    ],
)  # fmt: skip
def test_each_argument_that_weakens_the_queue_is_a_warning_with_its_value(
    check: Check, vhost: Broker, changes: dict[str, Any], lost: str
) -> None:
    vhost.declare(QUEUE, arguments={**Topology(QUEUE).main.arguments, **changes})
    code, lines = check()
    assert code == 0
    (warning,) = [line for line in lines if line.startswith("warn")]
    assert lost in warning
    assert all(f"{name}: {value}" in warning for name, value in changes.items())


def test_a_queue_without_a_dead_letter_route_drops_what_expires_and_overflows(
    check: Check, vhost: Broker
) -> None:
    """Length limit (its default is to drop) and message TTL; also of a dead-letter queue."""
    topology = declare(vhost)
    dead = topology.dead_letter_queue("invalid")
    vhost.delete_queue(dead)
    vhost.delete_queue(QUEUE)
    for queue in (QUEUE, dead):
        vhost.declare(queue, arguments={"x-max-length": 7, "x-message-ttl": 60_000})
    _, lines = check()
    for queue in (QUEUE, dead):
        (warning,) = [line for line in lines if line.startswith(f"warn queues '{queue}' differs")]
        assert "(max-length 7), beyond which the oldest messages are dropped" in warning
        assert "messages that wait longer than 60 s are dropped" in warning


def test_missing_queues_fail_without_permission_to_declare(check: Check, vhost: Broker) -> None:
    """BROKER_DECLARE=false: each missing queue and exchange fails, by name."""
    vhost.declare(QUEUE, arguments=Topology(QUEUE).main.arguments)
    code, lines = check(BROKER_DECLARE="false")
    assert code == 1
    failed = [line for line in lines if line.startswith("FAIL")]
    assert len(failed) == 12
    assert (
        f"FAIL queues the exchange '{QUEUE}.dead-letter' does not exist, and BROKER_DECLARE is false"
        in failed
    )
    assert not any(line.startswith("warn") for line in lines)


def test_the_operators_exchange_must_exist(check: Check) -> None:
    """We bind to the operator's exchange and never declare it."""
    code, lines = check(BROKER_EXCHANGE="journeys")
    assert code == 1
    assert any("FAIL queues the exchange 'journeys' does not exist" in line for line in lines)
    assert check(BROKER_EXCHANGE="amq.topic")[0] == 0


def test_the_exchange_of_outcome_events(check: Check, vhost: Broker) -> None:
    """Without it only events are missing; a missing write permission fails."""
    declare(vhost)
    code, lines = check(EVENTS_EXCHANGE="outcomes")
    assert code == 0
    assert any("queues the exchange 'outcomes' for outcome events does not exist" in line for line in lines)
    with vhost.user(write="operator.*|amq.default") as url:
        code, lines = check(BROKER_URL=url, EVENTS_EXCHANGE="amq.topic")
    assert code == 1
    assert "FAIL permissions this user may not write to the exchange 'amq.topic'" in lines


@pytest.mark.parametrize(
    ("permissions", "expected"),
    [
        ((".*", ".*", "nothing"), {f"read from the queue '{QUEUE}'"}),
        ((".*", "amq.default", ".*"), {f"write to the exchange '{QUEUE}.dead-letter'"}),
        ((".*", "operator.*", ".*"), {"write to the exchange '' (amq.default)"}),
        (("nothing", ".*", ".*"), {f"configure the queue '{QUEUE}.retry.900s'"}),
    ],
)
def test_each_missing_permission_is_named(
    check: Check, vhost: Broker, permissions: tuple[str, str, str], expected: set[str]
) -> None:
    """Each missing permission is named; asking changes nothing."""
    declare(vhost)
    vhost.delete_queue(f"{QUEUE}.retry.900s")
    configure, write, read = permissions
    before = vhost.queue_depths()
    with vhost.user(configure=configure, write=write, read=read) as url:
        code, lines = check(BROKER_URL=url)
    assert code == 1
    failed = {line.removeprefix("FAIL permissions this user may not ") for line in lines if "FAIL" in line}
    assert failed == expected
    assert vhost.queue_depths() == before


def test_the_permissions_of_the_security_page_are_enough(check: Check, vhost: Broker) -> None:
    """As its line gives them: the service declares its queues, nothing is missing."""
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    (line,) = re.findall(r"^rabbitmqctl set_permissions --vhost / journeys (.*)$", page, re.MULTILINE)
    configure, write, read = shlex.split(line)
    with vhost.user(configure=configure, write=write, read=read) as url:
        declared = subprocess.run(
            [sys.executable, "-m", "consumer", "declare"],
            env={**os.environ, "BROKER_URL": url, "BROKER_QUEUE": "journeys.completed"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert declared.returncode == 0, declared.stderr
        code, lines = check(BROKER_URL=url, BROKER_QUEUE="journeys.completed")
    assert code == 0, lines


def test_a_refused_login_fails(check: Check, vhost: Broker) -> None:
    """Wrong password, wrong virtual host: two different sentences, neither with the password."""
    code, lines = check(BROKER_URL=vhost.url.replace("guest:guest", "guest:wrong-pw"))
    assert code == 1
    (line,) = [line for line in lines if line.startswith("FAIL")]
    assert "refuses this user name and password" in line
    assert "wrong-pw" not in line
    code, lines = check(BROKER_URL=vhost.url + "-not")
    assert code == 1
    assert any("the virtual host does not exist" in line for line in lines)


def test_of_several_addresses_one_is_enough(check: Check, vhost: Broker) -> None:
    """An address that is down is a warning while another one works."""
    code, lines = check(BROKER_URL=f"amqp://guest:guest@127.0.0.1:1/x;{vhost.url}")
    assert code == 0
    refused = "connection refused: no server listens on this address and port"
    assert f"warn broker amqp://127.0.0.1:1/x cannot be used: {refused}" in lines
    code, lines = check(BROKER_URL="amqp://guest:guest@127.0.0.1:1/x;amqp://127.0.0.1:1/y")
    assert code == 1
    assert sum(line.startswith("FAIL broker") for line in lines) == 2


def test_tls_to_the_broker(check: Check, vhost: Broker) -> None:
    """Amqps works with the right authority; without it the certificate is named as the reason."""
    code, lines = check(BROKER_URL=vhost.tls_url, BROKER_CA_FILE=str(vhost.node.ca_file))
    assert code == 0, lines
    code, lines = check(BROKER_URL=vhost.tls_url, BROKER_CA_FILE="")
    assert code == 1
    assert any("the certificate is not accepted" in line for line in lines)


def test_memory_says_what_it_cannot_promise(check: Check) -> None:
    """A broker that ends with the process is a warning."""
    code, lines = check(BROKER_URL="memory://")
    assert code == 0
    assert any(line.startswith("warn broker everything is lost") for line in lines)


def test_sqs_is_asked_over_http(check: Check, sqs: SqsServer) -> None:
    """An existing queue is counted, its visibility timeout compared; nothing is created or received."""
    code, lines = check(BROKER_URL=sqs.url, BROKER_QUEUE="check.empty")
    assert code == 0
    assert "ok queues the queue 'check.empty' does not exist yet and will be created" in lines
    sqs.create("check.short", VisibilityTimeout="30")
    sqs.put("check.short", "{}")
    before = sqs.client.list_queues()["QueueUrls"]
    code, lines = check(BROKER_QUEUE="check.short")
    assert code == 0
    assert "ok queues 'check.short' holds 1 messages" in lines
    assert any("warn queues the visibility timeout of 'check.short' is 30 s" in line for line in lines)
    assert sqs.client.list_queues()["QueueUrls"] == before
    assert sqs.count("check.short") == (1, 0)


def test_an_unreachable_sqs_fails(check: Check) -> None:
    """No server listens there: the error's kind is named, no key is shown."""
    code, lines = check(BROKER_URL="sqs://key:hidden@127.0.0.1:1?region=eu-west-3")
    assert code == 1
    assert "FAIL broker sqs://127.0.0.1:1 cannot be used: EndpointConnectionError" in lines
    assert not any("hidden" in line for line in lines)


@pytest.mark.parametrize(
    ("date", "level", "words"),
    [
        ("Mon, 01 Jan 2024 00:00:00 GMT", "FAIL", "ahead of the Registry's"),
        ("Fri, 01 Jan 2100 00:00:00 GMT", "FAIL", "behind the Registry's"),
        ("", "warn", "no date"),
        ("yesterday", "warn", "no date"),
    ],
)
def test_the_clock_is_compared(
    check: Check, page: type[FrontPage], date: str, level: str, words: str
) -> None:
    """A clock that is minutes off fails; an answer without a date is a warning."""
    page.date = date
    code, lines = check()
    assert code == (1 if level == "FAIL" else 0)
    (line,) = [line for line in lines if " clock " in line]
    assert line.startswith(f"{level} clock")
    assert words in line


def test_a_registry_in_maintenance_is_a_warning(check: Check, page: type[FrontPage]) -> None:
    """A 503 today is no reason not to start: the service waits by itself."""
    page.status = 503
    code, lines = check()
    assert code == 0
    assert any(line.startswith("warn registry") and "answers 503" in line for line in lines)


def test_an_unreachable_registry_fails(check: Check) -> None:
    """No server listens there: one line says so."""
    code, lines = check(REGISTRY_URL="http://127.0.0.1:1")
    assert code == 1
    assert any(line.startswith("FAIL registry http://127.0.0.1:1 cannot be reached") for line in lines)


def test_the_registrys_certificate(check: Check, page: type[FrontPage], tmp_path: Path) -> None:
    """Over TLS: an unknown authority is named as the reason; the right one is accepted."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for url in _serve(page, context):
        code, lines = check(REGISTRY_URL=url)
        assert code == 1
        (line,) = [line for line in lines if line.startswith("FAIL registry")]
        assert "its certificate is not accepted (" in line
        code, lines = check(REGISTRY_CA_FILE=str(tmp_path / "ca.pem"))
        assert code == 0, lines
        assert any("reachable over TLS" in line for line in lines)


def test_the_token_file(check: Check, token_file: Path) -> None:
    """Readable by every user: a warning. Empty or several words: fails, without quoting it."""
    token_file.chmod(0o644)
    code, lines = check()
    assert code == 0
    assert any(line.startswith("warn credentials") and "every user" in line for line in lines)
    token_file.chmod(0o600)
    for content, words in (("", "is empty"), (f"Bearer {TOKEN}", "token or key alone")):
        token_file.write_text(content)
        code, lines = check()
        assert code == 1
        assert any(line.startswith("FAIL credentials") and words in line for line in lines)


def test_a_wrong_setting_is_exit_2(check: Check, capsys: pytest.CaptureFixture[str]) -> None:
    """An unusable configuration ends with the settings' own sentences."""
    code, lines = check(BROKER_PREFETCH="many")
    assert (code, lines) == (2, [])
    capsys.readouterr()


def test_a_registry_that_wants_a_client_certificate_fails(check: Check, page: type[FrontPage]) -> None:
    """Nginx completes the handshake and answers with a page of its own."""
    page.status, page.body = 400, b"<title>400 No required SSL certificate was sent</title>"
    code, lines = check()
    assert code == 1
    (line,) = [line for line in lines if line.startswith("FAIL")]
    assert "wants a client certificate, and REGISTRY_CLIENT_CERT_FILE" in line


def test_what_a_proxy_answers_is_told_as_the_proxys(
    check: Check, page: type[FrontPage], http_registry: str
) -> None:
    """Its status; what it wants; not its password."""
    for status, words in ((407, "it wants user and password"), (502, "answered 502 instead of connecting")):
        page.status = status
        proxy = http_registry.replace("://", f"://user:{TOKEN}@")
        code, lines = check(REGISTRY_URL="https://registry.example", REGISTRY_PROXY_URL=proxy)
        assert code == 1
        (line,) = [line for line in lines if line.startswith("FAIL")]
        assert f"the proxy answered {status}" in line
        assert words in line


def test_a_proxy_that_is_not_used_is_a_warning(check: Check) -> None:
    """The Registry of this test is on this machine, to which no proxy leads: another one is named."""
    code, lines = check(REGISTRY_URL="https://registry.invalid", HTTPS_PROXY="http://127.0.0.1:1")
    assert code == 1
    assert any(line.startswith("warn configuration HTTPS_PROXY is set and not used") for line in lines)


# --- the token and the version: no journey is sent ----------------------------------------------


@pytest.fixture
def asks(check: Check, sandbox: LocalRegistry, token_file: Path) -> Check:
    """The command against a sandbox that knows the token, in a version with the status route."""
    token_file.write_text(KNOWN_TOKEN)
    check(REGISTRY_URL=sandbox.url, REGISTRY_API_VERSION="v3.3")
    return check


@pytest.mark.parametrize("version", ["v3", "v3.2", "v3.3"])
def test_a_token_that_the_registry_accepts_is_proven(
    asks: Check, sandbox: LocalRegistry, version: str
) -> None:
    """By the status of a journey that does not exist; the Registry has no journey afterwards."""
    code, lines = asks(REGISTRY_API_VERSION=version)
    assert code == 0
    assert f"ok credentials the Registry accepts the token, and serves {version}" in lines
    assert sandbox.journeys == {}


def test_a_version_that_is_not_served_fails(asks: Check) -> None:
    """Also v2, of which nothing else can be known: production does not serve it any more."""
    with LocalRegistry(serve_v2=False) as registry:
        code, lines = asks(REGISTRY_URL=registry.url, REGISTRY_API_VERSION="v2")
    assert code == 1
    (failed,) = [line for line in lines if line.startswith("FAIL")]
    assert failed.startswith("FAIL registry v2 is not served there (http_404): REGISTRY_API_VERSION or")


def test_a_token_that_the_registry_refuses_fails(asks: Check, token_file: Path) -> None:
    token_file.write_text(TOKEN)
    code, lines = asks()
    assert code == 1
    (failed,) = [line for line in lines if line.startswith("FAIL")]
    assert failed.startswith("FAIL credentials the Registry refuses the token (")


def test_keys_are_exchanged_once_and_their_token_is_proven(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REGISTRY_TOKEN_FILE")
    keys = {"access_key": "the-access-key", "secret_key": "the-secret-key"}
    with LocalRegistry(tokens=[], **keys) as registry:
        code, lines = check(
            REGISTRY_URL=registry.url,
            REGISTRY_API_VERSION="v3.3",
            **{f"REGISTRY_{name.upper()}": key for name, key in keys.items()},
        )
        paths = [request.path for request in registry.requests]
    assert code == 0
    assert "ok credentials the Registry issues a token for the access and secret key" in lines
    assert "ok credentials the Registry accepts the token, and serves v3.3" in lines
    assert paths.count("/v3.3/auth/access_token") == 1


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, b"", "FAIL registry v3.3 is not served there (http_404)"),
        (404, b"<html>", "FAIL registry v3.3 is not served there (http_404)"),
        (403, b'{"error":{"code":-32503}}', "FAIL credentials the Registry does not allow this token"),
        (401, b'{"error":{"code":-32501}}', "FAIL credentials the Registry refuses the token (401, -32501)"),
        (500, b'{"error":{"code":500,"data":"JWSInvalid"}}', "FAIL credentials the Registry refuses"),
        (
            503,
            b"",
            "warn credentials whether the token is accepted cannot be known now: the Registry answers 503",
        ),
        (200, b"<html>", "warn credentials whether the token is accepted cannot be known now"),
    ],
)
def test_what_the_answer_about_no_journey_says(
    check: Check, page: type[FrontPage], status: int, body: bytes, expected: str
) -> None:
    page.about_journeys = status, body
    code, lines = check(REGISTRY_API_VERSION="v3.3")
    assert code == (1 if expected.startswith("FAIL") else 0)
    assert any(line.startswith(expected) for line in lines), lines


# --- the service that runs here -----------------------------------------------------------------


def test_a_service_that_runs_here_and_is_paused_fails_with_the_cause(
    check: Check, vhost: Broker, run: Run, tmp_path: Path
) -> None:
    """First it is ready; with a token that the Registry refuses it says so, and so does the check."""
    (tmp_path / "wrong").write_text("wrong-token")
    service = run(vhost, broker_queue=QUEUE, registry_token_file=str(tmp_path / "wrong"))
    service.await_ready()
    port = str(service.port)
    assert "ok service the service that runs here is ready and consumes" in check(HTTP_PORT=port)[1]
    vhost.publish(QUEUE, samples.encode(samples.journey("v2", random.Random(1), datetime.now(UTC))))
    wait_until(lambda: "paused" in service.get("/readyz")[1], 20, "the pause is said")
    assert service.get("/readyz") == (200, "ready; consumption paused: unauthorized\n")
    code, lines = check()
    assert code == 1
    assert (
        "FAIL service the service that runs here has paused consumption: unauthorized, "
        "the Registry refuses the token"
    ) in lines


@pytest.mark.parametrize("says", [b"ready", b"ready; consumption paused: +33612345678", b"", None])
def test_a_stranger_on_the_port_is_a_warning(check: Check, page: type[FrontPage], says: bytes | None) -> None:
    """Nothing of what it says is repeated; one that says nothing is not waited for."""
    page.about_readiness = says
    with contextlib.ExitStack() as stack:
        if says is None:
            port = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        else:
            port = urlsplit(stack.enter_context(contextlib.contextmanager(_serve)(page, None))).port
        code, lines = check(HTTP_PORT=str(port), HTTP_HOST="127.0.0.1")
    (line,) = [line for line in lines if line.split()[1] in {"http", "service"}]
    if says == b"ready":
        assert line == "ok service the service that runs here is ready and consumes"
    else:
        assert line.startswith(f"warn http 127.0.0.1:{port} cannot be used now (")
        assert "+33" not in line
    assert code == 0
