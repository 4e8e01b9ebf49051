"""Every row of the 2023 table, as captured, as it arrives over HTTP."""

import json
from typing import Any

import pytest

from consumer.sandbox import JourneyStatus, Profile

FORBIDDEN = {
    "id": 1,
    "error": {"code": -32503, "message": "Forbidden Error", "data": "Invalid permissions"},
    "jsonrpc": "2.0",
}


@pytest.fixture
async def client(serve: Any) -> Any:
    """A sandbox of the 2023 profile."""
    return await serve(profile=Profile.Y2023, claimless=["bare"])


async def test_v2_is_accepted_with_200(client: Any, v2: Any) -> None:
    """An accepted v2 journey is 200, its result nested two deep."""
    answer = await client.post(v2(), "/v2/journeys")
    assert answer.status_code == 200
    assert answer.json() == {
        "id": 1,
        "result": {
            "meta": None,
            "data": {"journey_id": "journey-1", "created_at": "2026-11-23T16:00:00.000Z"},
        },
        "jsonrpc": "2.0",
    }


async def test_v3_is_accepted_with_200(client: Any, v3: Any) -> None:
    """An accepted v3 journey is called ``operator_journey_id``."""
    answer = await client.post(v3(), "/v3/journeys")
    assert answer.status_code == 200
    assert answer.json()["result"]["data"] == {
        "operator_journey_id": "journey-1",
        "created_at": "2026-11-23T16:00:00.000Z",
    }


async def test_pending_id_again_is_200_and_overwritten(client: Any, clock: Any, v2: Any) -> None:
    """While pending, the same id is 200 again, keeps its created_at, and the payload is replaced."""
    first = await client.post(v2(), "/v2/journeys")
    before = client.sandbox.journeys["journey-1"].sha256
    clock.advance(60)
    again = await client.post(v2(operator_class="B"), "/v2/journeys")
    assert (again.status_code, again.json()) == (200, first.json())
    stored = client.sandbox.journeys["journey-1"]
    assert (stored.times_seen, stored.sha256 == before) == (2, False)


@pytest.mark.parametrize("status", ["processed", "canceled"])
async def test_processed_id_again_is_409(client: Any, v2: Any, status: str) -> None:
    """Once processed or cancelled, the same id is a conflict."""
    await client.post(v2(), "/v2/journeys")
    client.sandbox.journeys["journey-1"].status = JourneyStatus(status)
    answer = await client.post(v2(), "/v2/journeys")
    assert answer.status_code == 409
    assert answer.json() == {
        "id": 1,
        "error": {"data": "Journey already registered", "code": -32509, "message": "Conflict"},
        "jsonrpc": "2.0",
    }
    assert client.sandbox.journeys["journey-1"].status == status


async def test_invalid_payload_is_500(client: Any, v2: Any) -> None:
    """A refused payload is 500 -32000 with the validator's text."""
    answer = await client.post(v2(operator_class="D"), "/v2/journeys")
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == (-32000, "Server error")
    assert error["data"].startswith("data/operator_class ")


async def test_invalid_payload_destroys_the_pending_journey(client: Any, v2: Any) -> None:
    """A refused payload turns the accepted journey of its id into an acquisition error."""
    await client.post(v2(), "/v2/journeys")
    answer = await client.post(v2(operator_class="D"), "/v2/journeys")
    assert answer.status_code == 500
    assert client.sandbox.journeys["journey-1"].status == "acquisition_error"


async def test_invalid_payload_spares_the_processed_journey(client: Any, v2: Any) -> None:
    """A processed journey can no longer be destroyed."""
    await client.post(v2(), "/v2/journeys")
    client.sandbox.journeys["journey-1"].status = JourneyStatus.PROCESSED
    await client.post(v2(operator_class="D"), "/v2/journeys")
    assert client.sandbox.journeys["journey-1"].status == "processed"


@pytest.mark.parametrize("body", [b"{}", b"", b"[]", b'{"journey_id": null}'])
async def test_no_id_violates_the_not_null_constraint(client: Any, body: bytes) -> None:
    """Without a journey id the answer is the database's own message."""
    answer = await client.post(body, "/v2/journeys")
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "code": -32000,
        "message": "Server error",
        "data": 'null value in column "journey_id" of relation "acquisitions" violates not-null constraint',
    }


async def test_no_phone_is_accepted(client: Any, v3: Any) -> None:
    """The 2023 server asks for no phone in v3."""
    payload = v3()
    del payload["passenger"]["identity"]["phone"]
    assert (await client.post(payload, "/v3/journeys")).status_code == 200
    assert "journey-1" in client.sandbox.journeys


async def test_future_is_422(client: Any, v3: Any) -> None:
    """A journey that ends in the future is 422 -32700."""
    payload = v3()
    payload["end"]["datetime"] = "2026-11-23T16:00:01Z"
    answer = await client.post(payload, "/v3/journeys")
    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "code": -32700,
        "message": "Parse error",
        "data": "Journeys cannot happen in the future",
    }


async def test_there_are_no_terms_of_use(client: Any, clock: Any, v3: Any) -> None:
    """Late and short journeys are accepted."""
    clock.advance(30 * 3600)
    assert (await client.post(v3(distance=10), "/v3/journeys")).status_code == 200


async def test_missing_token_is_403(client: Any, v2: Any) -> None:
    """Without a token the answer is 403, not 401."""
    answer = await client.post(v2(), "/v2/journeys", token=None)
    assert (answer.status_code, answer.json()) == (403, FORBIDDEN)


async def test_revoked_token_is_401(client: Any, v2: Any) -> None:
    """A revoked token is 401 in the error handler's form."""
    client.sandbox.revoke("good")
    answer = await client.post(v2(), "/v2/journeys")
    assert answer.status_code == 401
    assert answer.json() == {
        "id": 1,
        "jsonrpc": "2.0",
        "error": {"code": 401, "data": "Error", "message": "Unauthorized Error"},
    }


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        ("Bearer wrong", "jwt malformed"),
        ("bearer good", "jwt malformed"),
        ("Bearer", "jwt malformed"),
        ("Bearer @@.b.c", "invalid token"),
        ("Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "invalid signature"),
        ("Bearer eyJhbGciOiJIUzI1NiJ9.e30.", "jwt signature is required"),
    ],
)
async def test_unusable_tokens_are_500(client: Any, v2: Any, authorization: str, message: str) -> None:
    """An unusable token is a 500; only its body differs from an outage."""
    answer = await client.http.post("/v2/journeys", json=v2(), headers={"Authorization": authorization})
    assert answer.status_code == 500
    assert answer.json() == {
        "id": 1,
        "jsonrpc": "2.0",
        "error": {"code": 500, "data": "JsonWebTokenError", "message": message},
    }


async def test_claimless_token_and_foreign_operator_are_403(client: Any, v2: Any) -> None:
    """A token without claims, and another operator's id, are 403."""
    answer = await client.post(v2(), "/v2/journeys", token="bare")
    assert (answer.status_code, answer.json()) == (403, FORBIDDEN)
    answer = await client.post(v2(operator_id=2), "/v2/journeys")
    assert (answer.status_code, answer.json()) == (403, FORBIDDEN)


async def test_malformed_json_and_too_large_are_500(client: Any, v2: Any) -> None:
    """The body parser's errors are 500, and named; the limiter has not seen them."""
    answer = await client.post(b"{", "/v2/journeys")
    assert (answer.status_code, answer.json()["error"]["data"]) == (500, "SyntaxError")
    assert "x-ratelimit-limit" not in answer.headers
    answer = await client.post(json.dumps(v2()).encode().ljust(2 * 1024 * 1024 + 1), "/v2/journeys")
    assert (answer.status_code, answer.json()["error"]["data"]) == (500, "PayloadTooLargeError")


@pytest.mark.parametrize("path", ["/v2/nothing", "/nothing", "/"])
async def test_unknown_route_is_an_html_404(client: Any, v2: Any, path: str) -> None:
    """An unknown route is a page."""
    answer = await client.post(v2(), path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")


async def test_unknown_versions(client: Any, v2: Any) -> None:
    """A version that is not served is 500 and named; what is no version is 422."""
    answer = await client.post(v2(), "/v4/journeys")
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "Unknown api version v4")
    assert (await client.post(v2(), "/foo/journeys")).status_code == 422


async def test_keys_are_not_exchanged(client: Any) -> None:
    """The key exchange came later."""
    answer = await client.http.post("/v3/auth/access_token", json={"access_key": "a", "secret_key": "b"})
    assert answer.status_code == 404
