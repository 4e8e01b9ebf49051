"""Frames are cut as they were sent, however the bytes arrive, and none is buffered beyond ``frame_max``."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import UnexpectedFrame
from hypothesis import given
from hypothesis import strategies as st

from consumer.broker import frames as module
from consumer.broker.connection import ConnectionFactory
from consumer.broker.frames import FrameReader, FrameWriter
from consumer.errors import BrokerError
from tests.waiting import await_until

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


# --- writing ---------------------------------------------------------------------------------------


class Outwards:
    """A writer with a tiny send buffer, on a loop's non-blocking socket; ``errors`` of later writes."""

    def __init__(self) -> None:
        self.broker, self.ours = socket.socketpair()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        self.ours.settimeout(0.0)
        self.transport: Any = SimpleNamespace(_write=self.ours.sendall)
        connection = SimpleNamespace(sock=self.ours, transport=self.transport)
        self.errors: list[Exception] = []
        self.writer = FrameWriter(connection, asyncio.get_running_loop(), self.guarded)

    def guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self.errors.append(error)

    def fill(self) -> bytes:
        """Write frames until many wait; returns what was written."""
        written = [encoded((1, 1, b"%06d" % number * 20)) for number in range(500)]
        for frame in written:
            self.transport._write(memoryview(frame))
        assert self.writer.stuck_seconds >= 0
        return b"".join(written)

    def close(self) -> None:
        self.writer.close()
        self.broker.close()
        self.ours.close()


@pytest.fixture
async def outwards() -> AsyncIterator[Outwards]:
    made = Outwards()
    yield made
    made.close()


async def test_a_full_send_buffer_loses_no_byte(outwards: Outwards) -> None:
    """py-amqp's ``sendall`` raised BlockingIOError with a part of the frame written."""
    with pytest.raises(BlockingIOError):
        outwards.ours.sendall(bytes(1_000_000))
    outwards.broker.settimeout(0.0)
    drained = 0
    while drained < 1_000_000:  # what sendall had written before its error
        try:
            drained += len(outwards.broker.recv(65_536))
        except BlockingIOError:
            break
    written = outwards.fill()
    received = b""
    while len(received) < len(written):
        piece = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(outwards.broker, 997), 10)
        received += piece
    assert received == written
    assert outwards.writer.stuck_seconds == 0
    assert outwards.errors == []


async def test_what_waits_is_written_before_py_amqp_writes_again(outwards: Outwards) -> None:
    written = outwards.fill()
    outwards.ours.settimeout(10)
    reading = asyncio.create_task(asyncio.to_thread(receive, outwards.broker, len(written) + 3))
    await asyncio.to_thread(give_back, outwards)
    assert await reading == written + b"end"


def give_back(outwards: Outwards) -> None:
    outwards.writer.give_back()
    outwards.transport._write(b"end")


def receive(sock: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        received += sock.recv(4_096)
    return received


async def test_a_peer_that_does_not_read_is_noticed(
    outwards: Outwards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time, and by what waits."""
    outwards.fill()
    await await_until(lambda: outwards.writer.stuck_seconds > 0.05, 5, "it is stuck")
    monkeypatch.setattr(module, "MOST_UNWRITTEN_BYTES", 200_000)
    with pytest.raises(BrokerError, match="does not read"):
        outwards.transport._write(bytes(1_000_000))


async def test_an_error_of_a_later_write_is_given_to_the_guard(outwards: Outwards) -> None:
    outwards.fill()
    outwards.broker.close()
    await await_until(lambda: outwards.errors, 5, "the error")
