"""The proxy that breaks connections: each way of breaking does that and nothing else."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.proxy import Proxy
from tests.waiting import wait_until


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that echoes, one thread for each connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve(peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(65_536):
                    peer.sendall(data)
            except OSError:
                return  # reset: what some of the tests are about

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return  # the listener was closed: the test is over
            threads.append(threading.Thread(target=serve, args=(peer,)))
            threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join(10)


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    """A proxy before the echo server."""
    with Proxy("127.0.0.1", echo) as proxy:
        yield proxy


def _connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def _echoes(peer: socket.socket, data: bytes) -> bool:
    peer.sendall(data)
    got = b""
    while len(got) < len(data):
        got += peer.recv(65_536)
    return got == data


def test_everything_is_forwarded_and_counted(proxy: Proxy) -> None:
    """A megabyte comes back unchanged; both counters say so; the end of the stream is forwarded too."""
    data = bytes(range(256)) * 4096
    with _connect(proxy) as peer:
        received = bytearray()
        sender = threading.Thread(target=lambda: (peer.sendall(data), peer.shutdown(socket.SHUT_WR)))
        sender.start()
        while chunk := peer.recv(65_536):
            received += chunk
        sender.join()
    assert bytes(received) == data
    assert (proxy.sent, proxy.received, proxy.swallowed, proxy.accepted) == (len(data), len(data), 0, 1)
    wait_until(lambda: proxy.connections == 0)


def test_cut_resets_open_connections_only(proxy: Proxy) -> None:
    """A cut connection gets a reset, not an orderly end; the next one works."""
    with _connect(proxy) as peer:
        assert _echoes(peer, b"before")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
    with _connect(proxy) as peer:
        assert _echoes(peer, b"after")


def test_a_black_hole_swallows_and_then_resets(proxy: Proxy) -> None:
    """Nothing is answered, sending goes on; when it ends, an idle connection still lives."""
    with _connect(proxy) as holed, _connect(proxy) as idle:
        assert _echoes(holed, b"before")
        assert _echoes(idle, b"before")
        proxy.blackhole()
        holed.sendall(b"lost")
        wait_until(lambda: proxy.swallowed == 4)
        holed.settimeout(0.05)
        with pytest.raises(TimeoutError):
            holed.recv(1)
        proxy.blackhole(on=False)
        holed.settimeout(5)
        with pytest.raises(ConnectionResetError):
            holed.recv(1)
        assert _echoes(idle, b"after")


def test_new_connections_fall_into_the_black_hole_too(proxy: Proxy) -> None:
    """Connecting succeeds, as behind a load balancer whose firewall drops packets; no byte comes back."""
    proxy.blackhole()
    with _connect(proxy) as peer:
        peer.sendall(b"hello?")
        wait_until(lambda: proxy.swallowed == 6)
    assert (proxy.sent, proxy.received) == (0, 0)


def test_refusing_leaves_open_connections_alone(proxy: Proxy) -> None:
    """New connections are refused at once, the open one works, and the port comes back the same."""
    port = proxy.port
    with _connect(proxy) as peer:
        assert _echoes(peer, b"open")
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            _connect(proxy)
        assert _echoes(peer, b"still here")
    proxy.refuse(on=False)
    assert proxy.port == port
    with _connect(proxy) as peer:
        assert _echoes(peer, b"back")


def test_delay_slows_each_direction(proxy: Proxy) -> None:
    """A round trip takes at least two delays."""
    with _connect(proxy) as peer:
        assert _echoes(peer, b"fast")
        proxy.delay = 0.05
        started = time.monotonic()
        assert _echoes(peer, b"slow")
        assert time.monotonic() - started >= 0.1


def test_a_dead_target_shows_as_a_lost_connection() -> None:
    """When the target refuses, the client's connection is lost instead of hanging."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with Proxy("127.0.0.1", unused.getsockname()[1]) as proxy:
            assert _is_lost(proxy)


def _is_lost(proxy: Proxy) -> bool:
    try:
        with _connect(proxy) as peer:
            return peer.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_connection_hears_so_many_bytes_and_no_more(proxy: Proxy) -> None:
    """Each new connection by itself; what it sends still arrives."""
    proxy.answer_bytes = 3
    for _ in range(2):
        with _connect(proxy) as peer:
            sent = proxy.sent
            peer.sendall(b"12345")
            assert peer.recv(10) == b"123"
            wait_until(lambda before=sent: proxy.sent == before + 5, 5, "sent")  # type: ignore[misc]
            peer.settimeout(0.2)
            with pytest.raises(TimeoutError):
                peer.recv(10)
