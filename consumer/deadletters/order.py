"""Nearest deadline first, out of a queue that only gives from its front. Pure.

1. What is known beforehand are the deadlines of all that will pass by, from a first look. A message is
   released as soon as none that is still to come is more urgent.
2. What is held meanwhile is bounded in number and bytes. When it is too much, the least urgent is let
   go (it stays in its queue, unacknowledged, for the next pass), and nothing as late is released any more.
3. So each pass releases in order, the passes follow each other in order, and a queue that is in order
   already, as most are, takes one pass and holds next to nothing.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Window(Generic[T]):
    """One pass. ``expected`` are the urgencies of all that will pass by, ascending.

    ``most`` and ``most_bytes`` bound what is held; one message is always held, whatever its size.
    """

    def __init__(self, expected: Sequence[float], *, most: int, most_bytes: int) -> None:
        self._expected = expected
        self._next = 0
        self._passed: Counter[float] = Counter()
        self._most = most
        self._most_bytes = most_bytes
        # What is held, ascending. Arrays: a hundred thousand of them cost less than their bookkeeping would.
        self._urgencies, self._sizes, self._items = array("d"), array("q"), list[T]()
        self._bytes = 0
        self._ceiling: float | None = None

    def __len__(self) -> int:
        return len(self._items)

    def passes(self, urgency: float) -> None:
        """A message passes by, to be offered or not: it is no longer one that is still to come."""
        self._passed[urgency] += 1
        expected, passed = self._expected, self._passed
        while self._next < len(expected) and passed[first := expected[self._next]]:
            passed[first] -= 1
            if not passed[first]:
                del passed[first]
            self._next += 1

    def is_wanted(self, urgency: float) -> bool:
        """Whether it would be held at all, were it offered."""
        return self._ceiling is None or urgency < self._ceiling

    def is_due(self, urgency: float) -> bool:
        """Whether nothing that is still to come can precede it."""
        return self._next >= len(self._expected) or urgency <= self._expected[self._next]

    def offer(self, urgency: float, item: T, size: int) -> None:
        """Hold ``item`` of ``size`` bytes, if it is wanted."""
        if not self.is_wanted(urgency):
            return
        place = bisect_right(self._urgencies, urgency)
        self._urgencies.insert(place, urgency)
        self._sizes.insert(place, size)
        self._items.insert(place, item)
        self._bytes += size
        while len(self._items) > self._most or (self._bytes > self._most_bytes and len(self._items) > 1):
            self._items.pop()
            self._bytes -= self._sizes.pop()
            self._ceiling = self._urgencies.pop()

    def release(self) -> list[T]:
        """What nothing that is still to come can precede, most urgent first."""
        if self._next >= len(self._expected):
            return self.drain()
        return self._take(bisect_right(self._urgencies, self._expected[self._next]))

    def drain(self) -> list[T]:
        """Everything held: nothing more is coming in this pass."""
        return self._take(len(self._items))

    def _take(self, count: int) -> list[T]:
        taken = self._items[:count]
        self._bytes -= sum(self._sizes[:count])
        del self._urgencies[:count], self._sizes[:count], self._items[:count]
        return taken


def without(expected: Sequence[float], done: Sequence[float]) -> list[float]:
    """``expected`` without as many of each as there are in ``done``; still ascending."""
    gone = Counter(done)
    left = []
    for urgency in expected:
        if gone[urgency]:
            gone[urgency] -= 1
        else:
            left.append(urgency)
    return left


def nearest(expected: Sequence[float], limit: int) -> Callable[[float], bool]:
    """Tell whether an urgency is among the ``limit`` smallest of ``expected`` (ascending).

    To be asked once for each as it passes by, in any order; says yes ``limit`` times at most.
    """
    last = expected[:limit][-1] if expected else float("inf")
    left, equal = limit, limit - bisect_left(expected, last)

    def is_one(urgency: float) -> bool:
        nonlocal left, equal
        if left == 0 or urgency > last or (urgency == last and equal == 0):
            return False
        left -= 1
        equal -= urgency == last
        return True

    return is_one
