r"""Why a body is refused: our codes for pydantic's error types, and for bodies that are not read at all.

1. Codes are short and stable; messages are fixed texts, filled with the limits of the rules only.
2. A path holds field names of the rules and indexes only. The name of an unknown key is the
   caller's data: it is printed only when a version of the Registry's interface has a field of that name.
3. Node's server drops a byte order mark, and ``JSON.parse`` accepts a lone surrogate (``\ud800``): a body
   is not refused for these. What ``repaired`` returns is validated in place of the body, never sent.
4. A structure that is too large to be a journey is not parsed.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_type_hints

from pydantic_core import ErrorDetails
from typing_extensions import is_typeddict

from schemas import v2, v3
from schemas.verdict import MAX_VIOLATIONS, Refusal, Violation

# pydantic's error type: (our code, our message; the braces are filled from the rule, never from the input)
_WORDS: dict[str, tuple[str, str]] = {
    "missing": ("missing", "is required"),
    "string_type": ("wrong_type", "must be a string"),
    "float_type": ("wrong_type", "must be a number"),
    "bool_type": ("wrong_type", "must be true, false or null"),
    "dict_type": ("wrong_type", "must be an object"),
    "list_type": ("wrong_type", "must be a list"),
    "string_too_short": ("too_short", "must have at least {min_length} characters"),
    "string_too_long": ("too_long", "must have at most {max_length} characters"),
    "too_long": ("too_many", "must have at most {max_length} items"),
    "greater_than_equal": ("out_of_range", "must be at least {ge}"),
    "less_than_equal": ("out_of_range", "must be at most {le}"),
    "finite_number": ("out_of_range", "must be finite"),
    "int_from_float": ("not_integer", "must be a whole number"),
    "string_pattern_mismatch": ("bad_format", "is not in the expected format"),
    "bad_format": ("bad_format", "is not in the expected format"),
    "literal_error": ("not_allowed_value", "must be {expected}"),
}
_OTHERWISE = ("bad_format", "is not what the Registry accepts")

_SMALL_BYTES = 64 * 1024
_MAX_PARTS = 20_000  # the largest journey has some 300, and 20,000 characters of text
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Every escape is consumed, so that what follows an escaped backslash is not one. Group 1: a lone surrogate.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def paths(model: type[Any], prefix: str = "") -> Iterator[str]:
    """Yield the fields of a model and of its parts, dotted, without the indexes of lists."""
    for name, kind in get_type_hints(model).items():  # without Annotated, NotRequired
        path = f"{prefix}{name}"
        yield path
        for inner in (kind, *get_args(kind)):
            if is_typeddict(inner):
                yield from paths(inner, f"{path}.")


# The names of the interface: all fields, and published fields that no version accepts.
_VOCABULARY = frozenset(
    {"api_version", "application_timestamp", "driving_license"}.union(
        path.rpartition(".")[2] for model in (v2.Payload, v3.Payload) for path in paths(model)
    )
)


def refusal(details: Sequence[ErrorDetails]) -> Refusal:
    """Return at most ``MAX_VIOLATIONS`` of pydantic's errors, in its order."""
    return Refusal(tuple(_violation(detail) for detail in details[:MAX_VIOLATIONS]))


def whole(code: str, message: str) -> Refusal:
    return Refusal((Violation("", code, message),))


def _violation(detail: ErrorDetails) -> Violation:
    location = detail["loc"]
    if detail["type"] == "extra_forbidden":
        shown = f": {location[-1]}" if location[-1] in _VOCABULARY else ""
        return Violation(_dotted(location[:-1]), "unknown_key", f"has a key that the Registry refuses{shown}")
    code, message = _WORDS.get(detail["type"], _OTHERWISE)
    limits = {name: _plain(value) for name, value in detail.get("ctx", {}).items()}
    return Violation(_dotted(location), code, message.format_map(limits))


def _plain(limit: object) -> object:
    """Return 19 for 19.0: every number is read as a double, as in JavaScript."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _dotted(location: Sequence[int | str]) -> str:
    return ".".join(map(str, location))


def repaired(body: bytes) -> bytes:
    """Return the body without byte order mark, each lone surrogate replaced by another code point."""
    body = body.removeprefix(_BYTE_ORDER_MARK)
    if _SURROGATE.search(body) is None:
        return body
    readable = bytearray(body)
    for escape in _ESCAPE.finditer(body):
        if escape[1]:
            readable[escape.start() : escape.end()] = rb"\ufffd"  # as long, so that no position moves
    return bytes(readable)


def is_too_complex(body: bytes) -> bool:
    """Return whether a large body has more parts than a journey can have.

    The body limit alone does not bound the work: 2 MB of ``{},`` are 600,000 objects, about 800 MB of memory.
    """
    return len(body) > _SMALL_BYTES and sum(map(body.count, (b",", b":", b"{", b"["))) > _MAX_PARTS


def diagnose(body: bytes, parser_message: str) -> Refusal:
    """Return why a body is not a JSON text. ``parser_message`` is only searched, never shown."""
    if not body.strip():
        return whole("empty", "is empty")
    if "recursion limit" in parser_message:
        return whole("nested_too_deep", "is nested deeper than a journey can be")
    try:
        body.decode()
    except UnicodeDecodeError:
        return whole("not_utf8", "is not UTF-8")
    return whole("not_json", "is not JSON")


def has_only_json_numbers(body: bytes) -> bool:
    """Return whether a body that is otherwise JSON has no NaN or Infinity outside its strings."""
    try:
        json.loads(body, parse_constant=int, parse_int=float)  # int() raises ValueError for NaN and Infinity
    except ValueError:
        return False
    return True
