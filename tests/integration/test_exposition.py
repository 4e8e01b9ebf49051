import asyncio
import contextlib
import gzip
import http.client
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from consumer.errors import ConfigurationError
from consumer.metrics import Metrics
from consumer.service import http as http_server
from consumer.service.health import Health
from consumer.service.http import HttpServer
from tests.waiting import wait_until


class Clock:
    """Monotonic seconds, moved by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still."""
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    """Return the health of a process that just started."""
    return Health(clock=clock)


@pytest.fixture
def registry() -> CollectorRegistry:
    """Return a registry that holds the service's metrics."""
    registry = CollectorRegistry()
    Metrics(registry).journeys["registered"].inc()
    return registry


@pytest.fixture
def served(registry: CollectorRegistry, health: Health) -> Iterator[HttpServer]:
    """Serve on a free port for one test."""
    http_server = HttpServer(registry=registry, health=health, host="127.0.0.1", port=0)
    http_server.start()
    yield http_server
    http_server.stop()


def ask(
    served: HttpServer, path: str, method: str = "GET", host: str = "127.0.0.1", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Ask once; header names are given with underscores."""
    connection = http.client.HTTPConnection(host, served.port, timeout=10)
    try:
        connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def send(served: HttpServer, data: bytes) -> bytes:
    """Send raw bytes and return everything that comes back."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(data)
        received = b""
        try:
            while part := connection.recv(4096):
                received += part
        except ConnectionResetError:
            pass
        return received


# --- Metrics -----------------------------------------------------------------------------


def test_metrics_are_served_in_both_formats(served: HttpServer) -> None:
    """Prometheus asks for OpenMetrics, people and older tools get plain text."""
    status, body, headers = ask(served, "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'journey_consumer_journeys_total{outcome="registered"} 1.0\n' in body
    status, body, headers = ask(served, "/metrics?x=1", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert families["journey_consumer_journeys"].type == "counter"


def test_metrics_are_compressed_when_the_client_can(served: HttpServer) -> None:
    """The answer is the same text, smaller."""
    _, plain, _ = ask(served, "/metrics")
    _, packed, headers = ask(served, "/metrics", Accept_Encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert len(packed) < len(plain) / 3
    ours = [line for line in gzip.decompress(packed).splitlines() if line.startswith(b"journey_")]
    assert ours == [line for line in plain.splitlines() if line.startswith(b"journey_")]


def test_every_series_is_on_the_wire(served: HttpServer, registry: CollectorRegistry) -> None:
    """What is scraped is what the registry holds."""
    _, body, _ = ask(served, "/metrics")
    names = [line.rpartition(b" ")[0] for line in body.splitlines()]
    assert names == [line.rpartition(b" ")[0] for line in generate_latest(registry).splitlines()]


# --- Probes ------------------------------------------------------------------------------


def test_live_is_the_age_of_the_heartbeat_and_nothing_else(
    served: HttpServer, health: Health, clock: Clock
) -> None:
    """Red after fifteen seconds without a heartbeat, green again with the next one."""
    health.not_ready("not connected to the broker")
    assert ask(served, "/livez")[:2] == (200, b"live\n")
    clock.now += 14.9
    assert ask(served, "/livez")[0] == 200
    clock.now += 0.1
    assert ask(served, "/livez")[:2] == (503, b"not live: the event loop has not run for 15 s\n")
    health.beat()
    assert ask(served, "/livez")[0] == 200


def test_live_turns_red_while_the_event_loop_is_blocked(registry: CollectorRegistry) -> None:
    """The probe is answered by another thread, so a hanging loop cannot hang the answer."""
    health = Health(stale_after_seconds=0.5)
    served = HttpServer(registry=registry, health=health, host="127.0.0.1", port=0)
    served.start()
    block, free, end = threading.Event(), threading.Event(), threading.Event()

    async def life() -> None:
        while not end.is_set():
            health.beat()
            await asyncio.sleep(0.02)
            if block.is_set():
                free.wait()  # blocks the loop on purpose

    thread = threading.Thread(target=asyncio.run, args=(life(),))
    thread.start()
    try:
        wait_until(lambda: ask(served, "/livez")[0] == 200)
        block.set()
        wait_until(lambda: ask(served, "/livez")[0] == 503)
        block.clear()
        free.set()
        wait_until(lambda: ask(served, "/livez")[0] == 200)
    finally:
        end.set()
        free.set()
        thread.join()
        served.stop()


def test_ready_says_why_not(served: HttpServer, health: Health) -> None:
    """Starting, subscribed, draining: the reason is in the body, for whoever runs kubectl describe."""
    assert ask(served, "/readyz")[:2] == (503, b"not ready: starting\n")
    health.ready()
    assert ask(served, "/readyz")[:2] == (200, b"ready\n")
    health.ready("unauthorized")
    assert ask(served, "/readyz")[:2] == (200, b"ready; consumption paused: unauthorized\n")
    health.not_ready("draining")
    assert ask(served, "/readyz")[:2] == (503, b"not ready: draining\n")
    health.ready()
    assert ask(served, "/readyz")[1] == b"ready\n"


# --- Anything else -----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/metrics/", "/livez2", "/readyz/x", "//metrics/..", "/favicon.ico"])
def test_other_paths_are_not_found(served: HttpServer, path: str) -> None:
    """A probe that is aimed at the wrong path must not be green."""
    assert ask(served, path)[:2] == (404, b"404\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"])
def test_other_methods_are_not_allowed(served: HttpServer, method: str) -> None:
    """There is nothing to change here."""
    status, _, headers = ask(served, "/metrics", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz"])
def test_head_is_get_without_the_body(served: HttpServer, path: str, health: Health) -> None:
    """Load balancers ask with HEAD."""
    health.ready()
    status, body, headers = ask(served, path, "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    "data",
    [
        b"GET /metrics\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x00\n\n",
    ],
)
def test_nothing_of_a_broken_request_is_repeated(served: HttpServer, data: bytes) -> None:
    """Garbage gets an error or no answer, never an echo, and the next request is served."""
    assert b"nonsense" not in send(served, data)
    assert ask(served, "/livez")[0] == 200


def test_an_endless_head_is_cut_off(served: HttpServer) -> None:
    """The memory that a client can take is bounded."""
    assert send(served, b"GET /livez HTTP/1.1\r\nX: " + b"x" * 100_000) == b""
    assert ask(served, "/livez")[0] == 200


def test_a_dawdling_client_is_hung_up_on(served: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole head has one deadline; a byte now and then does not extend it."""
    monkeypatch.setattr(http_server, "_HEAD_SECONDS", 0.2)
    assert send(served, b"GET /livez HTTP/1.1\r\n") == b""


ATTACK = """
import resource, select, socket, sys, threading
port, count, data = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode().decode("unicode_escape").encode()
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
most = count if hard == resource.RLIM_INFINITY else min(count, hard - 100)
held = []
for number in range(count):
    if len(held) == most:
        held.pop(0).close()
    held.append(socket.create_connection(("127.0.0.1", port), timeout=60))
    try:
        held[-1].sendall(data)
    except OSError:
        pass  # closed already
print("all are open", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("count", "data"),
    [
        (10_000, ""),
        (10_000, "G"),
        (10_000, r"GET /livez HTTP/1.1\r\nHost: x\r\n"),
        (3_000, r"GET /metrics HTTP/1.1\r\n\r\n"),
        (3_000, r"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n\r\n"),
    ],
    ids=["idle", "a byte", "no end", "metrics unread", "costly metrics unread"],
)
def test_probes_are_answered_whatever_strangers_do(
    served: HttpServer, health: Health, count: int, data: str
) -> None:
    """While thousands of connections come and when they are there; few descriptors and no thread for them."""
    health.ready()
    descriptors, threads = psutil.Process().num_fds(), threading.active_count()
    arguments = [sys.executable, "-c", ATTACK, str(served.port), str(count), data]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attack:
        assert attack.stdout is not None
        os.set_blocking(attack.stdout.fileno(), False)
        left, worst = 20, 0.0
        while left:
            started = time.monotonic()
            assert ask(served, "/livez")[0] == 200
            assert ask(served, "/readyz")[0] == 200
            worst = max(worst, (time.monotonic() - started) / 2)
            assert psutil.Process().num_fds() < descriptors + 300
            assert threading.active_count() <= threads  # others' may end meanwhile
            assert attack.poll() is None
            left -= left < 20 or attack.stdout.read() is not None
        attack.communicate()
    assert worst < 5.0  # tenths of a second, when nobody else needs the processors


SCARCE = """
import os, resource, sys
from prometheus_client import CollectorRegistry
from consumer.service.health import Health
from consumer.service.http import HttpServer
server = HttpServer(CollectorRegistry(), Health(), "127.0.0.1", 0)
server.start()
most = len(os.listdir("/proc/self/fd")) + 10
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
print(server.port, flush=True)
sys.stdin.read()
"""


def test_without_free_descriptors_the_oldest_connection_makes_room() -> None:
    """Whoever uses up the open files of the process: a probe still gets one."""
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", SCARCE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        stack.callback(process.communicate)
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for _ in range(50):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        for _ in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5) as answer:
                assert answer.status == 200


class Big:
    """A metric of some megabytes: more than the kernel takes at once."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("big", "x" * 8_000_000, value=1)


def test_a_slow_reader_gets_all_of_the_metrics(served: HttpServer, registry: CollectorRegistry) -> None:
    """And nobody waits for it."""
    registry.register(Big())
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        received = slow.recv(10)
        assert ask(served, "/livez")[0] == 200
        while part := slow.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n"
    assert len(body) > 8_000_000


def test_who_does_not_read_the_metrics_is_hung_up_on(
    served: HttpServer, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer has a deadline, as the request has one."""
    monkeypatch.setattr(http_server, "_ANSWER_SECONDS", 0.2)
    registry.register(Big())
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as deaf:
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert served._server is not None
        wait_until(lambda: served._server._open)  # type: ignore[union-attr]
        wait_until(lambda: not served._server._open)  # type: ignore[union-attr]


PLAIN = "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    "accept",
    [
        "*/*;q=x",
        "application/openmetrics-text; version=x",
        "application/openmetrics-text; version=1..0",
        "application/openmetrics-text; version=99.0.0",
        "application/openmetrics-text; version=1.0.0\r\n injected",
        "text/plain; version=",
        ";;;,,,=",
        "\xff\xfe",
        "x" * 15_000,
        "a/b, " * 3_000,
    ],
)
def test_an_odd_accept_header_gets_the_default_format(served: HttpServer, accept: str) -> None:
    """Never an error, and nothing of it is repeated."""
    request = f"GET /metrics HTTP/1.1\r\nAccept: {accept}\r\n\r\n".encode("latin-1")
    head = send(served, request).partition(b"\r\n\r\n")[0].decode()
    assert head.startswith("HTTP/1.0 200 ")
    assert f"\r\nContent-Type: {PLAIN}\r\n" in head


def test_several_accept_headers_are_one_list(served: HttpServer) -> None:
    """As HTTP says."""
    request = b"GET /metrics HTTP/1.1\r\nAccept: a/b\r\nAccept: application/openmetrics-text\r\n\r\n"
    assert b"Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8" in send(
        served, request
    )


@given(
    st.lists(
        st.sampled_from(
            ["application/openmetrics-text", "text/plain", "version", "escaping", "=", ";", ",", "1.0.0", "."]
        )
        | st.text(st.characters(codec="latin-1"), max_size=4)
    )
)
def test_every_accept_header_has_a_format(parts: list[str]) -> None:
    """Whatever it holds, the metrics are written, and named by one of few content types."""
    registry = CollectorRegistry()
    Metrics(registry)
    encode, content_type = http_server._encoder("".join(parts))
    assert encode(registry)
    assert http_server._FORMAT.fullmatch(content_type)


def test_a_bug_in_an_answer_is_logged(
    served: HttpServer, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """A collector that fails closes the connection and leaves a trace of what happened."""

    class Broken:
        def collect(self) -> Iterator[None]:
            raise RuntimeError("broken")

    registry.register(Broken())
    with caplog.at_level(logging.ERROR):
        assert send(served, b"GET /metrics HTTP/1.1\r\n\r\n") == b""
    assert [record.name for record in caplog.records] == ["journey_consumer.service"]
    assert ask(served, "/livez")[0] == 200


# --- Life --------------------------------------------------------------------------------


def test_a_port_in_use_is_one_clear_sentence(
    served: HttpServer, registry: CollectorRegistry, health: Health
) -> None:
    """Two services on one machine: the second says which setting to change."""
    second = HttpServer(registry=registry, health=health, host="127.0.0.1", port=served.port)
    with pytest.raises(ConfigurationError) as caught:
        second.start()
    assert caught.value.problems == [
        f"HTTP_HOST and HTTP_PORT {served.port}: cannot listen there (Address already in use)"
    ]


@pytest.mark.parametrize("host", ["192.0.2.1", "x" * 70, "a\x00b", "no-such-host.invalid"])
def test_a_host_that_is_not_ours_is_one_clear_sentence(
    host: str, registry: CollectorRegistry, health: Health
) -> None:
    """An address of another machine, or no address at all."""
    with pytest.raises(ConfigurationError, match="HTTP_HOST and HTTP_PORT 0: cannot listen there"):
        HttpServer(registry=registry, health=health, host=host, port=0).start()


def test_start_and_stop_can_be_repeated(registry: CollectorRegistry, health: Health) -> None:
    """A second start or stop changes nothing; the port is free again afterwards."""
    served = HttpServer(registry=registry, health=health, host="127.0.0.1", port=0)
    served.stop()
    served.start()
    port = served.port
    served.start()
    assert served.port == port != 0
    served.stop()
    served.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(served, "/livez")
    served.start()
    assert (served.port, ask(served, "/livez")[0]) == (port, 200)
    served.stop()


@pytest.mark.parametrize("host", ["::1", "::"])
def test_it_listens_on_ipv6(host: str, registry: CollectorRegistry, health: Health) -> None:
    """`::` serves both families; a machine without IPv6 has nothing to test."""
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    served = HttpServer(registry=registry, health=health, host=host, port=0)
    served.start()
    try:
        assert ask(served, "/livez", host="::1")[0] == 200
        if host == "::":
            assert ask(served, "/livez", host="127.0.0.1")[0] == 200
    finally:
        served.stop()


def has_ipv6() -> bool:
    """Whether ::1 can be bound here."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
