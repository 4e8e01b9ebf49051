"""Whether every message is accounted for, once, on both sides. Pure.

    published = registered + already registered + dead letters by reason + still queued

1. One side is what the Registry remembers and what the queues hold, message by message; the other is what
   the service counted. Neither is computed from the other.
2. Each difference, and each message that is missing or in two places, is one problem, in words.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found at the end.

    ``published`` has the journey of each message id, None for an invalid payload. ``queued`` and ``dead`` are
    message ids: in the main queue, and by reason. ``times_seen`` is how often the Registry saw each journey.
    The rest is the service's own count; ``replayed`` counts by the reason of the queue that they left.
    """

    published: Mapping[str, str | None]
    queued: Sequence[str]
    dead: Mapping[str, Sequence[str]]
    times_seen: Mapping[str, int]
    outcomes: Mapping[str, int]
    dead_lettered: Mapping[str, int]
    replayed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the summary; ``counted`` is None where the service has no count."""

    name: str
    found: int
    counted: int | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """The summary. It balances when there is no problem."""

    published: int
    rows: tuple[Row, ...]
    problems: tuple[str, ...]

    @property
    def balances(self) -> bool:
        return not self.problems

    @property
    def found(self) -> int:
        return sum(row.found for row in self.rows)

    @property
    def counted(self) -> int:
        """What the service counted, and what is still queued."""
        return sum(row.found if row.counted is None else row.counted for row in self.rows)


def account(evidence: Evidence) -> Account:
    places = Counter([*evidence.queued, *(each for ids in evidence.dead.values() for each in ids)])
    gone = {name: journey for name, journey in evidence.published.items() if name not in places}
    missing = [name for name, journey in gone.items() if journey not in evidence.times_seen]
    # A registered journey may also be in a queue: its answer was lost.
    registered = len(set(gone.values()) & evidence.times_seen.keys())
    unknown = evidence.times_seen.keys() - set(evidence.published.values())
    problems = [
        *(f"message {name} is in {count} places" for name, count in places.items() if count > 1),
        *(f"message {name} was never published" for name in places if name not in evidence.published),
        *(f"message {name} is missing" for name in missing),
        *(f"the Registry has journey {name}, which was never published" for name in unknown),
    ]
    # A journey whose answer was lost is answered 409 when it is sent again: only the sum must agree.
    outcomes, found, counted = evidence.outcomes, len(gone) - len(missing), sum(evidence.outcomes.values())
    rows = [
        Row("registered", registered, outcomes["registered"], "in the Registry's memory"),
        Row("already registered", found - registered, outcomes["already_registered"], "answered 409"),
    ]
    if found != counted:
        problems.append(f"{found} messages reached the Registry, and the service counted {counted}")
    if (seen := sum(evidence.times_seen.values())) < counted:
        problems.append(f"the Registry saw {seen} valid journeys, fewer than the {counted} counted")
    for reason, ids in evidence.dead.items():
        dead_lettered, replayed = evidence.dead_lettered[reason], evidence.replayed.get(reason, 0)
        left = dead_lettered - replayed
        if len(ids) != left:
            problems.append(f"{len(ids)} dead letters {reason} were found, and the service counted {left}")
        if ids or dead_lettered:
            moved = f"{dead_lettered} came, {replayed} were replayed"
            rows.append(Row(reason, len(ids), left, moved if replayed else "in its dead-letter queue"))
    rows.append(Row("still queued", len(evidence.queued), None, "in the main queue"))
    return Account(len(evidence.published), tuple(rows), tuple(problems))
