"""The answers of the 2025 server, replayed: request by request, as its run on real parts was captured.

``ANY`` stands for what differs from run to run. Each row has a fresh sandbox without v2.
"""

import base64
import json
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest.mock import ANY

import pytest

from consumer.sandbox.versions import is_served

KEYS = {"access_key": "the-key", "secret_key": "the-secret"}
EXCHANGE = "/v3.3/auth/access_token"
PAGE, EMPTY = "a page", "empty"
OPERATOR_ID_MISSING = [": must have required property 'operator_journey_id'"]


def error(code: int, message: str, data: Any = None) -> dict[str, Any]:
    """A JSON-RPC error."""
    optional = {} if data is None else {"data": data}
    return {"id": 1, "jsonrpc": "2.0", "error": {"code": code, "message": message, **optional}}


def params(*data: str) -> dict[str, Any]:
    """The validator's refusal."""
    return error(-32602, "Invalid params", list(data))


def jwt(algorithm: str) -> str:
    """A token in the form of a JWT that nobody signed."""
    header = json.dumps({"alg": algorithm}).encode()
    return f"{base64.urlsafe_b64encode(header).decode().rstrip('=')}.e30.c2lnbmF0dXJl"


ACCEPTED = {
    "id": 1,
    "jsonrpc": "2.0",
    "result": {"meta": None, "data": {"operator_journey_id": "journey-1", "created_at": ANY}},
}
CONFLICT = error(
    -32509,
    "Conflict",
    "Carpool already registered at Mon Nov 23 2026 16:00:00 GMT+0000 (Coordinated Universal Time)",
)
NOT_AN_OBJECT = params(*OPERATOR_ID_MISSING)
FORBIDDEN = error(-32503, "Forbidden Error", "Invalid permissions")
INCENTIVE = {"index": 0, "siret": "20003019500115", "amount": 100}


def syntax(message: str) -> dict[str, Any]:
    """The body parser's refusal."""
    return error(500, message, "SyntaxError")


def database(message: str) -> dict[str, Any]:
    """What the database says, without code and data."""
    return {"id": 1, "jsonrpc": "2.0", "error": {"message": message}}


@dataclass(frozen=True)
class Row:
    """A request, and status, body and rate limit of the answer.

    The body is a valid journey with ``changes``, unless ``content`` is given; ``before`` is sent first.
    """

    name: str
    status: int
    answer: Any
    method: str = "POST"
    path: str = "/v3.3/journeys"
    changes: dict[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    content_type: str | None = "application/json"
    authorization: str | None = "Bearer good"
    before: "Row | None" = None
    times: int = 1
    limited: Literal["20000", "2000", "5", "no"] = "20000"
    """Which limit the headers tell of."""


SHORT = Row("short", 422, ANY, changes={"distance": 1_999})
EXPIRED = Row(
    "expired", 422, ANY, changes={"start": {"datetime": "2026-11-22T15:59:59Z", "lat": 1, "lon": 1}}
)
ROWS = [
    Row("valid v3.3", 201, ACCEPTED),
    Row("valid v3.2", 201, ACCEPTED, path="/v3.2/journeys"),
    Row("valid v3", 201, ACCEPTED, path="/v3/journeys"),
    Row("a patch version", 201, ACCEPTED, path="/v3.3.0/journeys"),
    Row("no v", 201, ACCEPTED, path="/3.3/journeys"),
    Row("v3.x", 201, ACCEPTED, path="/v3.x/journeys"),
    Row("a caret", 201, ACCEPTED, path="/^3/journeys"),
    Row("v2", 404, EMPTY, path="/v2/journeys"),
    Row("v3.1", 404, EMPTY, path="/v3.1/journeys"),
    Row("no version at all", 404, EMPTY, path="/foo/journeys"),
    Row("again", 409, CONFLICT, before=Row("first", 201, ANY)),
    Row("again after an expired one", 409, CONFLICT, before=EXPIRED),
    Row("again after a short one", 409, CONFLICT, before=SHORT),
    Row(
        "short",
        422,
        error(-32422, "Unprocessable Request", {"terms_violation_labels": ["distance_too_short"]}),
        changes={"distance": 1_999},
    ),
    Row("exactly 2000 metres", 201, ACCEPTED, changes={"distance": 2_000}),
    Row("an empty object", 400, NOT_AN_OBJECT, content=b"{}"),
    Row("an empty list", 400, NOT_AN_OBJECT, content=b"[]"),
    Row("a list of one", 400, NOT_AN_OBJECT, content=b'[{"operator_journey_id": "x"}]'),
    Row(
        "null",
        500,
        syntax("""Unexpected token 'n', "null" is not valid JSON"""),
        content=b"null",
        limited="no",
    ),
    Row(
        "a text",
        500,
        syntax("""Unexpected token '"', ""x"" is not valid JSON"""),
        content=b'"x"',
        limited="no",
    ),
    Row("cut JSON", 500, syntax("Unexpected end of JSON input"), content=b'{"a":', limited="no"),
    Row("no JSON, long", 500, syntax(ANY), content=b'{"a": ' + b"x" * 100, limited="no"),
    Row("NaN", 500, syntax(ANY), content=b'{"a": NaN}', limited="no"),
    Row("nested without end", 500, syntax(ANY), content=b"[" * 100_000, limited="no"),
    Row("no body", 400, NOT_AN_OBJECT, content=b""),
    Row(
        "too large",
        500,
        error(500, "request entity too large", "PayloadTooLargeError"),
        content=b"{" + b" " * 2_200_000,
        limited="no",
    ),
    Row("text/plain", 400, NOT_AN_OBJECT, content_type="text/plain"),
    Row("no content type", 400, NOT_AN_OBJECT, content_type=None),
    Row("a form", 400, NOT_AN_OBJECT, content_type="application/x-www-form-urlencoded"),
    Row("UTF-8 by name", 201, ACCEPTED, content_type='application/json; charset="UTF-8"'),
    Row(
        "another charset",
        500,
        error(500, 'unsupported charset "LATIN1"', "UnsupportedMediaTypeError"),
        content_type="application/json; charset=latin1",
        limited="no",
    ),
    Row(
        "a phone that is too short",
        400,
        params("/driver/identity/phone: must NOT have fewer than 10 characters"),
        changes={"driver.identity.phone": "+33612"},
    ),
    Row("a text for a number", 400, params("/distance: must be integer"), changes={"distance": "1"}),
    Row("an unknown key", 400, params(": must NOT have additional properties"), changes={"surprise": 1}),
    Row("a key missing", 400, params(": must have required property 'driver'"), changes={"driver": None}),
    Row(
        "another class",
        400,
        params("/operator_class: must be equal to one of the allowed values"),
        changes={"operator_class": "D"},
    ),
    Row(
        "no phone",
        400,
        error(-32600, "Invalid Request", "driver.identity should have a phone or phone_trunc"),
        changes={"driver.identity.phone": None},
    ),
    Row(
        "in the future",
        422,
        error(-32700, "Parse error", "Journeys cannot happen in the future"),
        changes={"end.datetime": "2026-11-23T16:00:01Z"},
    ),
    Row("the own operator", 201, ACCEPTED, changes={"operator_id": 1}),
    Row("another operator", 403, FORBIDDEN, changes={"operator_id": 2}),
    Row(
        "a fraction of a cent",
        500,
        database('invalid input syntax for type integer: "99.5"'),
        changes={"incentives": [{**INCENTIVE, "amount": 99.5}]},
    ),
    Row(
        "an index twice",
        500,
        database(
            'duplicate key value violates unique constraint "carpool_incentives_carpool_id_idx"',
        ),
        changes={"incentives": [INCENTIVE, INCENTIVE]},
    ),
    Row(
        "NUL",
        500,
        database('invalid byte sequence for encoding "UTF8": 0x00'),
        changes={"operator_trip_id": "a\0"},
    ),
    Row(
        "a long plate",
        500,
        database("value too long for type character varying(32)"),
        changes={"licence_plate": "x" * 40},
    ),
    Row(
        "half a surrogate pair",
        500,
        database("invalid input syntax for type json"),
        changes={"operator_trip_id": "a\ud800"},
    ),
    Row(
        "a list as identity key",
        500,
        database('malformed array literal: "["a"]"'),
        changes={"driver.identity.identity_key": ["a"]},
    ),
    Row(
        "a long list as identity key",
        500,
        database("value too long for type character varying(64)"),
        changes={"driver.identity.identity_key": ["a" * 64]},
    ),
    Row("no token", 403, FORBIDDEN, authorization=None),
    Row("no token, and invalid", 403, FORBIDDEN, authorization=None, content=b"{}"),
    Row("no token, unserved version", 404, EMPTY, authorization=None, path="/v2/journeys"),
    *(
        Row(name, 500, error(500, message, data), authorization=value, limited="no")
        for name, value, data, message in (
            ("garbage as token", "Bearer garbage", "JWSInvalid", "Invalid Compact JWS"),
            ("an empty token", "Bearer", "JWSInvalid", "Invalid Compact JWS"),
            ("bearer in lower case", "bearer good", "JWSInvalid", "Invalid Compact JWS"),
            ("no header", "Bearer a.b.c", "JWSInvalid", "JWS Protected Header is invalid"),
            ("another signature", f"Bearer {jwt('HS256')}", "JsonWebTokenError", "invalid signature"),
            ("an unknown key", f"Bearer {jwt('RS256')}", "JWKSNoMatchingKey", ANY),
        )
    ),
    Row(
        "garbage as token, and invalid",
        500,
        error(500, "Invalid Compact JWS", "JWSInvalid"),
        authorization="Bearer garbage",
        content=b"{}",
        limited="no",
    ),
    Row(
        "a revoked token",
        401,
        error(401, "Unauthorized Error", "Error"),
        authorization="Bearer revoked",
        limited="no",
    ),
    Row(
        "a token without claims",
        403,
        error(403, "Forbidden Error", "Error"),
        authorization="Bearer bare",
        limited="no",
    ),
    Row(
        "wrong keys",
        401,
        error(-32501, "Unauthorized Error", "Invalid access key or secret key"),
        path=EXCHANGE,
        content=json.dumps({**KEYS, "secret_key": "x"}).encode(),
        limited="5",
    ),
    Row(
        "a key missing",
        400,
        params("secret_key : Expected a string, but received: undefined"),
        path=EXCHANGE,
        content=b'{"access_key": "the-key"}',
        limited="5",
    ),
    *(
        Row(
            f"keys, {version}",
            201,
            {"access_token": ANY},
            path=f"/{version}/auth/access_token",
            content=json.dumps(KEYS).encode(),
            limited="5",
        )
        for version in ("v3.3", "v3.2", "v3")
    ),
    Row(
        "keys, any version, too often",
        429,
        {"error": {"code": 429, "message": "Too many requests"}},
        path="/v2/auth/access_token",
        content=b"{}",
        before=Row("keys", 201, ANY, path=EXCHANGE, content=json.dumps(KEYS).encode()),
        times=5,
        limited="5",
    ),
    Row(
        "status of an unknown id",
        404,
        error(-32504, "Not found"),
        method="GET",
        path="/v3.3/journeys/nothing",
        content=b"",
        limited="2000",
    ),
    Row("list", 200, [], method="GET", path="/v3.3/journeys?status=ok", content=b"", limited="2000"),
    Row("PUT", 404, PAGE, method="PUT", limited="no"),
    Row("an unknown route", 404, PAGE, path="/v3.3/nothing", limited="no"),
    Row("no route", 404, PAGE, path="/", limited="no"),
    Row("a slash at the end", 201, ACCEPTED, path="/v3.3/journeys/"),
    Row("two slashes", 404, PAGE, path="/v3.3//journeys", limited="no"),
    Row("a query", 400, params(": must NOT have additional properties"), path="/v3.3/journeys?a=b"),
]


def change(payload: dict[str, Any], changes: dict[str, Any]) -> bytes:
    """The payload with values replaced by their dotted path, None takes the key away."""
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = payload
        for part in parents:
            place = place[part]
        place[last] = value
        if value is None:
            del place[last]
    return json.dumps(payload).encode()


async def send(client: Any, row: Row, body: bytes) -> Any:
    """The answer to one row's request."""
    headers = {
        name: value
        for name, value in (("Authorization", row.authorization), ("Content-Type", row.content_type))
        if value is not None
    }
    content = body if row.content is None else row.content
    return await client.http.request(row.method, row.path, content=content, headers=headers)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_the_server_of_2025(serve: Any, v3: Any, row: Row) -> None:
    """Status, body, content type and rate limit headers are those that were captured."""
    client = await serve(
        tokens=["good", "revoked"],
        claimless=["bare"],
        serve_v2=False,
        **KEYS,
        access_token_lifetime_seconds=1,
    )
    client.sandbox.revoke("revoked")
    for _ in range(row.times if row.before else 0):
        assert row.before is not None
        answer = await send(client, row.before, change(v3(), row.before.changes))
        assert answer.status_code == row.before.status
    answer = await send(client, row, change(v3(), row.changes))
    assert answer.status_code == row.status, answer.text
    if row.answer in (PAGE, EMPTY):
        assert bool(answer.content) == (row.answer == PAGE)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
    else:
        assert answer.json() == row.answer
        assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers.get("x-ratelimit-limit", "no") == row.limited
    registering = [each for each in (row, row.before) if each and "auth" not in each.path]
    assert ("journey-1" in client.sandbox.journeys) == any(each.status == 201 for each in registering)


async def test_bytes_that_are_no_utf8_become_replacement_characters(serve: Any, v3: Any) -> None:
    """The server reads them, so that a text of them is wrong only where its value matters."""
    client = await serve()
    body = json.dumps(v3(operator_class="@")).encode().replace(b"@", b"\xff")
    answer = await client.post(body)
    assert answer.json() == params("/operator_class: must be equal to one of the allowed values")
    body = json.dumps(v3(operator_trip_id="@")).encode().replace(b"@", b"\xff")
    assert (await client.post(body)).status_code == 201


async def test_a_byte_order_mark_is_dropped(serve: Any, v3: Any) -> None:
    """The body is stored as it came."""
    client = await serve()
    assert (await client.post(b"\xef\xbb\xbf" + json.dumps(v3()).encode())).status_code == 201


async def test_two_megabytes_pass(serve: Any, v3: Any) -> None:
    """And one byte more does not."""
    client = await serve()
    body = json.dumps(v3()).encode()
    assert (await client.post(body.ljust(2 * 1024 * 1024))).status_code == 201
    assert (await client.post(body.ljust(2 * 1024 * 1024 + 1))).status_code == 500


async def test_an_exchanged_token_that_expired_is_joses_error(serve: Any, clock: Any, v3: Any) -> None:
    """As all errors of its token library: 500 with the library's name for it."""
    client = await serve(**KEYS)
    token = (await client.http.post(EXCHANGE, json=KEYS)).json()["access_token"]
    clock.advance(300)
    answer = await client.post(v3(), token=token)
    assert (answer.status_code, answer.json()["error"]["data"]) == (500, "JWTExpired")


@pytest.mark.parametrize(
    ("text", "served"),
    [
        *((text, True) for text in ("v3", "3", "v3.2.0", "~3.2", "^3.1.5", "^v3.3", "v3.x.x", "3.*", "*")),
        *((text, False) for text in ("v3.2.1", "~3.1", "^4", "^2", "v4", "v", "", "3.3.0.0", ">=3", "v3..3")),
    ],
)
def test_ranges_of_versions(text: str, *, served: bool) -> None:
    """3.2.0 and 3.3.0 are served to whoever names a range that one of them lies in."""
    assert is_served(text) is served


async def test_v2_is_served_as_specified_unless_switched_off(serve: Any, v2: Any) -> None:
    """Its result stands at the root, its refusals of a token are plain."""
    client = await serve(tokens=["good"], claimless=["bare"])
    answer = await client.post(v2(), "/v2/journeys")
    assert answer.status_code == 201
    assert answer.json() == {"journey_id": "journey-1", "created_at": "2026-11-23T16:00:00.000Z"}
    for token in (None, "wrong"):
        answer = await client.post(v2(), "/v2/journeys", token=token)
        assert (answer.status_code, answer.json()) == (401, {"code": 401, "error": "Unauthorized"})
    answer = await client.post(v2(), "/v2/journeys", token="bare")
    assert (answer.status_code, answer.json()) == (403, {"code": 403, "error": "Forbidden"})
    assert (await client.http.get("/v2/journeys/journey-1")).status_code == 404


async def test_a_refused_payload_leaves_the_registered_journey_alone(serve: Any, v3: Any) -> None:
    """In 2025 it does no harm to the journey of that id; what cannot be stored is a conflict, too."""
    client = await serve()
    await client.post(v3())
    assert (await client.post(v3(operator_class="D"))).status_code == 400
    assert (await client.post(v3(licence_plate="x" * 40))).status_code == 409
    stored = client.sandbox.journeys["journey-1"]
    assert (stored.status, stored.times_seen) == ("pending", 1)


@pytest.mark.parametrize("operator_id", [2, None, "1", True, 1.5])
async def test_foreign_operator_id_is_403(serve: Any, v3: Any, operator_id: Any) -> None:
    """An ``operator_id`` in the body that is not the token's own is 403."""
    answer = await (await serve()).post(v3(operator_id=operator_id))
    assert (answer.status_code, answer.json()) == (403, FORBIDDEN)
