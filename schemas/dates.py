"""Dates: what each version of the Registry accepts as RFC 3339, and the instant that it reads.

1. The Registry checks a date twice: with ajv-formats' ``date-time``, then with JavaScript's ``Date``. With
   ``T`` the second parses ISO strictly (no ``+01``, no offset of 24 hours); with a white space it falls back
   to a lenient parser, which accepts ``+01``. The expressions below are the intersection.
2. v2's ajv-formats accepts a date without zone (read as UTC here), v3's does not.
3. An expression decides alone, inside pydantic's core; the functions below take accepted dates only.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import StringConstraints

_CALENDAR = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?"
_SPACE = r"[\t\n\x0B\x0C\r \u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000\uFEFF]"
_ISO_ZONE = r"[Zz]|[+-](?:[01][0-9]|2[0-3]):?[0-5][0-9]"

_V2 = (
    rf"^{_CALENDAR}(?:[Tt]{_CLOCK}(?:{_ISO_ZONE})?"
    rf"|{_SPACE}{_CLOCK}(?:[Zz]|[+-][0-9]{{2}}(?:[0-9]{{2}}|:[0-5][0-9])?)?)$"
)
_V3 = (
    rf"^{_CALENDAR}(?:[Tt]{_CLOCK}(?:{_ISO_ZONE})|{_SPACE}{_CLOCK}(?:{_ISO_ZONE}|[+-](?:[01][0-9]|2[0-3])))$"
)

DateTimeV2 = Annotated[str, StringConstraints(max_length=64, pattern=_V2)]
"""Source: the 2023 validator (ajv-formats 2.1, then ``new Date``). At most 64 characters."""

DateTimeV3 = Annotated[str, StringConstraints(max_length=64, pattern=_V3)]
"""Source: the 2025 validator (ajv-formats 3.0, then ``new Date``). At most 64 characters."""

_PARTS = re.compile(
    r"([0-9]{4})-(..)-(..).(..):(..):(..)(?:\.([0-9]+))?(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2})?)?", re.DOTALL
)
_FRACTION = re.compile(r"\.[0-9]+")
_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)


def instant(text: str) -> datetime:
    """Return the instant of an accepted date, in UTC, cut to the millisecond as JavaScript's ``Date`` is.

    A date outside Python's years 1 to 9999 becomes the nearest date inside; no accepted date raises.
    """
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not UTC:
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        moment = _unusual(text)
    excess = moment.microsecond % 1000
    return moment - timedelta(microseconds=excess) if excess else moment


def _unusual(text: str) -> datetime:
    """Parse what ``fromisoformat`` refuses: a lower-case z, year 0, offsets of a day, years out of range."""
    parts = _PARTS.fullmatch(text)
    if parts is None:
        raise ValueError("not an accepted date")  # cannot happen: the expressions above were checked before
    year, month, day, hour, minute, second = (int(part) for part in parts.group(1, 2, 3, 4, 5, 6))
    if year == 0:
        return _FIRST
    fraction, sign, zone_hours, zone_minutes = parts.group(7, 8, 9, 10)
    micros = int((fraction or "")[:6].ljust(6, "0"))
    offset = timedelta(hours=int(zone_hours or 0), minutes=int(zone_minutes or 0))
    try:
        wall = datetime(year, month, day, hour, minute, second, micros, tzinfo=UTC)
        return wall + offset if sign == "-" else wall - offset
    except OverflowError:
        return _FIRST if year == 1 else _LAST


def wall_clock(text: str) -> str:
    """Return what v2's ``formatExclusiveMaximum`` compares: date, time and fraction as text, without zone.

    So ``10:00:00.000`` comes after ``10:00:00``, and ``.5`` after ``.123``.
    """
    fraction = _FRACTION.match(text, 19)
    return text[:10] + text[11:19] + (fraction[0] if fraction else "")
