"""From a delivery to the bytes that are the payload, byte for byte as the operator wrote them.

1. A plain payload costs a few comparisons: nothing is parsed, nothing copied.
2. Nothing is ever re-serialised: what is cut out or left out is cut by position.
3. Nothing is decompressed: a few kilobytes can unfold to gigabytes.
4. It does not know what a journey is; validating the payload is the schemas' work.
"""

import base64
import json
from dataclasses import dataclass
from typing import Final

from consumer.core.delivery import Delivery

LIMIT_BYTES: Final = 2 * 1024 * 1024  # the Registry's body parser: "2mb"


@dataclass(frozen=True, slots=True)
class Payload:
    """What goes to validation and, if valid, to the Registry."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """There is no payload to be had; ``detail`` is a code from this module, never a value."""

    detail: str


_COMPRESSED_ENCODINGS = frozenset(
    {"gzip", "x-gzip", "deflate", "zlib", "br", "brotli", "bzip2", "lzma", "xz", "zstd", "compress"}
)
_STRUCTURED = "application/cloudevents+json"
_CLOUDEVENTS = "application/cloudevents"


def unwrap(delivery: Delivery, limit_bytes: int = LIMIT_BYTES) -> Payload | Unreadable:
    """Return the payload of ``delivery``: the body, or the ``data`` of a structured CloudEvent.

    A CloudEvent in binary mode (its attributes in ``ce-`` or ``cloudEvents:`` headers) has the
    payload as its body, and needs nothing. Details: ``too_large``, ``empty``, ``compressed``,
    ``cloudevents_batch``, ``cloudevents_format``, ``not_json``, and those of ``unwrap_structured``.
    """
    body = delivery.body
    if len(body) > limit_bytes:
        return Unreadable("too_large")
    if not body:
        return Unreadable("empty")
    if _is_compressed(delivery):
        return Unreadable("compressed")
    declared = delivery.content_type
    if declared is None or _CLOUDEVENTS not in (media_type := declared.lower()):
        return Payload(body)
    return _unwrap_cloudevent(body, media_type.partition(";")[0].strip())


def unwrap_structured(body: bytes) -> Payload | Unreadable | None:
    """Return the ``data`` of a CloudEvent that came as plain JSON; None when ``body`` is none.

    For a body that validation refused as a payload: its root has ``specversion`` and ``data``
    (or ``data_base64``). Details: ``cloudevent_without_data``, ``cloudevent_ambiguous_data``,
    ``cloudevent_data_is_text``, ``cloudevent_bad_base64``, ``empty``, ``not_utf8``.
    """
    if b'"specversion"' not in body or b'"data' not in body:
        return None
    event = _attributes(body)
    if isinstance(event, Unreadable) or "specversion" not in event:
        return None
    return _data(event)


def strip_api_version(body: bytes) -> bytes | None:
    """Return ``body`` without its root members ``api_version``, None when it has none.

    The key overrides the version in the path on the 2023 server. It is found however it is
    escaped and as often as it stands; every other byte stays as it came.
    """
    if b"api_version" not in body and b"\\u" not in body:
        return None
    try:
        text = body.decode()
        members, close = _members(text)
    except _NOT_AN_OBJECT:
        return None
    kept = [member for member in members if member.key != "api_version"]
    if len(kept) == len(members):
        return None
    start = members[0].start
    chunks = ",".join(text[member.start : member.end] for member in kept)
    return f"{text[:start]}{chunks}{text[close:]}".encode()


def _is_compressed(delivery: Delivery) -> bool:
    if delivery.headers.get("compression"):  # kombu's own header
        return True
    encoding = delivery.properties.get("content_encoding")
    return isinstance(encoding, str) and encoding.strip().lower() in _COMPRESSED_ENCODINGS


# --- Structured CloudEvents 1.0 ---------------------------------------------------------------


def _unwrap_cloudevent(body: bytes, media_type: str) -> Payload | Unreadable:
    if media_type == _STRUCTURED:
        event = _attributes(body)
        return event if isinstance(event, Unreadable) else _data(event)
    batch = media_type.startswith("application/cloudevents-batch")
    return Unreadable("cloudevents_batch" if batch else "cloudevents_format")  # +xml, +avro, +protobuf


def _attributes(body: bytes) -> dict[str, str] | Unreadable:
    """Return the event's attributes and data as raw JSON; of a key that stands twice, the last."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return Unreadable("not_utf8")
    try:
        members, _ = _members(text)
    except _NOT_AN_OBJECT:
        return Unreadable("not_json")
    return {member.key: text[member.value : member.value_end] for member in members}


def _data(event: dict[str, str]) -> Payload | Unreadable:
    data, encoded = event.get("data", "null"), event.get("data_base64", "null")
    if data != "null" and encoded != "null":
        return Unreadable("cloudevent_ambiguous_data")
    if data == encoded:
        return Unreadable("cloudevent_without_data")
    if encoded != "null":
        return _from_base64(_string(encoded))
    if data.startswith('"'):
        return _from_text(_string(data), _string(event.get("datacontenttype", "")))
    return Payload(data.encode())


def _from_base64(encoded: str) -> Payload | Unreadable:
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:
        return Unreadable("cloudevent_bad_base64")
    return _not_empty(data)


def _from_text(data: str, declared: str) -> Payload | Unreadable:
    # The specification: text in ``data`` is a JSON string if the data is declared (or by default
    # taken) to be JSON, and then it is no journey; otherwise it is the data itself.
    media_type = declared.partition(";")[0].strip().lower()
    if not media_type or media_type.endswith(("/json", "+json")):
        return Unreadable("cloudevent_data_is_text")
    try:
        return _not_empty(data.encode())
    except UnicodeEncodeError:  # a lone surrogate, written as an escape
        return Unreadable("not_utf8")


def _not_empty(data: bytes) -> Payload | Unreadable:
    return Payload(data) if data else Unreadable("empty")


def _string(raw: str) -> str:
    """Return the value of raw JSON if that is a string, else the empty string."""
    return str(json.loads(raw)) if raw.startswith('"') else ""


# --- Where the members of the root object stand -----------------------------------------------


@dataclass(frozen=True, slots=True)
class _Member:
    """Positions in the text: the member with the white space around it, and its bare value."""

    key: str
    start: int
    value: int
    value_end: int
    end: int


# What reading as one JSON object can raise; the scanner of the standard library recurses.
_NOT_AN_OBJECT = (ValueError, RecursionError)
_WHITE = " \t\n\r"
# Numbers stay text: Python would refuse an integer of 5,000 digits, which the Registry may accept.
_DECODER: Final = json.JSONDecoder(parse_int=str, parse_float=str)


def _members(text: str) -> tuple[list[_Member], int]:
    """Return the root object's members in order, and where its closing brace is (ValueError: no object)."""
    start = _expect(text, 0, "{")
    members: list[_Member] = []
    close = _skip(text, start)
    while text[close : close + 1] != "}":
        _expect(text, start, '"')
        key, at = _DECODER.raw_decode(text, _skip(text, start))
        value = _skip(text, _expect(text, at, ":"))
        _, value_end = _DECODER.raw_decode(text, value)
        close = _skip(text, value_end)
        members.append(_Member(key, start, value, value_end, close))
        if text[close : close + 1] != "}":
            start = _expect(text, close, ",")
    if _skip(text, close + 1) != len(text):
        raise ValueError("text after the object")
    return members, close


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in _WHITE:
        at += 1
    return at


def _expect(text: str, at: int, character: str) -> int:
    """Return the position after ``character``, which must come next."""
    at = _skip(text, at)
    if text[at : at + 1] != character:
        raise ValueError(f"expected {character}")
    return at + 1
