"""When the next request may go, alone and beside strangers who share the budget."""

import heapq
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.rate_limiter import RateLimiter
from consumer.core.reply import RateLimit


def test_a_burst_then_one_by_one() -> None:
    """At 60 a minute and a burst of 3: three at once, then one each second."""
    rate_limiter = RateLimiter(60, burst=3)
    assert [rate_limiter.reserve(100.0) for _ in range(6)] == pytest.approx([0, 0, 0, 1, 2, 3])


def test_a_rest_does_not_save_up_more_than_a_burst() -> None:
    """After an hour of silence there is one burst, not an hour's worth."""
    rate_limiter = RateLimiter(60, burst=2)
    assert rate_limiter.reserve(0.0) == 0
    assert [rate_limiter.reserve(3600.0) for _ in range(4)] == pytest.approx([0, 0, 1, 2])


@given(
    rate=st.integers(1, 30_000),
    burst=st.integers(1, 50),
    steps=st.lists(
        st.tuples(
            st.floats(0, 5),
            st.integers(0, 40),
            st.none() | st.builds(RateLimit, st.none() | st.just(100), st.integers(0, 200), st.floats(0, 90)),
        ),
        min_size=1,
        max_size=12,
    ),
)
def test_no_window_sees_more_than_rate_and_burst(
    rate: int, burst: int, steps: list[tuple[float, int, RateLimit | None]]
) -> None:
    """Whatever is asked and whatever the answers tell: never more than rate * t + burst in t."""
    rate_limiter, now, slots = RateLimiter(rate, burst), 0.0, []
    for pause, asked, seen in steps:
        now += pause
        if seen is not None:
            rate_limiter.observe(seen, now)
        waits = [rate_limiter.reserve(now) for _ in range(asked)]
        assert all(wait >= 0 for wait in waits)
        slots += [now + wait for wait in waits]
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(slots))  # floats round
    interval = 60 / rate
    # it is enough to look at every window that begins and ends with a slot
    excess = [slot - index * interval for index, slot in enumerate(slots)]
    highest = -math.inf
    for value in excess:
        highest = max(highest, value)
        assert highest - value <= (burst - 1) * interval + 1e-6


def test_nothing_is_sent_while_held() -> None:
    """A hold moves the next slots behind it, is never shortened, and starts with a burst at most."""
    rate_limiter = RateLimiter(60, burst=2)
    rate_limiter.hold(30.0)
    rate_limiter.hold(20.0)
    assert rate_limiter.held_for(10.0) == 20.0
    assert [rate_limiter.reserve(10.0) for _ in range(4)] == pytest.approx([20, 20, 21, 22])
    assert rate_limiter.held_for(30.0) == 0.0


def test_slots_lost_to_a_hold_are_asked_for_again() -> None:
    """Whoever wakes up during a hold gets a new slot of its own behind it."""
    rate_limiter = RateLimiter(60, burst=1)
    assert [rate_limiter.reserve(0.0) for _ in range(4)] == pytest.approx([0, 1, 2, 3])
    rate_limiter.hold(2.5)
    again = [1.0 + rate_limiter.reserve(1.0), 2.0 + rate_limiter.reserve(2.0)]
    assert again == pytest.approx([4, 5])


def test_what_remains_is_spread_over_the_time_that_remains() -> None:
    """60 left for 30 seconds: two a second, although our own rate would allow a hundred."""
    rate_limiter = RateLimiter(6000, burst=1)
    rate_limiter.observe(RateLimit(None, 60, 30.0), now=0.0)
    assert [rate_limiter.reserve(0.0) for _ in range(3)] == pytest.approx([0, 0.5, 1.0])


def test_plenty_left_does_not_lift_our_own_rate() -> None:
    """The rate that the operator chose stays the upper bound."""
    rate_limiter = RateLimiter(60, burst=1)
    rate_limiter.observe(RateLimit(20_000, 20_000, 1.0), now=0.0)
    assert [rate_limiter.reserve(0.0) for _ in range(2)] == pytest.approx([0, 1])


def test_the_new_window_is_at_our_own_rate() -> None:
    """When the budget's window has ended its scarcity is over."""
    rate_limiter = RateLimiter(6000, burst=1)
    rate_limiter.observe(RateLimit(None, 3, 30.0), now=0.0)
    assert [rate_limiter.reserve(31.0) for _ in range(2)] == pytest.approx([0, 0.01])


@pytest.mark.parametrize("remaining", [0, 7, 200])
def test_the_last_percent_is_left_alone(remaining: int) -> None:
    """What is in flight has not been counted: at one percent left everybody waits for the reset."""
    rate_limiter = RateLimiter(20_000, burst=1)
    rate_limiter.observe(RateLimit(20_000, remaining, 12.0), now=5.0)
    assert rate_limiter.held_for(5.0) == 12.0
    assert rate_limiter.reserve(5.0) == 12.0


def test_a_small_budget_has_no_reserve() -> None:
    """A limit of five is used to its last."""
    rate_limiter = RateLimiter(6000, burst=1)
    rate_limiter.observe(RateLimit(5, 1, 10.0), now=0.0)
    assert rate_limiter.held_for(0.0) == 0.0
    assert [rate_limiter.reserve(0.0) for _ in range(2)] == pytest.approx([0, 10.0])


def test_answers_overtake_each_other() -> None:
    """An older answer that arrives late does not give back what is used up."""
    rate_limiter = RateLimiter(6000, burst=1)
    rate_limiter.observe(RateLimit(None, 10, 10.0), now=0.0)
    rate_limiter.observe(RateLimit(None, 1000, 11.0), now=0.1)
    assert [rate_limiter.reserve(0.1) for _ in range(2)] == pytest.approx([0, 0.99])


def test_a_later_window_replaces_the_old_one() -> None:
    """An answer of the next window counts as it is, even if the old one seems to last."""
    rate_limiter = RateLimiter(6000, burst=1)
    rate_limiter.observe(RateLimit(None, 1, 10.0), now=0.0)
    rate_limiter.observe(RateLimit(None, 120, 60.0), now=5.0)
    assert [rate_limiter.reserve(5.0) for _ in range(2)] == pytest.approx([0, 0.5])


@pytest.mark.parametrize("known_end", [10.0, 65.0])
def test_late_answers_of_a_window_that_is_over(known_end: float) -> None:
    """The old window's last words, when they arrive in the new one, delay nothing."""
    rate_limiter = RateLimiter(6000, burst=1)
    rate_limiter.observe(RateLimit(1000, 900, known_end), now=0.0)
    rate_limiter.observe(RateLimit(1000, 3, 1.0), now=10.2)
    assert rate_limiter.held_for(10.2) == 0.0


def test_a_window_that_was_too_long_to_be_true() -> None:
    """One answer with an absurd reset does not bind longer than until the next answer."""
    rate_limiter = RateLimiter(6000, burst=1)
    rate_limiter.observe(RateLimit(None, 1, 3600.0), now=0.0)
    rate_limiter.observe(RateLimit(None, 120, 60.0), now=5.0)
    assert [rate_limiter.reserve(5.0) for _ in range(2)] == pytest.approx([0, 0.5])


def test_scarcity_ends_with_its_window() -> None:
    """Slots beyond the end of a scarce window are as close as ever."""
    rate_limiter = RateLimiter(6000, burst=1)
    rate_limiter.observe(RateLimit(None, 1, 1.0), now=0.0)
    assert [rate_limiter.reserve(0.3) for _ in range(4)] == pytest.approx([0, 0.7, 0.71, 0.72])


def test_an_ending_window_tells_nothing() -> None:
    """A reset of zero is about to be untrue."""
    rate_limiter = RateLimiter(6000, burst=1)
    rate_limiter.observe(RateLimit(100, 0, 0.0), now=0.0)
    assert rate_limiter.held_for(0.0) == 0.0


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (math.nan, 1), (60, 0)])
def test_unusable_settings_are_refused(rate: float, burst: int) -> None:
    """No rate, or no burst, would stop everything silently."""
    with pytest.raises(ValueError, match="must be"):
        RateLimiter(rate, burst)


class FixedWindow:
    """The Registry's limiter: ``limit`` requests in each window, told in whole seconds, rounded up."""

    def __init__(self, limit: int, window: float) -> None:
        self.limit, self.window = limit, window
        self.seen: Counter[int] = Counter()

    def take(self, now: float) -> RateLimit:
        index = int(now // self.window)
        self.seen[index] += 1
        left = (index + 1) * self.window - now
        return RateLimit(self.limit, max(self.limit - self.seen[index], 0), float(math.ceil(left)))


def simulate(  # noqa: C901 - five steps of one loop, each a function
    pacers: list[RateLimiter], server: FixedWindow, *, workers: int, until: float, seed: int
) -> None:
    """Run the caller's loop of each pacer's workers, all with work waiting, in simulated time."""
    random_ = random.Random(seed)
    order = itertools.count()
    events: list[tuple[float, int, Callable[[float], None]]] = []

    def at(when: float, what: Callable[[float], None]) -> None:
        heapq.heappush(events, (when, next(order), what))

    def start(rate_limiter: RateLimiter) -> None:
        def ask(now: float) -> None:
            at(now + rate_limiter.reserve(now), wake)

        def wake(now: float) -> None:
            if rate_limiter.held_for(now):
                ask(now)
            else:
                at(now + random_.uniform(0.01, 0.05), arrive)

        def arrive(now: float) -> None:
            seen = server.take(now)
            at(now + random_.uniform(0.01, 0.05), lambda then: answer(seen, then))

        def answer(seen: RateLimit, now: float) -> None:
            rate_limiter.observe(seen, now)
            ask(now)

        at(random_.uniform(0, 0.1), ask)

    for rate_limiter in pacers:
        for _ in range(workers):
            start(rate_limiter)
    while events and events[0][0] < until:
        now, _, what = heapq.heappop(events)
        what(now)


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_replicas_share_one_budget(replicas: int) -> None:
    """Each may use all of it, none knows the others: over at most by what is in flight, used to 95 %."""
    limit, window, windows = 3000, 60.0, 4
    server = FixedWindow(limit, window)
    pacers = [RateLimiter(limit, burst=5) for _ in range(replicas)]
    simulate(pacers, server, workers=16, until=window * windows, seed=replicas)
    used = [server.seen[index] for index in range(windows)]
    assert max(used) <= limit * 1.002
    assert min(used) >= limit * 0.95
