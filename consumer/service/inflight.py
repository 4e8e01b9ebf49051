"""The one table of what is in flight: an entry for each delivery, from its arrival to its settlement.

1. ``lifecycle`` opens and closes the entries; ``handler`` and ``settlement`` note what a delivery does.
2. Headers are read and the payload is parsed once, here.
3. Every gauge about deliveries is computed from this table.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal

from consumer.core.delivery import Delivery
from consumer.core.headers import TrackingHeaders, tracking_headers
from consumer.core.outcome import Disposition, Invalid
from consumer.core.parse import Ready, parse
from schemas import Journey

if TYPE_CHECKING:
    from consumer.core.mapping import EventMapping


class State(Enum):
    """What a delivery does: wait in this process, be submitted, or be published to another queue."""

    WAITING = auto()
    SUBMITTING = auto()
    PUBLISHING = auto()


@dataclass(frozen=True, slots=True)
class HandlingResult:
    """How the handling of a delivery ended. ``attempts`` counts over all deliveries of the message."""

    disposition: Disposition
    attempts: int


@dataclass(slots=True, eq=False)
class Entry:
    """One delivery in flight. ``waits_for`` is the reason to wait.

    ``publish`` is the publish that is not confirmed yet, ``parsed`` None until the payload was read.
    """

    delivery: Delivery
    tracking: TrackingHeaders
    parsed: Ready | Invalid | None = None
    state: State = State.WAITING
    waits_for: str = ""
    publish: asyncio.Future[None] | None = None
    task: asyncio.Task[None] | None = None

    @property
    def journey(self) -> Journey | None:
        """The journey; None when the payload is refused or was not read yet."""
        return self.parsed.journey if isinstance(self.parsed, Ready) else None


class InFlight:
    """The table. ``version`` is that of the payloads; ``mapping`` makes them of the operator's events."""

    def __init__(self, version: Literal["v2", "v3"], mapping: "EventMapping | None" = None) -> None:
        self._version = version
        self._mapping = mapping
        self._entries: set[Entry] = set()
        self._oldest_in_queue: datetime | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries))

    def open(self, delivery: Delivery) -> Entry:
        """Enter a delivery that has arrived."""
        entry = Entry(delivery, tracking_headers(delivery))
        self._entries.add(entry)
        return entry

    def read(self, entry: Entry) -> None:
        """Parse and validate the payload."""
        entry.parsed = parse(entry.delivery, self._version, self._mapping)

    def close(self, entry: Entry) -> None:
        """Remove a delivery that was settled or left to the broker."""
        self._entries.discard(entry)

    def sent_back(self, entry: Entry) -> None:
        """Note that a journey went back to a queue in a pause: hardly any is in flight then."""
        if entry.journey is not None:
            self._oldest_in_queue = min(self._oldest_in_queue or entry.journey.start, entry.journey.start)

    def pause_ended(self) -> None:
        """Forget what went back: it arrives again."""
        self._oldest_in_queue = None

    @property
    def waiting(self) -> int:
        """How many wait in this process: for a pause, a retry, the rate limit, their journey's end."""
        return sum(entry.state is State.WAITING for entry in self._entries)

    @property
    def handling(self) -> int:
        """How many are not settled and not being settled."""
        return len(self._entries) - self.publishing

    @property
    def publishing(self) -> int:
        """How many wait for a publisher confirm."""
        return sum(entry.state is State.PUBLISHING for entry in self._entries)

    @property
    def oldest_start(self) -> datetime | None:
        """The earliest start of a journey in flight, or sent back in this pause; None when there is none."""
        starts = [entry.journey.start for entry in self._entries if entry.journey is not None]
        if self._oldest_in_queue is not None:
            starts.append(self._oldest_in_queue)
        return min(starts, default=None)
