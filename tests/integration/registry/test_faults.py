"""Every way in which there is no answer, provoked on real sockets."""

import asyncio
import socket
import struct
import time

import pytest

from consumer.core.reply import Fault, FaultKind, Reply
from consumer.registry.client import MAX_BODY_BYTES
from tests.integration.registry.servers import (
    OK,
    Connect,
    Serve,
    answering,
    free_port,
    read_request,
)
from tests.waiting import await_until

TOKEN = "token-of-the-test"
BODY = b'{"journey_id": "1"}'
HEAD = b"HTTP/1.1 200 OK\r\n"


#: httpx calls a connection that was closed without an answer a broken protocol.
PERHAPS_PROCESSED = (FaultKind.READ, FaultKind.PROTOCOL)


def kind_of(found: Reply | Fault) -> FaultKind | None:
    """The kind of a fault, whose detail belongs to the transport."""
    return found.kind if isinstance(found, Fault) else None


async def test_a_refused_port_was_never_reached(connect: Connect) -> None:
    """No server listens."""
    found = await connect(f"http://127.0.0.1:{free_port()}").post_journey(BODY, TOKEN)
    assert found == Fault(FaultKind.CONNECT, "ConnectError")


async def test_a_name_that_does_not_exist_was_never_reached(connect: Connect) -> None:
    """DNS says no (or says nothing in time)."""
    found = await connect("http://registry.invalid").post_journey(BODY, TOKEN)
    assert isinstance(found, Fault)
    assert found.kind in {FaultKind.CONNECT, FaultKind.CONNECT_TIMEOUT}


async def test_a_connection_that_is_never_accepted_was_never_sent(
    connect: Connect, full_backlog: int
) -> None:
    """Connecting has its own, shorter time, so that it can be told from a lost answer."""
    client = connect(f"http://127.0.0.1:{full_backlog}", timeout_seconds=0.6)
    assert await client.post_journey(BODY, TOKEN) == Fault(FaultKind.CONNECT_TIMEOUT, "ConnectTimeout")


async def test_a_black_hole_ends_at_the_deadline(serve: Serve, connect: Connect) -> None:
    """The server takes the request and says nothing."""

    async def swallow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    started = time.monotonic()
    found = await connect(await serve(swallow), timeout_seconds=0.4).post_journey(BODY, TOKEN)
    assert kind_of(found) is FaultKind.TIMEOUT
    assert 0.3 < time.monotonic() - started < 5


@pytest.mark.parametrize("head", [b"", HEAD + b"Content-Length: 1000\r\n\r\n"], ids=["head", "body"])
async def test_a_server_that_drips_is_cut_at_the_deadline(
    serve: Serve, connect: Connect, head: bytes
) -> None:
    """Each read succeeds, the whole does not: the deadline is total."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(head)
        for byte in HEAD + b"X-Padding: " + b"x" * 10_000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    found = await connect(await serve(drip), timeout_seconds=0.4).post_journey(BODY, TOKEN)
    assert kind_of(found) is FaultKind.TIMEOUT


@pytest.mark.parametrize("listening", [True, False])
async def test_a_connection_lost_after_sending_was_perhaps_processed(
    serve: Serve,
    connect: Connect,
    listening: bool,  # noqa: FBT001
) -> None:
    """Closed before an answer, after or before reading the request: never called "not sent"."""

    async def close_connection(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        if listening:
            await read_request(reader)

    found = await connect(await serve(close_connection)).post_journey(BODY, TOKEN)
    assert kind_of(found) in PERHAPS_PROCESSED or (kind_of(found) is FaultKind.CONNECT and not listening)


async def test_a_reset_connection_was_perhaps_processed(serve: Serve, connect: Connect) -> None:
    """A RST instead of an answer."""

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    found = await connect(await serve(reset)).post_journey(BODY, TOKEN)
    assert found == Fault(FaultKind.READ, "ReadError")


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 100\r\n\r\nabc",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab",
        b"\x00\x01SSH-2.0-nothing-of-http\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        HEAD + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n",
    ],
    ids=["cut-body", "cut-chunk", "bad-chunk", "garbage", "bad-status", "two-lengths", "endless-head"],
)
async def test_what_is_not_http_is_a_broken_protocol(serve: Serve, connect: Connect, answer: bytes) -> None:
    """Garbage, an answer cut in the middle, a head without end."""
    found = await connect(await serve(answering(answer, close=True))).post_journey(BODY, TOKEN)
    assert found == Fault(FaultKind.PROTOCOL, "RemoteProtocolError")


@pytest.mark.parametrize("framing", [b"Content-Length: 50000000\r\n\r\n", b"Connection: close\r\n\r\n"])
async def test_a_huge_success_is_cut_and_the_next_request_works(
    serve: Serve, connect: Connect, framing: bytes
) -> None:
    """What is read is bounded, whatever is announced; the slot is free afterwards."""
    written = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(HEAD + framing)
        while written < 50_000_000:
            writer.write(b"x" * 65_536)
            written += 65_536
            await writer.drain()

    server = await serve(flood)
    client = connect(server, concurrency=1)
    assert await client.post_journey(BODY, TOKEN) == Fault(FaultKind.TOO_LARGE)
    assert written < 50_000_000
    server.handler = answering(OK)
    assert isinstance(await client.post_journey(BODY, TOKEN), Reply)


async def test_a_huge_error_keeps_its_status(serve: Serve, connect: Connect) -> None:
    """The status speaks for itself; 64 KiB of a proxy's page are enough."""
    page = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
    found = await connect(await serve(answering(page, close=True))).post_journey(BODY, TOKEN)
    assert isinstance(found, Reply)
    assert (found.status, len(found.body)) == (502, MAX_BODY_BYTES)


async def test_a_body_cut_after_the_first_64_kib_is_a_broken_protocol(serve: Serve, connect: Connect) -> None:
    """The head was good and so was the beginning; the end never came."""
    answer = HEAD + b"Content-Length: 100000\r\n\r\n" + b"x" * MAX_BODY_BYTES
    found = await connect(await serve(answering(answer, close=True))).post_journey(BODY, TOKEN)
    assert found == Fault(FaultKind.PROTOCOL, "RemoteProtocolError")


async def test_no_free_connection_in_time_was_never_sent(serve: Serve, connect: Connect) -> None:
    """Half of the time for a connection, so that the other half is left to use it."""

    async def swallow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    client = connect(await serve(swallow), concurrency=1, timeout_seconds=0.6)
    found = await asyncio.gather(client.post_journey(BODY, TOKEN), client.post_journey(BODY, TOKEN))
    assert {fault.kind for fault in found if isinstance(fault, Fault)} == {
        FaultKind.TIMEOUT,
        FaultKind.POOL_TIMEOUT,
    }


async def test_a_cancelled_request_ends_and_gives_its_place_back(serve: Serve, connect: Connect) -> None:
    """Its connection is closed at once, not at the deadline, and another request takes the place."""

    async def swallow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await serve(swallow)
    client = connect(server, concurrency=2, timeout_seconds=60.0)
    doomed = [asyncio.create_task(client.post_journey(BODY, TOKEN)) for _ in range(2)]
    await await_until(lambda: server.open == 2)
    for task in doomed:
        task.cancel()
    cancelled = await asyncio.gather(*doomed, return_exceptions=True)
    assert [type(found) for found in cancelled] == [asyncio.CancelledError] * 2
    await await_until(lambda: server.open == 0)
    server.handler = answering(OK)
    found = await asyncio.gather(*(client.post_journey(BODY, TOKEN) for _ in range(8)))
    assert [type(each) for each in found] == [Reply] * 8


@pytest.mark.parametrize("transport", ["ours"], indirect=True)
async def test_closing_ends_what_is_under_way(serve: Serve, connect: Connect) -> None:
    """A request under way ends as a fault, and so does one that comes too late."""
    started = asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        started.set()
        await reader.read()

    client = connect(await serve(swallow))
    waiting = asyncio.create_task(client.post_journey(BODY, TOKEN))
    await started.wait()
    await client.aclose()
    assert await waiting == Fault(FaultKind.READ, "CloseError")
    assert await client.post_journey(BODY, TOKEN) == Fault(FaultKind.READ, "CloseError")
