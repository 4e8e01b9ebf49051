"""One line of ``journey-consumer check``."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """OK, worth a look, or an obstacle; one obstacle makes the check fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at and what was seen; ``text`` is fit for a terminal and a log."""

    level: Level
    subject: str
    text: str


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, subject, text)


def warn(subject: str, text: str) -> Finding:
    """The service can start, but somebody should know."""
    return Finding(Level.WARN, subject, text)


def fail(subject: str, text: str) -> Finding:
    """The service could not do its work."""
    return Finding(Level.FAIL, subject, text)


def expiry(subject: str, seconds_left: float) -> Finding | None:
    """A word on a certificate that ends; None when it is good for long."""
    days = seconds_left / 86_400
    if days < 0:
        return fail(subject, "the certificate has expired")
    return warn(subject, f"the certificate expires in {days:.0f} days") if days < _SOON_DAYS else None


_SOON_DAYS = 14
