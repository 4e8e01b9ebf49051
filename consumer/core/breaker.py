"""Whether one cause pauses consumption: a circuit breaker, the same for every cause.

1. Everything that changes the state is in this file, and every change walks ``_TRANSITIONS``.
2. Only failures of *different* keys in a row open it, never those of one journey alone: many within a short
   time, or at least ``few`` over a long time. Any success starts the row anew.
3. Open, it grants one probe at a time, a round of them one after the other, each with another journey. A
   failed round doubles the wait and the size of the next, up to their bounds.
4. A success closes it from every state, also one that was sent before the opening. A failure
   that arrives while it is open says nothing new and changes nothing.
5. Time (monotonic seconds) and jitter are arguments. It does not know which cause it guards.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

from consumer.core.clock import backoff_seconds


class BreakerState(StrEnum):
    """CLOSED lets everything pass, OPEN nothing, HALF_OPEN the one probe that is under way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class _Event(Enum):
    THRESHOLD = auto()  # the last failure that was missing
    PROBE = auto()  # a probe is granted
    FAILED_PROBE = auto()
    ABANDONED_PROBE = auto()
    SUCCESS = auto()


_TRANSITIONS: Mapping[tuple[BreakerState, _Event], BreakerState] = {
    (BreakerState.CLOSED, _Event.THRESHOLD): BreakerState.OPEN,
    (BreakerState.CLOSED, _Event.SUCCESS): BreakerState.CLOSED,
    (BreakerState.OPEN, _Event.PROBE): BreakerState.HALF_OPEN,
    (BreakerState.OPEN, _Event.SUCCESS): BreakerState.CLOSED,
    (BreakerState.HALF_OPEN, _Event.FAILED_PROBE): BreakerState.OPEN,
    (BreakerState.HALF_OPEN, _Event.ABANDONED_PROBE): BreakerState.OPEN,
    (BreakerState.HALF_OPEN, _Event.SUCCESS): BreakerState.CLOSED,
}


#: After a probe without a verdict the next journey is asked soon: the pause may be for a longer interval.
_ABANDONED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to open, and how to probe. Times are seconds.

    ``threshold`` distinct failures in a row open when they span at least ``settle_seconds``, ``few`` when
    they span ``few_seconds``. Rounds of probes wait from base to cap seconds, and grow to the larger size.
    """

    threshold: int
    probe_base_seconds: float
    probe_cap_seconds: float
    settle_seconds: float = 0.0
    few: int = 2
    few_seconds: float = float("inf")
    probes_per_round: int = 1
    most_probes_per_round: int = 1

    def __post_init__(self) -> None:
        """Refuse a policy that would be open at once or probe without pause (ValueError)."""
        if self.threshold < 1 or self.few < 2 or self.probes_per_round < 1:  # noqa: PLR2004 never one alone
            raise ValueError("threshold and probes_per_round must be at least 1, few at least 2")
        if not 0 < self.probe_base_seconds <= self.probe_cap_seconds:
            raise ValueError("probe_base_seconds must be positive and at most probe_cap_seconds")


class Breaker:
    """The breaker of one cause.

    ``probe_at`` is when the next probe is due, None unless OPEN.
    """

    __slots__ = (
        "_failed_rounds",
        "_first_at",
        "_keys",
        "_policy",
        "_probe_requested",
        "_probes",
        "probe_at",
        "state",
    )

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._keys: set[Hashable] = set()  # never more than the threshold
        self._first_at = 0.0  # of the failures in _keys
        self._failed_rounds = self._probes = 0
        self._probe_requested = False
        self.state = BreakerState.CLOSED
        self.probe_at: float | None = None

    def failure(self, key: Hashable, now: float, jitter: float, retry_after: float = 0.0) -> None:
        """Count a failure of ``key``; ``jitter`` in [0, 1) spreads the probes of many replicas.

        ``retry_after`` are the seconds that the Registry asked to wait: no probe comes sooner.
        """
        if self.state is BreakerState.CLOSED:
            if not self._keys:
                self._first_at = now
            if len(self._keys) < self._policy.threshold:
                self._keys.add(key)
            if self._opens(now - self._first_at):
                self.trip(now, jitter, retry_after)
        elif self.state is BreakerState.HALF_OPEN:
            self._move(_Event.FAILED_PROBE)
            self._probes += 1
            round_over = self._probes >= self._round_size()
            if round_over:
                self._failed_rounds, self._probes = self._failed_rounds + 1, 0
            self.probe_at = now + max(self._wait(jitter) if round_over else 0.0, retry_after)
            if self._probe_requested:  # what failed was sent before the change
                self.probe_now(now)
        # OPEN: rule 4

    def trip(self, now: float, jitter: float, retry_after: float = 0.0) -> None:
        """Open although nothing else has failed yet; only while closed."""
        self._move(_Event.THRESHOLD)
        self.probe_at = now + max(self._wait(jitter), retry_after)

    def success(self, now: float) -> None:  # noqa: ARG002 - every event has its time
        """Close, from whatever state, and forget all failures."""
        self._move(_Event.SUCCESS)
        self._keys.clear()
        self._failed_rounds = self._probes = 0
        self._probe_requested = False
        self.probe_at = None

    def may_probe(self, now: float) -> bool:
        """Grant the probe if one is due.

        The caller must answer a True with ``success``, ``failure`` or ``abandon_probe``: until then no other
        probe is granted.
        """
        if self.probe_at is None or now < self.probe_at:
            return False
        self._move(_Event.PROBE)
        self.probe_at = None
        self._probe_requested = False
        return True

    def abandon_probe(self, now: float) -> None:
        """Take the probe back: it ended without a verdict. The next is due soon."""
        if self.state is BreakerState.HALF_OPEN:
            self._move(_Event.ABANDONED_PROBE)
            wait = min(self._policy.probe_base_seconds, _ABANDONED_SECONDS)
            self.probe_at = now + (0.0 if self._probe_requested else wait)

    def probe_now(self, now: float) -> None:
        """Probe at once, and from the base wait again: something changed, such as the token."""
        self._failed_rounds = self._probes = 0
        if self.state is BreakerState.OPEN:
            self.probe_at = now
        elif self.state is BreakerState.HALF_OPEN:
            self._probe_requested = True

    def _round_size(self) -> int:
        policy = self._policy
        most = max(policy.probes_per_round, policy.most_probes_per_round)
        return min(policy.probes_per_round << min(self._failed_rounds, 10), most)

    def _opens(self, span: float) -> bool:
        count, policy = len(self._keys), self._policy
        many = count >= policy.threshold and span >= policy.settle_seconds
        return many or (count >= policy.few and span >= policy.few_seconds)

    def _move(self, event: _Event) -> None:
        self.state = _TRANSITIONS[self.state, event]

    def _wait(self, jitter: float) -> float:
        policy = self._policy
        wait = backoff_seconds(self._failed_rounds, policy.probe_base_seconds, policy.probe_cap_seconds)
        return wait * (0.5 + jitter / 2)
