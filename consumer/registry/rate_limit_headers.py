"""What an answer says about the shared rate limit: how much is left, how long to wait.

Headers are untrusted text: what is missing, malformed, negative or absurd reads as None, never as an
exception. Absolute times are compared with the ``Date`` of the same answer, so that a wrong clock here does
no harm.
"""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any

from consumer.core.reply import RateLimit, Reply
from consumer.registry.jsonrpc import parse

_TOO_MANY_REQUESTS = 429

# A longer wait is cut to this: the Registry counts by the minute.
_LONGEST_WAIT_SECONDS = 3600.0
_SHORTEST_WAIT_SECONDS = 1.0
#: The three forms of RFC 9110, 5.6.7: its own, that of RFC 850, and that of asctime.
_HTTP_DATE = re.compile(
    r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
    r"|[A-Z][a-z]{5,8}, [0-9]{2}-[A-Z][a-z]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
    r"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2} [0-9]{4}"
)
#: Over the longest wait, however many digits.
_VERY_LONG = re.compile(r"\s*[0-9]{5,}(\.[0-9]*)?\s*", re.ASCII)
#: What separates several values; the comma within a date follows the name of a day.
_SEPARATOR = re.compile(r"(?<![a-z]),\s*")


def rate_limit(reply: Reply, now_epoch: float) -> RateLimit | None:
    """What ``reply`` says about the shared limit, None when it says nothing usable.

    ``RateLimit-*`` (reset in seconds, as specified), else ``X-RateLimit-*`` (reset as epoch
    seconds, the 2023 server), else the body of a 429. ``now_epoch`` is only used for an
    absolute reset in an answer without ``Date``: the Registry's own clock is preferred.
    """
    headers = reply.headers
    prefix = "ratelimit-" if "ratelimit-remaining" in headers else "x-ratelimit-"
    remaining = _number(headers.get(prefix + "remaining"))
    limit = _number(headers.get(prefix + "limit"))
    if remaining is None and reply.status == _TOO_MANY_REQUESTS:
        fields = _limit_in_body(reply)
        remaining, limit = _number(fields.get("remaining")), _number(fields.get("limit"))
    if remaining is None:
        return None
    reset = _reset_in(reply, now_epoch)
    if reset is None or reset > _LONGEST_WAIT_SECONDS:
        return None
    return RateLimit(None if limit is None else int(limit), int(remaining), max(reset, 0.0))


def retry_after(reply: Reply) -> float | None:
    """Seconds to wait after a 429 or 503, the longest of several; None when the answer does not say."""
    server_now = _http_date(reply.headers.get("date"))
    waits = []
    for text in _SEPARATOR.split(reply.headers.get("retry-after", "")):
        seconds = _LONGEST_WAIT_SECONDS if _VERY_LONG.fullmatch(text) else _number(text)
        then = _http_date(text)
        if seconds is None and then is not None and server_now is not None:
            seconds = then - server_now
        if seconds is not None:
            waits.append(seconds)
    wait = max(waits) if waits else _reset_in(reply, server_now)
    return None if wait is None else min(max(wait, _SHORTEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)


def _reset_in(reply: Reply, now_epoch: float | None) -> float | None:
    seconds = _number(reply.headers.get("ratelimit-reset"))
    if seconds is not None:
        return seconds
    at = _number(reply.headers.get("x-ratelimit-reset"))
    if at is None and reply.status == _TOO_MANY_REQUESTS:
        at = _iso_date(_limit_in_body(reply).get("resetTime"))
    if at is None:
        return None
    server_now = _http_date(reply.headers.get("date"))
    now = server_now if server_now is not None else now_epoch
    return None if now is None else at - now


def _limit_in_body(reply: Reply) -> dict[str, Any]:
    body = parse(reply.body)
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number < 1e12 else None  # noqa: PLR2004 - also refuses NaN and infinity


@lru_cache(maxsize=8)  # a server's date changes once a second
def _http_date(value: str | None) -> float | None:
    if value is None or _HTTP_DATE.fullmatch(value) is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:  # "Xxx, 99 Foo 2026"
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _iso_date(value: Any) -> float | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
