"""The Registry edge over transports that never touch the network."""

import asyncio
import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from consumer.core.reply import Fault, FaultKind, Reply
from consumer.errors import ConfigurationError
from consumer.registry.client import MAX_BODY_BYTES, RegistryClient

TOKEN = "token-that-must-stay-secret"


def registry(transport: httpx.AsyncBaseTransport | None = None, **changes: object) -> RegistryClient:
    """A Registry on a transport of the test's own."""
    settings: dict[str, object] = {
        "url": "http://localhost:1/",
        "api_version": "v3",
        "timeout_seconds": 0.2,
        "concurrency": 2,
        "transport": transport,
    }
    return RegistryClient(**{**settings, **changes})  # type: ignore[arg-type]


class Trickle(httpx.AsyncByteStream):
    """A body that never ends, and tells whether it was closed."""

    def __init__(self, chunk: bytes, delay_seconds: float = 0.0) -> None:
        self.chunk, self.delay_seconds, self.closed = chunk, delay_seconds, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield without end."""
        while True:
            await asyncio.sleep(self.delay_seconds)
            yield self.chunk

    async def aclose(self) -> None:
        """Remember it."""
        self.closed = True


async def test_a_journey_is_posted_as_the_contract_says() -> None:
    """Route, headers and body are the contract's, byte for byte, and the token follows its changes."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, headers={"X-RateLimit-Remaining": "3"}, content=b"{}")

    client = registry(httpx.MockTransport(answer))
    body = b'{ "journey_id" : "1" }\n'
    reply = await client.post_journey(body, "one")
    await client.post_journey(b"{}", "two")
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body, reply.headers["x-ratelimit-remaining"]) == (201, b"{}", "3")
    assert (seen[0].method, str(seen[0].url)) == ("POST", "http://localhost:1/v3/journeys")
    assert seen[0].content == body
    assert [request.headers["authorization"] for request in seen] == ["Bearer one", "Bearer two"]
    assert seen[0].headers["content-type"] == "application/json"
    assert seen[0].headers["accept-encoding"] == "identity"
    assert seen[0].headers["user-agent"].startswith("journey-consumer/")


async def test_keys_are_exchanged_on_the_route_of_v33_without_a_token() -> None:
    """Whatever the version of the journeys, the keys go to v3.3, and no bearer token goes with them."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, content=b"{}")

    client = registry(httpx.MockTransport(answer))
    await client.post_journey(b"{}", TOKEN)
    await client.post_access_token("access", 'sec"ret')
    assert str(seen[1].url) == "http://localhost:1/v3.3/auth/access_token"
    assert seen[1].content == b'{"access_key": "access", "secret_key": "sec\\"ret"}'
    assert "authorization" not in seen[1].headers


async def test_a_journey_is_asked_for_by_its_id_with_the_token() -> None:
    """Whatever the id holds, it is one part of the path."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(404, content=b'{"error":{"code":-32504}}')

    client = registry(httpx.MockTransport(answer))
    found = await client.get_journey("a/../b?c#d é", TOKEN)
    assert isinstance(found, Reply)
    assert found.status == 404
    assert seen[0].method == "GET"
    assert seen[0].url.raw_path.endswith(b"/journeys/a%2F..%2Fb%3Fc%23d%20%C3%A9")
    assert seen[0].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(("status", "told"), [(201, False), (400, True), (503, True)])
async def test_an_endless_answer_is_cut(status: int, told: bool) -> None:  # noqa: FBT001
    """Past the bound a success is not believed and an error keeps its status; both are closed."""
    body = Trickle(b"x" * 10_000)
    client = registry(httpx.MockTransport(lambda _: httpx.Response(status, stream=body)))
    found = await client.post_journey(b"{}", TOKEN)
    if told:
        assert found == Reply(status, {}, b"x" * MAX_BODY_BYTES)
    else:
        assert found == Fault(FaultKind.TOO_LARGE)
    assert body.closed


async def test_a_body_of_exactly_the_bound_is_whole() -> None:
    """The bound itself is allowed."""
    content = b"x" * MAX_BODY_BYTES
    client = registry(httpx.MockTransport(lambda _: httpx.Response(200, content=content)))
    found = await client.post_journey(b"{}", TOKEN)
    assert isinstance(found, Reply)
    assert found.body == content


async def test_the_deadline_is_total_for_any_transport() -> None:
    """A body that drips without end ends as a timeout, and is closed."""
    body = Trickle(b"x", delay_seconds=0.01)
    client = registry(httpx.MockTransport(lambda _: httpx.Response(200, stream=body)))
    assert await client.post_journey(b"{}", TOKEN) == Fault(FaultKind.TIMEOUT, "TimeoutError")
    assert body.closed


async def test_a_mistake_of_ours_is_not_taken_for_the_network() -> None:
    """An exception that no HTTP library raises goes up instead of being counted as an outage."""

    def broken(_: httpx.Request) -> httpx.Response:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await registry(httpx.MockTransport(broken)).post_journey(b"{}", TOKEN)


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "ftp://localhost", "http://", "http://user:hidden@localhost", "http://localhost?a=1",
     "http://[::1", "http://localhost:99999"],
)  # fmt: skip
def test_an_unusable_url_is_refused_without_being_quoted(url: str) -> None:
    """What cannot be an origin stops the start; a password in it is not shown."""
    with pytest.raises(ConfigurationError) as caught:
        registry(url=url)
    assert "hidden" not in str(caught.value)


def test_an_unusable_proxy_is_refused_without_being_quoted() -> None:
    """A proxy's URL may hold a password."""
    with pytest.raises(ConfigurationError) as caught:
        registry(proxy="ftp://user:hidden@proxy")
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_the_token_shows_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the objects' representations, nor the fault, nor the log quote the token."""
    caplog.set_level(logging.DEBUG)
    client = registry()
    found = await client.post_journey(b"{}", TOKEN)
    bad = await client.post_journey(b"{}", TOKEN + "\nX-Injected: 1")
    await client.aclose()
    assert isinstance(found, Fault)
    assert bad == Fault(FaultKind.OTHER, "LocalProtocolError")
    shown = [client, vars(client), vars(client._transport), vars(client._direct), found, bad, caplog.text]
    assert not [text for text in map(repr, shown) if TOKEN in text]


@pytest.mark.parametrize(
    ("journey_id", "path"), [("..", b"%2E%2E"), (".", b"%2E"), ("a.b", b"a.b"), ("\ud800", b"%ED%A0%80")]
)
async def test_no_id_leads_to_another_route_or_raises(journey_id: str, path: bytes) -> None:
    """Dots alone would be resolved, and a lone surrogate has no bytes of its own."""
    seen: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path)
        return httpx.Response(404)

    assert isinstance(await registry(httpx.MockTransport(answer)).get_journey(journey_id, TOKEN), Reply)
    assert seen[0].rpartition(b"/")[2] == path
