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
from datetime import datetime, timedelta
from typing import assert_never

from consumer.core.outcome import (
    Acknowledge,
    DeadLetter,
    Delay,
    Early,
    Hold,
    Invalid,
    Outcome,
    PauseCause,
    Release,
    Republish,
    RetrySoon,
    Unavailable,
)
from consumer.core.parse import Ready
from consumer.core.policy import Policy, Situation, charges_attempt, decide
from consumer.core.protocols import Consumer
from consumer.metrics import Metrics
from consumer.registry.submit import Submission
from consumer.service.admission import Admission
from consumer.service.inflight import Entry, HandlingResult, State
from schemas import Journey


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

    async def handle(self, entry: Entry) -> HandlingResult:
        """Submit the journey of ``entry`` until there is a result."""
        attempts, attempts_here = entry.tracking.attempts, 0
        ready = entry.parsed
        if not isinstance(ready, Ready):
            return self._without_submission(entry, ready or Invalid("not_read"), attempts)
        while True:
            outcome, pausing = await self._attempt(entry, ready)
            if isinstance(outcome, Republish | Release):
                return HandlingResult(outcome, attempts)
            charged = charges_attempt(outcome, pausing)
            attempts, attempts_here = attempts + charged, attempts_here + charged
            situation = self._situation(entry, ready.journey, attempts, attempts_here, pausing)
            decision = decide(outcome, situation, self._policy)
            match decision:
                case Acknowledge() | DeadLetter() | Delay() | Republish() | Release():
                    uncharged = not charged and not isinstance(outcome, Early)  # the attempt just made
                    return HandlingResult(decision, attempts + uncharged)
                case RetrySoon(delay_seconds=seconds):
                    self._metrics.retry(outcome)
                    stop = await self._wait(entry, seconds, type(outcome).__name__.lower())
                    if stop is not None:
                        return HandlingResult(stop, attempts)
                case Hold():
                    pass  # admission keeps it until the cause is gone
                case _ as unreachable:
                    assert_never(unreachable)

    def failed(self, entry: Entry, error: Exception) -> HandlingResult:
        """Return the result of a bug here: an attempt like any other, the last of this delivery."""
        outcome = Unavailable(f"internal error {type(error).__name__}")
        return self._without_submission(entry, outcome, entry.tracking.attempts + 1)

    def _without_submission(self, entry: Entry, outcome: Outcome, attempts: int) -> HandlingResult:
        situation = self._situation(entry, None, attempts, self._policy.attempts_per_delivery)
        decision = decide(outcome, situation, self._policy)
        if isinstance(decision, RetrySoon | Hold):
            raise TypeError(f"the last attempt of a delivery ends in {type(decision).__name__}")
        return HandlingResult(decision, attempts)

    async def _attempt(
        self, entry: Entry, ready: Ready
    ) -> tuple[Outcome | Republish | Release, PauseCause | None]:
        """One attempt: the outcome, and what paused consumption before it was known."""
        if ready.journey.end > self._now():
            return Early(None), None
        entry.waits_for = "rate limit"
        permit = await self._admission.acquire(
            give_up=lambda: self._stop(entry) is not None,
            until=entry.delivery.received_at + self._hold_limit,
        )
        if permit is None:
            return self._stop(entry) or self._held_too_long(entry), None
        try:
            async with self._slots:
                if (stop := self._stop(entry)) is not None:
                    self._admission.release(permit)
                    return stop, None
                entry.state = State.SUBMITTING
                outcome = await self._submission.submit(ready.body)
        except BaseException:
            self._admission.release(permit)  # a probe without a result would block all others
            raise
        finally:
            entry.state = State.WAITING
        pausing = self._admission.pausing
        self._admission.record(permit, outcome, ready.journey.journey_id)
        return outcome, pausing

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
        pausing: PauseCause | None = None,
    ) -> Situation:
        return Situation(
            attempts=attempts,
            attempts_here=attempts_here,
            delayed_retries=entry.tracking.delayed_retries,
            now=self._now(),
            deadline=journey.start + self._deadline if journey is not None else None,
            ends_at=journey.end if journey is not None else None,
            jitter=random.random(),  # noqa: S311 jitter
            pausing=pausing,
        )
