"""Tables on terminals of any width: nothing is cut or folded, the least important columns are left out."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from consumer.deadletters.record import Record
from consumer.deadletters.view import Overview, show_overview, show_records

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
IDS = st.text("abc-0123456789é漢", min_size=1, max_size=120)
RECORDS = st.builds(
    Record,
    reason=st.sampled_from(("invalid", "unauthorized", "delivery-limit")),
    message_id=IDS | st.none(),
    journey_id=IDS,
    detail=st.sampled_from((None, "-32422 too_close_trips", "out_of_range at driver.identity.phone")),
    status=st.sampled_from((None, 401)),
    attempts=st.just(1),
    replays=st.integers(0, 9),
    died=st.none() | st.integers(0, 10**6).map(lambda seconds: NOW - timedelta(seconds=seconds)),
    start=st.none() | st.integers(-(10**5), 10**5).map(lambda seconds: NOW + timedelta(seconds=seconds)),
    size=st.just(2),
)


def console(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def lines(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


@settings(deadline=None)  # a terminal is slow to make when the machine is busy
@given(st.lists(RECORDS, min_size=1, max_size=8), st.integers(20, 250))
def test_an_id_is_never_cut_or_folded(records: list[Record], width: int) -> None:
    """Whatever the width: one line for each dead letter, which begins with its whole id."""
    out = console(width)
    show_records(out, records, NOW)
    head, _rule, *rows = lines(out)
    rows = rows[: len(records)]
    for record, row in zip(records, rows, strict=True):
        assert row.split()[0] == record.journey_id
    if "reason" in head:
        assert all(cell_len(row) <= width for row in rows)


@settings(deadline=None)  # a terminal is slow to make when the machine is busy
@given(st.lists(RECORDS, min_size=1, max_size=8), st.integers(20, 250))
def test_a_narrow_summary_keeps_its_numbers(records: list[Record], width: int) -> None:
    """Reason, count, what can be registered and the time left always; no number is cut."""
    overview, out = Overview(), console(width)
    for record in records:
        overview.add(record, NOW)
    show_overview(out, overview, "journeys")
    shown = lines(out)
    assert all(name in shown[0] for name in ("reason", "count", "can be registered", "time left"))
    assert len([line for line in shown[2:] if line.split()[0] in {r.reason for r in records}]) == len(
        overview.groups
    )


@pytest.mark.parametrize(("width", "left_out"), [(200, ""), (100, "died"), (60, "message id, reason, ")])
def test_what_is_left_out_is_said(width: int, left_out: str) -> None:
    journey, message = "8a6a63ec-24ed-46a4-ab4c-b2424a23d596", "m-1"
    record = Record("unauthorized", message, journey, "-32501", 401, 1, 0, NOW, NOW, 2)
    out = console(width)
    show_records(out, [record], NOW)
    said = [line for line in lines(out) if line.startswith("(a wider terminal")]
    assert len(said) == bool(left_out)
    assert all(left_out in line for line in said)
