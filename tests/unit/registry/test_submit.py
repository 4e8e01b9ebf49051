"""One submission: which token is sent, when the token is asked for again, and what holds the rate limiter."""

import json
from collections.abc import Callable

import httpx
import pytest

from consumer.core.outcome import (
    Misconfigured,
    Outcome,
    Registered,
    Throttled,
    Unauthorized,
    Unavailable,
)
from consumer.core.policy import THROTTLED_SECONDS
from consumer.core.rate_limiter import RateLimiter
from consumer.registry.client import RegistryClient
from consumer.registry.key_exchange import ExchangedToken
from consumer.registry.submit import Submission
from consumer.registry.tokens import StaticToken, TokenSource
from tests.clock import FakeClock
from tests.corridor import Corridor, refused, registered
from tests.travel import travelling

Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer) -> RegistryClient:
    """Return a client whose requests ``answer`` answers."""
    return RegistryClient(
        url="http://localhost:1",
        api_version="v3.3",
        timeout_seconds=5.0,
        concurrency=1,
        transport=httpx.MockTransport(answer),
    )


def submission(answer: Answer, tokens: TokenSource, clock: FakeClock) -> tuple[Submission, RateLimiter]:
    """Return a submission and its rate limiter."""
    rate_limiter = RateLimiter(1e9, 1)
    made = Submission(
        client=client(answer), tokens=tokens, rate_limiter=rate_limiter, clock=clock, now=clock.now
    )
    return made, rate_limiter


def keys_that_work_once(request: httpx.Request, calls: list[str]) -> httpx.Response:
    """Answer 401 to every journey; exchange the keys once, then refuse the connection."""
    calls.append(request.url.path)
    if request.url.path.endswith("/journeys"):
        return refused(401, -32501)
    if calls.count(request.url.path) > 1:
        raise httpx.ConnectError("refused")
    return httpx.Response(201, json={"access_token": "a.b.c"})


async def test_a_401_whose_second_look_finds_no_token_is_not_the_journeys_fault(clock: FakeClock) -> None:
    """The keys cannot be exchanged now: the Registry is unavailable, nothing is known about the token."""
    calls: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        return keys_that_work_once(request, calls)

    tokens = ExchangedToken(
        client(answer).post_access_token, read_keys=lambda: ("access", "secret"), clock=clock
    )
    made, _ = submission(answer, tokens, clock)
    assert await made.submit(b"{}") == Unavailable("connect", exception="ConnectError")
    assert [path.rsplit("/", 1)[1] for path in calls] == ["access_token", "journeys", "access_token"]


@travelling
async def test_the_service_says_unavailable_when_the_keys_cannot_be_exchanged_again() -> None:
    """As `dead-letters replay --to registry` does: no journey becomes an unauthorized dead letter."""
    calls: list[str] = []
    answers = client(lambda request: keys_that_work_once(request, calls))
    tokens = ExchangedToken(answers.post_access_token, read_keys=lambda: ("access", "secret"))
    corridor = Corridor(refused(401, -32501), tokens=tokens)
    result = await corridor.handle()
    assert corridor.dead("unauthorized") == []
    assert corridor.value("retries_total", reason="connect") > 0
    assert "unauthorized" not in str(result.disposition)


class Tokens(StaticToken):
    """Gives one outcome or token after the other; ``renew`` moves on."""

    def __init__(self, *given: str | Outcome) -> None:
        super().__init__("unused")
        self.given = list(given)

    async def token(self) -> str | Outcome:
        return self.given[0]

    async def renew(self, refused: str) -> bool:
        self.given.pop(0)
        return self.given[0] != refused


@pytest.mark.parametrize(
    ("tokens", "outcome", "sent"),
    [
        (Tokens("old", "new"), Registered(201, "2026-11-23T16:00:00Z"), ["old", "new"]),
        (Tokens("old", "old"), Unauthorized(401, "-32501"), ["old"]),
        (
            Tokens("old", Misconfigured(0, "token_file_empty")),
            Misconfigured(0, "token_file_empty"),
            ["old"],
        ),
        (Tokens(Throttled(5.0)), Throttled(5.0), []),
    ],
    ids=["replaced", "the same", "gone", "none"],
)
async def test_a_refused_token_is_looked_at_once_more(
    tokens: Tokens, outcome: Outcome, sent: list[str], clock: FakeClock
) -> None:
    """Another token is tried once; without one, the reason for that is the outcome."""
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"].removeprefix("Bearer "))
        return registered() if seen[-1] == "new" else refused(401, -32501)

    made, _ = submission(answer, tokens, clock)
    assert await made.submit(json.dumps({}).encode()) == outcome
    assert seen == sent


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [(refused(429, 429, Retry_After="30"), 30.0), (refused(429, 429), THROTTLED_SECONDS)],
    ids=["with Retry-After", "without"],
)
async def test_a_429_holds_the_rate_limiter(answer: httpx.Response, seconds: float, clock: FakeClock) -> None:
    """For all who share it, as long as the answer says, else for the Registry's window."""
    made, rate_limiter = submission(lambda _: answer, StaticToken("token"), clock)
    assert isinstance(await made.submit(b"{}"), Throttled)
    assert rate_limiter.held_for(clock()) == pytest.approx(seconds)
