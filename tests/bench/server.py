"""A Registry as fast as Python can be: answers 201 to everything and remembers when each id came.

Run with ``python -m tests.bench.server``: prints its port; after a line on standard input it prints
one JSON object, id -> monotonic seconds of arrival, and ends.
"""

import asyncio
import json
import re
import sys
import time
from typing import cast

import uvloop

ANSWER = (
    b'{"id":1,"jsonrpc":"2.0","result":{"operator_journey_id":"1","created_at":"2026-11-23T15:57:33.665Z"}}'
)
HEAD = (
    b"HTTP/1.1 201 Created\r\nContent-Type: application/json; charset=utf-8\r\n"
    b"RateLimit-Limit: 100000000\r\nRateLimit-Remaining: 99999999\r\nRateLimit-Reset: 60\r\n"
    b"Content-Length: %d\r\n\r\n" % len(ANSWER)
)
REPLY = HEAD + ANSWER
_ID = re.compile(rb'"journey_id": ?"([^"]+)"')


class Server(asyncio.Protocol):
    """Keep-alive HTTP/1.1, bodies with a length, one answer for everything."""

    def __init__(self, arrivals: dict[str, float]) -> None:
        self._arrivals = arrivals
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete."""
        self._pending += data
        while (end := self._pending.find(b"\r\n\r\n")) >= 0:
            head = self._pending[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._pending) < end + 4 + length:
                return
            found = _ID.search(self._pending, end)
            if found is not None:
                self._arrivals.setdefault(found[1].decode(), time.monotonic())
            self._pending = self._pending[end + 4 + length :]
            self._transport.write(REPLY)


async def serve() -> None:
    """Serve on a free port until standard input says enough."""
    arrivals: dict[str, float] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(arrivals), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await loop.run_in_executor(None, sys.stdin.readline)
    server.close()
    print(json.dumps(arrivals), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(serve())
