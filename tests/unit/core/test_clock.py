"""The clock's functions: UTC, one text form of a moment, the window of 24 hours, exponential backoff."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.clock import REGISTRATION_WINDOW, backoff_seconds, iso_utc, utc_now


def test_now_is_aware_and_in_utc() -> None:
    """A naive moment could not be compared with a journey's dates."""
    before = datetime.now(UTC)
    assert before <= utc_now() <= datetime.now(UTC)
    assert utc_now().tzinfo is UTC


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 11, 23, 16, 0, tzinfo=UTC), "2026-11-23T16:00:00.000Z"),
        (datetime(2026, 11, 23, 16, 0, 0, 250_999, tzinfo=UTC), "2026-11-23T16:00:00.250Z"),
        (datetime(2026, 11, 23, 1, 0, tzinfo=timezone(timedelta(hours=2))), "2026-11-22T23:00:00.000Z"),
    ],
)
def test_moments_are_formatted_in_utc_with_milliseconds(moment: datetime, text: str) -> None:
    """The zone is converted, the rest below a millisecond is cut, never rounded up."""
    assert iso_utc(moment) == text
    assert datetime.fromisoformat(text) <= moment


def test_the_window_is_the_registry_s_24_hours() -> None:
    """It is added to a journey's start."""
    assert timedelta(days=1) == REGISTRATION_WINDOW


def test_backoff_doubles_up_to_its_cap() -> None:
    """The first wait is the base."""
    assert [backoff_seconds(n, 0.5, 10.0) for n in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


@given(st.integers(0, 10**6), st.floats(0.01, 60), st.floats(0.01, 3600))
def test_backoff_is_bounded_after_any_number_of_failures(failures: int, base: float, cap: float) -> None:
    """A broker that is unreachable for weeks neither overflows nor exceeds the cap."""
    wait = backoff_seconds(failures, base, cap)
    assert 0 < wait <= cap
    assert wait == cap or wait >= base
