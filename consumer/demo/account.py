"""Whether every message is accounted for, once, on both sides. Pure.

    published = registered + already registered + dead letters by reason + still queued

1. One side is what the Registry remembers and what the queues hold, message by message; the other
   is what the service counted. Neither is computed from the other.
2. Where they differ, or where a message is nowhere or in two places, there is a sentence about it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

IN_QUEUE = "still queued"


@dataclass(frozen=True, slots=True)
class Message:
    """One message that was published; ``journey_id`` is None when its payload has none that counts."""

    message_id: str
    journey_id: str | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found at the end.

    ``queued`` and ``dead`` are message ids: in the main queue, and by reason. ``times_seen`` is the
    Registry's memory: how often it saw each journey. The rest is the service's own count;
    ``replayed`` counts dead letters by the reason of the queue that they left.
    """

    published: Sequence[Message]
    queued: Sequence[str]
    dead: Mapping[str, Sequence[str]]
    times_seen: Mapping[str, int]
    outcomes: Mapping[str, int]
    dead_lettered: Mapping[str, int]
    replayed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the summary: what was found, and what the service counted (None: it does not count it)."""

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
        """Whether every message is accounted for, once, on both sides."""
        return not self.problems

    @property
    def found(self) -> int:
        """Sum of what was found."""
        return sum(row.found for row in self.rows)

    @property
    def counted(self) -> int:
        """Sum of what the service counted, with what it had not settled yet."""
        return sum(row.found if row.counted is None else row.counted for row in self.rows)


def account(evidence: Evidence) -> Account:
    """Draw up the account."""
    places = Counter(evidence.queued)
    for ids in evidence.dead.values():
        places.update(ids)
    problems = [f"message {name} is in {count} places" for name, count in places.items() if count > 1]
    known = {message.message_id for message in evidence.published}
    problems += [f"message {name} was never published" for name in places if name not in known]
    registered: set[str] = set()
    repeated = lost = 0
    for message in evidence.published:
        if message.message_id in places:
            continue
        if message.journey_id is None or message.journey_id not in evidence.times_seen:
            lost += 1
            problems.append(f"message {message.message_id} is nowhere")
        elif message.journey_id in registered:
            repeated += 1
        else:
            registered.add(message.journey_id)
    # A journey may be there although its message is still in a queue: its answer was lost.
    brought = {message.journey_id for message in evidence.published}
    problems += [
        f"the Registry has journey {name}, which was never published"
        for name in evidence.times_seen
        if name not in brought
    ]
    rows = tuple(_rows(evidence, len(registered), repeated))
    problems += _disagreements(evidence, rows)
    return Account(len(evidence.published), rows, tuple(problems))


def _rows(evidence: Evidence, registered: int, repeated: int) -> list[Row]:
    rows = [
        Row("registered", registered, evidence.outcomes["registered"], "in the Registry's memory"),
        Row("already registered", repeated, evidence.outcomes["already_registered"], "answered 409"),
    ]
    for reason, ids in evidence.dead.items():
        counted, replayed = evidence.dead_lettered[reason], evidence.replayed.get(reason, 0)
        if ids or counted:
            note = f"{counted} came, {replayed} were sent again" if replayed else "in its dead-letter queue"
            rows.append(Row(reason, len(ids), counted - replayed, note))
    rows.append(Row(IN_QUEUE, len(evidence.queued), None, "in the main queue"))
    return rows


def _disagreements(evidence: Evidence, rows: Sequence[Row]) -> list[str]:
    """Rows on which queues and counters differ.

    A journey whose answer was lost is registered by the Registry and answered 409 when it is sent
    again, so only the sum of the first two rows must agree.
    """
    settled, dead = rows[:2], rows[2:]
    problems = []
    found = sum(row.found for row in settled)
    counted = sum(row.counted or 0 for row in settled)
    if found != counted:
        problems.append(f"{found} messages reached the Registry, and the service counted {counted}")
    problems += [
        f"{row.found} dead letters {row.name} were found, and the service counted {row.counted}"
        for row in dead
        if row.counted is not None and row.found != row.counted
    ]
    answered = sum(evidence.times_seen.values())
    if answered < counted:
        problems.append(f"the Registry saw {answered} valid journeys, fewer than the {counted} counted")
    return problems
