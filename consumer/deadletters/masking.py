"""Payloads and headers as they may be shown: what could be about a person is replaced by its shape. Pure.

1. What is shown is on a list, and looks like what the list says; everything else is masked, also unknown
   keys: a refused payload may hold anything anywhere, and so may a header under a name of ours.
2. The shape stays (type, length, which characters), because that is what explains most refusals.
3. A body that is not JSON is not shown at all.
4. The names of exchanges, queues and routing keys are shown when the settings name them.
"""

import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from consumer.core import headers as ours
from consumer.core.outcome import Reason
from consumer.core.topology import DELIVERY_LIMIT

#: Above every amount, distance and duration of the contract, and below every telephone number.
_LARGEST_SHOWN = 10_000_000


def matches(pattern: str) -> Callable[[Any], bool]:
    """Tell whether a value is a text that ``pattern`` matches whole, in ASCII."""
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _LARGEST_SHOWN


#: Keys whose values may be shown, when they look like this: ids of journeys, classes, dates, amounts, codes.
_SHOWN: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("journey_id", "operator_journey_id", "operator_trip_id"), lambda value: isinstance(value, str)
    ),
    **dict.fromkeys(("distance", "duration", "seats", "index"), _is_number),
    **dict.fromkeys(("revenue", "contribution", "amount"), _is_number),
    "operator_class": matches(r"\w{1,2}"),
    "datetime": matches(r"(?:19|20)\d\d-\d\d-\d\d[0-9Tt:.Zz +-]{0,54}"),
    "siret": matches(r"\d{14}"),
    "type": matches(r"[a-z]{1,20}"),
    "specversion": matches(r"\d\.\d"),
    "datacontenttype": matches(r"[a-z]+/[a-z.+-]{1,40}"),
}
#: The contract's own keys, which are safe to name; any other key could be a person's name.
KNOWN_KEYS = frozenset(_SHOWN) | frozenset(
    """
    driver passenger identity start end incentives payments incentive_counterparts lat lon insee literal
    country phone phone_trunc operator_user_id operator_id identity_key travel_pass name user_id email
    firstname lastname company over_18 licence_plate driving_license application_timestamp api_version data
    data_base64 id source subject time dataschema pass target
    """.split()  # noqa: SIM905 - forty words, one below the other, would only be longer
)
#: In ``x-edited``, what has no path of known words.
UNKNOWN_KEY, EVERYTHING, AND_MORE = _PLACEHOLDERS = "(unknown key)", "(everything)", "(more)"
_LONGEST_SHOWN = 128


def masked(value: Any, key: str = "") -> Any:
    """``value`` with everything masked that is on no list; the same shape, ready for JSON."""
    match value:
        case dict():
            return {
                name if name in KNOWN_KEYS else f"<unknown key {number}>": masked(each, name)
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


def shape_of(text: str) -> str:
    """How long, and which kinds of characters in order, runs written once: ``+33 6..`` is ``+9 9``."""
    shape = re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", text[:_LONGEST_SHOWN]))
    return f"<text, {len(text)} characters: {re.sub(r'[^a9 +.,@:/()-]', '?', shape)[:24]}>"


def is_known_path(path: str) -> bool:
    """Whether a dotted path is made of the contract's own words, the indexes of lists and placeholders."""
    return all(
        part in KNOWN_KEYS or part in _PLACEHOLDERS or re.fullmatch(r"\d{1,2}", part, re.ASCII)
        for part in path.split(".")
    )


#: What our codes are made of. A test reads them out of the source.
_CODE_WORDS = frozenset(
    """
    access acquisition after allowed ambiguous anomaly api array bad base64 batch before certificate character
    client cloudevent cloudevents complex compressed connect data deep duplicate empty encoding end ends error
    file foreign format fraud future http in integer invalid is json key keys large limit long malformed many
    mapping missing nested no normalization not null of other out pool protocol proxy range rate read refused
    repeated result route short start status store stored syntax terms text timeout tls to token too type
    unknown unusable utf8 validation value version violation without wrong
    """.split()  # noqa: SIM905 - a hundred words, one below the other, would only be longer
)
#: As the service writes them: a code, perhaps the broken terms, the field's path, the exception's class or a
#: proxy's status.
_DETAIL = re.compile(
    r"(?P<code>-32\d{3}|\d{3}|[a-z][a-z0-9_]{0,39}|(?:JW[A-Z]|JWKS|JOSE)[A-Z][A-Za-z]{2,40}|"
    r"JsonWebTokenError|TokenExpiredError|NotBeforeError|SyntaxError|PayloadTooLargeError)"
    r"(?: (?:expired|distance_too_short|too_many_trips_by_day|too_close_trips|"
    r"interoperator_|overlap|temporal_overlap_anomaly|distance_duration_anomaly|,)+)?"
    r"(?: at (?P<path>[a-z0-9_.]{1,160}))?"
    r"(?: \((?:\d{3}|[A-Z][A-Za-z]{1,40}"
    r"(?:Error|Timeout|Protocol|Redirects|URL|Conflict|Consumed|Closed|NotRead|Exception))\))?"
    r"(?:, (?:not_stored|unverified: [a-z0-9_]{1,40}))?",
    re.ASCII,
)


def is_detail(text: str) -> bool:
    """Whether ``text`` is a detail as the service writes it; an operator's own header may hold anything."""
    found = _DETAIL.fullmatch(text)
    if found is None or not (found["path"] is None or is_known_path(found["path"])):
        return False
    code = found["code"]
    return not code[0].islower() or all(
        part in _CODE_WORDS or re.fullmatch(r"\d{3}", part, re.ASCII) for part in code.split("_")
    )


# --- headers ----------------------------------------------------------------------------------

#: Which fields of an edited dead letter were changed; written by ``edit``.
EDITED: Final = "x-edited"
#: HTTP's.
STATUSES: Final = range(100, 600)
#: No message is tried, or moved, more often; a larger number is not ours.
_LARGEST_COUNT: Final = 1_000_000


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_COUNT


_is_date = matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)")


def _is_moment(value: Any) -> bool:
    return isinstance(value, datetime) or _is_date(value)


_is_death = matches("rejected|expired|maxlen|delivery_limit")

_SHOWN_HEADERS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys((ours.ATTEMPTS, ours.DELAYED_RETRIES, ours.REPLAYS), _is_count),
    **dict.fromkeys(("x-delivery-count", "x-acquired-count"), _is_count),
    **dict.fromkeys((ours.FIRST_FAILURE, ours.LAST_FAILURE), _is_moment),
    **dict.fromkeys(("x-first-death-reason", "x-last-death-reason"), _is_death),
    **dict.fromkeys(("x-original-user-id", "x-original-cc", "x-original-bcc"), lambda _value: False),
    ours.REASON: lambda value: isinstance(value, str) and value in {*Reason, DELIVERY_LIMIT},
    ours.DETAIL: lambda value: isinstance(value, str) and is_detail(value),
    ours.STATUS: lambda value: type(value) is int and value in STATUSES,
    ours.CONSUMER_VERSION: matches(r"\d{1,3}(?:\.\d{1,3}){2}(?:(?:a|b|rc|\.dev|\.post)\d{1,3})?"),
    EDITED: lambda value: isinstance(value, str) and all(map(is_known_path, value.split(", "))),
    "x-original-expiration": matches(r"\d{1,8}"),
    "x-unreadable-properties": lambda value: value is True,
}
#: Those that hold the name of an exchange or a queue, or a routing key.
_NAMING = {ours.ORIGINAL_EXCHANGE, ours.ORIGINAL_ROUTING_KEY} | {
    f"x-{which}-death-{what}" for which in ("first", "last") for what in ("queue", "exchange")
}


def masked_headers(headers: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """``headers`` in the order of their names, ready for JSON; a name that is not ours is masked.

    ``names`` are those of exchanges, queues and routing keys that may be shown.
    """

    def is_name(value: Any) -> bool:
        return isinstance(value, str) and (not value or value in names)

    is_shown = {**_SHOWN_HEADERS, **dict.fromkeys(_NAMING, is_name)}
    of_a_death = {
        "reason": _is_death, "queue": is_name, "exchange": is_name, "count": _is_count, "time": _is_moment
    }  # fmt: skip

    def death(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return masked_value(value)
        known = {name: value[name] for name in of_a_death if value.get(name) is not None}
        return {name: _checked(each, of_a_death[name]) for name, each in known.items()}

    shown, unknown = dict[str, Any](), 0
    for name, value in sorted(headers.items()):
        if name == "x-death" and isinstance(value, list):
            shown[name] = [death(each) for each in value]
        elif name in is_shown:
            shown[name] = _checked(value, is_shown[name])
        else:
            unknown += 1
            shown[f"<header {unknown}>"] = masked_value(value)
    return shown


def _checked(value: Any, is_shown: Callable[[Any], bool]) -> Any:
    if not is_shown(value):
        return masked_value(value)
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).isoformat()
    return value


def masked_value(value: Any) -> str:
    """The type or the shape of a value."""
    return shape_of(value) if isinstance(value, str) else f"<{type(value).__name__}>"


_is_media_type = matches(r"(?i)[a-z]+/[a-z0-9.+-]{1,40}(?:; ?charset=\"?[a-z0-9-]{1,20}\"?)?")


def masked_content_type(content_type: str) -> str:
    return content_type if _is_media_type(content_type) else masked_value(content_type)
