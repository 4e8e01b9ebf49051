"""One submission to the Registry: token, post, a second token after a 401, classify, rate-limit headers.

Temporary copy with the agreed interface; replaced at the merge.
"""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from consumer.core.outcome import Outcome, Throttled, Unauthorized
from consumer.core.rate_limiter import RateLimiter
from consumer.core.reply import Fault, RateLimit, Reply
from consumer.registry.classify import classify
from consumer.registry.rate_limit_headers import rate_limit
from consumer.registry.tokens import TokenSource


class Client(Protocol):
    """What a submission needs of the Registry's client."""

    async def post_journey(self, body: bytes, token: str) -> Reply | Fault:
        """Send one journey."""


class Submission:
    """Token, post, second look on a 401, classify, rate-limit headers."""

    def __init__(
        self,
        *,
        client: Client,
        tokens: TokenSource,
        rate_limiter: RateLimiter,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime],
        throttled_seconds: float = 60.0,
        on_answer: Callable[[Reply | Fault, float], None] = lambda _answer, _seconds: None,
        on_rate_limit: Callable[[RateLimit], None] = lambda _limit: None,
    ) -> None:
        self._client = client
        self._tokens = tokens
        self._rate_limiter = rate_limiter
        self._clock = clock
        self._now = now
        self._throttled_seconds = throttled_seconds
        self._on_answer = on_answer
        self._on_rate_limit = on_rate_limit

    async def submit(self, body: bytes) -> Outcome:
        """One attempt; holds the rate limiter on Throttled."""
        token = await self._tokens.token()
        if not isinstance(token, str):
            return token
        outcome = await self._post(body, token)
        if not isinstance(outcome, Unauthorized):
            return outcome
        await self._tokens.renew(token)
        second = await self._tokens.token()
        if not isinstance(second, str):
            return second
        return outcome if second == token else await self._post(body, second)

    async def _post(self, body: bytes, token: str) -> Outcome:
        began = self._clock()
        answer = await self._client.post_journey(body, token)
        now = self._clock()
        self._on_answer(answer, now - began)
        outcome = classify(answer)
        if isinstance(answer, Reply):
            limit = rate_limit(answer, self._now().timestamp())
            if limit is not None:
                self._rate_limiter.observe(limit, now)
                self._on_rate_limit(limit)
        if isinstance(outcome, Throttled):
            seconds = outcome.retry_after_seconds
            self._rate_limiter.hold(now + (self._throttled_seconds if seconds is None else seconds))
        return outcome
