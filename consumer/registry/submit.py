"""One submission of a journey: token, post, second look on a 401, classify, rate-limit headers.

1. The only place where a token and a journey meet: for the service and ``dead-letters replay``.
2. A 401 is believed only after a second look at the token, which may just have been replaced.
3. Answers with rate-limit headers adjust the shared rate limiter, a 429 makes all submissions wait.
4. Knows nothing of attempts, breakers or queues. Never raises for what the network or the Registry does.
"""

from collections.abc import Callable
from datetime import datetime

from consumer.core.outcome import Outcome, Throttled, Unauthorized
from consumer.core.policy import THROTTLED_SECONDS
from consumer.core.protocols import RegistryClient
from consumer.core.rate_limiter import RateLimiter
from consumer.core.reply import Fault, RateLimit, Reply
from consumer.registry.classify import classify
from consumer.registry.rate_limit_headers import rate_limit
from consumer.registry.tokens import TokenSource


class Submission:
    """Submits journeys. ``clock`` is monotonic seconds, ``now`` aware.

    ``on_answer`` is called with each answer and its duration in seconds, ``on_rate_limit`` with what an
    answer says about the rate limit.
    """

    def __init__(
        self,
        *,
        client: RegistryClient,
        tokens: TokenSource,
        rate_limiter: RateLimiter,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        on_answer: Callable[[Reply | Fault, float], None] = lambda _answer, _seconds: None,
        on_rate_limit: Callable[[RateLimit], None] = lambda _limit: None,
    ) -> None:
        self._client = client
        self._tokens = tokens
        self._rate_limiter = rate_limiter
        self._clock = clock
        self._now = now
        self._on_answer = on_answer
        self._on_rate_limit = on_rate_limit

    async def submit(self, body: bytes) -> Outcome:
        """Submit one journey, byte for byte; at most two requests."""
        token = await self._tokens.token()
        if not isinstance(token, str):
            return token
        outcome = await self._post(body, token)
        if not isinstance(outcome, Unauthorized):
            return outcome
        await self._tokens.renew(token)
        second = await self._tokens.token()
        if not isinstance(second, str):
            return second  # there is no token now: that says more than the refusal of the old one
        return outcome if second == token else await self._post(body, second)

    async def _post(self, body: bytes, token: str) -> Outcome:
        started = self._clock()
        answer = await self._client.post_journey(body, token)
        now = self._clock()
        self._on_answer(answer, now - started)
        outcome = classify(answer)
        if isinstance(answer, Reply):
            limit = rate_limit(answer, self._now().timestamp())
            if limit is not None:
                self._rate_limiter.observe(limit, now)
                self._on_rate_limit(limit)
        if isinstance(outcome, Throttled):
            seconds = outcome.retry_after_seconds
            self._rate_limiter.hold(now + (THROTTLED_SECONDS if seconds is None else seconds))
        return outcome
