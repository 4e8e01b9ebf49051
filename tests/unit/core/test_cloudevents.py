"""From a delivery to the payload's bytes, exactly as they came."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.cloudevents import (
    LIMIT_BYTES,
    Payload,
    Unreadable,
    strip_api_version,
    unwrap,
    unwrap_structured,
)
from consumer.core.delivery import Delivery

PLAIN = b' {"journey_id": "a",\n "driver": {"revenue": 1.0} }\n'
STRUCTURED = "application/cloudevents+json"


def delivery(body: bytes, *, headers: dict[str, Any] | None = None, **properties: Any) -> Delivery:
    """Make a delivery with these AMQP properties."""
    return Delivery(body, headers=headers or {}, properties=properties)


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"content_type": "application/json"},
        {"content_type": "application/json; charset=utf-8", "content_encoding": "utf-8"},
        {"content_type": b"application/json", "content_encoding": "binary"},
        {"content_encoding": 7},
    ],
)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"compression": None},
        {"ce-specversion": "1.0", "ce-type": "journey.completed"},
        {"cloudEvents:specversion": "1.0", "cloudEvents:id": "7"},
        {"cloudEvents_specversion": "1.0"},
    ],
)
def test_plain_and_binary_mode_bodies_are_the_payload(
    properties: dict[str, Any], headers: dict[str, Any]
) -> None:
    """The body is handed on as the very same object, whatever harmless things surround it."""
    message = delivery(PLAIN, headers=headers, **properties)
    payload = unwrap(message)
    assert isinstance(payload, Payload)
    assert payload.body is message.body


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        (delivery(b""), "empty"),
        (delivery(b"x" * (LIMIT_BYTES + 1)), "too_large"),
        (delivery(PLAIN, headers={"compression": "application/x-gzip"}), "compressed"),
        (delivery(PLAIN, content_encoding="gzip"), "compressed"),
        (delivery(PLAIN, content_encoding=" BR "), "compressed"),
        (delivery(PLAIN, content_encoding="zstd"), "compressed"),
        (delivery(b"[]", content_type="application/cloudevents-batch+json"), "cloudevents_batch"),
        (delivery(b"<e/>", content_type="application/cloudevents+xml"), "cloudevents_format"),
        (delivery(b"\xff{}", content_type=STRUCTURED), "not_utf8"),
        (delivery(b"no", content_type=STRUCTURED), "not_json"),
        (delivery(b"[1]", content_type=STRUCTURED), "not_json"),
        (delivery(b'{"data": ' + b"[" * 500_000, content_type=STRUCTURED), "not_json"),
        (delivery(b"{}", content_type=STRUCTURED), "cloudevent_without_data"),
        (delivery(b'{"data": null}', content_type=STRUCTURED), "cloudevent_without_data"),
        (delivery(b'{"data": 1, "data_base64": ""}', content_type=STRUCTURED), "cloudevent_ambiguous_data"),
        (delivery(b'{"data_base64": "?"}', content_type=STRUCTURED), "cloudevent_bad_base64"),
        (delivery(b'{"data_base64": "\\u00e9"}', content_type=STRUCTURED), "cloudevent_bad_base64"),
        (delivery(b'{"data_base64": 12}', content_type=STRUCTURED), "empty"),
        (delivery(b'{"data_base64": ""}', content_type=STRUCTURED), "empty"),
        (delivery(b'{"data": "{}"}', content_type=STRUCTURED), "cloudevent_data_is_text"),
        (
            delivery(b'{"data": "{}", "datacontenttype": "text/json;a=b"}', content_type=STRUCTURED),
            "cloudevent_data_is_text",
        ),
        (
            delivery(b'{"data": "", "datacontenttype": "text/plain"}', content_type=STRUCTURED),
            "empty",
        ),
        (
            delivery(b'{"data": "\\ud800", "datacontenttype": "text/plain"}', content_type=STRUCTURED),
            "not_utf8",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unreadable(message: Delivery, detail: str) -> None:
    """What holds no payload says why, by a code."""
    assert unwrap(message) == Unreadable(detail)


def test_the_limit_is_the_registry_s() -> None:
    """A body of exactly 2 MB passes."""
    assert unwrap(delivery(b"x" * LIMIT_BYTES)) == Payload(b"x" * LIMIT_BYTES)


@pytest.mark.parametrize("content_type", [STRUCTURED, "Application/CloudEvents+JSON ; charset=UTF-8"])
@pytest.mark.parametrize(
    ("body", "payload"),
    [
        (
            b'{"specversion":"1.0","data":{"a" : 1.0, "b":"\\u00e9\xc3\xa9"} }',
            b'{"a" : 1.0, "b":"\\u00e9\xc3\xa9"}',
        ),
        (b' { "data" : [ 1 ] , "id" : "x" } ', b"[ 1 ]"),
        (b'{"data": {"x": 1}, "data": {"x": 2}}', b'{"x": 2}'),
        (b'{"d\\u0061ta": {"x": 1}}', b'{"x": 1}'),
        (b'{"data": {"n": ' + b"9" * 5000 + b"}}", b'{"n": ' + b"9" * 5000 + b"}"),
        (b'{"data_base64": "eyJhIjogMX0=", "data": null}', b'{"a": 1}'),
        (b'{"data": "{\\"a\\": 1}", "datacontenttype": "text/plain"}', b'{"a": 1}'),
    ],
)
def test_structured(content_type: str, body: bytes, payload: bytes) -> None:
    """The data comes out byte for byte, however the event around it is written."""
    assert unwrap(delivery(body, content_type=content_type)) == Payload(payload)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"specversion": "1.0", "data": {"a": 1}}', Payload(b'{"a": 1}')),
        (b'{"specversion": "1.0", "data_base64": "e30="}', Payload(b"{}")),
        (b'{"specversion": "1.0", "data": "{}"}', Unreadable("cloudevent_data_is_text")),
        (b'{"specversion": "1.0"}', None),
        (b'{"data": {"specversion": 1}}', None),
        (b'{"specversion": "1.0", "data"', None),
        (b'{"specversion": "1.0", "data": "\xff"}', None),
        (PLAIN, None),
    ],
)
def test_structured_that_came_as_plain_json(body: bytes, expected: Payload | Unreadable | None) -> None:
    """An event without its content type is recognised by its root; anything else is not one."""
    assert unwrap_structured(body) == expected


@pytest.mark.parametrize(
    ("body", "stripped"),
    [
        (b'{"api_version": "v3", "a": 1}', b'{ "a": 1}'),
        (b' { "a" : 1.0 , "api_version" : {"b": [1]} }\n', b' { "a" : 1.0 }\n'),
        (b'{"a":1,"api_version":2,"b":3}', b'{"a":1,"b":3}'),
        (b'{"api_version":1}', b"{}"),
        (b'{"api_version":1,"a":2,"api_version":"x"}', b'{"a":2}'),
        (b'{"\\u0061pi_version":1,"a":"\\u00e9\xc3\xa9"}', b'{"a":"\\u00e9\xc3\xa9"}'),
        (b'{"a":{"api_version":1}}', None),
        (b'{"a":"api_version"}', None),
        (b'{"a":1}', None),
        (b"{}", None),
        (b'{"\\u0061":1}', None),
        (b'["api_version"]', None),
        (b'"api_version', None),
        (b'{"api_version":1,}', None),
        (b'{"api_version":1} {}', None),
        (b'{"api_version" 1}', None),
        (b'{"api_version":1', None),
        (b"{api_version:1}", None),
        (b'{"api_version":\xff}', None),
        (b'{"api_version":' + b"[" * 500_000, None),
        (b"{ } api_version", None),
        (b"{  \\u", None),
    ],
)  # fmt: skip
def test_strip_api_version(body: bytes, stripped: bytes | None) -> None:
    """The key goes from the root, however it is written; every other byte stays."""
    assert strip_api_version(body) == stripped


keys = st.sampled_from(["api_version", "a", "b", "data"]) | st.text(max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
white = st.text(" \t\r\n", max_size=2)


@given(root=st.dictionaries(keys, values, max_size=5), ascii_only=st.booleans(), around=white, gap=white)
def test_strip_keeps_every_other_member(
    root: dict[str, Any], *, ascii_only: bool, around: str, gap: str
) -> None:
    """Read again, what is left is the object without the key, and every value's bytes are in it."""

    def written(value: object) -> str:
        return f"{gap}{json.dumps(value, ensure_ascii=ascii_only)}{gap}"

    parts = [f"{written(key)}:{written(value)}" for key, value in root.items()]
    text = f"{around}{{{','.join(parts)}}}{around}"
    expected = {key: value for key, value in root.items() if key != "api_version"}
    stripped = strip_api_version(text.encode("utf-8", "surrogatepass"))
    if expected == root:
        assert stripped is None
    else:
        kept = [part for key, part in zip(root, parts, strict=True) if key != "api_version"]
        assert stripped == f"{around}{{{','.join(kept)}}}{around}".encode()
        assert json.loads(stripped) == expected


@given(
    data=values.filter(lambda value: value is not None and not isinstance(value, str)),
    more=st.dictionaries(keys, values, max_size=3),
)
def test_data_comes_out_as_it_went_in(data: Any, more: dict[str, Any]) -> None:
    """The same data, as JSON and as base64, in an event with any other members."""
    more = {key: value for key, value in more.items() if not key.startswith("data")}
    raw = json.dumps(data, indent=1).encode()
    event = json.dumps({"specversion": "1.0", **more}).encode()[:-1]
    assert unwrap_structured(event + b', "data": ' + raw + b"}") == Payload(raw)
    encoded = base64.b64encode(raw)
    assert unwrap_structured(event + b', "data_base64": "' + encoded + b'"}') == Payload(raw)


@given(st.binary(max_size=80) | st.text('{}[]",:\\ud 1aeE.-', max_size=40).map(str.encode))
def test_any_bytes(body: bytes) -> None:
    """Whatever the bytes are, there is an answer and no exception."""
    unwrap(delivery(body, content_type=STRUCTURED))
    unwrap_structured(b'{"specversion": 1, "data": 1,' + body)
    strip_api_version(b'{"api_version": ' + body)
