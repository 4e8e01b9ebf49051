"""The key exchange of v3.3: one at a time, before expiry, five a minute, and nothing shown."""

import asyncio
import base64
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.outcome import Misconfigured, Throttled, Unauthorized, Unavailable
from consumer.core.reply import Fault, FaultKind, Reply
from consumer.registry.key_exchange import (
    LIFETIME_SECONDS,
    ExchangedToken,
    access_token_in,
    lifetime_seconds,
    refusal,
)
from consumer.registry.secret import claims
from tests.clock import FakeClock
from tests.waiting import await_until

KEYS = ("access-key-hidden", "secret-key-hidden")
REFUSED = Reply(401, body=b'{"id":1,"jsonrpc":"2.0","error":{"code":-32501,"message":"Unauthorized Error"}}')
OUTAGE = Fault(FaultKind.CONNECT, "ConnectError")


def jwt(**said: Any) -> str:
    """A token that says this of itself."""
    part = base64.urlsafe_b64encode(json.dumps(said).encode()).decode().rstrip("=")
    return f"e30.{part}.hidden-signature"


def created(token: str) -> Reply:
    """The answer of a successful exchange."""
    return Reply(201, body=json.dumps({"access_token": token}).encode())


class Exchange:
    """The Registry's route: counts calls, answers what the test lined up, else a new token."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.calls: list[tuple[str, str]] = []
        self.answers: list[Reply | Fault] = []
        self.open = asyncio.Event()
        self.open.set()
        self.keys = KEYS
        self.tokens = ExchangedToken(
            self, read_keys=lambda: self.keys, clock=clock, now=clock.time, draw=lambda low, _: low
        )

    async def __call__(self, access_key: str, secret_key: str) -> Reply | Fault:
        """Take a call of the exchange."""
        self.calls.append((access_key, secret_key))
        await self.open.wait()
        if self.answers:
            return self.answers.pop(0)
        issued = int(self.clock.time())
        return created(jwt(iat=issued, exp=issued + 300, number=len(self.calls)))

    async def settled(self) -> None:
        """Wait for an exchange that runs in the background."""
        await await_until(lambda: not self.tokens._running)


@pytest.fixture
def exchange(clock: FakeClock) -> Exchange:
    """A route that answers at once, and a source of tokens that calls it."""
    return Exchange(clock)


async def test_many_callers_share_one_exchange(exchange: Exchange) -> None:
    """Sixty-four journeys that find no token cause one call, and all get its token."""
    found = await asyncio.gather(*(exchange.tokens.token() for _ in range(64)))
    assert exchange.calls == [KEYS]
    assert len(set(map(str, found))) == 1
    assert str(found[0]).count(".") == 2


async def test_a_caller_who_gives_up_does_not_cancel_it_for_the_others(exchange: Exchange) -> None:
    """The first of two waiting callers is cancelled; the second gets the token of the same call."""
    exchange.open.clear()
    first = asyncio.create_task(exchange.tokens.token())
    second = asyncio.create_task(exchange.tokens.token())
    await await_until(lambda: exchange.calls)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    exchange.open.set()
    assert isinstance(await second, str)
    assert len(exchange.calls) == 1


async def test_a_token_is_renewed_in_the_background_before_it_expires(
    exchange: Exchange, clock: FakeClock
) -> None:
    """From 90 % of its life one exchange runs, while the old token is still handed out without waiting."""
    old = await exchange.tokens.token()
    clock.advance(269)
    assert await exchange.tokens.token() == old
    assert len(exchange.calls) == 1
    clock.advance(2)
    exchange.open.clear()
    for _ in range(3):
        assert await exchange.tokens.token() == old
    exchange.open.set()
    await exchange.settled()
    assert len(exchange.calls) == 2
    assert await exchange.tokens.token() not in {old, None}


async def test_an_expired_token_is_never_handed_out(exchange: Exchange, clock: FakeClock) -> None:
    """After its life, callers wait for the new one, or are told why there is none."""
    old = await exchange.tokens.token()
    clock.advance(300)
    new = await exchange.tokens.token()
    assert isinstance(new, str)
    assert new != old
    clock.advance(300)
    exchange.answers = [OUTAGE]
    assert await exchange.tokens.token() == Unavailable("connect", exception="ConnectError")


async def test_an_outage_before_expiry_is_not_felt(exchange: Exchange, clock: FakeClock) -> None:
    """A renewal that fails leaves the token in use and is tried again only after 12 s."""
    old = await exchange.tokens.token()
    clock.advance(271)
    exchange.answers = [OUTAGE]
    assert await exchange.tokens.token() == old
    await exchange.settled()
    clock.advance(11)
    assert await exchange.tokens.token() == old
    await exchange.settled()
    assert len(exchange.calls) == 2
    clock.advance(1)
    assert await exchange.tokens.token() == old
    await exchange.settled()
    assert await exchange.tokens.token() != old


async def test_a_failure_is_remembered_instead_of_repeated(exchange: Exchange, clock: FakeClock) -> None:
    """A waiting backlog does not spend the five calls of the minute on one short outage."""
    exchange.answers = [OUTAGE]
    for _ in range(10):
        assert await exchange.tokens.token() == Unavailable("connect", exception="ConnectError")
    assert len(exchange.calls) == 1
    clock.advance(12)
    assert isinstance(await exchange.tokens.token(), str)


async def test_a_lasting_failure_is_logged_once(
    exchange: Exchange, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage of hours is one line, until something else goes wrong."""
    exchange.answers = [OUTAGE, OUTAGE, OUTAGE, REFUSED]
    for _ in range(4):
        await exchange.tokens.token()
        clock.advance(15)
    assert [record.message for record in caplog.records] == [
        "no access token: unavailable",
        "no access token: unauthorized",
    ]


async def test_no_more_than_five_calls_a_minute(exchange: Exchange, clock: FakeClock) -> None:
    """Five failures spaced by our own patience, then the sixth call waits for the window."""
    for _ in range(5):
        exchange.answers = [created(jwt(iat=1, exp=2))]  # lives one second
        assert isinstance(await exchange.tokens.token(), str)
        clock.advance(2)
    assert await exchange.tokens.token() == Throttled(50.0)
    clock.advance(20)
    assert await exchange.tokens.token() == Throttled(30.0)
    clock.advance(30)
    assert isinstance(await exchange.tokens.token(), str)
    assert len(exchange.calls) == 6


async def test_a_refused_token_is_exchanged_once(exchange: Exchange, clock: FakeClock) -> None:
    """Many 401 for one token cause one forced exchange; its token being refused too causes none."""
    old = str(await exchange.tokens.token())
    assert await asyncio.gather(*(exchange.tokens.renew(old) for _ in range(64))) == [True] * 64
    assert len(exchange.calls) == 2
    new = str(await exchange.tokens.token())
    assert new != old
    assert await exchange.tokens.renew(old)  # a late 401 for the old token
    assert not await exchange.tokens.renew(new)
    assert len(exchange.calls) == 2
    clock.advance(60)
    assert await exchange.tokens.renew(new)


async def test_a_refused_token_is_not_handed_out_when_its_exchange_fails(exchange: Exchange) -> None:
    """The journeys then learn of the outage instead of collecting 401."""
    old = str(await exchange.tokens.token())
    exchange.answers = [OUTAGE]
    assert not await exchange.tokens.renew(old)
    assert await exchange.tokens.token() == Unavailable("connect", exception="ConnectError")


async def test_keys_are_read_for_each_exchange(exchange: Exchange, clock: FakeClock) -> None:
    """Wrong keys are told as such; mended keys are used at the next call."""
    exchange.answers = [REFUSED]
    assert await exchange.tokens.token() == Unauthorized(401, "access_keys_refused")
    exchange.keys = ("other", "keys")
    clock.advance(12)
    assert isinstance(await exchange.tokens.token(), str)
    assert exchange.calls == [KEYS, ("other", "keys")]


@pytest.mark.parametrize("error", [OSError("hidden"), ValueError("hidden")])
async def test_keys_that_can_not_be_read_are_our_mistake(
    clock: FakeClock, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """No call is made, consumption pauses, and the error's text stays here."""

    def read_keys() -> tuple[str, str]:
        raise error

    async def exchange(_access: str, _secret: str) -> Reply | Fault:
        pytest.fail("called without keys")

    tokens = ExchangedToken(exchange, read_keys=read_keys, clock=clock, now=clock.time)
    assert await tokens.token() == Misconfigured(0, "access_keys_unusable")
    assert "hidden" not in caplog.text


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (REFUSED, Unauthorized(401, "access_keys_refused")),
        (Reply(403, body=b'{"code": 403, "error": "Forbidden"}'), Unauthorized(403, "access_keys_refused")),
        (Reply(429, {"retry-after": "7", "ratelimit-limit": "5"}), Throttled(7.0)),
        (Reply(201, body=b"{}"), Unavailable("access_token_missing", 201)),
        (
            Reply(201, body=b'{"access_token": "a b"}'),
            Unavailable("access_token_missing", 201),
        ),
        (Reply(400, body=b'{"error": {"code": -32602}}'), Misconfigured(400, "access_token_refused")),
        (Reply(409, body=b'{"error": {"code": -32509}}'), Misconfigured(409, "access_token_refused")),
        (Reply(422, body=b"<html>"), Unavailable("foreign_422", 422)),
    ],
)
async def test_what_an_exchange_without_a_token_means(
    exchange: Exchange, answer: Reply, outcome: object
) -> None:
    """No answer of this route is ever a verdict on a journey."""
    exchange.answers = [answer]
    assert await exchange.tokens.token() == outcome


@pytest.mark.parametrize("status", range(100, 600))
def test_no_status_of_the_exchange_settles_a_journey_for_good(status: int) -> None:
    """Every status ends in waiting, pausing or the refusal of the keys."""
    assert isinstance(refusal(Reply(status)), Unauthorized | Unavailable | Throttled | Misconfigured)


@pytest.mark.parametrize("kind", FaultKind)
def test_a_fault_of_the_exchange_makes_the_registry_unavailable(kind: FaultKind) -> None:
    """It says nothing about the journey, which was not sent."""
    assert isinstance(refusal(Fault(kind)), Unavailable)


@pytest.mark.parametrize(
    "body",
    [{"access_token": "t.o.k"}, {"result": {"access_token": "t.o.k"}},
     {"id": 1, "result": {"meta": None, "data": {"access_token": "t.o.k"}}}],
)  # fmt: skip
def test_the_token_is_found_at_three_depths(body: object) -> None:
    """Like ``created_at`` in other answers."""
    assert access_token_in(Reply(201, body=json.dumps(body).encode())) == "t.o.k"


@given(st.binary(max_size=60) | st.recursive(st.none() | st.text(max_size=9), lambda inner: st.dictionaries(
    st.sampled_from(["result", "data", "access_token", "x"]), inner, max_size=3)).map(
        lambda found: json.dumps(found).encode()))  # fmt: skip
def test_a_token_in_an_answer_is_fit_for_a_header_or_absent(body: bytes) -> None:
    """No answer makes the search fail."""
    found = access_token_in(Reply(201, body=body))
    assert found is None or (found.isascii() and found.isprintable() and " " not in found)


@pytest.mark.parametrize(
    ("said", "lifetime"),
    [
        ({"exp": 1300, "iat": 1000}, 300),
        ({"exp": 1600, "iat": 1000}, 600),
        ({"exp": 5120}, 120),  # against our clock, at 5000
        ({"exp": 4000}, LIFETIME_SECONDS),  # our clock is wrong: as documented
        ({"exp": 10_000_000, "iat": 1000}, LIFETIME_SECONDS),
        ({"exp": True, "iat": 1}, LIFETIME_SECONDS),
        ({"exp": "soon"}, LIFETIME_SECONDS),
        ({}, LIFETIME_SECONDS),
    ],
)
def test_the_lifetime_is_read_from_the_token(said: dict[str, Any], lifetime: float) -> None:
    """By its own two dates if it has them, so that a wrong clock here does no harm."""
    assert lifetime_seconds(jwt(**said), now=5000) == lifetime


@given(st.text(max_size=60))
def test_any_text_has_claims(text: str) -> None:
    """What is no JWT says nothing; nothing is raised."""
    assert isinstance(claims(text), dict)
    assert claims("a." + "!" * 5 + ".c") == {}


async def test_the_watch_reports_a_new_token(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who paused for want of a token tries again at once."""
    monkeypatch.setattr("consumer.registry.key_exchange.WATCH_INTERVAL_SECONDS", 0.001)
    changes: list[None] = []
    watching = asyncio.create_task(exchange.tokens.watch(lambda: changes.append(None)))
    await exchange.tokens.token()
    await await_until(lambda: len(changes) == 1)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_closing_gives_up_an_exchange_under_way(exchange: Exchange) -> None:
    """Nothing is left running at the end."""
    await exchange.tokens.aclose()
    exchange.open.clear()
    waiting = asyncio.create_task(exchange.tokens.token())
    await await_until(lambda: exchange.calls)
    await exchange.tokens.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_neither_token_nor_keys_show_anywhere(
    exchange: Exchange, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """No representation, task or log line holds them, in success and in failure."""
    caplog.set_level(logging.DEBUG)
    token = str(await exchange.tokens.token())
    clock.advance(300)
    exchange.answers = [REFUSED]
    await exchange.tokens.token()
    assert "access token obtained" in caplog.text
    assert "no access token: unauthorized" in caplog.text
    for text in [repr(exchange.tokens), repr(vars(exchange.tokens)), str(exchange.tokens.held), caplog.text]:
        assert "hidden" not in text
        assert token not in text
