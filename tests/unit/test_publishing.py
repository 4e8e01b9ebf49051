"""Lines in, confirmed messages out: bounds, order, and what is said of a failure."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.broker.virtual import VirtualLink
from consumer.core.outgoing import Outgoing
from consumer.core.topology import Topology
from consumer.errors import ConsumerError, PublishError, PublishFailure
from consumer.publishing import publish
from consumer.publishing.documents import Documents
from consumer.publishing.publish import Sender, Target, connect_virtual, read_lines


class Broker:
    """Confirms at the next turn of the loop; counts the most in flight at once."""

    blocked = False

    def __init__(self, *, failures: dict[int, str] | None = None) -> None:
        self.failures = failures or {}
        self.taken: list[Outgoing] = []
        self.most_in_flight = 0
        self._waiting: list[asyncio.Future[None]] = []

    def submit(self, outgoing: Outgoing) -> asyncio.Future[None]:
        """Take a message; the confirm comes at the next turn of the loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self.taken.append(outgoing)
        self._waiting.append(future)
        self.most_in_flight = max(self.most_in_flight, len(self._waiting))
        if len(self._waiting) == 1:
            loop.call_soon(self._confirm)
        return future

    def _confirm(self) -> None:
        first = len(self.taken) - len(self._waiting) + 1
        for number, future in enumerate(self._waiting, first):
            if number in self.failures:
                future.set_exception(PublishError(PublishFailure(self.failures[number])))
            else:
                future.set_result(None)
        self._waiting.clear()


QUEUE = Target("", "q")


async def test_what_is_in_flight_is_bounded_in_number() -> None:
    """However fast lines come, a bounded number of them waits for the broker."""
    broker = Broker()
    sending = Sender(broker, QUEUE)
    for _ in range(3 * publish.MOST_IN_FLIGHT):
        await sending.send(b"{}", 1)
    await sending.finish()
    assert len(broker.taken) == 3 * publish.MOST_IN_FLIGHT == sending.confirmed_lines
    assert broker.most_in_flight == publish.MOST_IN_FLIGHT


async def test_what_is_in_flight_is_bounded_in_bytes() -> None:
    """Big lines wait in smaller numbers."""
    broker = Broker()
    line = b"x" * (publish.MOST_BYTES_IN_FLIGHT // 4)
    sending = Sender(broker, QUEUE)
    for _ in range(20):
        await sending.send(line, 1)
    await sending.finish()
    assert len(broker.taken) == 20
    assert broker.most_in_flight <= 5


@pytest.mark.parametrize(
    ("failure", "words"),
    [("connection", "connection to the broker was lost"), ("timeout", "in time"), ("closed", ": closed;")],
)
async def test_the_first_failure_stops_and_names_its_line(failure: str, words: str) -> None:
    """By the number that an editor shows."""
    broker = Broker(failures={3: failure})
    sending = Sender(broker, QUEUE)
    for number in (1, 3, 4, 5):
        await sending.send(b"{}", number)
    with pytest.raises(ConsumerError, match="line 4 did not reach the queue 'q'") as caught:
        await sending.finish()
    assert words in str(caught.value)
    assert (sending.confirmed_lines, sending.confirmed_bytes) == (2, 6)


async def test_a_message_is_named_after_its_journey() -> None:
    """The id is read from v2, v3 and CloudEvents; without one the id is new."""
    assert publish.message_id(b'{"journey_id":"a","operator_journey_id":"b"}') == "a"
    assert publish.message_id(b'{"data":{"operator_journey_id" : "b"}}') == "b"
    for line in (b"", b'{"journey_id":""}', b'{"journey_id":7}', b'{"journey_id":"%s"}' % (b"x" * 256)):
        assert len(publish.message_id(line)) == 36


async def _all(found: AsyncIterator[bytes]) -> list[bytes]:
    return [line async for line in found]


async def test_a_file_is_cut_at_newlines_only(tmp_path: Path) -> None:
    """Bytes between newlines stay as they are, with or without a newline at the end."""
    file = tmp_path / "lines"
    for text in (b"a\r\n\n\xff\x0b\x85b\n", b"a\r\n\n\xff\x0b\x85b"):
        file.write_bytes(text)
        descriptor = os.open(file, os.O_RDONLY)
        try:
            assert await _all(read_lines(descriptor)) == [b"a\r", b"", b"\xff\x0b\x85b"]
        finally:
            os.close(descriptor)


async def test_an_absurd_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file without newlines does not fill the memory."""
    monkeypatch.setattr(publish, "LONGEST_LINE_BYTES", 1 << 20)
    file = tmp_path / "lines"
    file.write_bytes(b"{}\n" + b"x" * (2 << 20))
    descriptor = os.open(file, os.O_RDONLY)
    try:
        with pytest.raises(ConsumerError, match="line 2 is longer"):
            await _all(read_lines(descriptor))
    finally:
        os.close(descriptor)


async def test_a_failed_read_is_an_error(tmp_path: Path) -> None:
    """A directory in place of a file is an error with a message."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ConsumerError, match="reading failed: Is a directory"):
            await _all(read_lines(descriptor))
    finally:
        os.close(descriptor)


async def test_a_transport_that_does_not_connect_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is bounded, and the thread of the link ends."""
    monkeypatch.setattr(publish, "CONNECT_SECONDS", 0.05)
    never = property(lambda _link: False, lambda _link, _value: None)
    monkeypatch.setattr(VirtualLink, "connected", never, raising=False)
    with pytest.raises(TimeoutError):
        await connect_virtual("memory://", Topology(queue="publishing.timeout"))
    assert "virtual-link" not in [thread.name for thread in threading.enumerate()]


def _read(text: bytes) -> list[tuple[int, bytes]]:
    documents = Documents()
    found = [each for line in text.split(b"\n") for each in documents.feed(line)]
    return [*found, *documents.end()]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'{"a":1}\n\n{"b" : 2}\r\n', [(1, b'{"a":1}'), (3, b'{"b" : 2}\r')]),
        (b'\n{\n  "a": 1\n}\n', [(1, b'{\n  "a": 1\n}')]),
        (b'[{"a": 1},\n {"b": 2}]', [(1, b'{"a":1}'), (2, b'{"b":2}')]),
        (b'[{"a": 1}]\n', [(1, b'{"a":1}')]),
        (b"[1]", [(1, b"1")]),
        (b"nonsense\n{}\n", [(1, b"nonsense"), (2, b"{}")]),
        (b'{"a":\n{}\n', [(1, b'{"a":'), (2, b"{}")]),
        (b"", []),
        (b"\n \n", []),
    ],
)
def test_lines_a_document_or_an_array(text: bytes, found: list[tuple[int, bytes]]) -> None:
    """Lines stay byte for byte; what is neither is told line by line."""
    assert _read(text) == found


def test_what_is_neither_is_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken first line does not take the whole file into memory."""
    monkeypatch.setattr("consumer.publishing.documents.MOST_BYTES", 100)
    reader = Documents()
    given = [b"{"] + [b'{"a":1}'] * 20
    passed = [len(list(reader.feed(line))) for line in given]
    assert sum(passed) == 21
    assert passed[-1] == 1
