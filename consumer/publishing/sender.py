"""Lines in, confirmed messages out, many in flight at once.

Knows neither files nor kombu: it is given lines and something to submit messages to. What it keeps in
memory is bounded in messages and in bytes.
"""

import asyncio
import re
import uuid
from collections import deque
from collections.abc import Callable
from typing import Protocol

from consumer.core.outgoing import PERSISTENT, Outgoing
from consumer.errors import BrokerError, PublishError
from consumer.publishing.connect import Target

MOST_IN_FLIGHT = 1_000
MOST_BYTES_IN_FLIGHT = 16 * 1024 * 1024

#: The payload's id, found without parsing: the payload may be anything, also no JSON at all.
_IDS = tuple(
    re.compile(rb'"%s"\s*:\s*"([\x21\x23-\x5b\x5d-\x7e]{1,255})"' % name)
    for name in (b"journey_id", b"operator_journey_id")
)
_FAILURES = {
    "returned": "no queue receives what is published there",
    "nacked": "the broker refused it: the queue may be full",
    "timeout": "the broker did not confirm it in time",
    "connection": "the connection to the broker was lost",
}


class Publisher(Protocol):
    """What sending needs: ``AmqpPublisher`` or ``VirtualLink``."""

    @property
    def blocked(self) -> bool:
        """Whether the broker takes nothing at the moment."""

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[None]":
        """Publish; the future ends with the confirm or with ``PublishError``."""


class Sender:
    """Publishes lines, many in flight, and stops at the first that is not confirmed.

    ``on_confirmed`` gets the size of each confirmed line in bytes, in the order of the lines.
    """

    def __init__(self, publisher: Publisher, target: Target, on_confirmed: Callable[[int], None]) -> None:
        self._publisher = publisher
        self._target = target
        self._on_confirmed = on_confirmed
        self._in_flight: deque[tuple[int, int, asyncio.Future[None]]] = deque()
        self._bytes = 0
        self._number = 0

    async def send(self, line: bytes) -> None:
        """Publish one line; waits while too much is in flight. Raises BrokerError."""
        self._number += 1
        if not line.strip():
            return
        while len(self._in_flight) >= MOST_IN_FLIGHT or self._bytes > MOST_BYTES_IN_FLIGHT:
            await self._confirm_oldest()
        self._in_flight.append((self._number, len(line), self._publisher.submit(self._outgoing(line))))
        self._bytes += len(line)
        while self._in_flight[0][2].done():  # no waiting: lets the count follow when lines come slowly
            await self._confirm_oldest()
            if not self._in_flight:
                return

    async def finish(self) -> None:
        """Wait for every confirm. Raises BrokerError."""
        while self._in_flight:
            await self._confirm_oldest()

    def _outgoing(self, line: bytes) -> Outgoing:
        properties = {
            "delivery_mode": PERSISTENT,
            "content_type": "application/json",
            "message_id": message_id(line),
        }
        return Outgoing(self._target.exchange, self._target.routing_key, line, {}, properties)

    async def _confirm_oldest(self) -> None:
        number, size, future = self._in_flight.popleft()
        self._bytes -= size
        try:
            await future
        except PublishError as error:
            reason = _FAILURES.get(str(error), str(error))
            raise BrokerError(
                f"line {number} did not reach {self._target}: {reason}; "
                "every line before it did, some lines after it may have"
            ) from None
        self._on_confirmed(size)


def message_id(line: bytes) -> str:
    """The journey's id when it can be read, else a new one."""
    for pattern in _IDS:
        found = pattern.search(line)
        if found:
            return found[1].decode("ascii")
    return str(uuid.uuid4())
