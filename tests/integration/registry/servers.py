"""Servers on loopback that behave in every way that a network can."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Protocol

import trustme

from consumer.registry.client import RegistryClient
from tests.waiting import await_until

#: More turns of the loop than a connection needs from the listening socket to its handler.
_TURNS_OF_AN_ACCEPT = 10

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read one request, head and body; EOFError (IncompleteReadError) when there is none."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line[15:]))
    return head


def answering(answer: bytes, *, close: bool = False) -> Handler:
    """Answer every request of a connection with these bytes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(answer)
            await writer.drain()
            if close:
                return

    return handle


class Server:
    """A raw TCP server: one handler, every connection counted, all of them ended at the end."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.port = 0
        self.open = self.most = self.accepted = 0
        self.failures: list[AssertionError] = []
        self._stopped = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        """Listen on a free port of loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stopped:  # it was on its way when we ended
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:  # not in the task: it may be cancelled before it begins
            self._tasks.discard(task)
            writer.close()

        task.add_done_callback(ended)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.accepted += 1
        self.most = max(self.most, self.open)
        try:
            with contextlib.suppress(OSError, EOFError):  # the client left: its right
                await self.handler(reader, writer)
        except AssertionError as error:  # a handler's own expectation: told when the server stops
            self.failures.append(error)
        finally:
            self.open -= 1

    async def stop(self) -> None:
        """End everything; raise what a handler complained about."""
        self._stopped = True
        for listener in self._server.sockets:  # first what is on its way: closing would leave its socket open
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in range(_TURNS_OF_AN_ACCEPT):
            await asyncio.sleep(0)
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Also what a TLS handshake has not handed to us yet. Until Python 3.12 wait_closed does not wait.
        await await_until(lambda: not getattr(self._server, "_active_count", 0), message="all have ended")
        await self._server.wait_closed()
        for failure in self.failures:
            raise failure


class Serve(Protocol):
    """Start a server for the test."""

    async def __call__(self, handler: Handler, context: ssl.SSLContext | None = None) -> Server:
        """Start it."""


class Connect(Protocol):
    """Make a Registry client for the test."""

    def __call__(self, target: Server | str, **changes: object) -> RegistryClient:
        """Make it."""


def server_context(authority: trustme.CA, host: str) -> ssl.SSLContext:
    """A server's TLS with a certificate for ``host``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


def free_port() -> int:
    """A port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
