"""Submitting dead letters to the Registry: the outcome when a second token cannot be had."""

import asyncio
import random
import time
from datetime import UTC, datetime

import pytest

from consumer.core.delivery import Delivery
from consumer.core.rate_limiter import RateLimiter
from consumer.core.reply import Fault, FaultKind, Reply
from consumer.deadletters.actions import SubmitToRegistry
from consumer.deadletters.record import read
from consumer.deadletters.sweep import DeadLetterMessage, Result, Tally
from consumer.deadletters.view import show_tally
from consumer.publishing import samples
from consumer.registry.key_exchange import ExchangedToken
from consumer.registry.submit import Submission
from consumer.registry.tokens import StaticToken, TokenSource

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
REFUSED = Reply(401, body=b'{"id":1,"jsonrpc":"2.0","error":{"code":-32501,"message":"Unauthorized Error"}}')


class Registry:
    """Gives every post one answer."""

    def __init__(self, answer: Reply) -> None:
        self.answer = answer
        self.tokens: list[str] = []
        self.status: Reply | Fault = Fault(FaultKind.CONNECT, "ConnectError")

    async def get_journey(self, _journey_id: str, _token: str) -> Reply | Fault:
        return self.status

    async def post_journey(self, _body: bytes, token: str) -> Reply | Fault:
        self.tokens.append(token)
        return self.answer


def submitting(registry: Registry, tokens: TokenSource, *, asks: bool = True) -> SubmitToRegistry:
    """The action, one journey at a time."""
    limiter = RateLimiter(60_000, 16)
    submission = Submission(
        client=registry,
        tokens=tokens,
        rate_limiter=limiter,
        status_limiter=RateLimiter(60_000, 16) if asks else None,
        clock=time.monotonic,
        now=lambda: NOW,
    )
    return SubmitToRegistry(submission, limiter, version="v3", concurrency=1, now=lambda: NOW)


def dead(number: int) -> DeadLetterMessage:
    """A valid journey."""
    delivery = Delivery(samples.encode(samples.journey("v3", random.Random(number), NOW)))
    return DeadLetterMessage(read(delivery, "unauthorized"), delivery, reader=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("exchanges", "outcome", "posted"),
    [
        ([b"one", FaultKind.CONNECT], "unavailable", ["one"]),
        ([b"one", b"two"], "unauthorized", ["one", "two"]),
        ([FaultKind.CONNECT], "unavailable", []),
    ],
    ids=["the second exchange fails", "both tokens are refused", "no token at all"],
)
async def test_without_a_second_token_the_exchange_is_the_outcome(
    exchanges: list[bytes | FaultKind], outcome: str, posted: list[str]
) -> None:
    """A 401 on every post: the outcome is that of the key exchange, as in the service."""
    answers = list(exchanges)

    async def exchange(_access: str, _secret: str) -> Reply | Fault:
        answer = answers.pop(0)
        if isinstance(answer, FaultKind):
            return Fault(answer, "ConnectError")
        return Reply(201, body=b'{"access_token": "%s"}' % answer)

    registry = Registry(REFUSED)
    action = submitting(registry, ExchangedToken(exchange, read_keys=lambda: ("key", "secret")))
    result = await asyncio.wait_for(action([dead(1)]), 5)
    assert list(result.results) == [Result(outcome, ack=False)]
    assert registry.tokens == posted


async def test_a_route_that_is_not_served_ends_the_sweep() -> None:
    """It concerns all journeys: the first one is the last one that is tried."""
    registry = Registry(Reply(404, body=b""))
    result = await submitting(registry, StaticToken("token"))([dead(1), dead(2)])
    assert list(result.results) == [Result("misconfigured", ack=False), Result("not tried", ack=False)]
    assert result.trouble is not None
    assert "the Registry does not serve this route" in result.trouble
    assert registry.tokens == ["token"]


@pytest.mark.parametrize(
    ("status", "asks", "result"),
    [
        (Reply(200, body=b'{"status": "ok"}'), True, Result("already registered", ack=True)),
        (Reply(200, body=b'{"status": "terms_violation_error"}'), True, Result("rejected", ack=False)),
        (Fault(FaultKind.CONNECT, "ConnectError"), True, Result("unverified", ack=False)),
        (Reply(404), False, Result("already registered (unverified)", ack=True)),
    ],
    ids=["ok", "refused", "cannot be asked", "v2"],
)
async def test_a_dead_letter_with_a_409_leaves_only_when_its_journey_counts(
    status: Reply | Fault, *, asks: bool, result: Result
) -> None:
    """A refused journey answers 409, too: it was removed as registered before."""
    registry = Registry(Reply(409, body=b'{"id":1,"jsonrpc":"2.0","error":{"code":-32509}}'))
    registry.status = status
    found = await submitting(registry, StaticToken("token"), asks=asks)([dead(1)])
    assert list(found.results) == [result]


def test_the_result_names_every_count() -> None:
    """One line for each outcome, and for whatever was not acted upon."""
    tally = Tally(reading=False, waiting=20, read=18, selected=12, taken=2, died_since=3)
    tally.outcomes["replayed"] = 9
    tally.skipped["too late (--lost includes them)"] = 3
    assert show_tally(tally).splitlines() == [
        "20 dead letters, 15 selected",
        "  9  replayed",
        "  3  skipped: too late (--lost includes them)",
        "  2  no longer in the queue (taken by another consumer)",
        "  3  left in the queue: died after this command began",
        "  3  not processed",
    ]
