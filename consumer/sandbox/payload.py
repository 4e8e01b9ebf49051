"""Reading a body before anyone judges it: is it JSON, does it name a journey, does a phone lack.

Knows the few keys that the checks before and after validation need; the rules of a payload are
``schemas``' own. Nothing here raises, whatever the bytes.
"""

import json
from collections.abc import Mapping
from typing import Any

from schemas import Version, Violation

_ANY_PHONE = "+33612345678"  # valid, put where none is, to see whether anything else is wrong

_AJV_WORDS = {"bad_format": "must match format", "start_after_end": "must pass validation"}


def parse(body: bytes | None) -> tuple[bool, Any]:
    """Whether the body can be read, and what it holds; an empty one reads as an empty object."""
    if body is None:
        return False, None
    try:
        return True, json.loads(body.decode(), parse_constant=_not_json) if body else {}
    except (ValueError, RecursionError):
        return False, None


def _not_json(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


def id_key(api: Version) -> str:
    """The key that holds the journey's id."""
    return "journey_id" if api == "v2" else "operator_journey_id"


def named_id(payload: Any, api: Version) -> str | None:
    """The id that the payload names, when it is text."""
    named = payload.get(id_key(api)) if isinstance(payload, dict) else None
    return named if isinstance(named, str) else None


def with_phones(payload: Mapping[str, Any]) -> bytes | None:
    """The body with a phone for each person who has none; None when nobody lacks one."""
    completed = dict(payload)
    for role in ("driver", "passenger"):
        person = payload.get(role)
        identity = person.get("identity") if isinstance(person, dict) else None
        if isinstance(identity, dict) and not identity.keys() & {"phone", "phone_trunc"}:
            completed[role] = {**payload[role], "identity": {**identity, "phone": _ANY_PHONE}}
    return None if completed == payload else json.dumps(completed).encode()


def ajv_words(violation: Violation) -> tuple[str, str]:
    """A violation as the Registry's validator puts it: ``("/driver/identity", "must ...")``.

    Clients read these words ("data must ...", "data/...") to tell a refusal from an outage.
    """
    path = violation.path.split(".") if violation.path else []
    words = violation.message
    if violation.code == "missing" and words == "is required":
        path, words = path[:-1], f"must have required property '{path[-1]}'"
    elif violation.code == "unknown_key":
        words = "must NOT have additional properties"
    elif not words.startswith("must "):
        words = _AJV_WORDS.get(violation.code, "must match a schema in anyOf")
    return "".join(f"/{part}" for part in path), words
