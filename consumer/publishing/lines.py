"""Lines in, confirmed messages out: where ``publish`` reads lines, and how it publishes them.

Memory is bounded by the longest line, and in flight by messages and bytes. Reading a pipe or a terminal does
not block the event loop, so that confirms are counted and signals handled meanwhile.
"""

import asyncio
import os
import random
import re
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable

from consumer.broker.publisher import AmqpPublisher
from consumer.broker.virtual import VirtualLink
from consumer.core.clock import utc_now
from consumer.core.outgoing import PERSISTENT, Outgoing
from consumer.errors import ConsumerError, PublishError, PublishFailure
from consumer.publishing import samples
from consumer.publishing.connect import Target

LONGEST_LINE_BYTES = 32 * 1024 * 1024
MOST_IN_FLIGHT = 1_000
MOST_BYTES_IN_FLIGHT = 16 * 1024 * 1024
_READ_BYTES = 256 * 1024

#: The payload's id, found without parsing: a line may be anything, also no JSON.
_IDS = tuple(
    re.compile(rb'"%s"\s*:\s*"([\x21\x23-\x5b\x5d-\x7e]{1,255})"' % name)
    for name in (b"journey_id", b"operator_journey_id")
)
_FAILURES = {
    PublishFailure.RETURNED: "no queue receives what is published there",
    PublishFailure.NACKED: "the broker refused it: the queue may be full",
    PublishFailure.TIMEOUT: "the broker did not confirm it in time",
    PublishFailure.CONNECTION: "the connection to the broker was lost",
}


async def read_lines(descriptor: int) -> AsyncIterator[bytes]:
    """Yield each line without its newline. Raises ConsumerError when reading fails or a line is too long."""
    number, rest = 1, b""
    while piece := await _read(descriptor):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line
        number += len(lines)
        if len(rest) > LONGEST_LINE_BYTES:
            raise ConsumerError(f"line {number} is longer than {LONGEST_LINE_BYTES >> 20} MiB")
    if rest:
        yield rest


async def _read(descriptor: int) -> bytes:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except PermissionError:  # epoll takes no regular files: they are always readable
        readable.set()
    try:
        await readable.wait()
        return os.read(descriptor, _READ_BYTES)
    except OSError as error:
        raise ConsumerError(f"reading failed: {error.strerror}") from error
    finally:
        loop.remove_reader(descriptor)


async def generated_lines(version: samples.Version, count: int) -> AsyncIterator[bytes]:
    """Yield ``count`` journeys of just now."""
    rng = random.SystemRandom()
    for _ in range(count):
        yield samples.encode(samples.journey(version, rng, utc_now()))


class Sender:
    """Publishes lines, many in flight, and stops at the first that is not confirmed.

    ``on_confirmed`` gets the size of each confirmed line in bytes, in the order of the lines.
    """

    def __init__(
        self, publisher: AmqpPublisher | VirtualLink, target: Target, on_confirmed: Callable[[int], None]
    ) -> None:
        self._publisher = publisher
        self._target = target
        self._on_confirmed = on_confirmed
        self._in_flight: deque[tuple[int, int, asyncio.Future[None]]] = deque()
        self._bytes = 0
        self._number = 0

    async def send(self, line: bytes) -> None:
        """Publish one line; waits while too much is in flight. Raises ConsumerError."""
        self._number += 1
        if not line.strip():
            return
        while len(self._in_flight) >= MOST_IN_FLIGHT or self._bytes > MOST_BYTES_IN_FLIGHT:
            await self._confirm_oldest()
        properties = {
            "delivery_mode": PERSISTENT,
            "content_type": "application/json",
            "message_id": message_id(line),
        }
        outgoing = Outgoing(self._target.exchange, self._target.routing_key, line, {}, properties)
        self._in_flight.append((self._number, len(line), self._publisher.submit(outgoing)))
        self._bytes += len(line)
        while self._in_flight and self._in_flight[0][2].done():  # keeps the count current on slow input
            await self._confirm_oldest()

    async def finish(self) -> None:
        """Wait for every confirm. Raises ConsumerError."""
        while self._in_flight:
            await self._confirm_oldest()

    async def _confirm_oldest(self) -> None:
        number, size, future = self._in_flight.popleft()
        self._bytes -= size
        try:
            await future
        except PublishError as error:
            reason = _FAILURES.get(error.kind, error.kind.value)
            raise ConsumerError(
                f"line {number} did not reach {self._target}: {reason}; "
                "every line before it did, some lines after it may have"
            ) from None
        self._on_confirmed(size)


def message_id(line: bytes) -> str:
    """The journey's id when the line has one, else a new id."""
    for pattern in _IDS:
        if found := pattern.search(line):
            return found[1].decode("ascii")
    return str(uuid.uuid4())
