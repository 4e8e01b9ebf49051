"""Which dead letters are selected: the filters that the commands share. Pure.

1. A filter that is not given matches everything; several values of one filter are alternatives, several
   filters must all match.
2. What is not known matches no range: a dead letter without a readable deadline matches no ``--left``.
3. No filter names a value of a payload other than the journey's id; a person is named by a hash.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from consumer.deadletters.record import Record, person_hashes

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(-?)((?:\d+(?:\.\d+)?[smhd])+|0)", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


@dataclass(frozen=True, slots=True)
class Range:
    """Seconds from ``least`` up to but without ``most``; None is open."""

    least: float | None = None
    most: float | None = None

    def holds(self, value: float | None) -> bool:
        """Whether ``value`` lies in it; what is not known (None) only when both ends are open."""
        if value is None:
            return self.least is None and self.most is None
        return (self.least is None or value >= self.least) and (self.most is None or value < self.most)


def duration(text: str) -> float:
    """Seconds of ``90s``, ``1h30m``, ``-2h``, ``1.5d`` or ``0``. Raises ValueError."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError("must be a time such as 90s, 30m, 1h30m or 2d")
    seconds = sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(found[2]))
    return -seconds if found[1] else seconds


def range_of(text: str) -> Range:
    """A range such as ``2h..``, ``..30m`` or ``1h..2h``. Raises ValueError."""
    least, dots, most = text.partition("..")
    if not dots or not (least.strip() or most.strip()):
        raise ValueError("must be a range such as 2h.. (and more), ..30m (less than) or 1h..2h")
    made = Range(duration(least) if least.strip() else None, duration(most) if most.strip() else None)
    if made.least is not None and made.most is not None and made.least >= made.most:
        raise ValueError("must begin with the smaller time")
    return made


def status_of(text: str) -> int | None:
    """An HTTP status, or None for ``none``: the Registry was never asked. Raises ValueError."""
    if text.strip().lower() == "none":
        return None
    if not re.fullmatch(r"[1-5]\d\d", text.strip(), re.ASCII):
        raise ValueError("must be an HTTP status such as 401, or none")
    return int(text)


def hash_of(text: str) -> str:
    """A SHA-256 in hex. Raises ValueError, which does not quote what may be a phone number."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text.strip(), re.ASCII):
        raise ValueError("must be a SHA-256, 64 hexadecimal digits: printf %s +33... | sha256sum")
    return text.strip().lower()


@dataclass(frozen=True, slots=True)
class Selection:
    """All filters. ``age`` counts from the death, ``left`` to the deadline (negative: it has passed).

    ``persons`` are hashes as ``person_hashes`` makes them.
    """

    reasons: frozenset[str] = frozenset()
    details: tuple[str, ...] = ()
    statuses: frozenset[int | None] = frozenset()
    journey_ids: frozenset[str] = frozenset()
    message_ids: frozenset[str] = frozenset()
    age: Range = Range()
    left: Range = Range()
    persons: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return self != Selection()

    def names(self, payload: Any) -> bool:
        """Whether the payload holds one of ``persons``."""
        return not self.persons.isdisjoint(person_hashes(payload))

    def matches(self, record: Record, now: datetime) -> bool:
        """Whether all filters but ``persons`` match."""
        return (
            (not self.reasons or record.reason in self.reasons)
            and (not self.statuses or record.status in self.statuses)
            and (not self.details or any(fnmatchcase(record.detail or "", each) for each in self.details))
            and (not self.journey_ids or record.journey_id in self.journey_ids)
            and (not self.message_ids or record.message_id in self.message_ids)
            and self.age.holds(record.age(now))
            and self.left.holds(record.left(now))
        )
