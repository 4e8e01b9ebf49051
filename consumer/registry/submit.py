"""One submission of a journey: token, post, second look on a 401, classify, rate-limit headers.

1. The only place where a token and a journey meet: for the service and ``dead-letters replay``.
2. A 401 is believed only after a second look at the token, which may just have been replaced.
3. Answers with rate-limit headers adjust the shared rate limiter, a 429 makes all submissions wait.
4. A 409 of a journey that was sent before can hide a refusal: the server stores the id before it judges the
   terms of use. ``verify`` asks the status route, which has a limit of its own.
5. Knows nothing of attempts, breakers or queues. Never raises for what the network or the Registry does.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from consumer.core.outcome import (
    AlreadyRegistered,
    Expired,
    Misconfigured,
    Outcome,
    Proof,
    Rejected,
    Throttled,
    Unauthorized,
    Unavailable,
)
from consumer.core.policy import THROTTLED_SECONDS
from consumer.core.protocols import RegistryClient
from consumer.core.rate_limiter import RateLimiter
from consumer.core.reply import Fault, RateLimit, Reply
from consumer.registry.classify import NOT_STORED, classify, classify_status
from consumer.registry.rate_limit_headers import rate_limit
from consumer.registry.tokens import TokenSource

#: The detail of what cannot be verified because the version (v2) has no status route.
NO_STATUS_ROUTE: Final = "no_status_route"
#: How long a status is waited for: its turn, the token and the answers included.
STATUS_SECONDS: Final = 60.0
#: Status requests at once; the others wait without taking a slot of the rate limiter.
_STATUS_CONCURRENCY: Final = 8
_STATUS_TRIES: Final = 2


class Submission:
    """Submits journeys. ``clock`` is monotonic seconds, ``now`` aware.

    ``status_limiter`` paces the status route; None when the version has none (v2).

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
        status_limiter: RateLimiter | None = None,
        on_answer: Callable[[Reply | Fault, float], None] = lambda _answer, _seconds: None,
        on_rate_limit: Callable[[RateLimit], None] = lambda _limit: None,
    ) -> None:
        self._client = client
        self._tokens = tokens
        self._rate_limiter = rate_limiter
        self._status_limiter = status_limiter
        self._status_slots = asyncio.Semaphore(_STATUS_CONCURRENCY)
        self._clock = clock
        self._now = now
        self._on_answer = on_answer
        self._on_rate_limit = on_rate_limit

    async def submit(self, body: bytes) -> Outcome:
        """Submit one journey, byte for byte; at most two requests."""
        return await self._with_token(lambda token: self._post(body, token))

    async def verify(self, outcome: Outcome, journey_id: str) -> Outcome:
        """Say what became of a journey that was sent before, by its status at the Registry.

        For ``outcome``s that leave it open: a 409, and what is to be given up without an answer. Rejected,
        Expired or AlreadyRegistered by the status; else ``outcome``, which then says that it is unverified.
        """
        said = await self._status(journey_id)
        match said:
            case AlreadyRegistered() | Rejected() | Expired():
                status = outcome.status if isinstance(outcome, AlreadyRegistered) else said.status
                return replace(said, status=status)
            case Unavailable(detail=why) | Misconfigured(detail=why):
                pass
            case _:
                why = type(said).__name__.lower()
        if isinstance(outcome, AlreadyRegistered):
            return replace(outcome, proof=Proof.UNVERIFIED, detail=why)
        if isinstance(outcome, Unavailable) and self._status_limiter is not None:
            found = why if why == NOT_STORED else f"{Proof.UNVERIFIED}: {why}"
            return replace(outcome, detail=f"{outcome.detail}, {found}")
        return outcome

    async def _status(self, journey_id: str) -> Outcome:
        limiter = self._status_limiter
        if limiter is None:
            return Unavailable(NO_STATUS_ROUTE)
        said: Outcome = Unavailable("rate_limit")
        with contextlib.suppress(TimeoutError):  # then ``said`` is what is known so far
            async with asyncio.timeout(STATUS_SECONDS), self._status_slots:
                for _ in range(_STATUS_TRIES):
                    while True:
                        await asyncio.sleep(limiter.reserve(self._clock()))
                        if limiter.held_for(self._clock()) <= 0.0:
                            break
                    said = await self._with_token(lambda token: self._get_status(limiter, journey_id, token))
                    passes = isinstance(said, Unavailable) and said.detail != NOT_STORED
                    if not passes and not isinstance(said, Throttled):
                        break
        return said

    async def _get_status(self, limiter: RateLimiter, journey_id: str, token: str) -> Outcome:
        answer = await self._client.get_journey(journey_id, token)
        said = classify_status(answer)
        self._obey(answer, said, limiter)
        return said

    async def _with_token(self, send: Callable[[str], Awaitable[Outcome]]) -> Outcome:
        token = await self._tokens.token()
        if not isinstance(token, str):
            return token
        outcome = await send(token)
        if not isinstance(outcome, Unauthorized):
            return outcome
        await self._tokens.renew(token)
        second = await self._tokens.token()
        if not isinstance(second, str):
            return second  # there is no token now: that says more than the refusal of the old one
        return outcome if second == token else await send(second)

    async def _post(self, body: bytes, token: str) -> Outcome:
        started = self._clock()
        answer = await self._client.post_journey(body, token)
        now = self._clock()
        self._on_answer(answer, now - started)
        outcome = classify(answer)
        limit = self._obey(answer, outcome, self._rate_limiter)
        if limit is not None:
            self._on_rate_limit(limit)
        return outcome

    def _obey(self, answer: Reply | Fault, outcome: Outcome, limiter: RateLimiter) -> RateLimit | None:
        now = self._clock()
        limit = rate_limit(answer, self._now().timestamp()) if isinstance(answer, Reply) else None
        if limit is not None:
            limiter.observe(limit, now)
        if isinstance(outcome, Throttled):
            seconds = outcome.retry_after_seconds
            limiter.hold(now + (THROTTLED_SECONDS if seconds is None else seconds))
        return limit
