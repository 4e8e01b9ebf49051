"""The one table of what is in flight: an entry for each delivery, from its arrival to its settlement.

1. ``lifecycle`` opens and closes the entries; ``handler`` and ``settlement`` note what a delivery does.
2. Headers are read and the payload is parsed once, here.
3. Every gauge about deliveries is computed from this table.
4. A journey that went back to a queue stays pending here until it comes again, or until it must have come to
   another consumer: the oldest start does not become younger because nobody looks at it.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from heapq import nsmallest
from operator import itemgetter
from typing import TYPE_CHECKING, Literal

from consumer.core.delivery import Delivery
from consumer.core.headers import TrackingHeaders, tracking_headers
from consumer.core.outcome import Disposition, Invalid, Reason
from consumer.core.parse import Ready, parse
from consumer.deadletters import record
from consumer.deadletters.record import Record
from schemas import Journey

if TYPE_CHECKING:
    from consumer.core.mapping import EventMapping


#: Where an id should be, a refused payload can have anything: no phone number, name or address.
_LIKE_AN_ID = re.compile(r"(?![\d._:-]{9,15}$)[A-Za-z0-9._:-]{1,128}")
#: A refused payload that is larger is not parsed once more for its ids: the loop would wait for it.
_MOST_BYTES_READ_AGAIN = 64 * 1024
#: Journeys in queues that are remembered at least: those with the earliest start.
MOST_REMEMBERED = 1_000
#: With room for more deliveries for so long, the queue has delivered what was in it.
ROOM_SECONDS = 5.0


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
    ``invalid`` is what can be read of a payload that is refused, for log and event.
    """

    delivery: Delivery
    tracking: TrackingHeaders
    parsed: Ready | Invalid | None = None
    invalid: Record | None = None
    state: State = State.WAITING
    waits_for: str = ""
    publish: asyncio.Future[None] | None = None
    task: asyncio.Task[None] | None = None

    @property
    def journey(self) -> Journey | None:
        """The journey; None when the payload is refused or was not read yet."""
        return self.parsed.journey if isinstance(self.parsed, Ready) else None

    @property
    def journey_id(self) -> str | None:
        """The journey's id; of a refused payload only what looks like an id."""
        if self.journey is not None:
            return self.journey.journey_id
        found = None if self.invalid is None else self.invalid.journey_id
        return found if found is not None and _LIKE_AN_ID.fullmatch(found) else None

    @property
    def start(self) -> datetime | None:
        """The journey's start, also of a refused payload if it is a date."""
        if self.journey is not None:
            return self.journey.start
        return None if self.invalid is None else self.invalid.start


class InFlight:
    """The table. ``version`` is that of the payloads; ``mapping`` makes them of the operator's events."""

    def __init__(self, version: Literal["v2", "v3"], mapping: "EventMapping | None" = None) -> None:
        self._version = version
        self._mapping = mapping
        self._entries: set[Entry] = set()
        self._queued: dict[str, tuple[datetime, float]] = {}  # by journey: its start, and when it comes again
        self._room_since = float("inf")

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
        if entry.journey is not None:
            self._queued.pop(entry.journey.journey_id, None)
        elif len(entry.delivery.body) <= _MOST_BYTES_READ_AGAIN:
            entry.invalid = record.read(entry.delivery, Reason.INVALID)

    def close(self, entry: Entry) -> None:
        """Remove a delivery that was settled or left to the broker."""
        self._entries.discard(entry)

    def sent_back(self, entry: Entry, due: float) -> None:
        """Note that a journey went back to a queue and comes again at ``due`` (monotonic seconds)."""
        if entry.journey is None:
            return
        self._queued[entry.journey.journey_id] = (entry.journey.start, due)
        if len(self._queued) > 2 * MOST_REMEMBERED:
            self._queued = dict(nsmallest(MOST_REMEMBERED, self._queued.items(), key=itemgetter(1)))

    def forget_delivered(self, now: float, *, room: bool) -> None:
        """Forget what must have been delivered to another consumer; ``room``: more deliveries could come."""
        self._room_since = min(self._room_since, now) if room else float("inf")
        if now - self._room_since >= ROOM_SECONDS:
            self._queued = {
                journey_id: (start, due)
                for journey_id, (start, due) in self._queued.items()
                if due > now - ROOM_SECONDS
            }

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
        """The earliest start of a journey in flight, or known to be in a queue; None when there is none."""
        starts = [entry.journey.start for entry in self._entries if entry.journey is not None]
        starts += [start for start, _ in self._queued.values()]
        return min(starts, default=None)
