"""The fields under which refused journeys are counted, and how a refusal's detail names one of them.

1. A closed set, from the models of both API versions: what the Registry or a payload says never becomes
   a label by itself.
2. Pure, and never raises: it is asked where a delivery is settled.
"""

from typing import Final

from schemas import field_paths

WHOLE: Final = "payload"
"""For a refusal without a path: no JSON, too large, terms of the Registry that name no field."""
OTHER: Final = "other"
"""For a path that starts with no field of the models."""

# Counted with the place or travel pass that they are parts of; apart they would be a third of all series.
_PARTS = frozenset({"lat", "lon", "insee", "literal", "country", "name", "user_id"})
_PATHS = frozenset(
    path for path in (*field_paths("v2"), *field_paths("v3")) if path.rpartition(".")[2] not in _PARTS
)

REFUSED_FIELDS: Final = (*sorted(_PATHS), WHOLE, OTHER)


def refused_field(detail: str) -> str:
    """Return the member of ``REFUSED_FIELDS`` that ``code at field.path`` is about.

    Indexes do not count; a path that goes deeper than the set is its nearest parent in the set.
    """
    path = ".".join(part for part in detail.partition(" at ")[2].split(".") if not part.isdigit())
    if not path:
        return WHOLE
    while path and path not in _PATHS:
        path = path.rpartition(".")[0]
    return path or OTHER
