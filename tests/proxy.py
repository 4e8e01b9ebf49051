"""A TCP proxy that breaks connections on command, for tests of what a bad network does.

It runs its own event loop in its own thread, so that a blocked or black-holed client on the test's side never
stops it. Every method may be called from any thread and has taken effect when it returns.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

_CHUNK = 65_536


class Proxy:
    """Forwards ``127.0.0.1:port`` to the target; a context manager.

    ``delay`` (seconds, may be changed at any time) is waited before each chunk in each direction.
    ``answer_bytes`` is how much each new connection hears of the target before it falls silent, None for all.
    ``sent`` and ``received`` count forwarded bytes towards and from the target, ``swallowed`` the lost ones.
    """

    def __init__(self, target_host: str, target_port: int, *, delay: float = 0.0) -> None:
        self._target = (target_host, target_port)
        self.delay = delay
        self.port = 0
        self.accepted = 0
        self.sent = 0
        self.received = 0
        self.swallowed = 0
        self.answer_bytes: int | None = None
        self._blackhole = False
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._pairs)

    def cut(self) -> None:
        """Reset every open connection on both sides; new ones are accepted."""
        self._call(self._cut(lossy_only=False))

    def blackhole(self, *, on: bool = True) -> None:
        """Swallow what either side sends, on open and on new connections, and answer nothing.

        When it ends, connections that lost bytes are reset: their streams have holes.
        """
        self._call(self._set_blackhole(on=on))

    def refuse(self, *, on: bool = True) -> None:
        """Refuse new connections; open ones go on."""
        self._call(self._unlisten() if on else self._listen())

    # --- on the proxy's own loop --------------------------------------------------------

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _unlisten(self) -> None:
        # Not wait_closed: from Python 3.12 on it waits for the open connections too.
        if self._server is not None:
            # asyncio loses a connection that it has accepted but not yet attached to its server.
            self._loop.remove_reader(self._server.sockets[0].fileno())
            for _ in range(3):
                await asyncio.sleep(0)
            self._server.close()
            self._server = None

    async def _close(self) -> None:
        await self._unlisten()
        await self._cut(lossy_only=False)
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def _cut(self, *, lossy_only: bool) -> None:
        for pair in list(self._pairs):
            if pair.lossy or not lossy_only:
                pair.reset()

    async def _set_blackhole(self, *, on: bool) -> None:
        self._blackhole = on
        if not on:
            await self._cut(lossy_only=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        pair = _Pair(writer, self.answer_bytes)
        self._pairs.add(pair)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            upstream_reader, pair.upstream = await asyncio.open_connection(*self._target)
            await asyncio.gather(
                self._pump(reader, pair.upstream, pair, outwards=True),
                self._pump(upstream_reader, writer, pair, outwards=False),
            )
        except OSError:  # the target refuses: the client sees a reset
            pair.reset()
        finally:
            self._pairs.discard(pair)
            await pair.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pair: "_Pair", *, outwards: bool
    ) -> None:
        try:
            while data := await reader.read(_CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self._blackhole or pair.lossy:
                    pair.lossy = True
                    self.swallowed += len(data)
                    continue
                if outwards:
                    self.sent += len(data)
                else:
                    data = pair.heard(data)
                    self.received += len(data)
                writer.write(data)
                await writer.drain()
            if self._blackhole:
                pair.lossy = True  # the end of the stream was swallowed too
            elif not pair.lossy and (outwards or not pair.mute):
                writer.write_eof()  # a half-closed connection stays half open, as without a proxy
        except OSError:  # one side was reset: so is the other
            pair.reset()


class _Pair:
    """The two halves of one proxied connection; ``lossy`` once bytes were swallowed."""

    def __init__(self, client: asyncio.StreamWriter, answer_bytes: int | None) -> None:
        self.client = client
        self._answer_bytes = answer_bytes
        self.upstream: asyncio.StreamWriter | None = None
        self.lossy = False

    @property
    def mute(self) -> bool:
        """Whether the client hears nothing more, the end of the stream included."""
        return self._answer_bytes == 0

    def heard(self, data: bytes) -> bytes:
        """What of the target's ``data`` goes on to the client."""
        if self._answer_bytes is not None:
            data = data[: self._answer_bytes]
            self._answer_bytes -= len(data)
        return data

    def _writers(self) -> list[asyncio.StreamWriter]:
        return [self.client] if self.upstream is None else [self.client, self.upstream]

    def reset(self) -> None:
        for writer in self._writers():
            if not writer.is_closing():
                peer: socket.socket = writer.get_extra_info("socket")
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def close(self) -> None:
        for writer in self._writers():
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
