"""What is a date, and which instant it is."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.dates import DateTimeV2, DateTimeV3, instant, wall_clock

V2, V3 = TypeAdapter[str](DateTimeV2), TypeAdapter[str](DateTimeV3)


def accepts(adapter: TypeAdapter[str], text: str) -> bool:
    """Whether a date passes."""
    try:
        adapter.validate_python(text, strict=True)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "v2", "v3"),
    [
        ("2026-03-02T06:10:00Z", True, True),
        ("2026-03-02t06:10:00z", True, True),
        ("2026-03-02 06:10:00Z", True, True),
        ("2026-03-02\u300006:10:00.5z", True, True),
        ("2026-03-02T06:10:00.123456789Z", True, True),
        ("2026-03-02T06:10:00+0100", True, True),
        ("2026-03-02T06:10:00-23:59", True, True),
        ("2026-03-02T06:10:00+01", False, False),
        ("2026-03-02 06:10:00+01", True, True),
        ("2026-03-02T06:10:00+24:00", False, False),
        ("2026-03-02 06:10:00+24:00", True, False),
        ("2026-03-02 06:10:00+9999", True, False),
        ("2026-03-02 06:10:00+01:60", False, False),
        ("2026-03-02T06:10:00", True, False),
        ("2026-03-02T06:10Z", False, False),
        ("2026-03-02T24:00:00Z", False, False),
        ("2026-03-02T23:59:60Z", False, False),
        ("2026-03-02T06:10:00.Z", False, False),
        ("2026-03-02T06:10:00,5Z", False, False),
        ("2026-03-02", False, False),
        ("20260302T061000Z", False, False),
        ("2026-W10-1T06:10:00Z", False, False),
        ("2026-03-02_06:10:00Z", False, False),
        ("2026-03-02\u180e06:10:00Z", False, False),
        ("2026-03-02\u008506:10:00Z", False, False),
        ("2026-03-02T06:10:00Z\n", False, False),
        ("\uff12\uff10\uff12\uff16-03-02T06:10:00Z", False, False),
        ("2026-03-02T06:10:0\u0660Z", False, False),
        ("2026-00-02T06:10:00Z", False, False),
        ("2026-02-29T06:10:00Z", False, False),
        ("2024-02-29T06:10:00Z", True, True),
        ("1900-02-29T06:10:00Z", False, False),
        ("0000-02-29T06:10:00Z", True, True),
        ("2026-03-02T06:10:00." + "1" * 43 + "Z", True, True),
        ("2026-03-02T06:10:00." + "1" * 44 + "Z", False, False),
    ],
)
def test_which_texts_are_dates(text: str, v2: bool, v3: bool) -> None:  # noqa: FBT001
    """Every quirk of the Registry's two checks, and the differences between the versions."""
    assert (accepts(V2, text), accepts(V3, text)) == (v2, v3)


@given(st.integers(0, 9999), st.integers(0, 13), st.integers(0, 32))
def test_the_calendar(year: int, month: int, day: int) -> None:
    """A day that Python's calendar knows is a date, any other is not (year 0 is Gregorian)."""
    try:
        datetime(year or 2000, month, day, tzinfo=UTC)
        exists = True
    except ValueError:
        exists = False
    text = f"{year:04}-{month:02}-{day:02}T00:00:00Z"
    assert accepts(V2, text) == accepts(V3, text) == exists


_OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(timezones=_OFFSETS), st.sampled_from(["T", "t", " ", "\ufeff"]))
def test_what_python_prints_is_read_back(moment: datetime, separator: str) -> None:
    """An ISO date in any zone is accepted and is the same instant, cut to the millisecond."""
    text = moment.isoformat().replace("T", separator)
    assert accepts(V2, text)
    assert accepts(V3, text)
    try:
        expected = moment.astimezone(UTC)
    except OverflowError:
        assert instant(text).year in {1, 9999}
        return
    assert instant(text) == expected.replace(microsecond=expected.microsecond // 1000 * 1000)


@given(st.from_regex(f"{V2.json_schema()['pattern']}".replace("$", r"\Z"), fullmatch=True))
def test_every_accepted_date_has_an_instant(text: str) -> None:
    """No date that the expression lets through makes the reading of it fail."""
    moment = instant(text)
    assert moment.tzinfo is UTC
    assert moment.microsecond % 1000 == 0
    assert wall_clock(text)[:10] == text[:10]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-02T06:10:00z", datetime(2026, 3, 2, 6, 10, tzinfo=UTC)),
        ("2026-03-02t06:10:00.9999z", datetime(2026, 3, 2, 6, 10, 0, 999_000, tzinfo=UTC)),
        ("2026-03-02T06:10:00", datetime(2026, 3, 2, 6, 10, tzinfo=UTC)),
        ("2026-03-02 06:10:00+99:59", datetime(2026, 2, 26, 2, 11, tzinfo=UTC)),
        ("2026-03-02 06:10:00-2400", datetime(2026, 3, 3, 6, 10, tzinfo=UTC)),
        ("0000-01-01T00:00:00Z", datetime.min.replace(tzinfo=UTC)),
        ("0001-01-01T00:00:00+01:00", datetime.min.replace(tzinfo=UTC)),
        ("9999-12-31T23:59:59-01:00", datetime.max.replace(tzinfo=UTC, microsecond=999_000)),
    ],
)
def test_unusual_instants(text: str, expected: datetime) -> None:
    """What Python's own reader does not take is read by the same rules, and clamped at the edges of time."""
    assert instant(text) == expected


def test_no_instant_is_made_up() -> None:
    """A text that is no date at all is an error of ours, not a date."""
    with pytest.raises(ValueError, match="not an accepted date"):
        instant("tomorrow")
