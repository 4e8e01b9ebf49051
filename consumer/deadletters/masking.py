"""A payload that may be shown: every value that could be about a person is replaced by its shape. Pure.

1. What is shown is on a list; what is on no list is masked, also keys that nobody has heard of.
2. The shape stays (type, length, which characters), because that is what explains most refusals.
3. A body that is no JSON is not shown at all.
"""

import re
from typing import Any

#: Keys whose values are ids of journeys, classes, dates, amounts and codes: nothing about a person.
_SHOWN = frozenset(
    {
        "journey_id",
        "operator_journey_id",
        "operator_trip_id",
        "operator_class",
        "datetime",
        "distance",
        "duration",
        "seats",
        "revenue",
        "contribution",
        "amount",
        "index",
        "siret",
        "type",
        "over_18",
        "specversion",
        "datacontenttype",
    }
)
#: Containers whose keys are the contract's own words; elsewhere even a key could be a name.
_KNOWN_KEYS = _SHOWN | frozenset(
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
        case _ if key in _SHOWN:
            return value[:_LONGEST_SHOWN] if isinstance(value, str) else value
        case str():
            return f"<text, {len(value)} characters: {_shape(value)}>"
        case _:
            return "<number>"


def is_known_key(key: str) -> bool:
    """Whether ``key`` is one of the contract's own words, and so safe to name."""
    return key in _KNOWN_KEYS


def _shape(text: str) -> str:
    """Which kinds of characters, in order, runs written once: ``+33 6..`` is ``+9 9``."""
    shape = re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", text[:_LONGEST_SHOWN]))
    return re.sub(r"[^a9 +\-.,@:/()]", "?", shape)[:24]
