"""Connecting to what does not speak AMQP properly, and what is made of a message."""

import contextlib
import logging
import socket
import ssl
import struct
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.broker import connection as module
from consumer.broker.connection import (
    UNREADABLE_PROPERTIES,
    ConnectionFactory,
    LogOnce,
    ReconnectDelay,
    build_connections,
    build_delivery,
    is_amqp,
)
from consumer.config import BROKER, load
from consumer.errors import BrokerError
from tests.unit.broker.scripted import message


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that answers the protocol header with these bytes, then closes; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                client, _ = server.accept()
                with client:
                    client.recv(8)
                    client.sendall(answer)
                    client.shutdown(socket.SHUT_WR)
                    client.settimeout(5)
                    while client.recv(1024):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"amqp://guest:guest@127.0.0.1:{server.getsockname()[1]}/v"
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def start_frame(arguments: bytes) -> bytes:
    """A connection.start method with these arguments."""
    payload = struct.pack(">HH", 10, 10) + arguments
    return struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"


def test_a_frame_of_four_gigabytes_is_refused_in_the_handshake() -> None:
    """Through py-amqp's own reading, which TLS, the publisher and queue readers use as well."""
    tracemalloc.start()
    try:
        with (
            answering(struct.pack(">BHI", 1, 0, 2**32 - 1)) as url,
            pytest.raises(ConnectionFactory.ERRORS, match="exceeds twice the negotiated maximum"),
        ):
            ConnectionFactory([url]).connect("test")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        start_frame(b""),
        start_frame(b"\x00\x09" + struct.pack(">I", 3) + b"\x01aZ"),
        start_frame(b"\x00\x09" + struct.pack(">I", 4) + b"\x03a\xff\xfe"),
        start_frame(b"\x00\x09" + struct.pack(">I", 0) + struct.pack(">I", 900) + b"PLAIN"),
        struct.pack(">BHI", 1, 0, 2) + b"ab\xce",
        struct.pack(">BHI", 1, 0, 4) + struct.pack(">HH", 77, 77) + b"\xce",
    ],
)
def test_a_handshake_that_cannot_be_read_is_a_failed_connection(answer: bytes) -> None:
    """py-amqp raises struct.error, KeyError or IndexError, which would end the thread that connects."""
    with answering(answer) as url, pytest.raises(ConnectionFactory.ERRORS):
        ConnectionFactory([url]).connect("test")


@given(answer=st.binary(max_size=400), framed=st.booleans())
@settings(max_examples=100, deadline=None)
def test_no_handshake_raises_anything_but_a_failed_connection(answer: bytes, *, framed: bool) -> None:
    """Random bytes, bare or as the arguments of a greeting, on a real socket."""
    with (
        answering(start_frame(answer) if framed else answer) as url,
        pytest.raises(ConnectionFactory.ERRORS),
    ):
        ConnectionFactory([url], connect_seconds=0.3).connect("test")


def test_each_call_connects_to_the_next_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """In turn, and after the last the first again."""
    seen: list[str] = []

    def refuse(client: object, **_: object) -> None:
        seen.append(client.hostname)  # type: ignore[attr-defined]
        raise ConnectionRefusedError

    monkeypatch.setattr(module, "_Transport", refuse)
    connections = build_connections(load({"BROKER_URL": "amqp://a;amqps://b;amqp://c"}, BROKER))
    for _ in range(4):
        with pytest.raises(ConnectionRefusedError):
            connections.connect("test")
    assert seen == ["a", "b", "c", "a"]


def test_a_client_certificate_is_read_at_each_connection(tmp_path: Path) -> None:
    """A rotated one is shown to the broker the next time; a broker that wants one and gets none is told."""
    authority, shown = trustme.CA(), []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    ca, cert, key = (tmp_path / name for name in ("ca.pem", "tls.crt", "tls.key"))
    authority.cert_pem.write_to_path(ca)

    def serve(listener: socket.socket) -> None:
        for _ in range(3):
            plain, _ = listener.accept()
            with plain, contextlib.suppress(OSError):
                plain.settimeout(10)
                with context.wrap_socket(plain, server_side=True) as secured:
                    shown.append(dict(secured.getpeercert() or {})["subjectAltName"][0][1])
            plain.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve, args=(listener,))
        serving.start()
        url = f"amqps://localhost:{listener.getsockname()[1]}"
        files = {"client_cert_file": str(cert), "client_key_file": str(key)}
        connections = ConnectionFactory([url], ca_file=str(ca), **files)
        for name in ("old.example", "new.example"):
            issued = authority.issue_cert(name)
            issued.cert_chain_pems[0].write_to_path(cert)
            issued.private_key_pem.write_to_path(key)
            with pytest.raises(ConnectionFactory.ERRORS):
                connections.connect("test")  # the server hangs up after the handshake
        with pytest.raises(ConnectionFactory.ERRORS):
            ConnectionFactory([url], ca_file=str(ca)).connect("test")
        serving.join(10)
    assert shown == ["old.example", "new.example"]


def test_is_amqp() -> None:
    assert is_amqp("amqp://h")
    assert is_amqp("amqps://h")
    assert not is_amqp("sqs://")


def test_each_reason_is_a_warning_once_until_it_is_reset(caplog: pytest.LogCaptureFixture) -> None:
    """Repetitions are debug; the text of a foreign error, which may hold a password, is not logged."""
    once = LogOnce("event")
    with caplog.at_level(logging.DEBUG):
        for error in (OSError("secret"), OSError("secret"), BrokerError("no queue"), OSError()):
            once.warn(error)
        once.reset()
        once.warn(OSError())
    levels = [(record.levelname, record.__dict__["reason"]) for record in caplog.records]
    assert levels == [
        ("WARNING", "the connection was closed without a reason"),
        ("DEBUG", "the connection was closed without a reason"),
        ("WARNING", "no queue"),
        ("DEBUG", "the connection was closed without a reason"),
        ("WARNING", "the connection was closed without a reason"),
    ]
    assert "secret" not in caplog.text


def test_a_delivery_has_all_of_the_message() -> None:
    delivery = build_delivery(
        message(7, "", application_headers={"a": 1}, message_id="m"), channel=1, generation=3
    )
    assert (delivery.body, delivery.headers, delivery.properties) == (b"", {"a": 1}, {"message_id": "m"})
    assert (delivery.exchange, delivery.routing_key, delivery.redelivered) == ("e", "q", False)
    assert (delivery.tag, delivery.channel, delivery.generation) == (7, 1, 3)


@pytest.mark.parametrize(("depth", "kept"), [(31, True), (32, False), (5_000, False)])
def test_headers_that_are_nested_too_deeply_are_replaced(depth: int, *, kept: bool) -> None:
    """Python could not copy or encode them again."""
    headers: dict[str, object] = {}
    for _ in range(depth):
        headers = {"x": headers}
    delivery = build_delivery(message(1, application_headers=headers), channel=0)
    assert delivery.headers == (headers if kept else UNREADABLE_PROPERTIES)


def test_the_delay_doubles_until_a_connection_lives() -> None:
    """With jitter from half to all of it, never beyond the cap."""
    delay = ReconnectDelay(0.1)
    for number in range(20):
        wanted = min(module.RECONNECT_CAP_SECONDS, 0.1 * 2**number)
        assert wanted / 2 <= delay.next(module.SHORT_LIFE_SECONDS) <= wanted
    assert delay.next(module.SHORT_LIFE_SECONDS + 0.1) <= 0.1
    assert 0.1 <= delay.next() <= 0.2
