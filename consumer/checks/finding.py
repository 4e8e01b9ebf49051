"""One line of ``journey-consumer check``."""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial

_SOON_DAYS = 14


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"  # the service cannot work like this: exit code 1


@dataclass(frozen=True, slots=True)
class Finding:
    """What was checked and the result; ``text`` holds no secret."""

    level: Level
    subject: str
    text: str


ok = partial(Finding, Level.OK)
warn = partial(Finding, Level.WARN)
fail = partial(Finding, Level.FAIL)


def expiry(subject: str, seconds_left: float) -> Finding | None:
    """A certificate's end; None when it is more than _SOON_DAYS away."""
    days = seconds_left / 86_400
    if days < 0:
        return fail(subject, "the certificate has expired")
    return warn(subject, f"the certificate expires in {days:.0f} days") if days < _SOON_DAYS else None
