"""What ``list`` keeps of a look: the most urgent, in order, in bounded memory."""

import os
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from consumer.core.delivery import Delivery
from consumer.deadletters.listing import Listing
from consumer.deadletters.record import Record

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def record(number: int, hours: int | None) -> Record:
    """One whose journey started so many hours after noon."""
    start = None if hours is None else NOW + timedelta(hours=hours)
    return Record("invalid", f"m-{number}", None, None, None, 1, 0, None, start, 2, 0)


@given(st.lists(st.none() | st.integers(-30, 30), max_size=40), st.integers(1, 50), st.booleans())
def test_the_most_urgent_in_order(hours: list[int | None], limit: int, with_deliveries: bool) -> None:  # noqa: FBT001
    """As sorting all of them would give, what has no deadline last; each with its own delivery."""
    listing = Listing(limit, with_deliveries=with_deliveries)
    every = [record(number, each) for number, each in enumerate(hours)]
    for each in every:
        listing.add(each, Delivery(str(each.message_id).encode()))
    expected = sorted(every, key=lambda each: each.urgency)[:limit]
    assert list(listing.records()) == expected
    assert (len(listing), listing.matching) == (len(expected), len(hours))
    if with_deliveries:
        assert [(each, delivery.body.decode()) for each, delivery in listing.entries()] == [
            (each, each.message_id) for each in expected
        ]


def test_too_much_to_hold_lets_the_least_urgent_go() -> None:
    """Bodies that no packing makes small: those that fit are the nearest to their deadline."""
    listing = Listing(100, with_deliveries=True, most_bytes=35_000)
    for number in range(10):
        listing.add(record(number, -number), Delivery(os.urandom(10_000)))
    assert [each.message_id for each in listing.records()] == ["m-9", "m-8", "m-7"]
    assert listing.matching == 10
