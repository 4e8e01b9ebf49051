"""Which HTTP client sends the most journeys per CPU-second: the measurement behind our transport.

Run with ``python -m tests.bench.transports [REQUESTS]``. CPU seconds of this process only; the
server, a minimal HTTP/1.1 one that answers like the Registry, is a process of its own.
"""

import argparse
import asyncio
import importlib.util
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import httpx
import uvloop

from consumer.core.reply import Reply
from consumer.registry.client import RegistryClient
from tests.bench.work import FastRegistry

IN_FLIGHT = 64
TIMEOUT_SECONDS = 10.0
TOKEN = "t" * 300
BODY = b'{"filler":"' + b"a" * 900 + b'"}'
Send = Callable[[], Awaitable[int]]


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


async def measure(origin: str, requests: int, rounds: int = 5) -> dict[str, float]:
    """Give requests per CPU-second for each candidate: the best of ``rounds``, taken in turns."""
    async with AsyncExitStack() as stack:
        named = await candidates(origin, stack)
        rates = dict.fromkeys(named, 0.0)
        for _ in range(rounds):
            for name, (send, divisor) in named.items():
                count = max(requests // divisor // rounds, IN_FLIGHT)
                await cpu_seconds(send, IN_FLIGHT * 2)  # open the connections
                rates[name] = max(rates[name], count / await cpu_seconds(send, count))
        return rates


def main() -> None:
    """Print a table of requests per CPU-second, microseconds of CPU each, and the ratio to httpx's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requests", nargs="?", type=int, default=20_000)
    server = FastRegistry()
    try:
        rates = uvloop.run(measure(server.url, parser.parse_args().requests))
    finally:
        server.stop()
    first = next(iter(rates.values()))
    print(f"{'at 64 in flight, client only':58} {'per CPU-s':>10} {'µs each':>8} {'ratio':>6}")  # noqa: T201
    for name, rate in rates.items():
        print(f"{name:58} {rate:10,.0f} {1e6 / rate:8.0f} {rate / first:6.1f}")  # noqa: T201


if __name__ == "__main__":
    main()
