"""What the sandbox Registry answers: one literal table for each profile and API version.

Knows the shapes of the Registry's answers and nothing else: no HTTP server, no clock, no
memory. A ``Case`` is a row; a table gives its status and body. A string that is ``$name`` is
replaced by a value when the answer is written; values are not searched for placeholders.

Sources: the captured answers of the servers of July 2023 and August 2025; for v2 in 2025, which that server
does not serve, its published specification.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Any

JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"
EMPTY = ""


class Profile(StrEnum):
    Y2023 = "2023"
    Y2025 = "2025"


class Case(Enum):
    """A row of each table; the placeholders of its body."""

    ACCEPTED = auto()
    ALREADY_REGISTERED = auto()  # $detail
    INVALID = auto()  # $detail
    NO_JOURNEY_ID = auto()  # 2023 only; also: the body is not an object
    NO_PHONE = auto()  # $detail; v3 of 2025 only
    UNSTORABLE = auto()  # $detail, as the database says it
    FUTURE = auto()
    TERMS_VIOLATED = auto()  # $labels
    TOKEN_MISSING = auto()
    TOKEN_REVOKED = auto()
    TOKEN_UNUSABLE = auto()  # $error, $detail
    TOKEN_CLAIMLESS = auto()
    OPERATOR_MISMATCH = auto()
    MALFORMED_JSON = auto()  # $detail
    CHARSET_UNKNOWN = auto()  # $detail
    TOO_LARGE = auto()
    TOO_MANY_REQUESTS = auto()  # $limit, $current, $reset_time
    MAINTENANCE = auto()
    TIMEOUT = auto()
    JOURNEY_UNKNOWN = auto()
    UNKNOWN_ROUTE = auto()
    UNKNOWN_VERSION = auto()  # $detail
    NOT_A_VERSION = auto()
    KEYS_ACCEPTED = auto()  # $access_token
    KEYS_REFUSED = auto()
    KEYS_INCOMPLETE = auto()  # $detail
    ERROR = auto()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


Body = dict[str, Any] | str
Table = Mapping[Case, tuple[int, Body]]


def _error(code: int, message: str, data: Any = None) -> dict[str, Any]:
    """Body of a JSON-RPC error; ``data`` is left out when there is none."""
    optional = {} if data is None else {"data": data}
    return {"id": 1, "error": {**optional, "code": code, "message": message}, "jsonrpc": "2.0"}


def _accepted(id_key: str) -> dict[str, Any]:
    data = {id_key: "$journey_id", "created_at": "$created_at"}
    return {"id": 1, "result": {"meta": None, "data": data}, "jsonrpc": "2.0"}


_TOO_MANY: dict[str, Any] = {"error": {"code": 429, "message": "Too many requests"}}
_USAGE = {"limit": "$limit", "current": "$current", "remaining": 0, "resetTime": "$reset_time"}
_FORBIDDEN = _error(-32503, "Forbidden Error", "Invalid permissions")
_NULL_ID = 'null value in column "journey_id" of relation "acquisitions" violates not-null constraint'
_NOT_FOUND_PAGE = (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Error</title>\n</head>\n'
    "<body>\n<pre>Not Found</pre>\n</body>\n</html>\n"
)

_BOTH: Table = {
    Case.FUTURE: (422, _error(-32700, "Parse error", "Journeys cannot happen in the future")),
    Case.TERMS_VIOLATED: (
        422,
        _error(-32422, "Unprocessable Request", {"terms_violation_labels": "$labels"}),
    ),
    Case.TOKEN_MISSING: (403, _FORBIDDEN),
    Case.TOKEN_REVOKED: (401, _error(401, "Unauthorized Error", "Error")),
    Case.OPERATOR_MISMATCH: (403, _FORBIDDEN),
    Case.TOO_LARGE: (500, _error(500, "request entity too large", "PayloadTooLargeError")),
    Case.MAINTENANCE: (503, {"code": 503, "error": "Service Unavailable"}),
    Case.TIMEOUT: (408, _error(-32408, "Timeout")),
    Case.UNKNOWN_ROUTE: (404, _NOT_FOUND_PAGE),
    Case.ERROR: (500, _error(500, "Internal Server Error", "Error")),
}

_Y2023_V2: Table = {
    **_BOTH,  # the terms only on demand: this server had none yet
    Case.ACCEPTED: (200, _accepted("journey_id")),
    Case.ALREADY_REGISTERED: (409, _error(-32509, "Conflict", "Journey already registered")),
    Case.INVALID: (500, _error(-32000, "Server error", "$detail")),
    Case.NO_JOURNEY_ID: (500, _error(-32000, "Server error", _NULL_ID)),
    Case.TOKEN_UNUSABLE: (500, _error(500, "$detail", "JsonWebTokenError")),
    Case.TOKEN_CLAIMLESS: (403, _FORBIDDEN),
    Case.MALFORMED_JSON: (500, _error(500, "Unexpected token in JSON", "SyntaxError")),
    Case.TOO_MANY_REQUESTS: (429, {"error": {**_TOO_MANY["error"], **_USAGE}}),
    Case.UNKNOWN_VERSION: (500, _error(500, "$detail", "Error")),
    Case.NOT_A_VERSION: (422, _error(422, "Unprocessable Entity")),
}

_Y2023_V3: Table = {**_Y2023_V2, Case.ACCEPTED: (200, _accepted("operator_journey_id"))}

_Y2025_V3: Table = {
    **_BOTH,
    Case.ACCEPTED: (201, _accepted("operator_journey_id")),
    Case.ALREADY_REGISTERED: (409, _error(-32509, "Conflict", "$detail")),
    Case.INVALID: (400, _error(-32602, "Invalid params", "$detail")),
    Case.NO_PHONE: (400, _error(-32600, "Invalid Request", "$detail")),
    Case.UNSTORABLE: (500, {"id": 1, "error": {"message": "$detail"}, "jsonrpc": "2.0"}),
    Case.TOKEN_UNUSABLE: (500, _error(500, "$detail", "$error")),
    Case.TOKEN_CLAIMLESS: (403, _error(403, "Forbidden Error", "Error")),
    Case.MALFORMED_JSON: (500, _error(500, "$detail", "SyntaxError")),
    Case.CHARSET_UNKNOWN: (500, _error(500, "$detail", "UnsupportedMediaTypeError")),
    Case.TOO_MANY_REQUESTS: (429, _TOO_MANY),
    Case.JOURNEY_UNKNOWN: (404, _error(-32504, "Not found")),
    Case.UNKNOWN_VERSION: (404, EMPTY),
    Case.KEYS_ACCEPTED: (201, {"access_token": "$access_token"}),
    Case.KEYS_REFUSED: (401, _error(-32501, "Unauthorized Error", "Invalid access key or secret key")),
    Case.KEYS_INCOMPLETE: (400, _error(-32602, "Invalid params", "$detail")),
}

_UNAUTHORIZED_V2: Body = {"code": 401, "error": "Unauthorized"}

_Y2025_V2: Table = {  # by its specification: no server of 2025 was seen to serve it
    **_Y2025_V3,
    Case.ACCEPTED: (201, {"journey_id": "$journey_id", "created_at": "$created_at"}),
    Case.TOKEN_MISSING: (401, _UNAUTHORIZED_V2),
    Case.TOKEN_REVOKED: (401, _UNAUTHORIZED_V2),
    Case.TOKEN_UNUSABLE: (401, _UNAUTHORIZED_V2),
    Case.TOKEN_CLAIMLESS: (403, {"code": 403, "error": "Forbidden"}),
    Case.OPERATOR_MISMATCH: (403, {"code": 403, "error": "Forbidden"}),
}

TABLES: Mapping[tuple[Profile, str], Table] = {
    (Profile.Y2023, "v2"): _Y2023_V2,
    (Profile.Y2023, "v3"): _Y2023_V3,
    (Profile.Y2025, "v2"): _Y2025_V2,
    (Profile.Y2025, "v3"): _Y2025_V3,
}

_PLACEHOLDER = re.compile(r'"\$(\w+)"')


def write(profile: Profile, api: str, case: Case, /, **values: Any) -> Answer:
    """Write the answer of ``case``; ``api`` is ``v2`` or ``v3``, ``values`` fill the placeholders.

    Raises KeyError when the table has no such row or a placeholder has no value.
    """
    status, body = TABLES[profile, api][case]
    if isinstance(body, str):
        return Answer(status, body.encode(), HTML)
    text = json.dumps(body, separators=(",", ":"))
    return Answer(status, _PLACEHOLDER.sub(lambda found: json.dumps(values[found[1]]), text).encode())
