"""The use case: ``handle`` takes a delivery in flight and returns what is to be done with it.

    admission ─▶ submit ─▶ classify ─▶ decide ─┬▶ result
        ▲                                      │
        └────────── wait (retry, hold) ◀───────┘

Knows no broker and no HTTP library; acknowledges nothing. Whatever a payload holds, the answer is a
``HandlingResult``, never an exception.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from consumer.core.headers import ATTEMPTS, REPLAYS, STATUS
from consumer.core.outcome import (
    Acknowledge,
    AlreadyRegistered,
    DeadLetter,
    Delay,
    Early,
    Invalid,
    Outcome,
    PauseCause,
    Reason,
    Release,
    Republish,
    RetrySoon,
    Throttled,
    Unavailable,
)
from consumer.core.parse import Ready
from consumer.core.policy import THROTTLED, Policy, Situation, charges_attempt, decide
from consumer.core.protocols import Consumer
from consumer.deadletters.masking import EDITED
from consumer.metrics import Metrics
from consumer.registry.submit import Submission
from consumer.service.admission import Admission
from consumer.service.inflight import Entry, HandlingResult, State
from schemas import Journey

#: A failing answer so soon after another journey passed is likely about the journey: it does not wait here.
LATELY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Attempt:
    """The outcome of one attempt, and what is known beside it.

    ``pausing`` is what paused consumption before the outcome was known; ``others_pass``: another journey
    passed since this one failed first, ``passed_lately``: one did a moment before.
    """

    outcome: Outcome
    sent: bool
    pausing: PauseCause | None = None
    others_pass: bool = False
    passed_lately: bool = False


class Handler:
    """Handles deliveries concurrently. ``clock`` is monotonic seconds, ``now`` aware."""

    def __init__(
        self,
        *,
        submission: Submission,
        admission: Admission,
        policy: Policy,
        metrics: Metrics,
        consumer: Consumer,
        concurrency: int,
        hold_limit_seconds: float,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._submission = submission
        self._admission = admission
        self._policy = policy
        self._metrics = metrics
        self._consumer = consumer
        self._slots = asyncio.Semaphore(concurrency)
        self._hold_limit = hold_limit_seconds
        self._clock = clock
        self._now = now
        self._deadline = timedelta(seconds=policy.deadline_seconds)
        self._draining = False

    def begin_drain(self) -> None:
        """Release what waits; what is being submitted is finished."""
        self._draining = True
        self._admission.notifier.notify_all()

    async def handle(  # noqa: C901 - every step from an attempt to a result
        self, entry: Entry
    ) -> HandlingResult:
        """Submit the journey of ``entry`` until there is a result."""
        attempts, attempts_here = entry.tracking.attempts, 0
        ready = entry.parsed
        if not isinstance(ready, Ready):
            return self._without_submission(entry, ready or Invalid("not_read"), attempts)
        # When the wait ended that the last 429 of this journey asked for.
        waited_at = self._failing_since(entry) if entry.delivery.headers.get(STATUS) == THROTTLED else None
        while True:
            attempt = await self._attempt(entry, ready)
            if isinstance(attempt, Republish | Release):
                return self._stopped(attempt, attempts, throttled=waited_at is not None)
            outcome = attempt.outcome
            if isinstance(outcome, AlreadyRegistered) and (attempts_here or _sent_before(entry)):
                outcome = await self._verified(entry, ready, outcome)
            if isinstance(outcome, Throttled):
                own = waited_at is not None and self._admission.passed_since(waited_at)
                attempt = replace(attempt, others_pass=own)
            attempts_here += attempt.sent and not isinstance(outcome, Throttled)
            situation = self._situation(entry, ready.journey, attempts, attempts_here, attempt)
            charged = charges_attempt(outcome, situation)
            if charged:
                attempts += 1
                situation = replace(situation, attempts=attempts)
            decision = decide(outcome, situation, self._policy)
            if isinstance(decision, DeadLetter) and decision.reason is Reason.EXHAUSTED:
                # After a 408 or a lost answer the Registry may have the journey all the same.
                outcome = await self._verified(entry, ready, outcome)
                decision = decide(outcome, situation, self._policy)
            match decision:
                case Acknowledge() | DeadLetter() | Delay() | Republish() | Release():
                    if isinstance(decision, Delay) and not decision.counts:
                        return HandlingResult(decision, entry.tracking.attempts)  # the outage's, not its own
                    # An answer that ends the journey is an attempt, too.
                    final = isinstance(decision, Acknowledge | DeadLetter) and not isinstance(outcome, Early)
                    return HandlingResult(decision, attempts + (final and not charged))
                case RetrySoon(delay_seconds=seconds):
                    self._metrics.retry(outcome)
                    waited_at = self._clock() + seconds if isinstance(outcome, Throttled) else None
                    stop = await self._wait(entry, seconds, type(outcome).__name__.lower())
                    if stop is not None:
                        return self._stopped(stop, attempts, throttled=waited_at is not None)
                case _ as unreachable:
                    assert_never(unreachable)

    async def _verified(self, entry: Entry, ready: Ready, outcome: Outcome) -> Outcome:
        """Ask what became of a journey that the Registry may have stored, or refused, before."""
        entry.waits_for = "status"
        said = await self._submission.verify(outcome, ready.journey.journey_id)
        if isinstance(said, AlreadyRegistered) and EDITED in entry.delivery.headers:
            return replace(said, detail=f"{said.detail}, correction not taken")
        return said

    def _stopped(self, stop: Republish | Release, attempts: int, *, throttled: bool) -> HandlingResult:
        """Stop waiting; the headers of a delay remember a 429, those of a republish do not."""
        if throttled and isinstance(stop, Republish):
            delay = Delay(self._policy.delays_seconds[0], stop.detail, THROTTLED, counts=False)
            return HandlingResult(delay, attempts)
        return HandlingResult(stop, attempts)

    def failed(self, entry: Entry, error: Exception) -> HandlingResult:
        """Return the result of a bug here: an attempt like any other, the last of this delivery."""
        outcome = Unavailable(f"internal error {type(error).__name__}")
        return self._without_submission(entry, outcome, entry.tracking.attempts + 1)

    def _without_submission(self, entry: Entry, outcome: Outcome, attempts: int) -> HandlingResult:
        situation = self._situation(entry, None, attempts, self._policy.attempts_per_delivery)
        decision = decide(outcome, situation, self._policy)
        if isinstance(decision, RetrySoon):
            raise TypeError(f"the last attempt of a delivery ends in {type(decision).__name__}")
        return HandlingResult(decision, attempts)

    async def _attempt(self, entry: Entry, ready: Ready) -> _Attempt | Republish | Release:
        """One attempt, or the reason why there is none."""
        if ready.journey.end > self._now():
            return _Attempt(Early(None), sent=False)
        entry.waits_for = "rate limit"
        permit = await self._admission.acquire(
            give_up=lambda: self._stop(entry) is not None,
            until=entry.delivery.received_at + self._hold_limit,
        )
        if permit is None:
            return self._stop(entry) or self._held_too_long(entry)
        try:
            async with self._slots:
                if (stop := self._stop(entry)) is not None:
                    self._admission.release(permit)
                    return stop
                entry.state = State.SUBMITTING
                failing_since = self._failing_since(entry)
                outcome = await self._submission.submit(ready.body)
        except BaseException:
            self._admission.release(permit)  # a probe without a result would block all others
            raise
        finally:
            entry.state = State.WAITING
        pausing, others_pass = self._admission.pausing, self._admission.passed_since(failing_since)
        self._admission.record(permit, outcome, ready.journey.journey_id, evidence=not others_pass)
        lately = self._admission.passed_since(failing_since - LATELY_SECONDS)
        return _Attempt(outcome, sent=True, pausing=pausing, others_pass=others_pass, passed_lately=lately)

    def _failing_since(self, entry: Entry) -> float:
        """Since when this journey fails, if it fails now: monotonic seconds."""
        first, now = entry.tracking.first_failure, self._clock()
        if first is None:
            return now
        return min(now, now - (self._now() - datetime.fromisoformat(first)).total_seconds())

    def _stop(self, entry: Entry) -> Republish | Release | None:
        """Why ``entry`` should wait no longer in this process, if there is a reason."""
        if self._draining or not self._consumer.is_current(entry.delivery):
            return Release()
        if self._clock() - entry.delivery.received_at >= self._hold_limit:
            return self._held_too_long(entry)
        return None

    def _held_too_long(self, entry: Entry) -> Republish:
        pausing = self._admission.pausing
        return Republish(f"held too long: {entry.waits_for if pausing is None else pausing.value}")

    async def _wait(self, entry: Entry, seconds: float, reason: str) -> Republish | Release | None:
        """Wait ``seconds`` unless there is a reason to stop; returns that reason."""
        entry.waits_for = reason
        until = self._clock() + seconds
        while (stop := self._stop(entry)) is None:
            now = self._clock()
            if now >= until:
                return None
            left = min(until, entry.delivery.received_at + self._hold_limit) - now
            await self._admission.notifier.wait(max(left, 0.0))
        return stop

    def _situation(
        self,
        entry: Entry,
        journey: Journey | None,
        attempts: int,
        attempts_here: int,
        attempt: _Attempt | None = None,
    ) -> Situation:
        return Situation(
            attempts=attempts,
            attempts_here=attempts_here,
            delayed_retries=entry.tracking.delayed_retries,
            now=self._now(),
            deadline=journey.start + self._deadline if journey is not None else None,
            ends_at=journey.end if journey is not None else None,
            jitter=random.random(),  # noqa: S311 jitter
            pausing=attempt.pausing if attempt is not None else None,
            others_pass=attempt is not None and attempt.others_pass,
            passed_lately=attempt is not None and attempt.passed_lately,
        )


def _sent_before(entry: Entry) -> bool:
    """Whether the journey may have been submitted before this delivery: then a 409 proves little.

    What came back to us has our headers. A redelivery may have been sent and lost before its acknowledgement.
    """
    return entry.delivery.redelivered or not {ATTEMPTS, REPLAYS}.isdisjoint(entry.delivery.headers)
