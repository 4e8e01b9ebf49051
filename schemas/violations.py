"""From pydantic's error types to our codes: what was wrong and where, never what was sent.

1. Codes are short and stable; messages are fixed texts, filled with the limits of the rules only.
2. A path holds field names of the rules and indexes only. The name of an unknown key is the
   caller's data: it is printed only when a version of the Registry's interface has a field of that name.
"""

from collections.abc import Sequence

from pydantic_core import ErrorDetails

from schemas import fields, v2, v3
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
_LIMITS = frozenset({"min_length", "max_length", "ge", "le", "expected"})

_MODELS = (
    *(fields.Incentive, fields.Payment, fields.TravelPass),
    *(v2.Payload, v2.Driver, v2.Passenger, v2.Identity, v2.Position),
    *(v3.Payload, v3.Driver, v3.Passenger, v3.Identity, v3.Position),
)
# The names of the interface: all fields, and published fields that no version accepts.
_VOCABULARY = frozenset[str]().union(
    {"api_version", "application_timestamp", "driving_license"},
    *(model.__required_keys__ | model.__optional_keys__ for model in _MODELS),
)


def refusal(details: Sequence[ErrorDetails]) -> Refusal:
    """Return at most ``MAX_VIOLATIONS`` of pydantic's errors, in its order."""
    return Refusal(tuple(_violation(detail) for detail in details[:MAX_VIOLATIONS]))


def whole(code: str, message: str) -> Refusal:
    """Return a refusal of the payload as a whole."""
    return Refusal((Violation("", code, message),))


def _violation(detail: ErrorDetails) -> Violation:
    location = detail["loc"]
    if detail["type"] == "extra_forbidden":
        shown = f": {location[-1]}" if location[-1] in _VOCABULARY else ""
        return Violation(_dotted(location[:-1]), "unknown_key", f"has a key that the Registry refuses{shown}")
    code, message = _WORDS.get(detail["type"], _OTHERWISE)
    limits = {name: _plain(value) for name, value in detail.get("ctx", {}).items() if name in _LIMITS}
    return Violation(_dotted(location), code, message.format_map(limits))


def _plain(limit: object) -> object:
    """Return 19 for 19.0: every number is read as a double, as in JavaScript."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _dotted(location: Sequence[int | str]) -> str:
    return ".".join(map(str, location))
