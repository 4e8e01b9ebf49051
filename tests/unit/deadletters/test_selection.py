"""The filters: each alone, all together, and what must hold of any of them."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.deadletters.record import Record
from consumer.deadletters.selection import (
    Range,
    Selection,
    duration,
    hash_of,
    range_of,
    status_of,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MOMENTS = st.none() | st.datetimes(
    NOW.replace(tzinfo=None) - timedelta(days=3), NOW.replace(tzinfo=None) + timedelta(days=1)
).map(lambda moment: moment.replace(tzinfo=UTC))
REASONS = ("invalid", "unauthorized", "expired")
DETAILS = (None, "token_refused", "out_of_range at passenger.seats", "required at driver.identity.phone")

RECORDS = st.builds(
    Record,
    reason=st.sampled_from(REASONS),
    message_id=st.sampled_from((None, "m-1", "m-2")),
    journey_id=st.sampled_from((None, "j-1", "j-2")),
    detail=st.sampled_from(DETAILS),
    status=st.sampled_from((None, 401, 422)),
    attempts=st.just(1),
    replays=st.integers(0, 9),
    died=MOMENTS,
    start=MOMENTS,
    size=st.just(2),
)
HOURS = st.integers(-72, 72).map(lambda hours: hours * 3600.0)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    """Any range, open ones too."""
    least, most = sorted(draw(st.tuples(HOURS, HOURS)))
    return Range(draw(st.sampled_from((None, least))), draw(st.sampled_from((None, most + 1.0))))


SELECTIONS = st.builds(
    Selection,
    reasons=st.frozensets(st.sampled_from(REASONS)),
    details=st.lists(st.sampled_from(("*", "token_*", "* at driver.*", "")), max_size=2).map(tuple),
    statuses=st.frozensets(st.sampled_from((None, 401, 422))),
    journey_ids=st.frozensets(st.sampled_from(("j-1", "j-2"))),
    message_ids=st.frozensets(st.sampled_from(("m-1", "m-2"))),
    age=ranges(),
    left=ranges(),
)


@given(RECORDS)
def test_no_filter_lets_everything_through(record: Record) -> None:
    """Nothing given, everything meant."""
    assert not Selection()
    assert Selection().matches(record, NOW)


@given(SELECTIONS, SELECTIONS, RECORDS)
def test_different_filters_must_all_hold(one: Selection, other: Selection, record: Record) -> None:
    """A selection is the conjunction of its parts, whichever they are."""
    none = Selection()
    parts = [
        Selection(reasons=one.reasons),
        Selection(details=one.details),
        Selection(statuses=one.statuses),
        Selection(journey_ids=one.journey_ids),
        Selection(message_ids=one.message_ids),
        Selection(age=one.age),
        Selection(left=one.left),
    ]
    assert one.matches(record, NOW) == all(part.matches(record, NOW) for part in parts)
    assert bool(one) == any(part != none for part in parts)
    # Alternatives within one filter only ever add.
    if one.reasons and other.reasons:
        both = Selection(reasons=one.reasons | other.reasons)
        assert both.matches(record, NOW) == (record.reason in one.reasons or record.reason in other.reasons)


@given(HOURS, RECORDS)
def test_two_halves_of_a_range_divide_what_is_known(bound: float, record: Record) -> None:
    """What is on neither side has no deadline, and nothing is on both."""
    urgent = Selection(left=Range(None, bound)).matches(record, NOW)
    relaxed = Selection(left=Range(bound, None)).matches(record, NOW)
    assert (urgent, relaxed).count(True) == (0 if record.start is None else 1)
    young = Selection(age=Range(None, bound)).matches(record, NOW)
    old = Selection(age=Range(bound, None)).matches(record, NOW)
    assert (young, old).count(True) == (0 if record.died is None else 1)


@given(RECORDS)
def test_zero_left_is_the_edge_of_saving(record: Record) -> None:
    """``--left 0..`` are those that can be saved, up to the very deadline."""
    known = record.start is not None
    assert Selection(left=range_of("..0")).matches(record, NOW) == (
        known and record.deadline is not None and record.deadline < NOW
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("1.5d", 129_600), ("0", 0), ("-2h", -7200), (" 2H ", 7200)],
)
def test_times_are_written_as_people_write_them(text: str, seconds: float) -> None:
    """Units add up."""
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "1w", "--1h", "1h ago", "1e3s", "٣h", "nan"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """No guessing."""
    with pytest.raises(ValueError, match="must be a time"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2h..", Range(7200, None)), ("..30m", Range(None, 1800)), ("1h..2h", Range(3600, 7200))],
)
def test_ranges(text: str, expected: Range) -> None:
    """Open on either side."""
    assert range_of(text) == expected


@pytest.mark.parametrize("text", ["..", "2h", "2h..1h", "1h..1h", "1h...2h"])
def test_what_is_no_range_is_refused(text: str) -> None:
    """An empty range would silently mean nothing."""
    with pytest.raises(ValueError, match="must be"):
        range_of(text)


def test_statuses() -> None:
    """A number, or the word for not having asked."""
    assert status_of("401") == 401
    assert status_of("None") is None
    for text in ("", "40", "4011", "x", "999", "٤٠١"):
        with pytest.raises(ValueError, match="HTTP status"):
            status_of(text)


def test_a_person_is_named_by_a_hash_only() -> None:
    """What is refused may be the phone itself: it is not quoted."""
    assert hash_of(" AB" + "0" * 62 + "\n") == "ab" + "0" * 62
    for text in ("+33639981234", "", "a" * 63, "g" * 64):
        with pytest.raises(ValueError, match=r"must be a SHA-256") as caught:
            hash_of(text)
        assert "39981234" not in str(caught.value)
