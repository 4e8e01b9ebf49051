"""The headers of a dead letter that may be shown: ours and the broker's, when they look like theirs. Pure.

1. Operators may put anything into headers, also under names like ours: what does not look like what we, or
   the broker, would write there is masked.
2. The names of exchanges, queues and routing keys are shown when the settings name them.
"""

import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from consumer.core.headers import (
    ATTEMPTS,
    CONSUMER_VERSION,
    DELAYED_RETRIES,
    DETAIL,
    FIRST_FAILURE,
    LAST_FAILURE,
    ORIGINAL_EXCHANGE,
    ORIGINAL_ROUTING_KEY,
    REASON,
    REPLAYS,
    STATUS,
)
from consumer.core.outcome import Reason
from consumer.core.topology import DELIVERY_LIMIT
from consumer.deadletters.masking import is_detail, is_known_path, matches, shape_of
from consumer.deadletters.record import STATUSES

#: Which fields a mended dead letter was given other values for; written by ``edit``.
EDITED: Final = "x-edited"
#: In ``x-edited``, what has no path of known words.
UNKNOWN_KEY, EVERYTHING, AND_MORE = "(unknown key)", "(everything)", "(more)"

#: No message was tried, or moved, more often; a number above it is none of ours.
_LARGEST_COUNT: Final = 1_000_000


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_COUNT


_is_date = matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)")


def _is_moment(value: Any) -> bool:
    return isinstance(value, datetime) or _is_date(value)


def _is_edited(value: Any) -> bool:
    return isinstance(value, str) and all(map(_is_changed_path, value.split(", ")))


def _is_changed_path(path: str) -> bool:
    if path in {EVERYTHING, AND_MORE}:
        return True
    return is_known_path(".".join(part for part in path.split(".") if part != UNKNOWN_KEY) or "0")


def _is_reason(value: Any) -> bool:
    return isinstance(value, str) and value in {*Reason, DELIVERY_LIMIT}


def _never(_value: Any) -> bool:
    return False


_is_death = matches("rejected|expired|maxlen|delivery_limit")

_SHOWN: Mapping[str, Callable[[Any], bool]] = {
    REASON: _is_reason,
    DETAIL: lambda value: isinstance(value, str) and is_detail(value),
    STATUS: lambda value: type(value) is int and value in STATUSES,
    ATTEMPTS: _is_count,
    DELAYED_RETRIES: _is_count,
    REPLAYS: _is_count,
    FIRST_FAILURE: _is_moment,
    LAST_FAILURE: _is_moment,
    CONSUMER_VERSION: matches(r"\d{1,3}(?:\.\d{1,3}){2}(?:(?:a|b|rc|\.dev|\.post)\d{1,3})?"),
    EDITED: _is_edited,
    "x-original-expiration": matches(r"\d{1,8}"),
    "x-original-user-id": _never,
    "x-original-cc": _never,
    "x-original-bcc": _never,
    "x-unreadable-properties": lambda value: value is True,
    "x-delivery-count": _is_count,
    "x-acquired-count": _is_count,
    "x-first-death-reason": _is_death,
    "x-last-death-reason": _is_death,
}
_OF_A_DEATH: Mapping[str, Callable[[Any], bool]] = {
    "reason": _is_death,
    "count": _is_count,
    "time": _is_moment,
}
#: Those that hold the name of an exchange or a queue, or a routing key.
_NAMING = frozenset(
    {
        ORIGINAL_EXCHANGE,
        ORIGINAL_ROUTING_KEY,
        "x-first-death-queue",
        "x-first-death-exchange",
        "x-last-death-queue",
        "x-last-death-exchange",
    }
)


def masked_headers(headers: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """``headers`` in the order of their names, ready for JSON; a name that is not ours is not told.

    ``names`` are those of exchanges, queues and routing keys that may be shown.
    """
    shown, unknown = dict[str, Any](), 0
    for name, value in sorted(headers.items()):
        if name == "x-death" and isinstance(value, list):
            shown[name] = [_death(each, names) for each in value]
        elif name in _NAMING:
            shown[name] = _name(value, names)
        elif name in _SHOWN:
            shown[name] = _plain(value) if _SHOWN[name](value) else masked_value(value)
        else:
            unknown += 1
            shown[f"<header {unknown}>"] = masked_value(value)
    return shown


def revealed_headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """``headers`` with everything in them."""
    return {name: str(value) for name, value in sorted(headers.items())}


def masked_value(value: Any) -> str:
    """Of which sort a value is."""
    return shape_of(value) if isinstance(value, str) else f"<{type(value).__name__}>"


def masked_content_type(content_type: str) -> str:
    """The declared media type, when it looks like one."""
    known = re.fullmatch(
        r"[a-z]+/[a-z0-9.+-]{1,40}(?:; ?charset=\"?[a-z0-9-]{1,20}\"?)?",
        content_type,
        re.ASCII | re.IGNORECASE,
    )
    return content_type if known else masked_value(content_type)


def _name(value: Any, names: Collection[str]) -> str:
    return value if isinstance(value, str) and (not value or value in names) else masked_value(value)


def _death(death: Any, names: Collection[str]) -> Any:
    if not isinstance(death, Mapping):
        return masked_value(death)
    told = dict[str, Any]()
    for name in ("reason", "queue", "exchange", "count", "time"):
        if (value := death.get(name)) is None:
            continue
        if name in {"queue", "exchange"}:
            told[name] = _name(value, names)
        else:
            told[name] = _plain(value) if _OF_A_DEATH[name](value) else masked_value(value)
    return told


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).isoformat()
    return value
