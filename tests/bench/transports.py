"""Which HTTP client sends the most journeys per CPU-second: the measurement behind our transport.

Run with ``python -m tests.bench.transports [REQUESTS]``. CPU seconds of this process only, Rust threads
included; the server, a minimal HTTP/1.1 one that answers like the Registry, is a process of its own.
"""

import argparse
import asyncio
import importlib.util
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import cast

import httpx
import uvloop
from pyreqwest.client import ClientBuilder
from pyreqwest.compatibility.httpx import HttpxTransport

from consumer.core.reply import Reply
from consumer.registry.client import RegistryClient

IN_FLIGHT = 64
TIMEOUT_SECONDS = 10.0
TOKEN = "t" * 300
BODY = b'{"filler":"' + b"a" * 900 + b'"}'
ANSWER = (
    b'{"id":1,"jsonrpc":"2.0","result":{"operator_journey_id":"1","created_at":"2026-11-23T15:57:33.665Z"}}'
)
HEAD = (
    b"HTTP/1.1 201 Created\r\nContent-Type: application/json; charset=utf-8\r\n"
    b"X-RateLimit-Limit: 20000\r\nX-RateLimit-Remaining: 19999\r\nX-RateLimit-Reset: 1795448000\r\n"
    b"Date: Mon, 23 Nov 2026 16:00:00 GMT\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
)

Send = Callable[[], Awaitable[int]]


class MinimalServer(asyncio.Protocol):
    """Keep-alive HTTP/1.1, bodies with a length, one answer for everything."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._pending = b""

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._pending += data
        while (end := self._pending.find(b"\r\n\r\n")) >= 0:
            head = self._pending[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._pending) < end + 4 + length:
                return
            self._pending = self._pending[end + 4 + length :]
            self._transport.write(HEAD + ANSWER)


async def serve() -> None:
    """Serve on a free port, and print it."""
    server = await asyncio.get_running_loop().create_server(MinimalServer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await server.serve_forever()


async def cpu_seconds(send: Send, requests: int) -> float:
    """Spend ``requests`` sends at 64 in flight; every answer must be the server's 201."""
    remaining = iter(range(requests))

    async def worker() -> None:
        for _ in remaining:
            assert await send() == 201

    before = time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return time.process_time() - before


async def candidates(origin: str, stack: AsyncExitStack) -> dict[str, tuple[Send, int]]:
    """Name every way to send, with the divisor that keeps the slow ones short."""
    url = f"{origin}/v3/journeys"
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}

    def through_client(client: httpx.AsyncClient) -> Send:
        async def send() -> int:
            return (await client.post(url, headers=headers, content=BODY)).status_code

        return send

    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
    plain = await stack.enter_async_context(httpx.AsyncClient(limits=limits))
    found: dict[str, tuple[Send, int]] = {"httpx, default transport": (through_client(plain), 20)}

    if importlib.util.find_spec("httpx_aiohttp"):
        from httpx_aiohttp import AiohttpTransport  # noqa: PLC0415  # optional

        client = await stack.enter_async_context(httpx.AsyncClient(transport=AiohttpTransport(limits=limits)))
        found["httpx-aiohttp, through AsyncClient"] = through_client(client), 4

    theirs = HttpxTransport(ClientBuilder().max_connections(IN_FLIGHT).no_proxy().build())
    client = await stack.enter_async_context(httpx.AsyncClient(transport=theirs))
    found["pyreqwest's HttpxTransport, through AsyncClient"] = through_client(client), 4

    ready = httpx.Request("POST", url, headers=headers, content=BODY)

    async def direct() -> int:
        response = await theirs.handle_async_request(ready)
        await response.aread()
        await response.aclose()
        return response.status_code

    found["pyreqwest's HttpxTransport, called with a ready Request"] = direct, 1

    registry = RegistryClient(
        url=origin, api_version="v3", timeout_seconds=TIMEOUT_SECONDS, concurrency=IN_FLIGHT
    )
    stack.push_async_callback(registry.aclose)

    async def ours() -> int:
        reply = await registry.post_journey(BODY, TOKEN)
        assert isinstance(reply, Reply), reply
        return reply.status

    found["ours: Registry.post_journey, deadline and bounds included"] = ours, 1
    return found


async def measure(port: int, requests: int, rounds: int = 5) -> dict[str, float]:
    """Give requests per CPU-second for each candidate: the best of ``rounds``, taken in turns."""
    async with AsyncExitStack() as stack:
        named = await candidates(f"http://127.0.0.1:{port}", stack)
        rates = dict.fromkeys(named, 0.0)
        for _ in range(rounds):
            for name, (send, divisor) in named.items():
                count = max(requests // divisor // rounds, IN_FLIGHT)
                await cpu_seconds(send, IN_FLIGHT * 2)  # open the connections
                rates[name] = max(rates[name], count / await cpu_seconds(send, count))
        return rates


def run(requests: int) -> dict[str, float]:
    """Start the server, measure, stop the server."""
    command = [sys.executable, "-m", "tests.bench.transports", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            return uvloop.run(measure(int(server.stdout.readline()), requests))
        finally:
            server.terminate()


def main() -> None:
    """Print a table of requests per CPU-second, microseconds of CPU each, and the ratio to httpx's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requests", nargs="?", type=int, default=20_000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(serve())
        return
    rates = run(arguments.requests)
    first = next(iter(rates.values()))
    print(f"{'at 64 in flight, client only':58} {'per CPU-s':>10} {'µs each':>8} {'ratio':>6}")  # noqa: T201
    for name, rate in rates.items():
        print(f"{name:58} {rate:10,.0f} {1e6 / rate:8.0f} {rate / first:6.1f}")  # noqa: T201


if __name__ == "__main__":
    main()
