"""Reads the JSON-RPC bodies of the Registry, and says what of them may be shown.

The texts of an error quote values of the journey, so only three things ever leave this module
as text: a code in a known range, a field path made of the contract's own keys, and a
timestamp. Nothing here raises on any bytes.
"""

import json
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Error:
    """The error of an answer. ``label`` may be shown; ``data`` and ``message`` may not."""

    label: str
    code: int | None = None
    data: Any = None
    message: str = ""

    def starts(self, prefix: str) -> bool:
        """Whether the error's text, in either of its two places, starts with ``prefix``."""
        return first_text(self.data).startswith(prefix) or self.message.startswith(prefix)


def parse(body: bytes) -> Any:
    """Return the JSON value of ``body``, None when it is none: HTML, empty, cut off, absurdly nested."""
    try:
        return json.loads(body.decode())
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None


def looks_cut(body: bytes) -> bool:
    """Whether ``body`` begins like one of the Registry's errors, and was cut off."""
    start = body.lstrip()[:_CUT_BYTES]
    return start.startswith(b"{") and any(word in start for word in (b'"jsonrpc"', b'"error"', b'"code"'))


_CUT_BYTES = 512
_SHOWN_CODES = range(-32999, -31999)
HTTP_ERRORS = range(400, 600)
GENERIC_ERROR = -32000  # "Server error": JSON-RPC's word for a plain 500


def read_error(status: int, body: Any) -> Error | None:
    """Read ``{"error": {"code", "data", "message"}}``, or the plain ``{"code": 401, "error": "..."}``.

    None when ``body`` has neither shape: then it is not the Registry that answered.
    """
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    if isinstance(error, dict):
        code, data, message = error.get("code"), error.get("data"), error.get("message")
    elif isinstance(error, str) and isinstance(body.get("code"), int):
        code, data, message = body["code"], None, error
    else:
        return None
    if not isinstance(code, int):
        code = None
    shown = code is not None and (code in _SHOWN_CODES or code in HTTP_ERRORS)
    label = str(code) if shown else f"http_{status}"
    return Error(label, code, data, message if isinstance(message, str) else "")


_RESULT_KEYS = {"journey_id", "operator_journey_id"}
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[0-9T:.Z+ -]{0,30}")


def has_result(body: Any) -> tuple[bool, str | None]:
    """Look for a result at its three depths: ``result.data``, ``result``, the root.

    Returns whether there is one, and its ``created_at`` when that is a timestamp.
    """
    if isinstance(body, dict):
        result = body.get("result")
        data = result.get("data") if isinstance(result, dict) else None
        for level in (data, result, body):
            if isinstance(level, dict):
                created = level.get("created_at")
                if created is not None or level.keys() & _RESULT_KEYS:
                    plain = isinstance(created, str) and _TIMESTAMP.fullmatch(created)
                    return True, created if plain else None
    return False, None


def is_refusal(data: Any) -> bool:
    """Whether ``error.data`` is the validator's text: sending the same again cannot help."""
    text = first_text(data)
    return text.startswith(("data/", "data must ")) or "violates not-null constraint" in text


# What PostgreSQL says of a value that it cannot store, and our code for it. The 2025 server passes the text
# on as ``error.message``, without code and data, that of 2023 as ``data`` of its generic error; sending the
# same again cannot help.
_DATABASE_REFUSALS = {
    "value too long for type": "value_too_long",
    "invalid input syntax for type": "invalid_syntax",
    "invalid byte sequence for encoding": "invalid_encoding",
    "duplicate key value violates unique constraint": "duplicate_key",
    "malformed array literal": "malformed_array",
    "malformed range literal": "malformed_range",
    "null value in column": "null_value",
    "unsupported Unicode escape sequence": "invalid_encoding",
}
_DATABASE_REFUSAL = re.compile(
    r"date/time field value out of range|(?:integer|numeric field|value .{1,60}) (?:overflow|out of range)"
    r"|violates (?:check|foreign key|not-null) constraint",
)


def database_refusal(error: Error) -> str | None:
    """Return our code for a value that the Registry's database cannot store; None for any other error."""
    if error.code is None and error.data is None:
        said = error.message
    elif error.code == GENERIC_ERROR and not is_refusal(error.data):
        said = first_text(error.data)
    else:
        return None
    for text, code in _DATABASE_REFUSALS.items():
        if said.startswith(text):
            return code
    return "value_refused" if _DATABASE_REFUSAL.search(said[:500]) else None


_JOSE = re.compile(r"(?:JW[A-Z]|JWKS|JOSE)[A-Z][A-Za-z]{2,40}")


def is_token_error(data: Any) -> bool:
    """Whether ``error.data`` names an error of a JWT library: ``jose`` (2025), ``jsonwebtoken`` (2023).

    ``JWKSTimeout`` is none: the identity provider did not answer, the token was not judged.
    """
    if not isinstance(data, str):
        return False
    jsonwebtoken = data in {"JsonWebTokenError", "TokenExpiredError", "NotBeforeError"}
    return jsonwebtoken or (_JOSE.fullmatch(data) is not None and data != "JWKSTimeout")


# Words that may stand in a field path: the keys of every version's payload and nothing else.
_FIELDS = frozenset(
    """
    operator_id journey_id operator_journey_id operator_trip_id operator_class api_version licence_plate
    driver passenger identity firstname lastname email phone phone_trunc operator_user_id identity_key
    company over_18 travel_pass name user_id driving_license application_timestamp
    start end datetime lat lon insee literal country distance duration seats revenue contribution
    incentives incentive_counterparts payments index siret amount type target
    """.split(),  # noqa: SIM905 - forty words, one below the other, would only be longer
)

_PATH = re.compile(r"(?:data)?((?:/[a-z0-9_]{1,32}){1,9})(?::? )")
_COLUMN = re.compile(r'null value in column "([a-z_]{1,32})"')


def field_path(data: Any) -> str | None:
    """The path of the first refused field, as far as it is made of known keys and indexes."""
    text = first_text(data)
    found = _PATH.match(text) or _COLUMN.match(text)
    if found is None:
        return None
    known: list[str] = []
    for part in found[1].strip("/").split("/"):
        if part not in _FIELDS and not (len(part) <= 2 and part.isdigit()):  # noqa: PLR2004 - indexes 0..19
            break
        known.append(part)
    return ".".join(known) or None


def first_text(data: Any) -> str:
    """Return ``error.data`` as text: itself, the first of the list that the 2025 server sends, or empty."""
    first = data[0] if isinstance(data, list) and data else data
    return first if isinstance(first, str) else ""
