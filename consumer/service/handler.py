"""The use case: ``handle`` takes a delivery and returns its fate.

    parse ─▶ admit ─▶ submit ─▶ classify ─▶ decide ─┬▶ fate
                ▲                                   │
                └────────── wait (retry, hold) ◀────┘

Knows no broker and no HTTP library; acknowledges nothing. Whatever a payload holds, the answer
is a fate, never an exception.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol, assert_never

from consumer.core.delivery import Delivery
from consumer.core.headers import TrackingHeaders, tracking_headers
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
    Throttled,
    Unauthorized,
)
from consumer.core.parse import Ready, parse
from consumer.core.policy import Policy, Situation, charges_attempt, decide
from consumer.core.rate_limiter import RateLimiter
from consumer.core.reply import Fault, Reply
from consumer.metrics import Metrics
from consumer.registry.classify import classify
from consumer.registry.rate_limit_headers import rate_limit
from consumer.service.admission import Admission
from consumer.service.result import HandlingResult
from schemas import Journey


class RegistryClient(Protocol):
    """What the handler needs of the Registry edge."""

    async def post_journey(self, body: bytes, token: str) -> Reply | Fault:
        """Send one journey; network trouble is a ``Fault``, not an exception."""


class Tokens(Protocol):
    """Where the bearer token comes from."""

    async def token(self) -> str | Outcome:
        """The token to send, or the outcome of having none."""

    async def renew(self, refused: str) -> bool:
        """The Registry refused this token: True when a different one can be tried now."""


class Currency(Protocol):
    """Whether a delivery is still ours."""

    def is_current(self, delivery: Delivery) -> bool:
        """False when the delivery's connection is gone and it will come again."""


class Handler:
    """Handles deliveries concurrently. ``clock`` is monotonic, ``utc_now`` aware."""

    def __init__(
        self,
        *,
        version: Literal["v2", "v3"],
        registry: RegistryClient,
        tokens: Tokens,
        admission: Admission,
        rate_limiter: RateLimiter,
        policy: Policy,
        metrics: Metrics,
        currency: Currency,
        concurrency: int,
        hold_limit_seconds: float,
        clock: Callable[[], float],
        utc_now: Callable[[], datetime],
    ) -> None:
        self._version = version
        self._registry = registry
        self._tokens = tokens
        self._admission = admission
        self._rate_limiter = rate_limiter
        self._policy = policy
        self._metrics = metrics
        self._currency = currency
        self._slots = asyncio.Semaphore(concurrency)
        self._hold_limit = hold_limit_seconds
        self._clock = clock
        self._now = utc_now
        self._deadline = timedelta(seconds=policy.deadline_seconds)
        self._pending: dict[Delivery, datetime] = {}
        self._submitting = 0
        self.draining = False

    @property
    def waiting(self) -> int:
        """Journeys in the handler that are not being submitted at this moment."""
        return len(self._pending) - self._submitting

    @property
    def oldest_pending_start(self) -> datetime | None:
        """The earliest start among the journeys now in the handler; None when there is none."""
        return min(self._pending.values(), default=None)

    async def handle(self, delivery: Delivery) -> HandlingResult:
        """Take ``delivery`` through the corridor until it has a fate."""
        past = tracking_headers(delivery)
        ready = parse(delivery, self._version)
        if isinstance(ready, Invalid):
            return self._fate_without_journey(ready, past, past.attempts)
        journey = ready.journey
        self._pending[delivery] = journey.start
        attempts, here = past.attempts, 0
        try:
            while True:
                outcome, pausing = await self._try(delivery, ready)
                if isinstance(outcome, Republish | Release):
                    return HandlingResult(outcome, journey, past, attempts)
                charged = charges_attempt(outcome, pausing)
                if charged:
                    attempts, here = attempts + 1, here + 1
                situation = self._situation(journey, attempts, here, past.delayed_retries, pausing)
                decision = decide(outcome, situation, self._policy)
                match decision:
                    case Acknowledge() | DeadLetter() | Delay() | Republish() | Release():
                        final = 0 if charged or isinstance(outcome, Early) else 1  # the attempt just made
                        return HandlingResult(decision, journey, past, attempts + final)
                    case RetrySoon(delay_seconds=seconds):
                        self._metrics.retry(outcome)
                        stop = await self._wait(delivery, seconds)
                        if stop is not None:
                            return HandlingResult(stop, journey, past, attempts)
                    case Hold():
                        pass  # the gate keeps it until the cause is gone
                    case _ as unreachable:
                        assert_never(unreachable)
        finally:
            del self._pending[delivery]

    def give_up_visit(self, past: TrackingHeaders, outcome: Outcome) -> HandlingResult:
        """The fate of a delivery that cannot be tried again in this visit."""
        return self._fate_without_journey(outcome, past, past.attempts + 1)

    def _fate_without_journey(self, outcome: Outcome, past: TrackingHeaders, attempts: int) -> HandlingResult:
        here = self._policy.attempts_per_delivery
        situation = self._situation(None, attempts, here, past.delayed_retries)
        decision = decide(outcome, situation, self._policy)
        if isinstance(decision, RetrySoon | Hold):
            raise TypeError(f"the last attempt of a visit ends in {type(decision).__name__}")
        return HandlingResult(decision, None, past, attempts)

    # --- submit ------------------------------------------------------------------------

    async def _try(
        self, delivery: Delivery, ready: Ready
    ) -> tuple[Outcome | Republish | Release, PauseCause | None]:
        """One attempt: the outcome, and what paused consumption before it was known."""
        if ready.journey.end > self._now():
            return Early(None), None
        permit = await self._admission.acquire(
            give_up=lambda: self._stop(delivery) is not None,
            until=delivery.received_at + self._hold_limit,
        )
        if permit is None:
            return self._stop(delivery) or Republish("held too long"), None
        try:
            async with self._slots:
                stop = self._stop(delivery)
                if stop is not None:
                    self._admission.release(permit)
                    return stop, None
                self._submitting += 1
                try:
                    outcome = await self._submit(ready.body)
                finally:
                    self._submitting -= 1
        except BaseException:
            self._admission.release(permit)  # a probe that is never reported would block the gate for ever
            raise
        pausing = self._admission.pausing
        self._admission.record(permit, outcome, ready.journey.journey_id)
        return outcome, pausing

    async def _submit(self, body: bytes) -> Outcome:
        token = await self._tokens.token()
        if not isinstance(token, str):
            return token
        outcome = await self._post(body, token)
        if isinstance(outcome, Unauthorized):
            # A refusal is believed only after a second look: the token may just have been replaced.
            await self._tokens.renew(token)
            second = await self._tokens.token()
            if not isinstance(second, str):
                return second
            if second != token:
                return await self._post(body, second)
        return outcome

    async def _post(self, body: bytes, token: str) -> Outcome:
        started = self._clock()
        answer = await self._registry.post_journey(body, token)
        now = self._clock()
        self._metrics.request(answer, now - started)
        outcome = classify(answer)
        if isinstance(answer, Reply):
            limit = rate_limit(answer, self._now().timestamp())
            if limit is not None:
                self._rate_limiter.observe(limit, now)
                self._metrics.rate_limit_remaining.set(limit.remaining)
        if isinstance(outcome, Throttled):
            seconds = outcome.retry_after_seconds
            self._admission.hold(self._policy.throttled_seconds if seconds is None else seconds)
        return outcome

    # --- wait --------------------------------------------------------------------------

    def _stop(self, delivery: Delivery) -> Republish | Release | None:
        """Why ``delivery`` should wait no longer in this process, if there is a reason."""
        if self.draining or not self._currency.is_current(delivery):
            return Release()
        if self._clock() - delivery.received_at >= self._hold_limit:
            return Republish("held too long")
        return None

    async def _wait(self, delivery: Delivery, seconds: float) -> Republish | Release | None:
        """Sleep ``seconds`` unless there is a reason to stop; returns that reason."""
        until = self._clock() + seconds
        while (stop := self._stop(delivery)) is None:
            now = self._clock()
            left = min(until, delivery.received_at + self._hold_limit) - now
            if now >= until:
                return None
            await self._admission.notifier.wait(max(left, 0.0))
        return stop

    def _situation(
        self,
        journey: Journey | None,
        attempts: int,
        here: int,
        delayed_retries: int,
        pausing: PauseCause | None = None,
    ) -> Situation:
        return Situation(
            attempts=attempts,
            attempts_here=here,
            delayed_retries=delayed_retries,
            now=self._now(),
            deadline=journey.start + self._deadline if journey is not None else None,
            ends_at=journey.end if journey is not None else None,
            jitter=random.random(),  # noqa: S311 jitter
            pausing=pausing,
        )


def utc_now() -> datetime:
    """The wall clock, aware."""
    return datetime.now(UTC)
