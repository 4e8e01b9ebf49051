"""Defects that the service once had, put back one at a time: the simulation must find each."""

from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from consumer.core import policy
from consumer.core.breaker import Breaker
from consumer.core.outcome import RetrySoon
from consumer.registry import classify
from consumer.service import admission, handler
from consumer.service.admission import Admission
from consumer.service.inflight import InFlight
from consumer.service.settlement import Settler
from tests.memory_link import MemoryLink
from tests.simulation.account import ViolationError
from tests.simulation.world import simulate

#: How many seeds are tried.
SEEDS = 150

_retry_after, _failure, _decide = classify.retry_after, Breaker.failure, policy.decide


def _short_wait(reply: Any) -> float | None:
    seconds = _retry_after(reply)
    return 60.0 if seconds is not None and seconds >= 3600.0 else seconds


def _any_failure(self: Breaker, _key: Any, *more: Any) -> None:
    _failure(self, object(), *more)


def _held(outcome: Any, situation: Any, rules: Any) -> Any:
    decision = _decide(outcome, situation, rules)
    free = isinstance(decision, policy.Delay) and not decision.counts
    return RetrySoon(5.0) if free else decision


MUTATIONS: dict[str, list[Any]] = {
    "a gateway's answers are the Registry's": [(classify, "_is_registrys", lambda *_: True)],
    "what the database refuses is an outage": [(classify, "database_refusal", lambda _: None)],
    "no failure is a journey's own": [(Admission, "passed_since", lambda *_: False)],
    "one journey alone is an outage": [(Breaker, "failure", _any_failure)],
    "the same journeys probe again and again": [(handler, "decide", _held)],
    "a pause holds what waits for ten minutes": [(admission, "PAUSE_HOLD_SECONDS", 600.0)],
    "an unconfirmed dead letter holds up the end of a pause": [(InFlight, "handling", property(len))],
    "refused dead letters hold the whole window": [(Settler, "_note_refusal", lambda *_: None)],
    "an outage costs attempts": [
        (handler, "charges_attempt", lambda *_: True),
        (policy, "_put_off", lambda *_: None),
    ],
    "a wait of an hour is one of a minute": [(classify, "retry_after", _short_wait)],
    "a void delivery is acknowledged": [(MemoryLink, "is_current", lambda link, _: link.connected)],
}


def found(name: str, seeds: int = SEEDS) -> ViolationError | None:
    """Return the first violation with the defect of this name, None when no seed finds it."""
    with ExitStack() as stack:
        for target, attribute, value in MUTATIONS[name]:
            stack.enter_context(patch.object(target, attribute, value))
        for seed in range(seeds):
            try:
                simulate(seed)
            except ViolationError as violation:
                return violation
    return None
