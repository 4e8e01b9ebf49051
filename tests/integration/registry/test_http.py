"""HTTP as it is allowed to be, and answers that are cut: what a known status is worth."""

import asyncio
import socket
import struct

import pytest

from consumer.core.reply import Fault, FaultKind, Reply
from tests.integration.registry.servers import OK, Connect, Handler, Serve, answering, read_request
from tests.waiting import await_until

TOKEN = "token-of-the-test"
BODY = b'{"journey_id": "1"}'
REFUSAL = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32501,"message":"Unauth'


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK,
        b"HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\n{\r\n1\r\n}\r\n0\r\nX-Late: 1\r\n\r\n",
        b"HTTP/1.1 201 Created\r\nConnection: close\r\n\r\n{}",
        b"HTTP/1.0 201 Created\r\n\r\n{}",
    ],
    ids=["100", "103 and 102", "chunked", "until close", "HTTP/1.0"],
)
async def test_every_framing_of_an_answer_is_read(serve: Serve, connect: Connect, answer: bytes) -> None:
    """The interim answers are skipped, the trailers ignored, and the next request works."""
    client = connect(await serve(answering(answer, close=b"chunked" not in answer and OK not in answer)))
    for _ in range(2):
        found = await client.post_journey(BODY, TOKEN)
        assert isinstance(found, Reply)
        assert (found.status, found.body, "x-late" in found.headers) == (201, b"{}", False)


async def test_a_server_that_says_close_is_not_written_to_again(serve: Serve, connect: Connect) -> None:
    """Whether or not it closes itself."""
    server = await serve(answering(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))
    client = connect(server)
    for number in range(1, 4):
        assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
        assert server.accepted == number


@pytest.mark.parametrize("transport", ["ours"], indirect=True)
async def test_an_answer_before_the_request_is_read_is_an_answer(serve: Serve, connect: Connect) -> None:
    """A gateway refuses by the head alone; what is left of the body does not spoil the next request."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await reader.read()

    server = await serve(refuse)
    client = connect(server)
    found = await client.post_journey(b"x" * 20_000_000, TOKEN)
    assert isinstance(found, Reply)
    assert found.status == 413
    server.handler = answering(OK)
    found = await client.post_journey(BODY, TOKEN)
    assert isinstance(found, Reply)
    assert found.status == 201


@pytest.mark.parametrize("transport", ["ours"], indirect=True)
@pytest.mark.parametrize(
    "surplus", [b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n", b"garbage"], ids=["answer", "garbage"]
)
@pytest.mark.parametrize("together", [True, False], ids=["at once", "later"])
async def test_an_answer_that_nobody_asked_for_is_nobodys(
    serve: Serve,
    connect: Connect,
    surplus: bytes,
    together: bool,  # noqa: FBT001
) -> None:
    """It would be taken for the answer to the next journey."""
    sent = asyncio.Event()

    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK + surplus if together else OK)
        await writer.drain()
        if not together:
            await asyncio.sleep(0.05)  # in a packet of its own
            writer.write(surplus)
        sent.set()
        await reader.read()

    server = await serve(twice)
    client = connect(server)
    first = await client.post_journey(BODY, TOKEN)
    await sent.wait()
    server.handler = answering(OK)
    second = await client.post_journey(BODY, TOKEN)
    assert [each.status for each in (first, second) if isinstance(each, Reply)] == [201, 201]


def cut_by(end: str, answer: bytes) -> Handler:
    """Answer, and never finish: close, reset, or say nothing more."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()
        if end == "reset":
            await asyncio.sleep(0.05)  # a reset takes what was not read with it
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif end == "silence":
            await reader.read()

    return handle


@pytest.mark.parametrize(
    ("status", "end"),
    [(400, "close"), (401, "close"), (403, "close"), (409, "close"), (429, "close"), (500, "close"),
     (401, "reset"), (429, "reset"), (409, "silence")],
)  # fmt: skip
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1000\r\n\r\n%b", b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n%b"]
)
async def test_a_cut_error_keeps_its_status(
    serve: Serve, connect: Connect, status: int, framing: bytes, end: str
) -> None:
    """The status was known when the head was here; what came of the body is told, too."""
    answer = b"HTTP/1.1 %d X\r\nRetry-After: 7\r\n" % status + framing % REFUSAL
    found = await connect(await serve(cut_by(end, answer)), timeout_seconds=0.5).post_journey(BODY, TOKEN)
    assert isinstance(found, Reply)
    assert (found.status, found.body, found.headers["retry-after"]) == (status, REFUSAL, "7")


@pytest.mark.parametrize(
    ("end", "kinds"),
    [
        ("close", {FaultKind.PROTOCOL}),
        ("reset", {FaultKind.READ}),
        ("silence", {FaultKind.TIMEOUT}),
    ],
)
async def test_a_cut_success_is_not_believed(
    serve: Serve, connect: Connect, end: str, kinds: set[FaultKind]
) -> None:
    """The result may be in the part that is missing."""
    answer = b'HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n{"result":'
    found = await connect(await serve(cut_by(end, answer)), timeout_seconds=0.5).post_journey(BODY, TOKEN)
    assert isinstance(found, Fault)
    assert found.kind in kinds


@pytest.mark.parametrize("status", [403, 407, 502])
async def test_a_proxys_own_answer_is_told_as_the_proxys(serve: Serve, connect: Connect, status: int) -> None:
    """The Registry was not asked: nothing was sent to it."""
    seen: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)
        await writer.drain()

    address = f"http://user:password@127.0.0.1:{(await serve(refuse)).port}"
    found = await connect("https://registry.example", proxy=address).post_journey(BODY, TOKEN)
    assert found == Fault(FaultKind.PROXY, str(status))
    assert seen[0].startswith(b"CONNECT registry.example:443 ")
    assert TOKEN.encode() not in seen[0]


@pytest.mark.parametrize("transport", ["ours"], indirect=True)
async def test_idle_connections_are_closed(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the server closes them, and without a request that would notice it."""
    monkeypatch.setattr("consumer.registry.transport.IDLE_SECONDS", 0.05)
    server = await serve(answering(OK))
    client = connect(server)
    for number in (1, 2):
        assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
        assert server.accepted == number
        await await_until(lambda: server.open == 0)
