"""Each fault, over real HTTP: what the client sees, and what the sandbox remembers."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from consumer.sandbox import Throttle
from tests.waiting import await_until


async def test_error_rate(serve: Any, v3: Any) -> None:
    """At 1 every answer is 500 and nothing is stored; at 0.5 about half are."""
    client = await serve()
    client.sandbox.faults.error_rate = 1.0
    answer = await client.post(v3())
    assert answer.status_code == 500
    assert answer.json()["error"] == {"code": 500, "message": "Internal Server Error", "data": "Error"}
    assert not client.sandbox.journeys
    client.sandbox.faults.error_rate = 0.5
    statuses = [(await client.post(v3(f"j-{number}"))).status_code for number in range(100)]
    assert set(statuses) == {201, 500}
    assert statuses.count(201) == len(client.sandbox.journeys)


async def test_error_status(serve: Any, v3: Any) -> None:
    """Another status comes with a page, as from a proxy before the Registry."""
    client = await serve()
    client.sandbox.faults.apply({"error_rate": 1, "error_status": 502})
    answer = await client.post(v3())
    assert (answer.status_code, answer.headers["content-type"]) == (502, "text/html; charset=utf-8")


async def test_maintenance(serve: Any, v3: Any) -> None:
    """Maintenance is 503 to everything, and over when it is switched off."""
    client = await serve()
    client.sandbox.faults.maintenance = True
    answer = await client.post(v3(), token="wrong")
    assert (answer.status_code, answer.json()) == (503, {"code": 503, "error": "Service Unavailable"})
    client.sandbox.faults.maintenance = False
    assert (await client.post(v3())).status_code == 201


async def test_latency_stores_first(serve: Any, v3: Any) -> None:
    """The journey is stored when it arrives; a client that gives up finds it there."""
    client = await serve()
    client.sandbox.faults.latency_seconds = 30.0
    with pytest.raises(httpx.ReadTimeout):
        await client.http.post(
            "/v3.3/journeys", json=v3(), headers={"Authorization": "Bearer good"}, timeout=0.2
        )
    assert "journey-1" in client.sandbox.journeys
    client.sandbox.faults.latency_seconds = 0.05
    started = time.monotonic()
    assert (await client.post(v3())).status_code == 409
    assert time.monotonic() - started >= 0.05


async def test_drop_before_read(serve: Any, v3: Any) -> None:
    """The connection is cut and the journey unknown."""
    client = await serve()
    client.sandbox.faults.drop_connection = "before_read"
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)):
        await client.post(v3())
    assert not client.sandbox.journeys
    assert client.sandbox.requests_by_status == {0: 1}


async def test_drop_before_answer(serve: Any, v3: Any) -> None:
    """The connection is cut, the journey registered: sending it again is 409."""
    client = await serve()
    client.sandbox.faults.for_next(1, drop_connection="before_answer")
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post(v3())
    assert client.sandbox.journeys["journey-1"].times_seen == 1
    assert (await client.post(v3())).status_code == 409


async def test_timeout_408_stores(serve: Any, v3: Any) -> None:
    """408 -32408 although the journey was stored; a refused token stays 401."""
    client = await serve()
    client.sandbox.faults.timeout_408 = True
    answer = await client.post(v3())
    assert answer.status_code == 408
    assert answer.json() == {"id": 1, "error": {"code": -32408, "message": "Timeout"}, "jsonrpc": "2.0"}
    assert "journey-1" in client.sandbox.journeys
    assert (await client.post(v3("other"), token="wrong")).status_code == 500
    client.sandbox.faults.clear()
    assert (await client.post(v3())).status_code == 409


@pytest.mark.parametrize(("with_headers", "expected"), [(True, "7"), (False, None)])
async def test_throttle(serve: Any, v3: Any, with_headers: bool, expected: str | None) -> None:  # noqa: FBT001
    """429 on demand, with the headers or without any."""
    client = await serve()
    client.sandbox.faults.throttle = Throttle(7, with_headers=with_headers)
    answer = await client.post(v3())
    assert (answer.status_code, answer.headers.get("retry-after")) == (429, expected)
    assert ("x-ratelimit-reset" in answer.headers) is with_headers
    assert answer.json()["error"]["code"] == 429
    assert not client.sandbox.journeys


async def test_redirect(serve: Any, v3: Any) -> None:
    """A redirect to wherever is asked."""
    client = await serve()
    client.sandbox.faults.redirect = "http://127.0.0.1:9/elsewhere"
    answer = await client.post(v3())
    assert (answer.status_code, answer.headers["location"]) == (308, "http://127.0.0.1:9/elsewhere")


async def test_not_found(serve: Any, v3: Any) -> None:
    """The route does not exist: 404, empty."""
    client = await serve()
    client.sandbox.faults.not_found = True
    answer = await client.post(v3())
    assert (answer.status_code, answer.content) == (404, b"")


async def test_garbage(serve: Any, v3: Any) -> None:
    """A 200 that is not the Registry's: a page, nothing stored."""
    client = await serve()
    client.sandbox.faults.garbage = True
    answer = await client.post(v3())
    assert (answer.status_code, answer.content[:15]) == (200, b"<!DOCTYPE html>")
    assert not client.sandbox.journeys


async def test_huge_answer(serve: Any, v3: Any) -> None:
    """The true answer, padded to the size asked."""
    client = await serve()
    client.sandbox.faults.huge_answer_bytes = 3_000_000
    answer = await client.post(v3())
    assert (answer.status_code, len(answer.content)) == (201, 3_000_000)
    assert answer.json()["result"]["data"]["operator_journey_id"] == "journey-1"
    assert "journey-1" in client.sandbox.journeys


async def test_slow_drip(serve: Any, v3: Any) -> None:
    """The answer begins at once and comes byte by byte: no read timeout catches it."""
    client = await serve()
    client.sandbox.faults.slow_drip_seconds = 0.002
    started = time.monotonic()
    answer = await client.post(v3())
    assert answer.status_code == 201
    assert time.monotonic() - started >= 0.002 * len(answer.content)


async def test_close_idle(serve: Any) -> None:
    """A kept-alive connection is closed after its idle time, without notice; not while in use."""
    client = await serve()
    client.sandbox.faults.close_idle_seconds = 0.1
    host, port = client.sandbox.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = (
        b"POST /v3.3/journeys HTTP/1.1\r\nHost: sandbox\r\nAuthorization: Bearer good\r\n"
        b"Content-Length: 2\r\n\r\n[]"
    )
    for _ in range(2):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"connection: close" not in head.lower()
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_a_client_meets_closed_idle_connections(serve: Any, v3: Any) -> None:
    """Closed at once after each answer, every journey still arrives over new connections."""
    client = await serve()
    client.sandbox.faults.close_idle_seconds = 0.0
    for number in range(3):
        async with httpx.AsyncClient(base_url=client.sandbox.url, trust_env=False) as http:
            client.http, _ = http, await client.http.aclose()
            assert (await client.post(v3(f"j-{number}"))).status_code == 201


async def test_for_the_next_requests_only(serve: Any, v3: Any) -> None:
    """Passing faults take the place of the lasting ones, then the lasting ones apply again."""
    client = await serve()
    client.sandbox.faults.maintenance = True
    client.sandbox.faults.for_next(2, error_rate=1.0)
    statuses = [(await client.post(v3())).status_code for _ in range(3)]
    assert statuses == [500, 500, 503]


@pytest.mark.parametrize(
    "wrong",
    [
        {"no_such_fault": 1},
        {"latency_seconds": -1},
        {"latency_seconds": "1"},
        {"error_rate": 1.5},
        {"error_status": 200},
        {"maintenance": "yes"},
        {"throttle": {"retry_after": 1}},
        {"throttle": True},
        {"drop_connection": "sometimes"},
        {"close_idle_seconds": -0.1},
        {"huge_answer_bytes": 2**40},
        {"redirect": "http://x/\r\nSet-Cookie: a=b"},
        {"terms_violation_labels": "expired"},
    ],
)
async def test_wrong_settings_change_nothing(serve: Any, wrong: dict[str, Any]) -> None:
    """A wrong name or value is refused as a whole."""
    faults = (await serve()).sandbox.faults
    with pytest.raises(ValueError, match=next(iter(wrong))):
        faults.apply({"not_found": True} | wrong)
    assert not faults.not_found
    with pytest.raises(ValueError, match="whole number"):
        faults.apply({"not_found": True}, count=0)
    with pytest.raises(AttributeError):
        faults.no_such_fault = 1  # a typing slip in a test must not pass silently


async def test_most_in_flight(serve: Any, v3: Any) -> None:
    """The sandbox counts the most requests that it was answering at once."""
    client = await serve()
    client.sandbox.faults.latency_seconds = 0.2
    await asyncio.gather(*(client.post(v3(f"j-{number}")) for number in range(7)))
    assert client.sandbox.most_in_flight == 7


async def test_an_outage_keeps_the_memory(serve: Any, v3: Any) -> None:
    """Stopped, it refuses connections; started again, it is at the same address and remembers."""
    client = await serve()
    await client.post(v3())
    url = client.sandbox.url
    await client.sandbox.stop()
    with pytest.raises(httpx.TransportError):
        await client.post(v3())
    with pytest.raises(httpx.ConnectError):
        await client.post(v3())
    await client.sandbox.start()
    assert client.sandbox.url == url
    assert (await client.post(v3())).status_code == 409


async def test_stopping_cuts_what_is_in_flight(serve: Any, v3: Any) -> None:
    """An outage does not wait for answers that are still due."""
    client = await serve()
    client.sandbox.faults.latency_seconds = 30.0
    request = asyncio.create_task(client.post(v3()))
    await await_until(lambda: "journey-1" in client.sandbox.journeys)
    started = time.monotonic()
    await client.sandbox.stop()
    assert time.monotonic() - started < 5
    with pytest.raises(httpx.TransportError):
        await request


async def test_stop_while_answers_become_due_logs_no_error(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers that become due while the sandbox stops, on a loop that is late, are no error of the server."""
    client = await serve()
    sandbox, connections = client.sandbox, []
    host, port = sandbox.url.removeprefix("http://").split(":")
    for number in range(30):
        sandbox.faults.latency_seconds = 0.3 + 0.002 * number
        connections.append(await asyncio.open_connection(host, int(port)))
        connections[-1][1].write(b"GET /x HTTP/1.1\r\nHost: sandbox\r\n\r\n")
        await asyncio.sleep(0.002)
    await await_until(lambda: sandbox._traffic.in_flight + len(sandbox.requests) == 30)
    await await_until(lambda: sandbox.requests)
    stop = asyncio.create_task(sandbox.stop())
    for _ in range(5):
        await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - what a machine under load does to the loop
    await stop
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    assert sum(sandbox.requests_by_status.values()) == 30
    for _, writer in connections:
        writer.close()
