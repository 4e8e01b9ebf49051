"""Frames are cut as they were sent, however the bytes arrive, and none is buffered beyond ``frame_max``."""

import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import UnexpectedFrame
from hypothesis import given
from hypothesis import strategies as st

from consumer.broker.connection import ConnectionFactory
from consumer.broker.frames import FrameReader

FRAME_MAX = 4_096
Frame = tuple[int, int, bytes]

FRAMES = st.lists(st.tuples(st.integers(1, 8), st.integers(0, 65_535), st.binary(max_size=300)), max_size=8)


def encoded(frame: Frame) -> bytes:
    kind, channel, payload = frame
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


class Pair:
    """A reader on one end of a socket pair, and the broker's end."""

    def __init__(self, already_read: bytes = b"") -> None:
        self.broker, ours = socket.socketpair()
        self.frames: list[Frame] = []
        self.connection: Any = SimpleNamespace(
            sock=ours,
            transport=SimpleNamespace(_read_buffer=already_read),
            on_inbound_frame=self.frames.append,
            frame_max=FRAME_MAX,
        )
        self.reader = FrameReader(self.connection)

    def close(self) -> None:
        self.broker.close()
        self.connection.sock.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.close()


@given(frames=FRAMES, data=st.data())
def test_frames_are_cut_as_they_were_sent(frames: list[Frame], data: st.DataObject) -> None:
    """In any pieces; what py-amqp had read ahead comes first; an unread rest goes back to it."""
    stream = b"".join(map(encoded, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    pair = Pair(already_read=pieces[0])
    try:
        pair.reader.read()
        for piece in pieces[1:]:
            pair.broker.sendall(piece)
            pair.reader.read()
            assert len(pair.reader._rest) <= 2 * FRAME_MAX
        assert pair.frames == frames
        pair.broker.sendall(b"\x01\x00")
        pair.reader.read()
        pair.reader.give_back()
        assert pair.connection.transport._read_buffer == b"\x01\x00"
    finally:
        pair.close()


@pytest.mark.parametrize("size", [2 * FRAME_MAX + 1, 351_000_000, 2**32 - 1])
def test_a_frame_beyond_the_maximum_is_refused_at_its_header(pair: Pair, size: int) -> None:
    """4 GB were announced and 351 MB buffered: the connection ends before any of it is read."""
    pair.broker.sendall(struct.pack(">BHI", 3, 1, size))
    with pytest.raises(UnexpectedFrame, match=f"{size} bytes exceeds twice the negotiated maximum"):
        pair.reader.read()
    assert pair.frames == []
    assert pair.reader._rest == b""


def test_the_largest_frame_is_read(pair: Pair) -> None:
    """RabbitMQ adds headers to what filled a frame (seen: 131,067 bytes where 131,064 are allowed)."""
    frame = (2, 1, bytes(2 * FRAME_MAX))
    pair.broker.sendall(encoded(frame))
    pair.reader.read()
    assert pair.frames == [frame]


def test_a_frame_without_its_end_is_refused(pair: Pair) -> None:
    pair.broker.sendall(encoded((1, 1, b"x"))[:-1] + b"x")
    with pytest.raises(UnexpectedFrame, match="end octet"):
        pair.reader.read()


def test_the_end_of_the_connection_is_an_error(pair: Pair) -> None:
    """After the frames that arrived before it."""
    pair.broker.sendall(encoded((1, 1, b"x")))
    pair.broker.close()
    with pytest.raises(ConnectionResetError):
        pair.reader.read()
    assert pair.frames == [(1, 1, b"x")]


def test_the_errors_of_frames_are_errors_of_a_connection() -> None:
    """Whoever handles lost connections handles these."""
    assert issubclass(UnexpectedFrame, ConnectionFactory.ERRORS)
