"""Nearest deadline first, out of a queue that only gives from its front. Pure.

1. What is known beforehand are the deadlines of all that will pass by, from a first look. A message is
   released as soon as none that is still to come is more urgent.
2. What is held meanwhile is bounded in number and bytes. When it is too much, the least urgent is let
   go (it stays in its queue, unacknowledged, for the next pass), and nothing as late is released any more.
3. So each pass releases in order, the passes follow each other in order, and a queue that is in order
   already, as most are, takes one pass and holds next to nothing.
"""

from bisect import insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(order=True, slots=True)
class _Held(Generic[T]):
    urgency: float
    number: int
    item: T = field(compare=False)
    size: int = field(compare=False)


class Window(Generic[T]):
    """One pass. ``expected`` are the urgencies of all that will be offered, ascending."""

    def __init__(self, expected: Sequence[float], *, most: int, most_bytes: int) -> None:
        self._expected = expected
        self._next = 0
        self._passed: Counter[float] = Counter()
        self._most = most
        self._most_bytes = most_bytes
        self._held: list[_Held[T]] = []
        self._bytes = 0
        self._number = 0
        self._ceiling: float | None = None

    def __len__(self) -> int:
        return len(self._held)

    def offer(self, urgency: float, item: T, size: int) -> None:
        """The next message passes by."""
        self._pass(urgency)
        if self._ceiling is not None and urgency >= self._ceiling:
            return
        self._number += 1
        insort(self._held, _Held(urgency, self._number, item, size))
        self._bytes += size
        while len(self._held) > self._most or (self._bytes > self._most_bytes and len(self._held) > 1):
            gone = self._held.pop()
            self._bytes -= gone.size
            self._ceiling = gone.urgency

    def release(self) -> list[T]:
        """What nothing that is still to come can precede, most urgent first."""
        if self._next >= len(self._expected):
            return self.drain()
        bound, count = self._expected[self._next], 0
        while count < len(self._held) and self._held[count].urgency <= bound:
            count += 1
        return self._take(count)

    def drain(self) -> list[T]:
        """Everything held: nothing more is coming in this pass."""
        return self._take(len(self._held))

    def _take(self, count: int) -> list[T]:
        taken, self._held[:count] = self._held[:count], []
        self._bytes -= sum(each.size for each in taken)
        return [each.item for each in taken]

    def _pass(self, urgency: float) -> None:
        """Cross ``urgency`` off the list of what is still to come."""
        self._passed[urgency] += 1
        expected, passed = self._expected, self._passed
        while self._next < len(expected) and passed[first := expected[self._next]]:
            passed[first] -= 1
            if not passed[first]:
                del passed[first]
            self._next += 1


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
