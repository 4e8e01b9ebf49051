"""What follows from an outcome: acknowledge, retry, delay, hold or dead-letter.

1. Pure: the clock and the jitter are in ``Situation``; nothing here sleeps, publishes or counts.
2. Total: every outcome is decided in every situation, and a journey that always fails ends
   in a dead letter after at most ``max_attempts`` attempts.
3. A failure is a journey's own only while other journeys pass; it is then charged an attempt. While something
   pauses consumption nothing is charged and nothing is dead-lettered for it: journeys leave at no cost.
4. Knows no HTTP, no queue names, and nothing of the payload but its times.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import assert_never

from consumer.core.clock import backoff_seconds
from consumer.core.outcome import (
    IN_THE_FUTURE,
    Acknowledge,
    AlreadyRegistered,
    DeadLetter,
    Decision,
    Delay,
    Early,
    Expired,
    Forbidden,
    Invalid,
    Misconfigured,
    Outcome,
    PauseCause,
    Reason,
    Registered,
    Rejected,
    RetrySoon,
    Throttled,
    Unauthorized,
    Unavailable,
)

#: How long to wait after a 429 that does not say: the Registry's window.
THROTTLED_SECONDS = 60.0
THROTTLED = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How often and how long a journey is retried. With the defaults 75 attempts last about 21 hours.

    ``delays_seconds`` are the delay queues, in ascending order: the n-th delayed return takes
    the n-th, and the last is repeated. ``early_*`` bound the wait for a journey's end.
    """

    max_attempts: int = 75
    attempts_per_delivery: int = 3
    backoff_base_seconds: float = 0.5
    backoff_cap_seconds: float = 10.0
    delays_seconds: tuple[int, ...] = (60, 300, 900, 3600)
    deadline_seconds: float = 86_400.0  # the Registry takes a journey within 24 h of its start
    early_in_process_seconds: float = 30.0
    early_bound_seconds: float = 86_400.0
    early_margin_seconds: float = 2.0
    give_up_seconds: float = 7_200.0  # before the deadline, for a person to act,
    give_up_delays: int = 4  # for what has failed after so many delays

    def __post_init__(self) -> None:
        """Refuse a policy under which a journey could loop or never be tried (ValueError)."""
        ascending = all(a < b for a, b in zip((0, *self.delays_seconds), self.delays_seconds, strict=False))
        if not self.delays_seconds or not ascending:
            raise ValueError("delays_seconds must be positive, in ascending order, at least one")
        if self.max_attempts < 1 or self.attempts_per_delivery < 1:
            raise ValueError("max_attempts and attempts_per_delivery must be at least 1")
        if not 0 < self.backoff_base_seconds <= self.backoff_cap_seconds:
            raise ValueError("backoff_base_seconds must be positive and at most backoff_cap_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known about the journey beside the outcome.

    ``attempts`` counts over all deliveries and ``attempts_here`` in this one, both with the attempt just
    made; ``delayed_retries`` counts the delay queues so far. ``deadline`` (start + 24 h) and ``ends_at`` are
    None when the payload cannot be read. ``jitter`` is in [0, 1). ``pausing`` is what pauses consumption now;
    ``others_pass``: another journey passed since this one failed first (a 429: since its wait ended);
    ``passed_lately``: one did in the second before.
    """

    attempts: int
    attempts_here: int
    delayed_retries: int
    now: datetime
    deadline: datetime | None = None
    ends_at: datetime | None = None
    jitter: float = 0.0
    pausing: PauseCause | None = None
    others_pass: bool = False
    passed_lately: bool = False


def decide(  # noqa: C901, PLR0911 - one branch for each row of the table
    outcome: Outcome, situation: Situation, policy: Policy
) -> Decision:
    """Say what follows from ``outcome``; reads like the table of outcomes in the README."""
    match outcome:
        case Registered() | AlreadyRegistered():
            return Acknowledge(outcome)
        case Invalid(detail):
            return DeadLetter(Reason.INVALID, detail, None)
        case Rejected(status, detail):
            return DeadLetter(Reason.REJECTED, detail, status)
        case Expired(status, detail):
            return DeadLetter(Reason.EXPIRED, detail, status)
        case Unauthorized(status, detail):
            return _put_off(detail, status, situation, policy) or DeadLetter(
                Reason.UNAUTHORIZED, detail, status
            )
        case Forbidden(status, detail):
            return _put_off(detail, status, situation, policy) or DeadLetter(Reason.FORBIDDEN, detail, status)
        case Misconfigured(status, detail):
            return _put_off(detail, status, situation, policy) or _failed(detail, status, situation, policy)
        case Throttled(seconds):
            wait = THROTTLED_SECONDS if seconds is None else seconds
            if situation.others_pass:
                return _failed("429", THROTTLED, situation, policy, wait=wait)
            return RetrySoon(wait)
        case Unavailable(detail, status, exception, asked):
            shown = detail if exception is None else f"{detail} ({exception})"
            wait = asked or 0.0
            return _put_off(shown, status, situation, policy) or _failed(
                shown, status, situation, policy, wait=wait
            )
        case Early(status):
            return _early(status, situation, policy)
        case _:
            assert_never(outcome)


def _put_off(detail: str, status: int | None, situation: Situation, policy: Policy) -> Delay | None:
    """While anything pauses consumption the journey leaves this process at no cost.

    Not if it is known that the journey itself fails: then it goes on to its end.
    """
    if situation.pausing is None or situation.others_pass:
        return None
    return Delay(policy.delays_seconds[0], detail, status, counts=False)


def _failed(
    detail: str, status: int | None, situation: Situation, policy: Policy, *, wait: float = 0.0
) -> Decision:
    """A failure that may be the journey's own: see ``Situation.others_pass``.

    ``wait`` are the seconds that the answer asked for: no retry is sooner, but for the deadline.
    """
    left = _seconds_left(situation)
    late = left <= policy.give_up_seconds and situation.delayed_retries >= policy.give_up_delays
    if situation.attempts >= policy.max_attempts or left <= 0 or late:
        return DeadLetter(Reason.EXHAUSTED, detail, status)
    # An answer while others pass is about this journey: it does not wait in the window.
    others_pass = situation.others_pass or situation.passed_lately
    at_once = others_pass and status is not None and status not in _OFTEN_TRANSIENT
    if wait > policy.backoff_cap_seconds:
        steps = [step for step in policy.delays_seconds if step < left]
        own = steps[: situation.delayed_retries + 1][-1:]
        longer = [step for step in steps if step >= wait][:1] or steps[-1:]
        return Delay(max(own + longer), detail, status) if steps else RetrySoon(min(wait, left))
    again = _again(detail, status, left, situation, policy, at_once=at_once)
    return RetrySoon(max(again.delay_seconds, min(wait, left))) if isinstance(again, RetrySoon) else again


#: Answers of a Registry, or of a load balancer before it, that restarts: the next attempt may pass.
_OFTEN_TRANSIENT = frozenset({408, 425, 502, 503, 504})


def _early(status: int | None, situation: Situation, policy: Policy) -> Decision:
    wait = 0.0 if situation.ends_at is None else (situation.ends_at - situation.now).total_seconds()
    if wait > policy.early_bound_seconds:
        return DeadLetter(Reason.INVALID, f"{IN_THE_FUTURE} at end.datetime", status)
    if wait > policy.early_in_process_seconds:
        return Delay(_longest_step(wait, policy.delays_seconds), IN_THE_FUTURE, status)
    if wait > 0:
        return RetrySoon(wait + policy.early_margin_seconds)
    # It has ended by our clock and not by the Registry's. A clock that is wrong by more than all
    # the delays together is none; it also says this of a journey that starts after its end.
    left = _seconds_left(situation)
    given_up = situation.attempts >= policy.max_attempts or situation.delayed_retries >= len(
        policy.delays_seconds
    )
    if given_up or left <= 0:
        return DeadLetter(Reason.REJECTED, IN_THE_FUTURE, status)
    return _again(IN_THE_FUTURE, status, left, situation, policy)


def _again(
    detail: str,
    status: int | None,
    left: float,
    situation: Situation,
    policy: Policy,
    *,
    at_once: bool = False,
) -> Decision:
    """Retry in process, then come back through a delay queue, but never after the deadline."""
    backoff = backoff_seconds(
        situation.attempts_here - 1, policy.backoff_base_seconds, policy.backoff_cap_seconds
    )
    soon = RetrySoon(situation.jitter * min(backoff, left))  # full jitter
    if situation.attempts_here < policy.attempts_per_delivery and not at_once:
        return soon
    steps = [step for step in policy.delays_seconds[: situation.delayed_retries + 1] if step < left]
    return Delay(steps[-1], detail, status) if steps else soon


def _longest_step(wait: float, steps: tuple[int, ...]) -> int:
    return max((step for step in steps if step <= wait), default=steps[0])


def _seconds_left(situation: Situation) -> float:
    if situation.deadline is None:
        return float("inf")
    return (situation.deadline - situation.now).total_seconds()


def charges_attempt(outcome: Outcome, situation: Situation) -> bool:
    """Whether ``outcome`` counts as one of the journey's attempts.

    Never what was not sent; a 429 only when others pass meanwhile; in a pause only a failure that is known to
    be the journey's own.
    """
    match outcome:
        case Misconfigured(status=0):
            return False
        case Unavailable() | Misconfigured() | Early(status=int()):
            return situation.pausing is None or situation.others_pass
        case Throttled():
            return situation.others_pass
        case _:
            return False


# --- What an outcome says for or against each pause -------------------------------------------

Verdict = Mapping[PauseCause, bool]  # True: evidence that it works; False: a failure; absent: nothing

_WORKS = MappingProxyType(dict.fromkeys(PauseCause, True))
_NOTHING: Verdict = MappingProxyType({})
_VERDICTS: Mapping[type[Outcome], Verdict] = MappingProxyType(
    {
        Registered: _WORKS,
        AlreadyRegistered: _WORKS,
        Rejected: _WORKS,  # it looked at the payload: the token and the route are good
        Expired: _WORKS,
        Early: _WORKS,  # when the Registry says it
        Invalid: _NOTHING,  # never sent
        Throttled: MappingProxyType({PauseCause.UNAVAILABLE: True}),
        Unavailable: MappingProxyType({PauseCause.UNAVAILABLE: False}),
        Misconfigured: MappingProxyType({PauseCause.MISCONFIGURED: False}),
        Unauthorized: MappingProxyType(
            {
                PauseCause.UNAUTHORIZED: False,
                PauseCause.UNAVAILABLE: True,
                PauseCause.MISCONFIGURED: True,
            }
        ),
        # A 403 does not prove the token: the 2023 server answers it to a missing one.
        Forbidden: MappingProxyType(
            {
                PauseCause.FORBIDDEN: False,
                PauseCause.UNAVAILABLE: True,
                PauseCause.MISCONFIGURED: True,
            }
        ),
    }
)


def verdict(outcome: Outcome) -> Verdict:
    """Say which causes of a pause ``outcome`` speaks for (False) or against (True)."""
    if isinstance(outcome, Early) and outcome.status is None:  # our own clock said so: never sent
        return _NOTHING
    return _VERDICTS[type(outcome)]
