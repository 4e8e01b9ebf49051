"""Every row of the 2025 table, as it arrives over HTTP."""

import json
from typing import Any

import pytest

UNAUTHORIZED = {
    "id": 1,
    "error": {"code": -32501, "message": "Unauthorized Error", "data": "Unauthorized application"},
    "jsonrpc": "2.0",
}
FORBIDDEN = {
    "id": 1,
    "error": {"code": -32503, "message": "Forbidden Error", "data": "Invalid permissions"},
    "jsonrpc": "2.0",
}


@pytest.mark.parametrize("path", ["/v3/journeys", "/v3.2/journeys", "/v3.3/journeys"])
async def test_v3_is_accepted_with_201(serve: Any, v3: Any, path: str) -> None:
    """An accepted v3 journey is 201 with its id and created_at under ``result``."""
    answer = await (await serve()).post(v3(), path)
    assert answer.status_code == 201
    assert answer.json() == {
        "id": 1,
        "jsonrpc": "2.0",
        "result": {"operator_journey_id": "journey-1", "created_at": "2026-11-23T16:00:00.000Z"},
    }
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


async def test_v2_is_accepted_with_201(serve: Any, v2: Any) -> None:
    """An accepted v2 journey is 201 with its id and created_at at the root."""
    answer = await (await serve()).post(v2(), "/v2/journeys")
    assert answer.status_code == 201
    assert answer.json() == {"journey_id": "journey-1", "created_at": "2026-11-23T16:00:00.000Z"}


async def test_same_id_again_is_409(serve: Any, clock: Any, v3: Any) -> None:
    """The same id again is a conflict that names the time of registration, with any payload."""
    client = await serve()
    await client.post(v3())
    clock.advance(60)
    answer = await client.post(v3(distance=30_000))
    assert answer.status_code == 409
    assert answer.json() == {
        "id": 1,
        "error": {"code": -32509, "message": "Carpool already registered at 2026-11-23T16:00:00.000Z"},
        "jsonrpc": "2.0",
    }
    stored = client.sandbox.journeys["journey-1"]
    assert (stored.times_seen, stored.sha256 == stored.last_sha256) == (2, False)


@pytest.mark.parametrize("path", ["/v2/journeys", "/v3.3/journeys"])
async def test_invalid_payload_is_400_with_a_list(serve: Any, v2: Any, v3: Any, path: str) -> None:
    """A refused payload is 400 with a list of path and message, and is not remembered."""
    client = await serve()
    make = v2 if path == "/v2/journeys" else v3
    answer = await client.post(make(operator_class="D"), path)
    assert answer.status_code == 400
    body = answer.json()
    assert (body["error"]["code"], body["error"]["message"]) == (-32602, "Invalid params")
    [detail] = body["error"]["data"]
    assert detail.startswith("/operator_class: ")
    assert not client.sandbox.journeys


async def test_invalid_payload_leaves_the_registered_journey_alone(serve: Any, v3: Any) -> None:
    """In 2025 a refused payload does no harm to the journey of that id."""
    client = await serve()
    await client.post(v3())
    await client.post(v3(operator_class="D"))
    assert client.sandbox.journeys["journey-1"].status == "pending"


@pytest.mark.parametrize("body", [b"[]", b"{}", b"", b"7", b'"text"', b"null"])
async def test_no_id_or_no_object_is_400(serve: Any, body: bytes) -> None:
    """A body without a journey id, or that is no object, is 400."""
    answer = await (await serve()).post(body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32602


async def test_no_phone_is_400_invalid_request(serve: Any, v3: Any) -> None:
    """A v3 person with neither phone nor phone_trunc is the one refusal of code -32600."""
    payload = v3()
    del payload["driver"]["identity"]["phone"]
    answer = await (await serve()).post(payload)
    assert answer.status_code == 400
    assert answer.json()["error"] == {"code": -32600, "message": "Invalid Request"}


@pytest.mark.parametrize(
    ("start", "end"),
    [("14:00:00", "16:00:01"), ("15:30:00", "15:00:00")],
    ids=["ends in the future", "starts after its end"],
)
async def test_future_is_422_parse_error(serve: Any, v3: Any, start: str, end: str) -> None:
    """A journey that ends in the future, or starts after its end, is 422 -32700."""
    payload = v3()
    payload["start"]["datetime"] = f"2026-11-23T{start}Z"
    payload["end"]["datetime"] = f"2026-11-23T{end}Z"
    answer = await (await serve()).post(payload)
    assert answer.status_code == 422
    assert answer.json() == {
        "id": 1,
        "error": {"code": -32700, "message": "Parse error", "data": "Journeys cannot happen in the future"},
        "jsonrpc": "2.0",
    }


@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", "Bearer a.b.c", "bearer good", "Bearer", "good"]
)
async def test_unusable_tokens_are_401(serve: Any, v2: Any, v3: Any, authorization: str | None) -> None:
    """A missing, unknown or malformed token is 401: JSON-RPC in v3, a plain pair in v2."""
    client = await serve()
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = await client.http.post("/v3.3/journeys", json=v3(), headers=headers)
    assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED)
    answer = await client.http.post("/v2/journeys", json=v2(), headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"code": 401, "error": "Unauthorized"})
    assert not client.sandbox.journeys


async def test_revoked_token_is_401_until_accepted_again(serve: Any, v3: Any) -> None:
    """Revoking and accepting a token takes effect at once."""
    client = await serve()
    client.sandbox.revoke("good")
    answer = await client.post(v3())
    assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED)
    client.sandbox.accept("good")
    assert (await client.post(v3())).status_code == 201


async def test_claimless_token_is_403(serve: Any, v2: Any, v3: Any) -> None:
    """A token that is signed but lacks its claims is 403."""
    client = await serve(claimless=["bare"])
    answer = await client.post(v3(), token="bare")
    assert (answer.status_code, answer.json()) == (403, FORBIDDEN)
    answer = await client.post(v2(), "/v2/journeys", token="bare")
    assert (answer.status_code, answer.json()) == (403, {"code": 403, "error": "Forbidden"})


@pytest.mark.parametrize("operator_id", [2, None, "1", True, 1.5])
async def test_foreign_operator_id_is_403(serve: Any, v3: Any, operator_id: Any) -> None:
    """An ``operator_id`` in the body that is not the token's own is 403."""
    answer = await (await serve()).post(v3(operator_id=operator_id))
    assert (answer.status_code, answer.json()) == (403, FORBIDDEN)


async def test_own_operator_id_is_accepted(serve: Any, v3: Any) -> None:
    """The token's own ``operator_id`` may stand in the body."""
    assert (await (await serve(operator_id=42)).post(v3(operator_id=42))).status_code == 201


@pytest.mark.parametrize("body", [b"{", b'{"a": NaN}', b'{"a": "\xff"}', b"[" * 100_000])
async def test_malformed_json_is_400(serve: Any, body: bytes) -> None:
    """What is not JSON is 400 with the parser's name, and quotes nothing."""
    answer = await (await serve()).post(body)
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "code": 400,
        "message": "Unexpected token in JSON",
        "data": "SyntaxError",
    }


async def test_over_two_megabytes_is_413(serve: Any, v3: Any) -> None:
    """2 MB pass, one byte more does not."""
    client = await serve()
    body = json.dumps(v3()).encode()
    answer = await client.post(body.ljust(2 * 1024 * 1024))
    assert answer.status_code == 201
    answer = await client.post(body.ljust(2 * 1024 * 1024 + 1))
    assert answer.status_code == 413
    assert answer.json()["error"]["data"] == "PayloadTooLargeError"


@pytest.mark.parametrize(
    "path", ["/v4/journeys", "/v3.1/journeys", "/foo/journeys", "/v3/nothing", "/", "/v3.2/auth/access_token"]
)
async def test_unknown_route_or_version_is_an_empty_404(serve: Any, v3: Any, path: str) -> None:
    """What is not served is 404 with an empty body."""
    answer = await (await serve()).post(v3(), path)
    assert (answer.status_code, answer.content) == (404, b"")


async def test_other_methods_are_not_served(serve: Any) -> None:
    """Only POST registers."""
    client = await serve()
    answer = await client.http.get("/v3.3/journeys", headers={"Authorization": "Bearer good"})
    assert (answer.status_code, answer.content) == (404, b"")
