"""The results of validation: a journey's dates, or why the Registry would refuse the payload.

1. All of them are frozen values; nothing here parses or decides.
2. No field of a violation ever holds a value of a payload, nor the name of a key that the
   Registry does not know (both are the caller's data): only paths, codes and fixed texts.
"""

from dataclasses import dataclass
from datetime import datetime

MAX_VIOLATIONS = 20


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that the payload breaks.

    ``path`` is dotted (``driver.identity.phone``, ``incentives.0.amount``), empty for the payload
    itself; ``code`` is short and stable; ``message`` is a sentence for a person.
    """

    path: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Journey:
    """What the service reads of an acceptable payload. Dates are aware, in UTC.

    ``journey_id`` is v2's ``journey_id`` or v3's ``operator_journey_id``; ``start`` is the
    earliest start and ``end`` the latest end of both persons (v2), or of the trip (v3), cut to
    the millisecond as the Registry does. ``end_path`` names the field that ``end`` comes from.
    """

    journey_id: str
    start: datetime
    end: datetime
    end_path: str = "end.datetime"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The Registry would refuse this payload: at least one violation, at most ``MAX_VIOLATIONS``."""

    violations: tuple[Violation, ...]


def ends_in_future(journey: Journey, now: datetime) -> bool:
    """Return whether the journey ends after ``now`` (aware): the service holds it, and does not refuse it."""
    return journey.end > now
