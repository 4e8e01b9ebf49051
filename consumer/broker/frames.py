"""Reads many AMQP frames with one system call. Plain TCP only; TLS goes through py-amqp.

py-amqp reads a frame in three calls of ``recv``, and a delivery is three frames. Here everything that
has arrived is read at once, cut into frames, and each is given to the connection's ``on_inbound_frame``.
Frame format: AMQP 0-9-1, section 4.2.3. What waits for the rest of a frame is bounded by ``frame_max``.
"""

import itertools
import socket
import ssl
import struct
from contextlib import suppress
from typing import Any

from amqp.exceptions import UnexpectedFrame

READ_BYTES = 65_536
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
    """Reads the frames of a connection after its handshake."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sock: socket.socket = connection.sock
        self._tls = isinstance(self._sock, ssl.SSLSocket)
        self._rest = b""
        if not self._tls:  # bytes that py-amqp has read beyond its last frame
            transport = connection.transport
            self._rest, transport._read_buffer = transport._read_buffer, b""  # noqa: SLF001

    def read(self) -> None:
        """Dispatch every frame that has arrived; raises what py-amqp raises, or OSError at the end."""
        if self._tls:
            read_all(self._connection)  # all of it: bytes that TLS has already decrypted wake no loop
            return
        data = b""
        while True:
            self._dispatch(data)
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
        while length - position >= _HEADER.size:
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


def read_all(connection: Any, *, at_most: int | None = None) -> None:
    """Let py-amqp dispatch every frame that has arrived, or the first ``at_most`` of them."""
    with suppress(TimeoutError):
        for _ in itertools.count() if at_most is None else range(at_most):
            connection.drain_events(timeout=0)
