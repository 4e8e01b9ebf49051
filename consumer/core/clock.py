"""Time as the whole service uses it: the wall clock, its text form, the registration window, backoff.

1. Moments are aware datetimes in UTC; durations are seconds, except the window, which is added to moments.
2. ``utc_now`` is the only function that reads a clock. It is a default argument; tests pass their own.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

REGISTRATION_WINDOW: Final = timedelta(hours=24)
"""From a journey's start: the Registry refuses a later registration as expired."""

_MOST_DOUBLINGS = 60  # beyond every cap, and far from the overflow of a float


def utc_now() -> datetime:
    return datetime.now(UTC)


def iso_utc(moment: datetime) -> str:
    """Format an aware datetime as ISO 8601 in UTC: ``2026-11-23T16:00:00.250Z``, cut to milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def backoff_seconds(failures: int, base: float, cap: float) -> float:
    """Return ``base`` doubled ``failures`` times, at most ``cap``; the caller applies jitter.

    ``failures`` counts those before the present one, so that the first wait (0) is ``base``.
    """
    return min(cap, base * 2.0 ** min(failures, _MOST_DOUBLINGS))
