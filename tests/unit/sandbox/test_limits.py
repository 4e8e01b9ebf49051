"""The rate limit and the key exchange, with a clock that only the test moves."""

import base64
import json
from typing import Any

import pytest

from consumer.sandbox import Profile

KEYS = {"access_key": "the-key", "secret_key": "the-secret"}
EXCHANGE = "/v3.3/auth/access_token"


NOW = 1_795_449_600


def _limits(answer: Any) -> tuple[str, str, int]:
    """Limit, remaining requests, seconds until the reset (an epoch in the header)."""
    limit, remaining, reset = (
        answer.headers[f"x-ratelimit-{name}"] for name in ("limit", "remaining", "reset")
    )
    return limit, remaining, int(reset) - NOW


async def test_default_limit_is_told(serve: Any, v3: Any) -> None:
    """The documented 20,000 a minute stand in the headers, the reset as epoch seconds."""
    answer = await (await serve()).post(v3())
    assert _limits(answer) == ("20000", "19999", 60)


async def test_window_of_one_minute(serve: Any, clock: Any, v2: Any, v3: Any) -> None:
    """v2 and v3 share one fixed window, which begins with its first request."""
    client = await serve(rate_limit=2)
    assert _limits(await client.post(v3("one"))) == ("2", "1", 60)
    clock.advance(20.5)
    assert _limits(await client.post(v2("two"), "/v2/journeys")) == ("2", "0", 60)
    answer = await client.post(v3("three"))
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "60"
    assert _limits(answer) == ("2", "0", 60)
    assert answer.json() == {"error": {"code": 429, "message": "Too many requests"}}
    assert "three" not in client.sandbox.journeys
    clock.advance(39.5)
    assert _limits(await client.post(v3("three"))) == ("2", "1", 120)


async def test_2025_counts_after_the_token(serve: Any, v3: Any) -> None:
    """In 2025 a refused token does not count against the limit, a missing one does."""
    client = await serve(rate_limit=2)
    assert (await client.post(v3(), token="wrong")).status_code == 500
    assert (await client.post(v3(), token=None)).status_code == 403
    assert (await client.post(v3())).status_code == 201
    assert (await client.post(v3(), token="wrong")).status_code == 500
    assert (await client.post(v3())).status_code == 429


async def test_2023_counts_before_the_token(serve: Any, v3: Any) -> None:
    """In 2023 a refused token costs a request; the answer tells more of the limit."""
    client = await serve(rate_limit=1, profile=Profile.Y2023)
    answer = await client.post(v3(), "/v3/journeys", token="wrong")
    assert (answer.status_code, _limits(answer)) == (500, ("1", "0", 60))
    answer = await client.post(v3(), "/v3/journeys", token="wrong")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    assert answer.json()["error"] == {
        "code": 429,
        "message": "Too many requests",
        "limit": 1,
        "current": 2,
        "remaining": 0,
        "resetTime": "2026-11-23T16:01:00.000Z",
    }


async def test_refusals_count_too(serve: Any, v3: Any) -> None:
    """A refused payload costs a request like any other."""
    client = await serve(rate_limit=1)
    assert (await client.post(v3(operator_class="D"))).status_code == 400
    assert (await client.post(v3())).status_code == 429


async def test_keys_give_a_token(serve: Any, v3: Any) -> None:
    """The right keys give a token in a JWT's form that registers journeys."""
    client = await serve(**KEYS)
    answer = await client.http.post(EXCHANGE, json=KEYS)
    assert answer.status_code == 201
    assert answer.json().keys() == {"access_token"}
    token = answer.json()["access_token"]
    _, claims, signature = token.split(".")
    assert signature
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["exp"] == 1795449600 + 300
    assert (await client.post(v3(), token=token)).status_code == 201
    assert client.sandbox.journeys["journey-1"].token == "exchanged"


async def test_exchanged_token_lives_five_minutes(serve: Any, clock: Any, v3: Any) -> None:
    """After five minutes, or the lifetime chosen, the token is refused."""
    client = await serve(**KEYS)
    token = (await client.http.post(EXCHANGE, json=KEYS)).json()["access_token"]
    clock.advance(299.9)
    assert (await client.post(v3("one"), token=token)).status_code == 201
    clock.advance(0.1)
    assert (await client.post(v3("two"), token=token)).status_code == 500
    short = await serve(**KEYS, access_token_lifetime_seconds=2)
    token = (await short.http.post(EXCHANGE, json=KEYS)).json()["access_token"]
    clock.advance(2)
    assert (await short.post(v3(), token=token)).status_code == 500


async def test_exchanged_tokens_can_be_forgotten(serve: Any, v3: Any) -> None:
    """When the keys are replaced, the tokens given for them are refused."""
    client = await serve(**KEYS)
    token = (await client.http.post(EXCHANGE, json=KEYS)).json()["access_token"]
    client.sandbox.tokens.revoke_exchanged()
    answer = await client.post(v3(), token=token)
    assert (answer.status_code, answer.json()["error"]["data"]) == (500, "JWKSNoMatchingKey")


@pytest.mark.parametrize("keys", [KEYS | {"access_key": "x"}, KEYS | {"secret_key": "x"}])
async def test_wrong_keys_are_401(serve: Any, keys: Any) -> None:
    """Either key wrong is 401; a sandbox without keys accepts none."""
    assert (await (await serve(**KEYS)).http.post(EXCHANGE, json=keys)).status_code == 401
    assert (await (await serve()).http.post(EXCHANGE, json=KEYS)).status_code == 401


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"access_key": "a", "secret_key": 1}'])
async def test_incomplete_keys_are_400(serve: Any, body: bytes) -> None:
    """Keys that are absent or no strings are 400."""
    assert (await (await serve(**KEYS)).post(body, EXCHANGE)).status_code == 400


async def test_five_exchanges_a_minute(serve: Any, clock: Any, v3: Any) -> None:
    """The sixth exchange within a minute is 429; it has a window of its own."""
    client = await serve(**KEYS)
    remaining = []
    for _ in range(5):
        answer = await client.http.post(EXCHANGE, json=KEYS)
        assert answer.status_code == 201
        remaining.append(_limits(answer))
    assert remaining == [("5", left, 60) for left in "43210"]
    for version in ("v3.3", "v3", "v2"):  # one limit for all
        answer = await client.http.post(f"/{version}/auth/access_token", json=KEYS)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    assert _limits(await client.post(v3())) == ("20000", "19999", 60)
    clock.advance(60)
    assert (await client.http.post(EXCHANGE, json=KEYS)).status_code == 201
