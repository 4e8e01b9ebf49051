"""What goes over the wire when all is well, or nearly."""

import asyncio
import gzip
import zlib

import pytest

from consumer.core.reply import Fault, FaultKind, Reply
from consumer.registry.client import MAX_BODY_BYTES
from tests.integration.registry.servers import OK, Connect, Serve, answering, read_request
from tests.waiting import await_until

TOKEN = "token-of-the-test"
BODY = b'{ "journey_id": "1" }\n'


async def test_the_bytes_on_the_wire(serve: Serve, connect: Connect) -> None:
    """One Authorization, the journey byte for byte, no cookie, no compression offered."""
    seen: list[bytes] = []

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await read_request(reader))
            writer.write(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=1; Path=/\r\n\r\n"))

    client = connect(await serve(record))
    for _ in range(2):
        assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
    assert seen[0] == seen[1]
    head, body = seen[1].split(b"\r\n\r\n", 1)
    lines = sorted(head.lower().split(b"\r\n"))
    assert body == BODY
    assert b"post /v3/journeys http/1.1" in lines
    assert lines.count(b"authorization: bearer " + TOKEN.encode()) == 1
    assert lines.count(b"content-type: application/json") == 1
    assert lines.count(b"content-length: %d" % len(BODY)) == 1
    assert b"accept-encoding: identity" in lines
    assert not [line for line in lines if line.startswith((b"cookie", b"transfer-encoding", b"referer"))]
    assert [line for line in lines if line.startswith(b"user-agent: journey-consumer/")]


async def test_an_answer_in_our_words(serve: Serve, connect: Connect) -> None:
    """Names in lower case, only what is read; a header that is not ASCII does not cost the answer."""
    answer = (
        b"HTTP/1.1 429 Too Many Requests\r\nRATELIMIT-Reset: 7\r\nX-Odd: \xe9\xff\r\nRetry-After: \xe9\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"
    )
    found = await connect(await serve(answering(answer))).post_journey(BODY, TOKEN)
    headers = {"ratelimit-reset": "7", "retry-after": "\xe9", "content-encoding": "gzip"}
    assert found == Reply(429, headers, b"abc")


_REFUSAL = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32501,"message":"Unauthorized Error"}}'


def _http(status: int, body: bytes, *lines: bytes) -> bytes:
    head = [b"HTTP/1.1 %d X" % status, b"Content-Length: %d" % len(body), *lines]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@pytest.mark.parametrize("encoding", [b"gzip", b"GZIP", b"x-gzip", b"deflate"])
async def test_a_refusal_is_read_though_compressed(serve: Serve, connect: Connect, encoding: bytes) -> None:
    """A gateway compresses what it was asked not to."""
    compress = zlib.compress if encoding == b"deflate" else gzip.compress
    answer = _http(401, compress(_REFUSAL), b"Content-Encoding: " + encoding)
    found = await connect(await serve(answering(answer))).post_journey(BODY, TOKEN)
    assert isinstance(found, Reply)
    assert found.body == _REFUSAL


async def test_a_compressed_answer_is_bounded_when_it_is_decompressed(serve: Serve, connect: Connect) -> None:
    """Twenty kilobytes that become twenty megabytes."""
    bomb = gzip.compress(b" " * 20_000_000)
    refusal = await serve(answering(_http(400, bomb, b"Content-Encoding: gzip")))
    found = await connect(refusal).post_journey(BODY, TOKEN)
    assert isinstance(found, Reply)
    assert len(found.body) == MAX_BODY_BYTES
    success = await serve(answering(_http(201, bomb, b"Content-Encoding: gzip")))
    assert await connect(success).post_journey(BODY, TOKEN) == Fault(FaultKind.TOO_LARGE)


async def test_of_several_retry_after_all_are_kept(serve: Serve, connect: Connect) -> None:
    """The Registry's and a gateway's: whoever reads them takes the longest."""
    answer = _http(429, b"{}", b"Retry-After: 120", b"retry-after: 3")
    found = await connect(await serve(answering(answer))).post_journey(BODY, TOKEN)
    assert isinstance(found, Reply)
    assert found.headers["retry-after"] == "120, 3"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_the_token_stays_here(
    serve: Serve, connect: Connect, status: int
) -> None:
    """Neither to another host nor to the same one."""
    elsewhere = await serve(answering(OK))
    answer = (
        b"HTTP/1.1 %d Moved\r\nLocation: http://127.0.0.1:%d/v3/journeys\r\nContent-Length: 0\r\n\r\n"
        % (status, elsewhere.port)
    )
    found = await connect(await serve(answering(answer))).post_journey(BODY, TOKEN)
    assert isinstance(found, Reply)
    assert found.status == status
    assert elsewhere.accepted == 0


async def test_keys_and_front_page(serve: Serve, connect: Connect) -> None:
    """The exchange and the look carry no token."""
    seen: list[bytes] = []

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await read_request(reader))
            writer.write(OK)

    client = connect(await serve(record), api_version="v2")
    assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
    assert isinstance(await client.post_access_token("a", "s"), Reply)
    assert isinstance(await client.get_front_page(), Reply)
    first_lines = [request.split(b"\r\n", 1)[0] for request in seen]
    assert first_lines == [
        b"POST /v2/journeys HTTP/1.1",
        b"POST /v3.3/auth/access_token HTTP/1.1",
        b"GET / HTTP/1.1",
    ]
    assert [TOKEN.encode() in request for request in seen] == [True, False, False]


async def test_no_more_at_once_than_allowed(serve: Serve, connect: Connect) -> None:
    """Two hundred go eight at a time, on eight connections that are kept."""
    at_once = most_at_once = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal at_once, most_at_once
        while True:
            await read_request(reader)
            at_once += 1
            most_at_once = max(most_at_once, at_once)
            await asyncio.sleep(0.002)
            at_once -= 1
            writer.write(OK)

    server = await serve(slow)
    client = connect(server, timeout_seconds=20)
    found = await asyncio.gather(*(client.post_journey(BODY, TOKEN) for _ in range(200)))
    assert all(isinstance(reply, Reply) for reply in found)
    assert most_at_once == 8
    assert server.accepted == 8


async def test_a_server_that_closes_idle_connections_is_not_felt(serve: Serve, connect: Connect) -> None:
    """It closes after each answer without saying so, as after an idle time; the next one opens anew."""

    async def answer_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK)
        writer.write_eof()
        assert await reader.read() == b""  # until the client, too, has closed: nothing more was sent

    server = await serve(answer_and_close)
    client = connect(server)
    for _ in range(50):
        assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
        await await_until(lambda: server.open == 0, interval=0.001)
    assert server.accepted == 50
    server.handler = answering(OK)
    found = await asyncio.gather(*(client.post_journey(BODY, TOKEN) for _ in range(50)))
    assert all(isinstance(reply, Reply) for reply in found)
    assert 50 < server.accepted <= 50 + 8


async def test_a_connection_closed_before_it_is_used_again_costs_no_second_journey(
    serve: Serve, connect: Connect
) -> None:
    """Whatever was read by the server is never sent again by the client on its own."""
    requests = 0

    async def answer_once_then_swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await read_request(reader)
        requests += 1
        writer.write(OK)
        await read_request(reader)
        requests += 1

    client = connect(await serve(answer_once_then_swallow))
    assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
    found = await client.post_journey(BODY, TOKEN)
    assert isinstance(found, Fault)
    assert found.kind in {FaultKind.READ, FaultKind.PROTOCOL}
    assert requests == 2


async def test_proxies_of_the_environment_are_not_used(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a proxy that our settings name sees the token."""
    proxy, server = await serve(answering(OK)), await serve(answering(OK))
    address = f"http://127.0.0.1:{proxy.port}"
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, address)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    client = connect(server)
    assert isinstance(await client.post_journey(BODY, TOKEN), Reply)
    assert isinstance(await client.get_front_page(), Reply)
    assert proxy.accepted == 0
    assert isinstance(await connect(server, proxy=address).post_journey(BODY, TOKEN), Reply)
    assert proxy.accepted == 1
