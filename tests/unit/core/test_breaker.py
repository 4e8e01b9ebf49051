"""When a cause pauses consumption, and how it probes its way back."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consumer.core.breaker import _TRANSITIONS, Breaker, BreakerPolicy, BreakerState

POLICY = BreakerPolicy(threshold=3, probe_base_seconds=2.0, probe_cap_seconds=10.0)
ALMOST_ONE = 1 - 2**-53


def opened(at: float = 100.0) -> Breaker:
    """Make a breaker that opened at that time, with the full wait before its first probe."""
    breaker = Breaker(POLICY)
    for key in range(3):
        breaker.failure(key, at, ALMOST_ONE)
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_distinct_failures_in_a_row_open() -> None:
    """It opens with the third journey that fails, not with the second."""
    breaker = Breaker(POLICY)
    breaker.failure("a", 1.0, 0.0)
    breaker.failure("b", 2.0, 0.0)
    assert breaker.state is BreakerState.CLOSED
    breaker.failure("c", 3.0, 0.0)
    assert (breaker.state, breaker.probe_at) == (BreakerState.OPEN, 4.0)


def test_one_journey_alone_never_opens() -> None:
    """A journey that fails again and again is its own trouble."""
    breaker = Breaker(POLICY)
    for at in range(100):
        breaker.failure("a", float(at), 0.0)
    assert breaker.state is BreakerState.CLOSED


def test_a_success_starts_the_row_anew() -> None:
    """Failures with a success between them are not in a row."""
    breaker = Breaker(POLICY)
    for key in range(10):
        breaker.failure(key, 1.0, 0.0)
        breaker.failure(-key - 1, 1.0, 0.0)
        breaker.success(1.0)
    assert breaker.state is BreakerState.CLOSED


def test_one_probe_at_a_time() -> None:
    """A due probe is granted once; until it ends no other is granted."""
    breaker = opened(at=100.0)
    assert not breaker.may_probe(101.9)
    assert breaker.may_probe(102.0)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.may_probe(1e9)


def test_closed_grants_no_probe() -> None:
    """While closed there is nothing to probe."""
    breaker = Breaker(POLICY)
    assert not breaker.may_probe(1e9)
    breaker.abandon_probe(1.0)
    breaker.probe_now(1.0)
    assert (breaker.state, breaker.probe_at) == (BreakerState.CLOSED, None)


def test_failed_probes_double_the_wait_to_the_cap() -> None:
    """Waits of 2, 4, 8, 10, 10 seconds; the pause began where it began."""
    breaker = opened(at=0.0)
    waits = [breaker.probe_at]
    for _ in range(4):
        due = breaker.probe_at
        assert due is not None
        assert breaker.may_probe(due)
        breaker.failure("probe", due, ALMOST_ONE)
        assert breaker.probe_at is not None
        waits.append(breaker.probe_at - due)
    assert waits == pytest.approx([2, 4, 8, 10, 10])


def test_late_failures_change_nothing() -> None:
    """What was sent before the opening and fails after it does not push the probe away."""
    breaker = opened(at=100.0)
    for key in range(50):
        breaker.failure(key, 101.0, 0.5)
    assert breaker.probe_at == 102.0


@pytest.mark.parametrize("probing", [False, True])
def test_a_success_closes_from_every_state(*, probing: bool) -> None:
    """Also a success that was sent before the opening proves that it works."""
    breaker = opened(at=100.0)
    assert breaker.may_probe(102.0) or not probing
    if not probing:
        breaker = opened(at=100.0)
    breaker.success(103.0)
    assert (breaker.state, breaker.probe_at) == (BreakerState.CLOSED, None)
    breaker.failure("a", 104.0, 0.0)
    breaker.failure("b", 104.0, 0.0)
    assert breaker.state is BreakerState.CLOSED


def test_the_wait_starts_from_the_base_after_a_success() -> None:
    """A new outage is probed as early as the first one was."""
    breaker = opened(at=100.0)
    assert breaker.may_probe(102.0)
    breaker.failure("probe", 102.0, ALMOST_ONE)
    breaker.success(103.0)
    for key in range(3):
        breaker.failure(key, 200.0, ALMOST_ONE)
    assert breaker.probe_at == pytest.approx(202.0)


def test_an_abandoned_probe_comes_back_soon() -> None:
    """A probe without a verdict neither closes, nor doubles the wait, nor blocks the next."""
    breaker = opened(at=100.0)
    assert breaker.may_probe(102.0)
    breaker.abandon_probe(103.0)
    assert (breaker.state, breaker.probe_at) == (BreakerState.OPEN, 105.0)


def test_a_probe_without_a_verdict_costs_no_long_interval() -> None:
    """While a token is refused a probe is due once a minute; sooner after one that says nothing of it."""
    breaker = Breaker(BreakerPolicy(threshold=1, probe_base_seconds=60.0, probe_cap_seconds=60.0))
    breaker.trip(100.0, ALMOST_ONE)
    assert breaker.may_probe(160.0)
    breaker.abandon_probe(161.0)
    assert breaker.probe_at == 166.0


def test_a_change_brings_the_probe_forward() -> None:
    """A new token is tried at once."""
    breaker = opened(at=100.0)
    breaker.probe_now(100.5)
    assert breaker.may_probe(100.5)


@pytest.mark.parametrize("end", ["failure", "abandon"])
def test_a_change_during_a_probe(end: str) -> None:
    """What the old token's probe says is not the last word: the new one is tried at once, but once."""
    breaker = opened(at=100.0)
    assert breaker.may_probe(102.0)
    breaker.probe_now(102.5)
    assert breaker.state is BreakerState.HALF_OPEN
    if end == "failure":
        breaker.failure("old", 103.0, 0.9)
    else:
        breaker.abandon_probe(103.0)
    assert breaker.may_probe(103.0)
    breaker.failure("new", 104.0, ALMOST_ONE)
    assert breaker.probe_at == pytest.approx(108.0)


@pytest.mark.parametrize("wrong", [(0, 1.0, 2.0), (1, 0.0, 2.0), (1, 3.0, 2.0)])
def test_a_policy_that_never_rests_is_refused(wrong: tuple[int, float, float]) -> None:
    """A threshold of zero or probes without pause do not come into being."""
    with pytest.raises(ValueError, match="must be"):
        BreakerPolicy(*wrong)


def test_every_state_can_be_left_and_reached() -> None:
    """The table of transitions has no dead end, and a success leads home from everywhere."""
    assert {source for source, _ in _TRANSITIONS} == set(BreakerState)
    assert set(_TRANSITIONS.values()) == set(BreakerState)
    successes = {source: to for (source, event), to in _TRANSITIONS.items() if event.name == "SUCCESS"}
    assert successes == dict.fromkeys(BreakerState, BreakerState.CLOSED)


class BreakerMachine(RuleBasedStateMachine):
    """Any history of events, beside a small model of what may be observed."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(POLICY)
        self.now = 0.0
        self.in_a_row: set[int] = set()
        self.probes_out = 0

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=st.integers(0, 5), jitter=st.floats(0, 1, exclude_max=True))
    def failure(self, key: int, jitter: float) -> None:
        before, due = self.breaker.state, self.breaker.probe_at
        self.breaker.failure(key, self.now, jitter)
        match before:
            case BreakerState.CLOSED:
                self.in_a_row.add(key)
                assert (self.breaker.state is BreakerState.OPEN) == (len(self.in_a_row) >= POLICY.threshold)
            case BreakerState.OPEN:
                assert self.breaker.probe_at == due
            case BreakerState.HALF_OPEN:
                assert self.breaker.state is BreakerState.OPEN
                self.probes_out = 0

    @rule()
    def success(self) -> None:
        self.breaker.success(self.now)
        self.in_a_row.clear()
        self.probes_out = 0
        assert self.breaker.state is BreakerState.CLOSED

    @rule()
    def ask_for_a_probe(self) -> None:
        due = self.breaker.probe_at
        granted = self.breaker.may_probe(self.now)
        assert granted == (due is not None and due <= self.now)
        self.probes_out += granted

    @rule()
    def abandon(self) -> None:
        self.breaker.abandon_probe(self.now)
        self.probes_out = 0

    @precondition(lambda self: self.breaker.state is not BreakerState.CLOSED)
    @rule()
    def probe_now(self) -> None:
        self.breaker.probe_now(self.now)

    @invariant()
    def holds(self) -> None:
        breaker = self.breaker
        assert self.probes_out <= 1
        assert (breaker.state is BreakerState.HALF_OPEN) == (self.probes_out == 1)
        assert (breaker.state is BreakerState.OPEN) == (breaker.probe_at is not None)
        assert (breaker.probe_at is not None) == (breaker.state is BreakerState.OPEN)
        assert len(breaker._keys) <= POLICY.threshold
        if breaker.probe_at is not None:
            assert breaker.probe_at <= self.now + POLICY.probe_cap_seconds


BreakerMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=40)
TestBreakerMachine = BreakerMachine.TestCase
