"""Dead letters straight to the Registry, past the main queue: for when the service does not run.

1. A dead letter is acknowledged only when the Registry has the journey: registered now, or already (409).
2. Everything else stays untouched in its queue. What concerns all of them (a refused token, an outage, a
   wrong address) ends the sweep instead of being met by each.
3. An invalid payload is never sent: for an id that was accepted it could destroy the proof.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal, Protocol

from consumer.core.outcome import (
    AlreadyRegistered,
    Early,
    Forbidden,
    Invalid,
    Misconfigured,
    Outcome,
    Registered,
    Throttled,
    Unauthorized,
    Unavailable,
)
from consumer.core.parse import parse
from consumer.core.rate_limiter import RateLimiter
from consumer.core.reply import Fault, Reply
from consumer.deadletters.hand import DeadLetterMessage
from consumer.deadletters.underway import BATCH, BatchResult, Result
from consumer.registry.classify import classify
from consumer.registry.rate_limit_headers import rate_limit
from consumer.registry.tokens import TokenSource

#: So many in a row say that it is not the journey's fault.
MOST_FAILURES_IN_A_ROW = 10
#: Longer than this nobody waits at a terminal, with dead letters in hand.
MOST_HOLD_SECONDS = 90.0
_TRIES = 3
_THROTTLED_SECONDS = 60.0
_CONCERNS_ALL = (Unauthorized, Forbidden, Unavailable, Throttled)


class RegistryClient(Protocol):
    """What sending needs of the Registry edge."""

    async def post_journey(self, body: bytes, token: str) -> Reply | Fault:
        """Send one journey."""


class SubmitToRegistry:
    """The action of a sweep that submits dead letters. ``utc_now`` is an aware clock."""

    def __init__(
        self,
        *,
        registry: RegistryClient,
        tokens: TokenSource,
        rate_limiter: RateLimiter,
        version: Literal["v2", "v3"],
        concurrency: int,
        utc_now: Callable[[], datetime],
    ) -> None:
        self._registry = registry
        self._tokens = tokens
        self._rate_limiter = rate_limiter
        self._version: Literal["v2", "v3"] = version
        self._slots = asyncio.Semaphore(concurrency)
        self._now = utc_now
        self._failures = 0
        self._trouble: str | None = None

    async def __call__(self, batch: Sequence[DeadLetterMessage]) -> BatchResult:
        """Submit all of them, many at once."""
        outcomes = await asyncio.gather(*map(self._one, batch))
        return BatchResult([_result(outcome) for outcome in outcomes], self._trouble)

    async def _one(self, dead: DeadLetterMessage) -> Outcome | None:
        ready = parse(dead.delivery, self._version)
        if isinstance(ready, Invalid):
            return ready
        if ready.journey.end > self._now():
            return Early(None)
        async with self._slots:
            outcome: Outcome | None = None
            for _ in range(_TRIES):
                if self._trouble is not None:
                    return outcome
                if not await self._may_go():
                    return outcome
                outcome = await self._submit(ready.body)
                if not isinstance(outcome, Throttled | Unavailable):
                    break
            self._learn(outcome)
            return outcome

    async def _may_go(self) -> bool:
        """Wait for the pace; False when there is no sense in waiting."""
        while self._trouble is None:
            held = self._rate_limiter.held_for(time.monotonic())
            if held > MOST_HOLD_SECONDS:
                self._trouble = f"the Registry asks to wait for {held:,.0f} s: run this again after that"
                break
            await asyncio.sleep(self._rate_limiter.reserve(time.monotonic()))
            if self._rate_limiter.held_for(time.monotonic()) <= 0.0:
                return self._trouble is None
        return False

    async def _submit(self, body: bytes) -> Outcome:
        token = await self._tokens.token()
        if not isinstance(token, str):
            return token
        outcome = await self._post(body, token)
        if isinstance(outcome, Unauthorized) and await self._tokens.renew(token):
            second = await self._tokens.token()
            return await self._post(body, second) if isinstance(second, str) else second
        return outcome

    async def _post(self, body: bytes, token: str) -> Outcome:
        answer = await self._registry.post_journey(body, token)
        outcome, now = classify(answer), time.monotonic()
        if isinstance(answer, Reply):
            limit = rate_limit(answer, self._now().timestamp())
            if limit is not None:
                self._rate_limiter.observe(limit, now)
        if isinstance(outcome, Throttled):
            seconds = outcome.retry_after_seconds
            self._rate_limiter.hold(now + (_THROTTLED_SECONDS if seconds is None else seconds))
        return outcome

    def _learn(self, outcome: Outcome | None) -> None:
        """Find out what concerns all of them."""
        if isinstance(outcome, Misconfigured):
            self._trouble = (
                f"the Registry does not serve this route ({outcome.detail}): is REGISTRY_URL right?"
            )
            return
        self._failures = self._failures + 1 if isinstance(outcome, _CONCERNS_ALL) else 0
        if self._failures >= MOST_FAILURES_IN_A_ROW:
            self._trouble = (
                f"{self._failures} journeys in a row ended as {_word(outcome)}: the others were not tried, "
                "and all of these stay where they are"
            )


def _result(outcome: Outcome | None) -> Result:
    return Result(_word(outcome), gone=isinstance(outcome, Registered | AlreadyRegistered))


#: What is done with.
DONE = frozenset({"registered", "already registered"})


def batch_size(rate_per_minute: float, concurrency: int) -> int:
    """How many to take at once: what five seconds of the pace, and a few rounds of requests, can do.

    None of a batch is acknowledged before all of it has an outcome, and the broker takes back what it was
    not heard of for long.
    """
    return max(1, min(BATCH, int(rate_per_minute / 60 * 5), 4 * concurrency))


def _word(outcome: Outcome | None) -> str:
    if outcome is None:
        return "not tried"
    return "already registered" if isinstance(outcome, AlreadyRegistered) else type(outcome).__name__.lower()
