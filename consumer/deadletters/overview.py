"""The dead letters by groups: how many, how old, how many can still be registered and for how long. Pure.

Memory grows with the number of different groups, not of dead letters, and that is bounded too.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from consumer.deadletters.record import Record

MOST_GROUPS = 500
_OTHER = "(other details)"


@dataclass(slots=True)
class Group:
    """Dead letters of one reason, detail and status. Times are seconds; None when none is known."""

    reason: str
    detail: str | None = None
    status: int | None = None
    count: int = 0
    savable: int = 0
    lost: int = 0
    tightest_left: float | None = None
    youngest_age: float | None = None
    oldest_age: float | None = None

    @property
    def unknown(self) -> int:
        """How many do not tell when their journey started."""
        return self.count - self.savable - self.lost

    def add(self, record: Record, now: datetime) -> None:
        """Count one more."""
        self.count += 1
        lost = record.is_lost(now)
        if lost:
            self.lost += 1
        elif lost is False:
            self.savable += 1
            left = record.urgency - now.timestamp()
            self.tightest_left = left if self.tightest_left is None else min(left, self.tightest_left)
        if record.died is not None:
            age = (now - record.died).total_seconds()
            self.youngest_age = age if self.youngest_age is None else min(age, self.youngest_age)
            self.oldest_age = age if self.oldest_age is None else max(age, self.oldest_age)

    def as_json(self) -> dict[str, Any]:
        """The group as ``--json`` shows it."""
        return {
            "reason": self.reason,
            "detail": self.detail,
            "status": self.status,
            "count": self.count,
            "savable": self.savable,
            "beyond_saving": self.lost,
            "deadline_unknown": self.unknown,
            "tightest_left_seconds": _rounded(self.tightest_left),
            "youngest_age_seconds": _rounded(self.youngest_age),
            "oldest_age_seconds": _rounded(self.oldest_age),
        }


@dataclass(slots=True)
class Overview:
    """All groups, and everything together."""

    groups: dict[tuple[str, str | None, int | None], Group] = field(default_factory=dict)
    total: Group = field(default_factory=lambda: Group("total"))

    def add(self, record: Record, now: datetime) -> None:
        """Count one dead letter."""
        key = (record.reason, record.detail, record.status)
        if key not in self.groups and len(self.groups) >= MOST_GROUPS:
            key = (record.reason, _OTHER, None)
        group = self.groups.setdefault(key, Group(*key))
        group.add(record, now)
        self.total.add(record, now)

    def ranked(self) -> Iterable[Group]:
        """Those that can still be saved first, the tightest at the top; then the largest."""
        return sorted(
            self.groups.values(),
            key=lambda g: (
                g.tightest_left is None,
                g.tightest_left or 0.0,
                -g.count,
                g.reason,
                g.detail or "",
                g.status or 0,
            ),
        )

    def as_json(self) -> dict[str, Any]:
        """All of it for machines."""
        total = self.total.as_json()
        del total["reason"], total["detail"], total["status"]
        return {"total": total, "groups": [group.as_json() for group in self.ranked()]}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
