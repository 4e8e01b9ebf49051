"""Times as the whole program counts them: the wall clock, the Registry's window, how a wait grows.

Only ``utc_now`` reads a clock. Durations are seconds.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

#: The Registry takes a journey within 24 hours of its start.
REGISTRATION_WINDOW: Final = timedelta(hours=24)


def utc_now() -> datetime:
    """Return the wall clock, aware."""
    return datetime.now(UTC)


def iso_utc(moment: datetime) -> str:
    """Return an aware time as ISO 8601 in UTC, with milliseconds and ``Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def backoff_seconds(failures: int, base: float, cap: float) -> float:
    """Return ``base`` doubled for each of ``failures``, at most ``cap``; jitter is the caller's."""
    return min(cap, base * 2.0 ** min(failures, 60))
