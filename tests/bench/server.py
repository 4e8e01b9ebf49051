"""A Registry as fast as Python can be: answers with the headers of the real one and remembers arrivals.

Run with ``python -m tests.bench.server [PEM]``: prints its port; after a line on standard input it
prints one JSON object, id -> monotonic seconds of arrival, and ends. With a certificate it speaks TLS. The
first digits of a journey's id choose the answer: 201, a refusal by the database, or a firewall's page.
"""

import asyncio
import json
import re
import ssl
import sys
import time
from email.utils import formatdate
from typing import cast

import uvloop

#: Ids that begin so are refused by the database, or answered by something that is not the Registry.
REFUSED, FOREIGN = "dddddddd", "ffffffff"

_STORED = (
    b'{"id":1,"jsonrpc":"2.0","result":{"operator_journey_id":"1","created_at":"2026-11-23T15:57:33.665Z"}}'
)
_REFUSAL = b'{"id":1,"jsonrpc":"2.0","error":{"message":"value too long for type character varying(32)"}}'
_PAGE = b"<!DOCTYPE html><html><head><title>Not Acceptable</title></head><body>blocked</body></html>"
_ID = re.compile(rb'"journey_id": ?"([^"]+)"')


def _answer(status: str, body: bytes, now: float, kind: str = "application/json; charset=utf-8") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nServer: nginx\r\nDate: {formatdate(now, usegmt=True)}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nX-RateLimit-Limit: 100000000\r\n"
        f"X-RateLimit-Remaining: 99999999\r\nX-RateLimit-Reset: {int(now) + 60}\r\n"
        "Strict-Transport-Security: max-age=15724800; includeSubDomains\r\nVary: Origin\r\n\r\n"
    )
    return head.encode() + body


class Answers:
    """The three answers, with the date of the current second; ``arrivals`` by id."""

    def __init__(self) -> None:
        self.arrivals: dict[str, float] = {}
        self._second = 0
        self._bytes: dict[str, bytes] = {}

    def to(self, found: re.Match[bytes] | None) -> bytes:
        """The answer to the request that names this journey."""
        if int(now := time.time()) != self._second:
            self._second = int(now)
            self._bytes = {
                REFUSED: _answer("500 Internal Server Error", _REFUSAL, now),
                FOREIGN: _answer("406 Not Acceptable", _PAGE, now, "text/html"),
                "": _answer("201 Created", _STORED, now),
            }
        identifier = "" if found is None else found[1].decode()
        if identifier:
            self.arrivals.setdefault(identifier, time.monotonic())
        return self._bytes.get(identifier[: len(REFUSED)], self._bytes[""])


class Server(asyncio.Protocol):
    """Keep-alive HTTP/1.1, bodies with a length."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
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
            self._transport.write(self._answers.to(_ID.search(self._pending, end, end + 4 + length)))
            self._pending = self._pending[end + 4 + length :]


async def serve(*certificate: str) -> None:
    """Serve on a free port until standard input says enough."""
    answers = Answers()
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(answers), "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await loop.run_in_executor(None, sys.stdin.readline)
    server.close()
    print(json.dumps(answers.arrivals), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
