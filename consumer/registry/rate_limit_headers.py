"""What an answer says about the shared rate limit: how much is left, how long to wait.

Headers are untrusted text: what is missing, malformed, negative or absurd reads as None, never as an
exception. Absolute times are compared with the ``Date`` of the same answer, so that a wrong clock here does
no harm.
"""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from consumer.core.reply import RateLimit, Reply
from consumer.registry.jsonrpc import parse

_TOO_MANY_REQUESTS = 429

# A longer wait is cut to this: the Registry counts by the minute.
_LONGEST_WAIT_SECONDS = 3600.0
_SHORTEST_WAIT_SECONDS = 1.0
_HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")


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
    """Seconds to wait after a 429, None when the answer does not say."""
    text = reply.headers.get("retry-after")
    seconds = _number(text)
    if seconds is None:
        server_now, then = _http_date(reply.headers.get("date")), _http_date(text)
        if server_now is not None and then is not None:
            seconds = then - server_now
        else:
            seconds = _reset_in(reply, server_now)
    return None if seconds is None else min(max(seconds, _SHORTEST_WAIT_SECONDS), _LONGEST_WAIT_SECONDS)


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


def _http_date(value: str | None) -> float | None:
    if value is None or _HTTP_DATE.fullmatch(value) is None:
        return None
    try:
        return parsedate_to_datetime(value).timestamp()
    except ValueError:  # "Xxx, 99 Foo 2026"
        return None


def _iso_date(value: Any) -> float | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
