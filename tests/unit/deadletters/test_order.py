"""Nearest deadline first with bounded memory: each pass is in order, and so are all passes together."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from consumer.deadletters.order import Window, nearest, without

URGENCIES = st.lists(st.integers(0, 50).map(float) | st.just(float("inf")), max_size=60)


def passes(queue: Sequence[float], most: int, most_bytes: int = 10**9) -> tuple[list[float], int]:
    """Empty ``queue`` by passes; returns everything in the order of release, and how many passes it took."""
    left, expected, released, count = list(queue), sorted(queue), list[float](), 0
    while left:
        count += 1
        window: Window[int] = Window(expected, most=most, most_bytes=most_bytes)
        out: list[int] = []
        for index, urgency in enumerate(left):
            window.passes(urgency)
            held, wanted, due = len(window), window.is_wanted(urgency), window.is_due(urgency)
            window.offer(urgency, index, 10)
            assert len(window) <= (most if wanted else held)
            out += (released_now := window.release())
            assert (index in released_now) == (wanted and due)
        out += window.drain()
        assert out, "a pass that releases nothing would never end"
        now = [left[index] for index in out]
        released += now
        left = [urgency for index, urgency in enumerate(left) if index not in set(out)]
        expected = without(expected, now)
    return released, count


@given(URGENCIES, st.integers(1, 20))
def test_everything_is_released_once_and_in_order(queue: list[float], most: int) -> None:
    """Whatever the order of the queue and however little may be held."""
    released, _ = passes(queue, most)
    assert released == sorted(queue)


@given(URGENCIES, st.integers(1, 5))
def test_bytes_bound_it_as_well(queue: list[float], messages: int) -> None:
    """A few large messages count like many small ones."""
    released, _ = passes(queue, 1000, most_bytes=messages * 10)
    assert released == sorted(queue)


@given(URGENCIES)
def test_a_queue_in_order_takes_one_pass_and_holds_one(queue: list[float]) -> None:
    """The usual case costs nothing."""
    released, count = passes(sorted(queue), 1)
    assert released == sorted(queue)
    assert count <= 1


@given(URGENCIES, URGENCIES, st.integers(1, 20))
def test_a_queue_that_changed_meanwhile_is_still_emptied(
    expected: list[float], queue: list[float], most: int
) -> None:
    """More, fewer or other messages than the first look saw: a pass releases at least what it may hold."""
    window: Window[float] = Window(sorted(expected), most=most, most_bytes=10**9)
    out: list[float] = []
    for urgency in queue:
        window.passes(urgency)
        window.offer(urgency, urgency, 1)
        out += window.release()
    out += window.drain()
    assert len(out) >= min(most, len(queue))
    assert len(window) == 0


@given(URGENCIES, st.data())
def test_what_is_done_is_taken_off_as_often_as_it_was_done(queue: list[float], data: st.DataObject) -> None:
    """Equal deadlines are counted, not confused."""
    done = data.draw(st.lists(st.sampled_from(queue), max_size=len(queue)) if queue else st.just([]))
    left = without(sorted(queue), done)
    assert left == sorted(left)
    for urgency in {*queue}:
        assert left.count(urgency) == max(0, queue.count(urgency) - done.count(urgency))


@given(URGENCIES, st.integers(1, 20))
def test_the_nearest_are_found_in_any_order(queue: list[float], limit: int) -> None:
    """As many as asked for, the smallest, equal ones no more often than they fit."""
    is_one = nearest(sorted(queue), limit)
    assert sorted(urgency for urgency in queue if is_one(urgency)) == sorted(queue)[:limit]


@given(URGENCIES, URGENCIES, st.integers(1, 20))
def test_what_came_meanwhile_takes_no_more_places(
    expected: list[float], queue: list[float], limit: int
) -> None:
    """A queue that is not what the first look saw: never more than asked for."""
    is_one = nearest(sorted(expected), limit)
    assert sum(map(is_one, queue)) <= limit
