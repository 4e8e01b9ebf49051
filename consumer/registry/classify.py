"""The tables from answer to outcome. They are the rules; the code at the end only walks them.

What names the cause most precisely is asked first: ``error.data``, then ``error.code``, then the
HTTP status, because not every 500 is an outage and not every refusal is a 4xx. Every status
has a row or falls to its class, so every answer has an outcome.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, assert_never

from consumer.core.outcome import (
    AlreadyRegistered,
    Early,
    Expired,
    Forbidden,
    Misconfigured,
    Outcome,
    Proof,
    Registered,
    Rejected,
    Throttled,
    Unauthorized,
    Unavailable,
)
from consumer.core.reply import Fault, FaultKind, Reply
from consumer.registry.jsonrpc import (
    GENERIC_ERROR,
    HTTP_ERRORS,
    Error,
    database_refusal,
    field_path,
    has_result,
    is_refusal,
    is_token_error,
    looks_cut,
    parse,
    read_error,
)
from consumer.registry.rate_limit_headers import retry_after

# --- One rule for each meaning ----------------------------------------------------------------


def _already_registered(reply: Reply, _error: Error) -> Outcome:
    return AlreadyRegistered(reply.status)


def _unauthorized(reply: Reply, error: Error) -> Outcome:
    return Unauthorized(reply.status, error.label)


def _forbidden(reply: Reply, error: Error) -> Outcome:
    return Forbidden(reply.status, error.label)


def _misconfigured(reply: Reply, error: Error) -> Outcome:
    return Misconfigured(reply.status, error.label)


def _unavailable(reply: Reply, error: Error) -> Outcome:
    return Unavailable(error.label, reply.status, retry_after_seconds=_wait(reply))


def _wait(reply: Reply) -> float | None:
    return retry_after(reply) if "retry-after" in reply.headers else None


def _no_result(reply: Reply, _error: Error) -> Outcome:
    # A 2xx that carries no result (a captive portal, a truncated or empty body) proves nothing.
    # Sending again is safe, and a journey that was stored answers 409 (or 200) to it.
    return Unavailable("no_result", reply.status)


def _throttled(reply: Reply, _error: Error) -> Outcome:
    return Throttled(retry_after(reply))


def _rejected(reply: Reply, error: Error) -> Outcome:
    field = field_path(error.data)
    return Rejected(reply.status, f"{error.label} at {field}" if field else error.label)


def _terms_violated(reply: Reply, error: Error) -> Outcome:
    named = error.data.get("terms_violation_labels") if isinstance(error.data, dict) else None
    labels = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    if "expired" in labels:
        return Expired(reply.status, f"{error.label} expired")
    known = ",".join(label for label in _TERMS if label in labels)
    return Rejected(reply.status, f"{error.label} {known}" if known else error.label)


def _parse_error(reply: Reply, error: Error) -> Outcome:
    if error.starts("Journeys cannot happen in the future"):
        return Early(reply.status)
    return _rejected(reply, error)


def _server_error(reply: Reply, error: Error) -> Outcome:
    refusal = database_refusal(error)
    if refusal is not None:
        return Rejected(reply.status, refusal)
    if is_refusal(error.data):
        return _rejected(reply, error)
    if error.starts("Unknown api version"):
        return Misconfigured(reply.status, "unknown_api_version")
    return _unavailable(reply, error)


_Rule = Callable[[Reply, Error], Outcome]

# --- The tables -------------------------------------------------------------------------------

# ``error.data`` when it is the name of an exception of the 2023 server (all of them on a 500).
_BY_DATA: Mapping[str, _Rule] = {
    "SyntaxError": _rejected,  # the body is not JSON
    "PayloadTooLargeError": _rejected,  # the body is over 2 MB
}

# ``error.code`` in JSON-RPC's own range.
_BY_CODE: Mapping[int, _Rule] = {
    -32509: _already_registered,  # "Conflict"
    -32501: _unauthorized,  # "Unauthorized Error"
    -32503: _forbidden,  # "Forbidden Error": also a token that is missing or has no claims
    -32422: _terms_violated,  # "Unprocessable Request": expired, or rejected by other terms
    -32408: _unavailable,  # "Timeout": stored all the same, the next attempt meets a 409
    -32600: _rejected,  # "Invalid Request": neither phone nor phone_trunc
    -32601: _misconfigured,  # "Method not found"
    -32602: _rejected,  # "Invalid params": the validator
    -32700: _parse_error,  # "Parse error": early, or rejected
}

# The HTTP status, or an ``error.code`` that is one. A 4xx that no payload can cause is our
# configuration and must not empty the queue into dead letters: misconfigured.
_BY_STATUS: Mapping[int, _Rule] = {
    400: _rejected,
    401: _unauthorized,
    402: _misconfigured,
    403: _forbidden,
    404: _misconfigured,  # the route or version is not served
    405: _misconfigured,  # the route does not take POST
    406: _misconfigured,  # our Accept header
    407: _misconfigured,  # our proxy wants credentials
    408: _unavailable,
    409: _already_registered,
    410: _misconfigured,  # the version is gone
    411: _misconfigured,  # our framing
    412: _misconfigured,  # we send no precondition: something between us does
    413: _rejected,
    414: _misconfigured,  # our URL
    415: _misconfigured,  # our Content-Type
    417: _misconfigured,  # our Expect header
    421: _misconfigured,  # our host name
    422: _rejected,
    423: _unavailable,  # locked, or waiting for something else: passes
    424: _unavailable,
    425: _unavailable,  # too early for TLS 0-RTT: the same request is welcome later
    426: _misconfigured,  # our protocol version
    428: _misconfigured,
    429: _throttled,
    431: _misconfigured,  # our headers
    451: _misconfigured,
    500: _server_error,  # also code -32000: the validator of 2023, an unserved version, or an outage
}

# The hundreds of the status, for what is in no other table. Anything else is no HTTP answer.
_BY_CLASS: Mapping[int, _Rule] = {
    2: _no_result,
    3: _misconfigured,  # redirects are refused: the token must not travel
    4: _rejected,
    5: _unavailable,
}

# What only the Registry's own words may say of a journey or a token. Gateways, firewalls and captive portals
# answer with these statuses, too, and know nothing of either.
_REGISTRYS_OWN = (_rejected, _unauthorized, _forbidden, _already_registered, _throttled)

# ``terms_violation_labels`` beside ``expired``.
_TERMS = ("distance_too_short", "too_many_trips_by_day", "too_close_trips")

# ``status`` of a journey. ``canceled``: it was registered, and the operator took it back.
_KEPT = ("ok", "pending", "canceled")
# Those that can never count, and the labels that may be shown.
_REFUSED: Mapping[str, tuple[str, ...]] = {
    "terms_violation_error": _TERMS,
    "anomaly_error": ("temporal_overlap_anomaly", "distance_duration_anomaly"),
    "fraud_error": (
        "interoperator_overlap",
        "interoperator_too_many_trips_by_day",
        "interoperator_too_close_trips",
    ),
    "validation_error": (),
    "acquisition_error": (),
    "normalization_error": (),
}
_STATUS_LABELS = ("terms_violation_details", "anomaly_error_details", "fraud_error_labels")
_NOT_FOUND = 404
#: The detail of a journey that the Registry does not know.
NOT_STORED = "not_stored"

# --- Walking them -----------------------------------------------------------------------------


def classify(answer: Reply | Fault) -> Outcome:
    """Say what ``answer`` means for the journey that was sent. Never raises."""
    match answer:
        case Reply():
            return _of_reply(answer)
        case Fault(kind=FaultKind.PROXY, detail="407"):
            return Misconfigured(_PROXY_AUTHENTICATION, "proxy_407")  # our proxy wants credentials
        case Fault(kind=kind, detail=exception):
            return Unavailable(kind.value, status=None, exception=exception or None)
        case _:
            assert_never(answer)


def classify_status(  # noqa: PLR0911 - one for each meaning
    answer: Reply | Fault,
) -> Outcome:
    """Say what the status route's answer means for the journey that was asked about. Never raises.

    Registered, if at all, is AlreadyRegistered; a status that says neither, and an id that the Registry does
    not know (``not_stored``), are Unavailable.
    """
    if not isinstance(answer, Reply):
        return classify(answer)
    body = parse(answer.body)
    error = read_error(answer.status, body)
    if error is not None and error.code in (-32504, _NOT_FOUND):
        return Unavailable(NOT_STORED, answer.status)
    if answer.status // 100 != _SUCCESS or error is not None:
        return classify(answer)
    said = body.get("status") if isinstance(body, dict) else None
    if not isinstance(said, str) or not (said in _KEPT or said in _REFUSED):
        return Unavailable("status_unknown", answer.status)
    if said in _KEPT:
        return AlreadyRegistered(answer.status, Proof.VERIFIED, said)
    labels = [found for key in _STATUS_LABELS for found in _labels(body.get(key))]
    if said == "terms_violation_error" and "expired" in labels:
        return Expired(answer.status, f"{said} expired")
    known = ",".join(label for label in _REFUSED[said] if label in labels)
    return Rejected(answer.status, f"{said} {known}" if known else said)


def _labels(found: Any) -> list[str]:
    """Read labels written as texts, as the server does, or as objects with a ``label``."""
    listed = found if isinstance(found, list) else []
    named = (each.get("label") if isinstance(each, dict) else each for each in listed)
    return [label for label in named if isinstance(label, str)]


_SUCCESS, _SERVER_ERROR = 2, 5  # hundreds of a status
#: The detail of nginx's "400 No required SSL certificate was sent" and "400 The SSL certificate error".
NO_CLIENT_CERTIFICATE = "no_client_certificate"
_BAD_REQUEST = 400
_TOO_MANY, _PROXY_AUTHENTICATION = 429, 407


def _of_reply(reply: Reply) -> Outcome:
    status = reply.status
    body = parse(reply.body)
    error = read_error(status, body)
    if error is None:
        return _without_error(reply, body)
    if is_token_error(error.data):
        return Unauthorized(status, error.data)
    if isinstance(error.data, str) and error.data in _BY_DATA:
        return _BY_DATA[error.data](reply, Error(error.data))
    code = error.code
    if code is not None:
        if code in _BY_CODE:
            return _BY_CODE[code](reply, error)
        if status // 100 in (_SUCCESS, _SERVER_ERROR):  # a 4xx says more than a generic code inside it
            status = 500 if code == GENERIC_ERROR else code if code in HTTP_ERRORS else status
    return _rule(status)(reply, error)


def _without_error(reply: Reply, body: Any) -> Outcome:
    """Classify an answer that has not the shape of one of the Registry's errors."""
    status = reply.status
    if status // 100 == _SUCCESS:
        found, created_at = has_result(body)
        if found:
            return Registered(status, created_at)
    if status == _BAD_REQUEST and b"SSL certificate" in reply.body:
        return Unavailable(NO_CLIENT_CERTIFICATE, status)
    rule = _rule(status)
    if rule in _REGISTRYS_OWN and not _is_registrys(reply, body):
        return Unavailable(f"foreign_{status}", status, retry_after_seconds=_wait(reply), foreign=True)
    outcome = rule(reply, Error(f"http_{status}"))
    return replace(outcome, foreign=True) if isinstance(outcome, Unavailable) else outcome


def _is_registrys(reply: Reply, body: Any) -> bool:
    """Whether it is the Registry's all the same: its rate limiter's plain text, or cut off."""
    limited = reply.status == _TOO_MANY and any("ratelimit-" in name for name in reply.headers)
    return limited or (body is None and looks_cut(reply.body))


def _rule(status: int) -> _Rule:
    return _BY_STATUS.get(status) or _BY_CLASS.get(status // 100, _unavailable)
