"""What follows from each outcome in each situation."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.outcome import (
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
from consumer.core.policy import Policy, Situation, charges_attempt, decide, verdict

NOW = datetime(2026, 11, 23, 16, tzinfo=UTC)
POLICY = Policy()
FIRST = Situation(
    attempts=1, attempts_here=1, delayed_retries=0, now=NOW, deadline=NOW + timedelta(hours=23), jitter=0.5
)
LAST_HERE = replace(FIRST, attempts=3, attempts_here=3)
DOWN = Unavailable("http_503", 503)


def ends_in(seconds: float, **changes: object) -> Situation:
    """Make a situation in which the journey ends in so many seconds."""
    return replace(FIRST, ends_at=NOW + timedelta(seconds=seconds), **changes)  # type: ignore[arg-type]


def deadline_in(seconds: float, **changes: object) -> Situation:
    """Make a situation in which the journey's deadline is in so many seconds."""
    return replace(FIRST, deadline=NOW + timedelta(seconds=seconds), **changes)  # type: ignore[arg-type]


ALONE: list[tuple[Outcome, Decision]] = [
    (Registered(201, "x"), Acknowledge(Registered(201, "x"))),
    (AlreadyRegistered(409), Acknowledge(AlreadyRegistered(409))),
    (Invalid("missing at driver"), DeadLetter(Reason.INVALID, "missing at driver", None)),
    (Rejected(422, "-32422"), DeadLetter(Reason.REJECTED, "-32422", 422)),
    (Expired(422, "-32422 expired"), DeadLetter(Reason.EXPIRED, "-32422 expired", 422)),
    (Unauthorized(401, "401"), DeadLetter(Reason.UNAUTHORIZED, "401", 401)),
    (Forbidden(403, "-32503"), DeadLetter(Reason.FORBIDDEN, "-32503", 403)),
    (Misconfigured(404, "http_404"), RetrySoon(0.25)),
    (Throttled(12.0), RetrySoon(12.0)),
    (Throttled(None), RetrySoon(60.0)),
    (DOWN, RetrySoon(0.25)),
    (Early(422), RetrySoon(0.25)),
]


@pytest.mark.parametrize(("outcome", "expected"), ALONE)
def test_first_attempt(outcome: Outcome, expected: Decision) -> None:
    """The table of outcomes, while nothing pauses consumption."""
    assert decide(outcome, FIRST, POLICY) == expected


PUT_OFF = (Unauthorized, Forbidden, Unavailable, Misconfigured)


@pytest.mark.parametrize("cause", PauseCause)
@pytest.mark.parametrize(("outcome", "alone"), ALONE)
def test_while_paused(outcome: Outcome, alone: Decision, cause: PauseCause) -> None:
    """During a pause nothing is dead-lettered for its cause: journeys leave the process at no cost."""
    late = replace(LAST_HERE, attempts=99, attempts_here=1, pausing=cause, deadline=NOW, delayed_retries=9)
    decision = decide(outcome, late, POLICY)
    if isinstance(outcome, PUT_OFF):
        assert decision == Delay(60, outcome.detail, outcome.status, counts=False)
    elif not isinstance(outcome, Early):  # decided by its time, in a pause as without one
        assert decision == alone


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (FIRST, RetrySoon(0.25)),
        (replace(FIRST, attempts=2, attempts_here=2), RetrySoon(0.5)),
        (replace(FIRST, jitter=0.0), RetrySoon(0.0)),
        (LAST_HERE, Delay(60, "http_503", 503)),
        (replace(LAST_HERE, delayed_retries=1), Delay(300, "http_503", 503)),
        (replace(LAST_HERE, delayed_retries=2), Delay(900, "http_503", 503)),
        (replace(LAST_HERE, delayed_retries=3), Delay(3600, "http_503", 503)),
        (replace(LAST_HERE, delayed_retries=30), Delay(3600, "http_503", 503)),
        (replace(LAST_HERE, delayed_retries=30, deadline=None), Delay(3600, "http_503", 503)),
        (deadline_in(3600, attempts_here=3, delayed_retries=3), Delay(900, "http_503", 503)),
        (deadline_in(60, attempts_here=30, delayed_retries=3), RetrySoon(5.0)),
        (deadline_in(4, attempts_here=30, delayed_retries=3), RetrySoon(2.0)),
        (deadline_in(0), DeadLetter(Reason.EXHAUSTED, "http_503", 503)),
        (deadline_in(-5), DeadLetter(Reason.EXHAUSTED, "http_503", 503)),
        (replace(FIRST, attempts=74), RetrySoon(0.25)),
        (replace(FIRST, attempts=75), DeadLetter(Reason.EXHAUSTED, "http_503", 503)),
        (replace(FIRST, others_pass=True), RetrySoon(0.25)),  # a 503 is often over in a moment
        (deadline_in(7200, delayed_retries=4), DeadLetter(Reason.EXHAUSTED, "http_503", 503)),
        (deadline_in(7200, delayed_retries=3), RetrySoon(0.25)),
        (deadline_in(7201, delayed_retries=4), RetrySoon(0.25)),
    ],
)
def test_unavailable(situation: Situation, expected: Decision) -> None:
    """Soon at first, then through longer and longer delays, never past the deadline."""
    assert decide(DOWN, situation, POLICY) == expected


def test_a_429_for_one_journey_alone_is_its_own() -> None:
    """Others passed after the wait that it asked for: this journey leaves the window, no sooner than told."""
    alone = replace(FIRST, others_pass=True)
    assert decide(Throttled(30.0), alone, POLICY) == Delay(60, "429", 429)
    assert decide(Throttled(3600.0), alone, POLICY) == Delay(3600, "429", 429)
    last = replace(alone, attempts=POLICY.max_attempts)
    assert decide(Throttled(None), last, POLICY) == DeadLetter(Reason.EXHAUSTED, "429", 429)


@pytest.mark.parametrize("outcome", [Unavailable("500", 500), Misconfigured(406, "http_406")])
def test_an_answer_about_this_journey_alone_leaves_at_once(outcome: Outcome) -> None:
    """While others pass it takes no place in the window; while nothing is known it is retried first."""
    lately = replace(FIRST, passed_lately=True)
    assert decide(outcome, lately, POLICY) == decide(outcome, replace(FIRST, others_pass=True), POLICY)
    assert decide(outcome, replace(FIRST, others_pass=True), POLICY) == Delay(
        60,
        outcome.detail,  # type: ignore[union-attr]
        outcome.status,  # type: ignore[union-attr]
    )
    assert decide(outcome, FIRST, POLICY) == RetrySoon(0.25)
    fault = replace(FIRST, others_pass=True)
    assert decide(Unavailable("read"), fault, POLICY) == RetrySoon(0.25), "often transient"


@pytest.mark.parametrize(
    ("status", "situation", "expected"),
    [
        (None, ends_in(10), RetrySoon(12.0)),
        (None, ends_in(30), RetrySoon(32.0)),
        (None, ends_in(31), Delay(60, "ends_in_future", None)),
        (None, ends_in(299), Delay(60, "ends_in_future", None)),
        (422, ends_in(300), Delay(300, "ends_in_future", 422)),
        (None, ends_in(86_400), Delay(3600, "ends_in_future", None)),
        (None, ends_in(86_401), DeadLetter(Reason.INVALID, "ends_in_future at end.datetime", None)),
        (422, ends_in(-1), RetrySoon(0.25)),
        (422, ends_in(-1, attempts_here=3, delayed_retries=3), Delay(3600, "ends_in_future", 422)),
        (422, ends_in(-1, delayed_retries=4), DeadLetter(Reason.REJECTED, "ends_in_future", 422)),
        (422, ends_in(-1, attempts=75), DeadLetter(Reason.REJECTED, "ends_in_future", 422)),
        (422, deadline_in(-1), DeadLetter(Reason.REJECTED, "ends_in_future", 422)),
        (422, replace(FIRST, deadline=None, attempts_here=3), Delay(60, "ends_in_future", 422)),
    ],
)
def test_early(status: int | None, situation: Situation, expected: Decision) -> None:
    """Held until the end has passed; a Registry that still disagrees is given 81 minutes."""
    assert decide(Early(status), situation, POLICY) == expected


@given(
    outcome=st.sampled_from([outcome for outcome, _ in ALONE]),
    attempts=st.integers(1, 200),
    here=st.integers(1, 10_000),
    delayed_retries=st.integers(0, 10_000),
    left=st.none() | st.floats(-1e6, 1e6),
    wait=st.none() | st.floats(-1e6, 1e6),
    jitter=st.floats(0, 1, exclude_max=True),
    pausing=st.none() | st.sampled_from(PauseCause),
    others_pass=st.booleans(),
)
def test_every_situation_is_decided(  # noqa: PLR0917 - one argument for each thing that varies
    outcome: Outcome,
    attempts: int,
    here: int,
    delayed_retries: int,
    left: float | None,
    wait: float | None,
    jitter: float,
    pausing: PauseCause | None,
    others_pass: bool,  # noqa: FBT001
) -> None:
    """In any situation: waits are finite and not negative, delays have a queue and end in time."""
    decision = decide(
        outcome,
        Situation(
            attempts=attempts,
            attempts_here=here,
            delayed_retries=delayed_retries,
            now=NOW,
            deadline=None if left is None else NOW + timedelta(seconds=left),
            ends_at=None if wait is None else NOW + timedelta(seconds=wait),
            jitter=jitter,
            pausing=pausing,
            others_pass=others_pass,
        ),
        POLICY,
    )
    if isinstance(decision, RetrySoon):
        assert 0 <= decision.delay_seconds <= 60
    if isinstance(decision, Delay):
        assert decision.seconds in POLICY.delays_seconds
        if isinstance(outcome, Unavailable) and left is not None and decision.counts:
            assert decision.seconds < left
    if isinstance(decision, DeadLetter):
        assert isinstance(outcome, Early | Throttled) or decision.detail == getattr(outcome, "detail", None)


@given(
    waits=st.lists(st.none() | st.floats(0, 3600), min_size=2, max_size=2),
    here=st.integers(1, 5),
    delayed_retries=st.integers(0, 10),
    left=st.none() | st.integers(1, 86_400),
    others_pass=st.booleans(),
    policy=st.sampled_from([POLICY, Policy(delays_seconds=(15, 40)), Policy(delays_seconds=(7200,))]),
)
def test_a_longer_wait_is_never_retried_sooner(
    *,
    waits: list[float | None],
    here: int,
    delayed_retries: int,
    left: int | None,
    others_pass: bool,
    policy: Policy,
) -> None:
    """A 503's ``Retry-After`` is waited for: not past the deadline, nor beyond the longest delay queue."""
    situation = replace(
        FIRST,
        attempts_here=here,
        delayed_retries=delayed_retries,
        deadline=None if left is None else NOW + timedelta(seconds=left),
        others_pass=others_pass,
    )
    pauses = []
    for wait in sorted(waits, key=lambda wait: wait or 0.0):
        match decide(Unavailable("503", 503, retry_after_seconds=wait), situation, policy):
            case RetrySoon(seconds) | Delay(seconds):
                bound = min(wait or 0.0, policy.delays_seconds[-1])
                in_time = [step for step in policy.delays_seconds if left is None or step < left]
                assert seconds >= (bound if left is None else min(bound, in_time[-1] if in_time else left))
                assert left is None or seconds <= left
                pauses.append(seconds)
            case decision:
                assert isinstance(decision, DeadLetter)
                pauses.append(0)
    assert pauses == sorted(pauses)


@given(
    outcome=st.sampled_from([DOWN, Early(422)]),
    jitters=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=5),
    left=st.none() | st.floats(0, 86_400),
)
def test_a_journey_that_always_fails_ends(outcome: Outcome, jitters: list[float], left: float | None) -> None:
    """Failing always ends in a dead letter, within the attempts and not after the deadline."""
    deadline = None if left is None else NOW + timedelta(seconds=left)
    situation = Situation(
        attempts=0, attempts_here=0, delayed_retries=0, now=NOW, deadline=deadline, ends_at=NOW
    )
    for step in range(POLICY.max_attempts + 1):
        situation = replace(
            situation,
            attempts=situation.attempts + 1,
            attempts_here=situation.attempts_here + 1,
            jitter=jitters[step % len(jitters)],
        )
        match decide(outcome, situation, POLICY):
            case RetrySoon(seconds):
                situation = replace(situation, now=situation.now + timedelta(seconds=seconds))
            case Delay(seconds):
                now = situation.now + timedelta(seconds=seconds)
                situation = replace(
                    situation, now=now, attempts_here=0, delayed_retries=situation.delayed_retries + 1
                )
            case decision:
                break
    assert isinstance(decision, DeadLetter)
    assert situation.attempts <= POLICY.max_attempts
    assert deadline is None or situation.now <= deadline


def test_the_attempts_last_for_most_of_a_day() -> None:
    """With the defaults an outage of 21 hours exhausts no journey."""
    now, attempts, delayed_retries = 0.0, 0, 0
    while True:
        attempts += POLICY.attempts_per_delivery
        situation = replace(
            FIRST, attempts=attempts, attempts_here=3, delayed_retries=delayed_retries, deadline=None
        )
        decision = decide(DOWN, situation, POLICY)
        if not isinstance(decision, Delay):
            break
        now, delayed_retries = now + decision.seconds, delayed_retries + 1
    assert 21 * 3600 <= now < 86_400


@pytest.mark.parametrize(
    "wrong",
    [
        {"delays_seconds": ()},
        {"delays_seconds": (0, 60)},
        {"delays_seconds": (300, 60)},
        {"max_attempts": 0},
        {"attempts_per_delivery": 0},
        {"backoff_base_seconds": 0},
        {"backoff_base_seconds": 11},
    ],
)
def test_a_policy_that_could_loop_is_refused(wrong: dict[str, object]) -> None:
    """A policy without delays, attempts or pauses does not come into being."""
    with pytest.raises(ValueError, match="must be"):
        Policy(**wrong)  # type: ignore[arg-type]


CHARGED = {Unavailable("read"), DOWN, Misconfigured(404, "http_404"), Early(422)}


@pytest.mark.parametrize(
    "outcome", [*(outcome for outcome, _ in ALONE), Unavailable("read"), Early(None)], ids=repr
)
def test_what_costs_an_attempt(outcome: Outcome) -> None:
    """Failures are charged; during a pause only those of a journey that is known to be the cause."""
    assert charges_attempt(outcome, FIRST) is (outcome in CHARGED)
    paused = replace(FIRST, pausing=PauseCause.UNAVAILABLE)
    assert not charges_attempt(outcome, paused)
    own = outcome in CHARGED or isinstance(outcome, Throttled)
    assert charges_attempt(outcome, replace(paused, others_pass=True)) is own
    assert not charges_attempt(Misconfigured(0, "token_file_empty"), FIRST), "nothing was sent"


U, F, M, A = PauseCause.UNAUTHORIZED, PauseCause.FORBIDDEN, PauseCause.MISCONFIGURED, PauseCause.UNAVAILABLE
WORKS = dict.fromkeys(PauseCause, True)
VERDICTS: list[tuple[Outcome, dict[PauseCause, bool]]] = [
    (Registered(201), WORKS),
    (AlreadyRegistered(409), WORKS),
    (Rejected(400, ""), WORKS),
    (Expired(422, ""), WORKS),
    (Early(422), WORKS),
    (Early(None), {}),
    (Invalid(""), {}),
    (Throttled(None), {A: True}),
    (DOWN, {A: False}),
    (Misconfigured(404, ""), {M: False}),
    (Unauthorized(401, ""), {U: False, A: True, M: True}),
    (Forbidden(403, ""), {F: False, A: True, M: True}),
]


@pytest.mark.parametrize(("outcome", "expected"), VERDICTS)
def test_verdict(outcome: Outcome, expected: dict[PauseCause, bool]) -> None:
    """What each outcome says for or against each pause."""
    assert dict(verdict(outcome)) == expected


def test_the_tables_here_name_every_outcome() -> None:
    """A new outcome must be added to the tables of these tests."""
    outcomes = set(get_args(Outcome))
    assert {type(outcome) for outcome, _ in ALONE} == outcomes
    assert {type(outcome) for outcome, _ in VERDICTS} == outcomes


def test_an_unknown_outcome_is_never_settled_in_silence() -> None:
    """What the type checker would refuse stops the program instead of falling through."""
    with pytest.raises(AssertionError):
        decide("lost", FIRST, POLICY)  # type: ignore[arg-type]
