"""What the Registry's parts say of what they refuse: validator, database, body parser, token libraries.

Pure. Clients read these texts to tell a refusal from an outage, so that their form is the servers' own. Which
of several errors is reported first is known for the root of a payload only.
"""

import base64
import binascii
import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from schemas import Violation
from schemas.database import LICENCE_PLATE, TRAVEL_PASS, USER_ID

_AJV_TEXTS = {
    "bad_format": "must match format",
    "start_after_end": "must pass validation",
    "not_allowed_value": "must be equal to one of the allowed values",
    "not_integer": "must be integer",
    "unknown_key": "must NOT have additional properties",
}
_AJV_WORDS = (
    (re.compile(r"must have at least (\d+) characters"), r"must NOT have fewer than \1 characters"),
    (re.compile(r"must have at most (\d+) (characters|items)"), r"must NOT have more than \1 \2"),
    (re.compile(r"must be at least (.+)"), r"must be >= \1"),
    (re.compile(r"must be at most (.+)"), r"must be <= \1"),
    (re.compile(r"must be (?:a (string|number)|an (object))"), r"must be \1\2"),
    (re.compile(r"must be a list"), "must be array"),
)
_FRACTIONS = {"lat", "lon"}  # every other number is an integer
_AMOUNT = re.compile(r"incentives\.\d+\.amount")
_COLUMNS = {"licence_plate": LICENCE_PLATE, "user_id": TRAVEL_PASS, "operator_user_id": USER_ID}
_IDENTITY_KEY = 64
_SPACE = " \t\r\n"
_CONTEXT = 10  # characters that V8 quotes on both sides of an error in a longer text
_QUOTED_WHOLE = 40


def ajv_text(violation: Violation) -> tuple[str, str]:
    """A violation as the Registry's validator puts it: ``("/driver/identity", "must ...")``."""
    path = violation.path.split(".") if violation.path else []
    text = violation.message
    if violation.code == "missing" and text == "is required":
        path, text = path[:-1], f"must have required property '{path[-1]}'"
    elif violation.code in _AJV_TEXTS:
        text = _AJV_TEXTS[violation.code]
    elif text == "must be a number" and path and path[-1] not in _FRACTIONS:
        text = "must be integer"
    elif not text.startswith("must "):
        text = "must match a schema in anyOf"
    for ours, theirs in _AJV_WORDS:
        text = ours.sub(theirs, text)
    return "".join(f"/{part}" for part in path), text


def first_error(violations: Sequence[Violation]) -> list[str]:
    """Return what the 2025 server says: its validator stops at the first error, at the root a missing key."""

    def rank(violation: Violation) -> int:
        root_missing = violation.code == "missing" and "." not in violation.path
        return 0 if root_missing else 1 if violation.code == "unknown_key" and not violation.path else 2

    return [": ".join(ajv_text(min(violations, key=rank)))]


def database_text(violations: Sequence[Violation], payload: Any) -> str | None:
    """Return what PostgreSQL says first; None when the validator refuses any of it."""
    texts = [_of_database(each, payload) for each in violations]
    return min(text for text in texts if text)[1] if all(texts) else None


def _of_database(violation: Violation, payload: Any) -> tuple[int, str] | None:
    """The text, and when in the course of the statements it comes."""
    value, name = _at(payload, violation.path), violation.path.rpartition(".")[2]
    said: tuple[int, str] | None = None
    match violation.code:
        case "bad_character" if "\0" not in value:
            said = 5, "invalid input syntax for type json"
        case "bad_character" if name == "type":
            said = 1, "unsupported Unicode escape sequence"
        case "bad_character":
            said = 1, 'invalid byte sequence for encoding "UTF8": 0x00'
        case "too_long_to_store":
            said = 2, _too_long(_COLUMNS[name])
        case "not_integer" if _AMOUNT.fullmatch(violation.path):
            said = 3, f'invalid input syntax for type integer: "{value}"'
        case "repeated":
            index = "carpool_incentives_carpool_id_idx"
            said = 4, f'duplicate key value violates unique constraint "{index}"'
        case "wrong_type" if name == "identity_key":
            stored = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
            long = len(stored) > _IDENTITY_KEY
            said = (2, _too_long(_IDENTITY_KEY)) if long else (6, f'malformed array literal: "{stored}"')
    return said


def _too_long(limit: int) -> str:
    return f"value too long for type character varying({limit})"


def _at(payload: Any, path: str) -> Any:
    """The value at a path, None where there is none."""
    for part in path.split("."):
        if isinstance(payload, list) and part.isdigit():
            payload = payload[int(part)]
        elif isinstance(payload, dict):
            payload = payload.get(part)
        else:
            return None
    return payload


def parse_strictly(text: str) -> Any:
    """Return the object or list that a body holds, as body-parser reads it.

    Raises ValueError with what V8 says of a body that is not JSON, or another JSON value.
    """
    if text.lstrip(_SPACE)[:1] not in ("{", "["):
        raise ValueError(_unexpected(text, len(text) - len(text.lstrip(_SPACE))))
    try:
        return json.loads(text, parse_constant=int)  # ``int`` raises for NaN and Infinity
    except json.JSONDecodeError as error:
        raise ValueError(_unexpected(text, error.pos)) from None
    except (ValueError, RecursionError):
        raise ValueError("Unexpected token in JSON") from None


def _unexpected(text: str, position: int) -> str:
    if position >= len(text):
        return "Unexpected end of JSON input"
    quoted = f'"{text}"'
    if len(text) > _QUOTED_WHOLE:
        quoted = f'..."{text[max(0, position - _CONTEXT) : position + _CONTEXT]}"...'
    return f"Unexpected token '{text[position]}', {quoted} is not valid JSON"


def javascript_date(moment: datetime) -> str:
    """A moment in UTC as ``Date.prototype.toString`` prints it."""
    return f"{moment:%a %b %d %Y %H:%M:%S} GMT+0000 (Coordinated Universal Time)"


def jsonwebtoken_error(token: str) -> str:
    """What ``jsonwebtoken`` says of a token that it cannot use, as the 2023 server passes it on."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 -- header, claims, signature
        return "jwt malformed"
    if _header(parts[0]) is None:
        return "invalid token"
    return "invalid signature" if parts[2] else "jwt signature is required"


def token_error(token: str) -> tuple[str, str]:
    """Name and text of the 2025 server's error: ``jose`` looks first, ``jsonwebtoken`` at HMAC tokens."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 -- header, claims, signature
        return "JWSInvalid", "Invalid Compact JWS"
    header = _header(parts[0])
    if not isinstance(header, dict):
        return "JWSInvalid", "JWS Protected Header is invalid"
    if str(header.get("alg")).startswith("HS"):
        return "JsonWebTokenError", jsonwebtoken_error(token)
    return "JWKSNoMatchingKey", "no applicable key found in the JSON Web Key Set"


def _header(part: str) -> Any:
    try:
        return json.loads(base64.urlsafe_b64decode(part + "==="))
    except (ValueError, binascii.Error, RecursionError):
        return None
