"""Reading many AMQP frames with one system call. Plain TCP only; TLS goes through py-amqp.

py-amqp reads a frame in three calls of ``recv``, and a delivery is three frames. The event loop
says only that *something* can be read, so we read all of it, cut it into frames and hand each to
the connection's own ``on_inbound_frame``. Frame format: AMQP 0-9-1, section 4.2.3.
"""

import socket
import ssl
import struct
from typing import Any

from amqp.exceptions import UnexpectedFrame

READ_BYTES = 65_536
_HEADER = struct.Struct(">BHI")  # type, channel, size
_FRAME_END = 0xCE


class FrameReader:
    """Reads the frames of a connection that the handshake is over for."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sock: socket.socket = connection.sock
        self._tls = isinstance(self._sock, ssl.SSLSocket)
        # What py-amqp has read beyond the last frame that it wanted.
        self._rest = b""
        if not self._tls:
            transport = connection.transport
            self._rest, transport._read_buffer = transport._read_buffer, b""  # noqa: SLF001

    def read(self) -> None:
        """Dispatch every frame that has arrived; raises what py-amqp raises, or OSError at the end."""
        if self._tls:
            self._read_tls()
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
        on_frame = self._connection.on_inbound_frame
        position, length = 0, len(buffer)
        while length - position > _HEADER.size:
            kind, channel, size = _HEADER.unpack_from(buffer, position)
            start = position + _HEADER.size
            end = start + size
            if end >= length:
                break
            if buffer[end] != _FRAME_END:
                raise UnexpectedFrame("a frame does not end where it should")
            position = end + 1
            on_frame((kind, channel, buffer[start:end]))
        self._rest = buffer[position:]

    def _read_tls(self) -> None:
        """Until nothing is left, because what TLS has decrypted ahead wakes no loop."""
        try:
            while True:
                self._connection.drain_events(timeout=0)
        except TimeoutError:
            return
