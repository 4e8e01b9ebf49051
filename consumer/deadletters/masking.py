"""A payload that may be shown: every value that could be about a person is replaced by its shape. Pure.

1. What is shown is on a list, and looks like what the list says; everything else is masked, also keys
   that nobody has heard of: a refused payload may hold anything anywhere.
2. The shape stays (type, length, which characters), because that is what explains most refusals.
3. A body that is no JSON is not shown at all.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

#: Above every amount, distance and duration of the contract, and below every telephone number.
_LARGEST_SHOWN = 10_000_000


def matches(pattern: str) -> Callable[[Any], bool]:
    """Tell whether a value is a text that ``pattern`` matches whole, in ASCII."""
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST_SHOWN


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_DATE = matches(r"(?:19|20)\d\d-\d\d-\d\d[0-9Tt:.Zz +-]{0,54}")

#: Keys whose values may be shown, when they look like this: ids of journeys, classes, dates, amounts, codes.
_SHOWN: Mapping[str, Callable[[Any], bool]] = {
    "journey_id": _is_text,
    "operator_journey_id": _is_text,
    "operator_trip_id": _is_text,
    "operator_class": matches(r"\w{1,2}"),
    "datetime": _DATE,
    "distance": _is_number,
    "duration": _is_number,
    "seats": _is_number,
    "revenue": _is_number,
    "contribution": _is_number,
    "amount": _is_number,
    "index": _is_number,
    "siret": matches(r"\d{14}"),
    "type": matches(r"[a-z]{1,20}"),
    "specversion": matches(r"\d\.\d"),
    "datacontenttype": matches(r"[a-z]+/[a-z.+-]{1,40}"),
}
#: Containers whose keys are the contract's own words; elsewhere even a key could be a name.
_KNOWN_KEYS = frozenset(_SHOWN) | frozenset(
    [
        "driver",
        "passenger",
        "identity",
        "start",
        "end",
        "incentives",
        "payments",
        "incentive_counterparts",
        "lat",
        "lon",
        "insee",
        "literal",
        "country",
        "phone",
        "phone_trunc",
        "operator_user_id",
        "operator_id",
        "identity_key",
        "travel_pass",
        "name",
        "user_id",
        "email",
        "firstname",
        "lastname",
        "company",
        "over_18",
        "licence_plate",
        "driving_license",
        "application_timestamp",
        "api_version",
        "data",
        "data_base64",
        "id",
        "source",
        "subject",
        "time",
        "dataschema",
        "pass",
        "target",
    ]
)
_LONGEST_SHOWN = 128


def masked(value: Any, key: str = "") -> Any:
    """``value`` with everything masked that is on no list; the same shape, ready for JSON."""
    match value:
        case dict():
            return {
                name if name in _KNOWN_KEYS else f"<unknown key {number}>": masked(each, name)
                for number, (name, each) in enumerate(value.items(), 1)
            }
        case list():
            return [masked(each, key) for each in value]
        case bool() | None:
            return value
        case _ if key in _SHOWN and _SHOWN[key](value):
            return value[:_LONGEST_SHOWN] if isinstance(value, str) else value
        case str():
            return shape_of(value)
        case _:
            return "<number>"


def is_known_key(key: str) -> bool:
    """Whether ``key`` is one of the contract's own words, and so safe to name."""
    return key in _KNOWN_KEYS


def shape_of(text: str) -> str:
    """How long, and which kinds of characters in order, runs written once: ``+33 6..`` is ``+9 9``."""
    shape = re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", text[:_LONGEST_SHOWN]))
    return f"<text, {len(text)} characters: {re.sub(r'[^a9 +.,@:/()-]', '?', shape)[:24]}>"


def is_known_path(path: str) -> bool:
    """Whether a dotted path is made of the contract's own words and the indexes of lists."""
    return all(part in _KNOWN_KEYS or re.fullmatch(r"\d{1,2}", part, re.ASCII) for part in path.split("."))


#: What our codes are made of. A test reads them out of the source.
_CODE_WORDS = frozenset(
    """
    access after allowed ambiguous api bad base64 batch before cloudevent cloudevents complex compressed
    connect data deep empty end ends file format future http in integer is json key keys large long many
    missing nested no not of other out pool protocol range read refused result short start text timeout
    tls token too type unknown unusable utf8 value version without wrong
    """.split()  # noqa: SIM905 - seventy words, one below the other, would only be longer
)
#: As ``classify`` and ``schemas`` write them: a code, perhaps the broken terms, perhaps the field's path.
_DETAIL = re.compile(
    r"(?P<code>-32\d{3}|\d{3}|[a-z][a-z0-9_]{0,39}|"
    r"JsonWebTokenError|TokenExpiredError|NotBeforeError|SyntaxError|PayloadTooLargeError)"
    r"(?: (?:expired|distance_too_short|too_many_trips_by_day|too_close_trips|,)+)?"
    r"(?: at (?P<path>[a-z0-9_.]{1,160}))?",
    re.ASCII,
)


def is_detail(text: str) -> bool:
    """Whether ``text`` is a detail as the service writes it; what an operator wrote there may be anything."""
    found = _DETAIL.fullmatch(text)
    if found is None or not (found["path"] is None or is_known_path(found["path"])):
        return False
    code = found["code"]
    return not code[0].islower() or all(
        part in _CODE_WORDS or re.fullmatch(r"\d{3}", part, re.ASCII) for part in code.split("_")
    )
