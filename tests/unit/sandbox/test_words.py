"""The texts of a refusal have the form of the Registry's own validator."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from consumer.sandbox import Profile
from consumer.sandbox.rules import Call, Rules, Settings
from consumer.sandbox.state import Tokens
from consumer.sandbox.texts import ajv_text
from schemas import Violation


@pytest.mark.parametrize(
    ("violation", "expected"),
    [
        (
            Violation("driver.identity", "missing", "is required"),
            ("/driver", "must have required property 'identity'"),
        ),
        (Violation("distance", "missing", "is required"), ("", "must have required property 'distance'")),
        (Violation("", "unknown_key", "has a key"), ("", "must NOT have additional properties")),
        (Violation("end.lat", "out_of_range", "must be at most 90.0"), ("/end/lat", "must be <= 90.0")),
        (
            Violation("distance", "wrong_type", "must be a number"),
            ("/distance", "must be integer"),
        ),
        (Violation("end.lon", "wrong_type", "must be a number"), ("/end/lon", "must be number")),
        (Violation("driver", "wrong_type", "must be an object"), ("/driver", "must be object")),
        (
            Violation("incentives", "too_many", "must have at most 20 items"),
            ("/incentives", "must NOT have more than 20 items"),
        ),
        (
            Violation("incentives.0.siret", "bad_format", "is not"),
            ("/incentives/0/siret", "must match format"),
        ),
        (
            Violation("driver.identity", "missing", "needs phone"),
            ("/driver/identity", "must match a schema in anyOf"),
        ),
    ],
)
def test_texts(violation: Violation, expected: tuple[str, str]) -> None:
    """Paths are JSON pointers, texts begin with must."""
    assert ajv_text(violation) == expected


async def test_2023_says_data_must(serve: Any, v2: Any) -> None:
    """What the 2023 server says of the root begins with ``data must``, of a field with ``data/``."""
    client = await serve(profile=Profile.Y2023)
    answer = await client.post(v2(surprise=1), "/v2/journeys")
    assert answer.json()["error"]["data"] == "data must NOT have additional properties"
    payload = v2()
    payload["driver"]["identity"]["phone"] = "+33000000000"
    answer = await client.post(payload, "/v2/journeys")
    assert answer.json()["error"]["data"].startswith("data/driver/identity/phone must match format")


async def test_2025_says_the_first_error(serve: Any, v3: Any) -> None:
    """The 2025 server's validator stops at the first error, root first, and quotes no value."""
    client = await serve()
    payload = v3(surprise=1)
    payload["driver"]["identity"]["phone"] = "+33000000000"
    answer = await client.post(payload)
    assert answer.json()["error"]["data"] == [": must NOT have additional properties"]
    del payload["surprise"]
    answer = await client.post(payload)
    assert answer.json()["error"]["data"] == ["/driver/identity/phone: must match format"]
    del payload["distance"]
    answer = await client.post(payload)
    assert answer.json()["error"]["data"] == [": must have required property 'distance'"]
    assert "+33000000000" not in answer.text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
KEYS = [*schemas.field_paths("v3"), "status", "start", "end", "limit", "offset", "code", "message", "a"]
OBJECTS = st.dictionaries(st.sampled_from([key for key in KEYS if "." not in key]), VALUES, max_size=12)
BODIES = (
    st.none()
    | st.binary(max_size=60)
    | st.text('[]{}",:0 nulltrueNaN\\ud8', max_size=30).map(lambda text: text.encode())
    | (VALUES | OBJECTS).map(lambda value: json.dumps(value).encode())
)


@pytest.mark.parametrize("profile", Profile)
@given(
    method=st.sampled_from(["GET", "POST", "PATCH", "PUT"]),
    path=st.sampled_from(
        ["/v3.3/journeys", "/v2/journeys", "/v3/journeys/x", "/v3/journeys/x/cancel", "/v3/auth/access_token"]
    )
    | st.text("/v3.^~x%2Fjourneys", max_size=20),
    authorization=st.none() | st.text(max_size=20) | st.sampled_from(["Bearer good", "Bearer W1tb.a.b"]),
    content_type=st.sampled_from(["application/json", "application/json; charset=utf-16", "text/plain", ""]),
    query=st.dictionaries(
        st.sampled_from(["status", "start", "end", "limit"]), st.text(max_size=9), max_size=3
    ),
    body=BODIES,
)
def test_no_request_raises(profile: Profile, **request: Any) -> None:
    """Whatever the bytes, there is an answer."""
    now = datetime(2026, 11, 23, 16, tzinfo=UTC)
    rules = Rules(Settings(profile=profile), schemas.validate, lambda: now, Tokens(["good"], []))
    assert rules.decide(Call(address="", **request)).answer.status in range(200, 600)
