"""Reads and writes the AMQP frames of a connection that belongs to the event loop.

1. Neither reading nor writing blocks; the socket is non-blocking from ``FrameReader`` to ``give_back``.
2. On plain TCP everything that has arrived is read with one system call and cut into frames (AMQP 0-9-1,
   section 4.2.3); py-amqp needs three calls for a frame, and a delivery is three frames. TLS goes through
   py-amqp. What waits for the rest of a frame is bounded by ``frame_max``.
3. What the kernel does not take at once waits in ``FrameWriter``, in order and bounded; py-amqp would lose
   the rest of the frame, and with it the connection.
"""

import asyncio
import itertools
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from amqp.exceptions import UnexpectedFrame

from consumer.errors import BrokerError

READ_BYTES = 65_536
#: Most bytes that wait for a broker that does not read: the acknowledgements of 200,000 deliveries.
MOST_UNWRITTEN_BYTES = 4 * 1024 * 1024
_NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_HEADER = struct.Struct(">BHI")  # type, channel, size
_FRAME_END = 0xCE


def check_frame_size(size: int, frame_max: int) -> None:
    """Raise UnexpectedFrame when a frame's ``size`` exceeds what a broker may send.

    Twice ``frame_max``, because RabbitMQ adds headers (``x-delivery-count``, ``x-death``) to what filled a
    frame at its publisher, and cannot split a header frame.
    """
    if size > 2 * frame_max:
        raise UnexpectedFrame(f"a frame of {size} bytes exceeds twice the negotiated maximum of {frame_max}")


class FrameReader:
    """Reads the frames of a connection after its handshake; none while ``stopped``."""

    def __init__(self, connection: Any) -> None:
        self.stopped = False
        self._connection = connection
        self._sock: socket.socket = connection.sock
        self._sock.settimeout(0.0)
        self._tls = isinstance(self._sock, ssl.SSLSocket)
        self._rest = b""
        if not self._tls:  # bytes that py-amqp has read beyond its last frame
            transport = connection.transport
            self._rest, transport._read_buffer = transport._read_buffer, b""  # noqa: SLF001

    def read(self) -> None:
        """Dispatch every frame that has arrived; raises what py-amqp raises, or OSError at the end."""
        if self._tls:  # all of it: bytes that TLS has already decrypted wake no loop
            with suppress(TimeoutError):
                while not self.stopped:
                    self._connection.drain_events(timeout=0)
            return
        data = b""
        while True:
            self._dispatch(data)
            if self.stopped:
                return
            try:
                data = self._sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
            except (BlockingIOError, InterruptedError):
                return
            if not data:
                raise ConnectionResetError("the broker closed the connection")

    def give_back(self) -> None:
        """Return the unread rest to py-amqp, which reads the answer to a close by itself."""
        if not self._tls:
            self._connection.transport._read_buffer = self._rest  # noqa: SLF001
            self._rest = b""

    def _dispatch(self, data: bytes) -> None:
        buffer = self._rest + data if self._rest else data
        self._rest = b""
        on_frame, frame_max = self._connection.on_inbound_frame, self._connection.frame_max
        position, length = 0, len(buffer)
        while length - position >= _HEADER.size and not self.stopped:
            kind, channel, size = _HEADER.unpack_from(buffer, position)
            check_frame_size(size, frame_max)
            start = position + _HEADER.size
            end = start + size
            if end >= length:
                break
            if buffer[end] != _FRAME_END:
                raise UnexpectedFrame("a frame does not end with its end octet")
            position = end + 1
            on_frame((kind, channel, buffer[start:end]))
        self._rest = buffer[position:]


class FrameWriter:
    """Writes what py-amqp sends on this connection; what the kernel does not take waits its turn.

    ``guarded`` runs what the loop calls later, and handles its errors.
    """

    def __init__(
        self,
        connection: Any,
        loop: asyncio.AbstractEventLoop,
        guarded: Callable[[Callable[[], None]], None],
    ) -> None:
        self._loop, self._guarded = loop, guarded
        self._sock: socket.socket = connection.sock
        self._descriptor = self._sock.fileno()
        self._transport = connection.transport
        self._blocking_write = self._transport._write  # noqa: SLF001
        self._transport._write = self._write  # noqa: SLF001
        self._waiting = bytearray()
        self._progress_at = 0.0

    @property
    def stuck_seconds(self) -> float:
        """For how long the broker has taken nothing of what waits."""
        return self._loop.time() - self._progress_at if self._waiting else 0.0

    def give_back(self) -> None:
        """Let py-amqp write for itself again, after what still waits. Blocking."""
        self.close()
        self._transport._write = self._blocking_write  # noqa: SLF001
        if self._waiting:
            self._blocking_write(bytes(self._waiting))

    def close(self) -> None:
        """Write no more."""
        self._loop.remove_writer(self._descriptor)

    def _write(self, data: Any) -> None:
        sent = 0 if self._waiting else self._send(data)
        if sent == len(data):
            return
        if not self._waiting:
            self._progress_at = self._loop.time()
            self._loop.add_writer(self._descriptor, self._guarded, self._on_writable)
        self._waiting += data[sent:]
        if len(self._waiting) > MOST_UNWRITTEN_BYTES:
            raise BrokerError("the broker does not read what is written to it")

    def _on_writable(self) -> None:
        sent = self._send(self._waiting)
        if sent:
            self._progress_at = self._loop.time()
            del self._waiting[:sent]
        if not self._waiting:
            self._loop.remove_writer(self._descriptor)

    def _send(self, data: Any) -> int:
        try:
            return self._sock.send(data)
        except _NOT_NOW:
            return 0


def read_all(connection: Any, *, at_most: int | None = None) -> None:
    """Let py-amqp dispatch every frame that has arrived, or the first ``at_most`` of them."""
    with suppress(TimeoutError):
        for _ in itertools.count() if at_most is None else range(at_most):
            connection.drain_events(timeout=0)
