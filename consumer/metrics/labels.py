"""The values of labels: closed sets, and the functions that choose one of a set.

Pure, and never raises for what a broker, a payload or the Registry says: a text from outside never becomes
a label value. Only an outcome that is never retried has no retry reason.
"""

from typing import Final

from consumer.core.outcome import (
    Early,
    Forbidden,
    Misconfigured,
    Outcome,
    PauseCause,
    Reason,
    Throttled,
    Unauthorized,
    Unavailable,
)
from consumer.core.reply import FaultKind
from schemas import field_paths

FAULTS: Final = tuple(kind.value for kind in FaultKind)
REASONS: Final = tuple(reason.value for reason in Reason)
OUTCOMES: Final = ("registered", "already_registered", *REASONS)
PAUSE_CAUSES: Final = tuple(cause.value for cause in PauseCause)
CONNECTIONS: Final = ("consume", "publish")
RETRY_REASONS: Final = (
    *(*FAULTS, "408", "5xx", "no_result"),
    *("throttled", "early", "unauthorized", "forbidden", "misconfigured"),
)

_EXACT_STATUSES = (200, 201, 400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504)
CODES: Final = (*map(str, _EXACT_STATUSES), "2xx", "3xx", "4xx", "5xx", *FAULTS)

# Counted with the place or travel pass that they are parts of; apart they would be a third of all series.
_PARTS = frozenset({"lat", "lon", "insee", "literal", "country", "name", "user_id"})
_PATHS = frozenset(
    path for path in (*field_paths("v2"), *field_paths("v3")) if path.rpartition(".")[2] not in _PARTS
)
# payload: the refusal has no path (not JSON, too large, an error of the Registry that names no field).
# other: the path starts with no field of the models.
REFUSED_FIELDS: Final = (*sorted(_PATHS), "payload", "other")


def status_code(status: int) -> str:
    """Return the status itself when it has a meaning of its own, else its class; "other" if not HTTP."""
    if status in _EXACT_STATUSES:
        return str(status)
    return f"{status // 100}xx" if 2 <= status // 100 <= 5 else FaultKind.OTHER  # noqa: PLR2004


def retry_reason(outcome: Outcome) -> str:
    match outcome:
        case Unavailable(status=None, detail=detail):
            return detail if detail in FAULTS else FaultKind.OTHER
        case Unavailable(status=408):
            return "408"
        case Unavailable(status=int(status)):
            return {2: "no_result", 5: "5xx"}.get(status // 100, FaultKind.OTHER)
        case Throttled() | Early() | Unauthorized() | Forbidden() | Misconfigured():
            return type(outcome).__name__.lower()
        case _:
            raise ValueError(f"{type(outcome).__name__} is final: it is never retried")


def refused_field(detail: str) -> str:
    """Return the member of ``REFUSED_FIELDS`` that ``code at field.path`` names.

    Indexes do not count; a path that goes deeper than the set is counted as its nearest parent in the set.
    """
    path = ".".join(part for part in detail.partition(" at ")[2].split(".") if not part.isdigit())
    if not path:
        return "payload"
    while path and path not in _PATHS:
        path = path.rpartition(".")[0]
    return path or "other"
