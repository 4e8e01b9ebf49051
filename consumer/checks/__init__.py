"""What ``journey-consumer check`` finds out before the service starts; nothing is changed.

``broker`` and ``registry`` ask the two neighbours, ``local`` looks at this machine. Each yields findings,
one for each line of output. No finding holds a password, a token or a key.
"""

import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

_SOON_DAYS = 14


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"  # cannot be known
    WARN = "warn"
    FAIL = "FAIL"  # the service cannot work like this: exit code 1


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    subject: str
    text: str


ok = partial(Finding, Level.OK)
note = partial(Finding, Level.NOTE)
warn = partial(Finding, Level.WARN)
fail = partial(Finding, Level.FAIL)


def expiry(subject: str, certificate: Mapping[str, Any]) -> Iterator[Finding]:
    """A verified certificate's end (``notAfter``), unless it is more than _SOON_DAYS away."""
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86_400
    if days < 0:
        yield fail(subject, "the certificate has expired")
    elif days < _SOON_DAYS:
        yield warn(subject, f"the certificate expires in {days:.0f} days")
