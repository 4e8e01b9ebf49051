"""The control routes and the log: what they show, what they set, what they never show."""

import asyncio
import hashlib
import json
import logging
from typing import Any

import pytest

from consumer.sandbox.answers import TABLES, Case, Profile


async def test_state(serve: Any, v3: Any) -> None:
    """The state shows journeys, requests, tokens by name and faults; never a token."""
    client = await serve(tokens=["good", "also-good"])
    await client.post(v3())
    await client.post(v3(), token="wrong")
    client.sandbox.revoke("also-good")
    answer = await client.control("state")
    state = answer.json()
    assert state["profile"] == "2025"
    assert state["now"] == "2026-11-23T16:00:00+00:00"
    assert state["journeys"] == {
        "registered": 1,
        "violating": 0,
        "by_status": {"pending": 1},
        "by_id": {"journey-1": "pending"},
    }
    requests = state["requests"]
    assert (requests["total"], requests["by_status"]) == (2, {"201": 1, "500": 1})
    assert (requests["in_flight"], requests["most_in_flight"]) == (0, 1)
    first, second = requests["recent"]
    assert first.pop("time") <= second.pop("time")
    assert first == {
        "method": "POST",
        "path": "/v3.3/journeys",
        "status": 201,
        "token": "token-1",
        "journey_id": "journey-1",
    }
    assert second["token"] == "unknown"
    assert state["tokens"] == {"token-1": "accepted", "token-2": "revoked"}
    assert state["faults"]["maintenance"] is False
    assert "good" not in answer.text


async def test_journeys(serve: Any, v3: Any) -> None:
    """Remembered journeys are listed by id, with the digest of their exact bytes."""
    client = await serve()
    body = json.dumps(v3(), indent=3).encode()
    await client.post(body)
    await client.post(v3("other"))
    await client.post(body + b" ")
    [listed] = (await client.control("journeys?journey_id=journey-1")).json()["journeys"]
    assert listed == {
        "journey_id": "journey-1",
        "api_version": "v3.3",
        "created_at": "2026-11-23T16:00:00.000Z",
        "sha256": hashlib.sha256(body).hexdigest(),
        "last_sha256": hashlib.sha256(body + b" ").hexdigest(),
        "token": "token-1",
        "status": "pending",
        "times_seen": 2,
        "labels": [],
        "conflicting_journey_id": None,
    }
    listed = (await client.control("journeys")).json()["journeys"]
    assert [each["journey_id"] for each in listed] == ["journey-1", "other"]


async def test_marking_a_journey(serve: Any, v3: Any) -> None:
    """A journey can be marked as processed; what is not there or no status is refused."""
    client = await serve()
    await client.post(v3())
    answer = await client.control("journeys", {"journey_id": "journey-1", "status": "processed"})
    assert answer.status_code == 200
    assert client.sandbox.journeys["journey-1"].status == "processed"
    for wrong in (
        {"journey_id": "other", "status": "processed"},
        {"journey_id": "journey-1", "status": "lost"},
        {"journey_id": "journey-1"},
        {"journey_id": "journey-1", "status": 1},
        {"journey_id": "journey-1", "status": "ok", "labels": "label"},
        {"journey_id": "journey-1", "status": "ok", "labels": [1]},
        {"journey_id": "journey-1", "status": "ok", "conflicting_journey_id": 1},
        {"journey_id": "journey-1", "status": "ok", "surprise": 1},
        [],
    ):
        assert (await client.control("journeys", wrong)).status_code == 400


async def test_faults_by_route(serve: Any, v3: Any) -> None:
    """The faults of the route are those of the object; ``count`` limits them to the next requests."""
    client = await serve()
    answer = await client.control("faults", {"error_rate": 1, "error_status": 503, "count": 1})
    assert answer.status_code == 200
    assert answer.json()["faults"]["passing_count"] == 1
    assert (await client.post(v3())).status_code == 503
    assert (await client.post(v3())).status_code == 201
    await client.control("faults", {"throttle": {"retry_after_seconds": 3, "with_headers": True}})
    assert (await client.post(v3())).headers["retry-after"] == "3"
    assert (await client.control("faults")).json()["faults"]["throttle"] == {
        "retry_after_seconds": 3,
        "with_headers": True,
    }


async def test_tokens_by_route(serve: Any, v3: Any) -> None:
    """Tokens are revoked by value or name, added, or revoked as a whole list."""
    client = await serve(tokens=["good", "also-good"])
    await client.control("faults", {"revoke_token": "good"})
    assert (await client.post(v3())).status_code == 401
    await client.control("faults", {"add_token": "new", "revoke_token": "token-2"})
    assert (await client.post(v3("a"), token="also-good")).status_code == 401
    assert (await client.post(v3("b"), token="new")).status_code == 201
    await client.control("faults", {"revoked_tokens": ["new"]})
    assert (await client.post(v3("c"), token="new")).status_code == 401
    assert (await client.post(v3("d"))).status_code == 201
    await client.control("faults", {"revoked_tokens": []})
    assert (await client.post(v3("e"), token="new")).status_code == 201


@pytest.mark.parametrize(
    "wrong",
    [
        {"no_such_fault": 1},
        {"count": 1.5},
        {"error_rate": 1, "count": "2"},
        {"revoke_token": "unknown-token"},
        {"revoked_tokens": "good"},
        {"revoked_tokens": ["unknown-token"]},
        {"add_token": 7},
        [],
        "text",
    ],
)
async def test_wrong_settings_are_400(serve: Any, v3: Any, wrong: Any) -> None:
    """A wrong setting is named in the answer, quotes no token, and changes nothing."""
    client = await serve()
    answer = await client.control("faults", wrong)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert "unknown-token" not in answer.text
    assert (await client.post(v3())).status_code == 201


async def test_a_wrong_token_leaves_the_faults_alone(serve: Any) -> None:
    """One mistake in a request refuses all of it."""
    client = await serve()
    answer = await client.control("faults", {"maintenance": True, "revoke_token": "unknown-token"})
    assert answer.status_code == 400
    assert client.sandbox.faults.maintenance is False


async def test_control_answers_during_faults_and_counts_nothing(serve: Any) -> None:
    """Faults do not affect the control routes, and control requests are not counted."""
    client = await serve()
    await client.control("faults", {"drop_connection": "before_read", "maintenance": True})
    assert (await client.control("state")).json()["requests"]["total"] == 0
    assert (await client.control("nothing")).status_code == 404
    assert (await client.http.post("/_sandbox/faults", content=b"{")).status_code == 400


async def test_reset(serve: Any, v3: Any) -> None:
    """After a reset everything is as at the start."""
    client = await serve(rate_limit=3)
    await client.post(v3())
    await client.control("faults", {"maintenance": True, "revoke_token": "good", "add_token": "new"})
    await client.post(v3())
    assert (await client.control("reset", {})).status_code == 200
    state = (await client.control("state")).json()
    assert (state["journeys"]["registered"], state["requests"]["total"]) == (0, 0)
    assert state["tokens"] == {"token-1": "accepted"}
    answer = await client.post(v3())
    assert (answer.status_code, answer.headers["x-ratelimit-remaining"]) == (201, "2")


async def test_log_lines(serve: Any, v3: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each request, with the id; no value of the body, no token, no control request."""
    client = await serve()
    with caplog.at_level(logging.INFO, "consumer.sandbox"):
        await client.post(v3())
        await client.post(v3("two\nlines" + "x" * 100, operator_class="D"))
        await client.post(b"{", token="secret-token")
        await client.http.post("/a%0Ab?phone=+33612345678")
        await client.control("state")
    assert [record.getMessage() for record in caplog.records] == [
        "POST /v3.3/journeys 201 journey-1",
        "POST /v3.3/journeys 400 two\\nlines" + "x" * 55,
        "POST /v3.3/journeys 500 -",
        "POST /a\\nb 404 -",
    ]


def test_tables_are_complete() -> None:
    """Every table answers every case, but for the rows that its server did not know."""
    later = {
        Case.NO_PHONE,
        Case.UNSTORABLE,
        Case.CHARSET_UNKNOWN,
        Case.JOURNEY_UNKNOWN,
        Case.KEYS_ACCEPTED,
        Case.KEYS_REFUSED,
        Case.KEYS_INCOMPLETE,
    }
    earlier = {Case.NO_JOURNEY_ID, Case.NOT_A_VERSION}
    for (profile, _), table in TABLES.items():
        assert set(Case) - set(table) == (later if profile is Profile.Y2023 else earlier)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GARBAGE +33612345678 HTTP\r\n\r\n",
        b"POST /v2/journeys HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n+33612345678\r\n\r\n",
        b"POST /v2/journeys HTTP/1.1\r\nContent-Length: 12\r\nContent-Encoding: gzip\r\n\r\n+33612345678",
        b"POST /v2/journeys HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n+33612345678",
    ],
    ids=["no HTTP", "bad chunk", "bad encoding", "cut short"],
)
async def test_broken_requests_leave_no_value_in_the_log(
    serve: Any, caplog: pytest.LogCaptureFixture, request_bytes: bytes
) -> None:
    """What a broken request holds is not quoted, and nothing hangs on it."""
    client = await serve()
    host, port = client.sandbox.url.removeprefix("http://").split(":")
    with caplog.at_level(logging.DEBUG):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request_bytes)
        writer.write_eof()
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer == b"" or b" 400 " in answer.splitlines()[0]
    assert (await client.control("state")).json()["requests"]["in_flight"] == 0
    assert "+33612345678" not in caplog.text
    assert "Traceback" not in caplog.text
