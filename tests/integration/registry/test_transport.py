"""What our own transport promises beyond the contract: connections, addresses, bounds."""

import asyncio
import socket
import time
from collections.abc import Callable

import pytest

from consumer.core.reply import Fault, FaultKind, Reply
from consumer.registry import transport as module
from tests.integration.registry.servers import OK, Connect, Serve, answering, free_port, read_request
from tests.waiting import await_until

TOKEN = "token-of-the-test"
BODY = b'{"journey_id": "1"}'

pytestmark = pytest.mark.parametrize("transport", ["ours"], indirect=True)


async def test_never_more_connections_than_allowed(serve: Serve, connect: Connect) -> None:
    """Also while the server closes each after its answer and many wait: closing ones are counted, too."""
    server = await serve(answering(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))
    client = connect(server, timeout_seconds=20)
    found = await asyncio.gather(*(client.post_journey(BODY, TOKEN) for _ in range(100)))
    assert [type(each) for each in found] == [Reply] * 100
    assert server.accepted == 100
    assert server.most <= 8


async def test_who_gives_up_waiting_leaves_the_place_to_the_next(serve: Serve, connect: Connect) -> None:
    """Cancelled while waiting for a connection, also at the moment at which one comes free."""
    release = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            await release.wait()
            writer.write(OK)

    server = await serve(hold)
    client = connect(server, concurrency=1, timeout_seconds=20)
    first, *waiting = (asyncio.create_task(client.post_journey(BODY, TOKEN)) for _ in range(6))
    await await_until(lambda: server.accepted == 1)
    waiting[0].cancel()
    first.add_done_callback(lambda _: waiting[1].cancel())
    release.set()
    found = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert [type(each) for each in found].count(Reply) >= 4
    assert isinstance(await client.post_journey(BODY, TOKEN), Reply)


async def test_a_connection_that_closed_while_the_loop_was_busy_is_not_written_to(connect: Connect) -> None:
    """Nothing was sent on it, so that the journey goes over another one at once."""
    requests: list[int] = []
    closed = asyncio.Event()

    def serve_twice(listener: socket.socket, loop_is_busy: "asyncio.Future[None]") -> None:
        for number in (1, 2):
            connection, _ = listener.accept()
            with connection:
                while b"journey_id" not in connection.recv(65_536):
                    pass
                requests.append(number)
                connection.sendall(OK)
                while number == 1 and not loop_is_busy.done():
                    time.sleep(0.001)
        closed.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        busy = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(asyncio.to_thread(serve_twice, listener, busy))
        client = connect(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
        (connection,) = client._direct._open  # type: ignore[union-attr]
        busy.set_result(None)
        while not connection._poll.poll(10):  # the loop stands still until the server has closed
            pass
        assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
        await serving
    assert requests == [1, 2]


async def test_a_connection_ends_so_that_a_change_in_dns_is_followed(serve: Serve, connect: Connect) -> None:
    """Under a steady load, too: no request fails by it."""
    server = await serve(answering(OK))
    client = connect(server, connection_seconds=0.1)

    async def moved() -> bool:
        assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
        return server.accepted >= 3

    await await_until(moved, interval=0.001)
    assert server.most == 1


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make a name resolve to these addresses and ports of 127.0.0.1."""

    def use(*ports: int) -> None:
        async def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, ("127.0.0.1", port)) for port in ports]

        monkeypatch.setattr(module, "_addresses", getaddrinfo)

    return use


async def test_addresses_are_tried_in_turn(
    serve: Serve, connect: Connect, resolve: Callable[..., None], full_backlog: int
) -> None:
    """One refuses, one is silent, the third answers; those that failed are tried last the next time."""
    server = await serve(answering(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))
    resolve(free_port(), full_backlog, server.port)
    client = connect("http://registry.example", timeout_seconds=3)
    started = time.monotonic()
    assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
    first = time.monotonic() - started
    assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
    assert time.monotonic() - started - first < first
    assert server.accepted == 2


async def test_of_addresses_that_all_fail_none_was_sent_to(
    connect: Connect, resolve: Callable[..., None], full_backlog: int
) -> None:
    """The last one's failure is told."""
    resolve(full_backlog, free_port())
    found = await connect("http://registry.example", timeout_seconds=0.6).post_journey(BODY, TOKEN)
    assert found == Fault(FaultKind.CONNECT, "ConnectError")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 103 Early Hints\r\nX: " + b"x" * 900 + b"\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 900 + b"\r\n{\r\n",
    ],
    ids=["interim answers", "chunk extensions"],
)
async def test_what_has_no_end_and_no_body_is_cut(serve: Serve, connect: Connect, answer: bytes) -> None:
    """Within the bound, and long before the deadline."""
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        head, chunk = answer.rsplit(b"1;", 1) if b"1;" in answer else (b"", answer)
        writer.write(head)
        while sent < 100_000_000:
            writer.write(b"1;" + chunk if head else chunk)
            sent += len(chunk)
            await writer.drain()

    client = connect(await serve(flood), timeout_seconds=20)
    assert await client.post_journey(BODY, TOKEN) == Fault(FaultKind.PROTOCOL, "RemoteProtocolError")
    assert sent < 50_000_000
