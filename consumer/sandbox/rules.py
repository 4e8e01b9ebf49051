"""What the sandbox Registry answers to a request: the order of its checks, for both profiles.

Takes a request as values and gives an answer; knows no socket, and no fault but the labels of the terms of
use. The order is the servers' own. 2023: body, limit, token, payload. 2025: body, token, limit, version,
payload. Then the dates, the id, the terms of use. The rules of a payload are ``schemas``' own. No bytes make
anything here raise.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from hashlib import sha256
from typing import Any, Literal
from urllib.parse import unquote

from consumer.core.clock import REGISTRATION_WINDOW, iso_utc
from consumer.sandbox import texts
from consumer.sandbox.answers import Answer, Case, Profile, write
from consumer.sandbox.lookups import Validate, cancelled, listed, patched, status_of
from consumer.sandbox.state import (
    Journeys,
    JourneyStatus,
    RateWindows,
    StoredJourney,
    Tokens,
    TokenState,
    Usage,
)
from consumer.sandbox.versions import is_served
from schemas import Journey, Refusal, Version

Clock = Callable[[], datetime]

_SHORTEST_METRES = 2_000
_OVERWRITTEN = (JourneyStatus.PENDING, JourneyStatus.ACQUISITION_ERROR)  # by the server of 2023
_VERSION_2023 = re.compile(r"v\d+(\.\d+)*")
_ROUTE = re.compile(r"/([^/]+)/(?:(auth/access_token)|journeys(?:/([^/]+)(/cancel)?)?)/?")
_TOKEN_CASES = {
    TokenState.REVOKED: Case.TOKEN_REVOKED,
    TokenState.CLAIMLESS: Case.TOKEN_CLAIMLESS,
    TokenState.EXPIRED: Case.TOKEN_UNUSABLE,
    TokenState.UNKNOWN: Case.TOKEN_UNUSABLE,
}
_EXPIRED = ("JWTExpired", '"exp" claim timestamp check failed')
_ANY_PHONE = "+33612345678"  # valid; put where none is, to see whether anything else is wrong
_CHARSET = re.compile(r"charset=\"?([^\";\s]+)", re.IGNORECASE)


class _Operation(Enum):
    """What the server of 2025 does: method, and shape of the path."""

    SUBMIT = ("POST", "/journeys")
    LIST = ("GET", "/journeys")
    STATUS = ("GET", "/journey")
    PATCH = ("PATCH", "/journey")
    CANCEL = ("POST", "/cancel")
    EXCHANGE = ("POST", "auth/access_token")


_OPERATIONS = {each.value: each for each in _Operation}
_NOTHING = Answer(0)


@dataclass(frozen=True, slots=True)
class Call:
    """A request as values: ``path`` as it was sent, ``body`` None when it exceeded the limit of 2 MB.

    ``forced_labels`` is a fault: valid journeys violate the terms of use.
    """

    method: str
    path: str
    authorization: str | None
    address: str
    body: bytes | None
    content_type: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    forced_labels: Sequence[str] = ()


@dataclass(slots=True)
class Verdict:
    """The answer, and what the log may hold of the request: the token's name, the journey's id."""

    answer: Answer
    token: str = "none"  # noqa: S105 -- a name for having none
    journey_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator chooses at the start. Limits are requests a minute; without both keys no key works.

    ``serve_v2``: profile 2025 serves v2 as specified, which its server does not. ``ok_after_seconds``:
    pending journeys become ``ok`` that long after they were registered.
    """

    profile: Profile = Profile.Y2025
    operator_id: int = 1
    rate_limit: int = 20_000
    status_limit: int = 2_000
    access_key: str | None = None
    secret_key: str | None = None
    access_token_lifetime_seconds: float = 300.0
    key_exchange_limit: int = 5
    terms: Literal["v3", "all", "off"] = "v3"
    serve_v2: bool = True
    ok_after_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Submission:
    """A request with a good token on its way through the checks; its payload was read from ``text``."""

    body: bytes
    text: bytes
    payload: Any
    path_version: str
    api: Version
    token: str
    now: datetime
    forced_labels: Sequence[str]


class Rules:
    def __init__(self, settings: Settings, validate: Validate, clock: Clock, tokens: Tokens) -> None:
        self.settings = settings
        self.clock = clock
        self.tokens = tokens
        self.journeys = Journeys(settings.ok_after_seconds)
        self._is_2023 = settings.profile is Profile.Y2023
        self._submissions, lookups = RateWindows(settings.rate_limit), RateWindows(settings.status_limit)
        self._limiters = dict.fromkeys(_Operation, lookups) | {
            _Operation.SUBMIT: self._submissions,
            _Operation.CANCEL: self._submissions,
            _Operation.EXCHANGE: RateWindows(settings.key_exchange_limit),
        }
        self._validate = validate

    def decide(self, call: Call) -> Verdict:
        return self._decide_2023(call) if self._is_2023 else self._decide_2025(call)

    def answer(self, case: Case, api: Version = "v3", **values: Any) -> Answer:
        return write(self.settings.profile, api, case, **values)

    def throttled(self, retry_after_seconds: int, *, with_headers: bool) -> Answer:
        now, limit = self.clock(), self.settings.rate_limit
        usage = Usage(limit, limit + 1, now.timestamp() + retry_after_seconds)
        answer = self._too_many(usage, retry_after_seconds)
        return answer if with_headers else replace(answer, headers={})

    # --- Limits and tokens ----------------------------------------------------------------

    def _with_usage(self, answer: Answer, usage: Usage) -> Answer:
        headers = {
            "X-RateLimit-Limit": str(usage.limit),
            "X-RateLimit-Remaining": str(max(0, usage.limit - usage.current)),
            "X-RateLimit-Reset": str(math.ceil(usage.resets_at)),
        }
        return replace(answer, headers=headers)

    def _too_many(self, usage: Usage, retry_after_seconds: int = 60) -> Answer:
        """60, the window's length, whatever is left of it: as the server does."""
        reset_time = iso_utc(datetime.fromtimestamp(usage.resets_at, UTC))
        answer = self.answer(
            Case.TOO_MANY_REQUESTS, limit=usage.limit, current=usage.current, reset_time=reset_time
        )
        answer = self._with_usage(answer, usage)
        return replace(answer, headers={**answer.headers, "Retry-After": str(retry_after_seconds)})

    def _check_token(
        self, authorization: str | None, api: Version, now: datetime
    ) -> tuple[Case | None, Answer, str]:
        """The refusal and its answer, None when the token is accepted; and the token's name."""
        if authorization is None:
            return Case.TOKEN_MISSING, self.answer(Case.TOKEN_MISSING, api), "none"
        scheme, _, token = authorization.partition(" ")
        state, name = TokenState.UNKNOWN, "unknown"
        if scheme == "Bearer":
            state, name = self.tokens.check(token, now)
        else:
            token = authorization
        if state is TokenState.ACCEPTED:
            return None, _NOTHING, name
        error, detail = _EXPIRED if state is TokenState.EXPIRED else texts.token_error(token)
        if self._is_2023:
            detail = texts.jsonwebtoken_error(token)
        case = _TOKEN_CASES[state]
        return case, self.answer(case, api, error=error, detail=detail), name

    # --- 2023 -----------------------------------------------------------------------------

    def _decide_2023(self, call: Call) -> Verdict:
        version, _, rest = call.path.strip("/").partition("/")
        if version in ("v2", "v3") and call.method == "POST" and rest == "journeys":
            return self._submit_2023(call, version, "v2" if version == "v2" else "v3")
        if version in ("v2", "v3") or not rest:
            return Verdict(self.answer(Case.UNKNOWN_ROUTE))
        if _VERSION_2023.fullmatch(version):
            return Verdict(self.answer(Case.UNKNOWN_VERSION, detail=f"Unknown api version {version[:32]}"))
        return Verdict(self.answer(Case.NOT_A_VERSION))

    def _submit_2023(self, call: Call, version: str, api: Version) -> Verdict:
        now = self.clock()
        if call.body is None:
            return Verdict(self.answer(Case.TOO_LARGE, api))
        try:
            # ``int`` raises ValueError for NaN and Infinity, which are not JSON.
            payload = json.loads(call.body.decode(), parse_constant=int) if call.body else {}
        except (ValueError, RecursionError):
            return Verdict(self.answer(Case.MALFORMED_JSON, api))
        journey_id = _named_id(payload, api)
        usage = self._submissions.count(call.address, now)
        if usage.exceeded:
            return Verdict(self._too_many(usage), journey_id=journey_id)
        refused, answer, token = self._check_token(call.authorization, api, now)
        if refused is None:
            sent = _Submission(call.body, call.body, payload, version, api, token, now, call.forced_labels)
            answer = self._judge(sent)
        return Verdict(self._with_usage(answer, usage), token, journey_id)

    # --- 2025 -----------------------------------------------------------------------------

    def _decide_2025(self, call: Call) -> Verdict:
        read = self._read(call)
        if isinstance(read, Answer):
            return Verdict(read)
        text, payload = read
        route = _ROUTE.fullmatch(call.path)
        parts = route.groups("") if route else ("", "", "", "")
        version, exchange, journey_id, cancel = map(unquote, parts)
        shape = exchange or cancel or ("/journey" if journey_id else "/journeys")
        operation = _OPERATIONS.get((call.method, shape)) if route else None
        v2_alone = version == "v2" and self.settings.serve_v2
        if operation is None or (v2_alone and operation not in (_Operation.SUBMIT, _Operation.EXCHANGE)):
            return Verdict(self.answer(Case.UNKNOWN_ROUTE))
        if call.query:
            payload = {**call.query, **payload}
            text = json.dumps(payload).encode()
        is_v2 = operation is _Operation.SUBMIT and v2_alone
        api: Version = "v2" if is_v2 else "v3"
        now, named = self.clock(), journey_id or _named_id(payload, api)
        if operation is _Operation.EXCHANGE:
            refused, refusal, token = None, _NOTHING, "none"
        else:
            refused, refusal, token = self._check_token(call.authorization, api, now)
        if refused not in (None, Case.TOKEN_MISSING):
            return Verdict(refusal, token, named)
        usage = self._limiters[operation].count(call.address, now)
        if usage.exceeded:
            return Verdict(self._too_many(usage), token, named)
        if not is_v2 and not is_served(version):
            answer = self.answer(Case.UNKNOWN_VERSION)
        elif refused is not None:  # who has no token lacks the permission
            answer = refusal
        else:
            sent = _Submission(call.body or b"", text, payload, version, api, token, now, call.forced_labels)
            answer = self._act(operation, sent, journey_id)
        return Verdict(self._with_usage(answer, usage), token, named)

    def _act(self, operation: _Operation, sent: _Submission, journey_id: str) -> Answer:
        match operation:
            case _Operation.EXCHANGE:
                return self._exchanged(sent.payload, sent.now)
            case _Operation.SUBMIT:
                return self._judge(sent)
            case _Operation.CANCEL:
                return cancelled(self.journeys.find(journey_id, sent.now), sent.payload)
            case _Operation.PATCH:
                return patched(self.journeys, journey_id, sent.payload, sent.now, self._validate)
            case _Operation.STATUS:
                return status_of(self.journeys.find(journey_id, sent.now))
            case _Operation.LIST:
                return listed(self.journeys, sent.payload, sent.now)

    def _read(self, call: Call) -> Answer | tuple[bytes, Any]:
        """Read a body as body-parser does: its text, and an object, empty where no JSON was declared."""
        media_type = call.content_type.partition(";")[0].strip().lower()
        if call.body is None:
            return self.answer(Case.TOO_LARGE)
        if media_type != "application/json" or not call.body:
            return b"{}", {}
        charset = _CHARSET.search(call.content_type)
        name = charset[1].lower() if charset else "utf-8"
        if not name.startswith("utf-"):
            return self.answer(Case.CHARSET_UNKNOWN, detail=f'unsupported charset "{name.upper()[:32]}"')
        text = call.body.decode(errors="replace").removeprefix("\ufeff")
        try:
            payload = texts.parse_strictly(text)
        except ValueError as error:
            return self.answer(Case.MALFORMED_JSON, detail=str(error))
        if isinstance(payload, list):
            payload = {str(index): value for index, value in enumerate(payload)}
            return json.dumps(payload).encode(), payload
        return text.encode(), payload

    def _exchanged(self, given: Mapping[str, Any], now: datetime) -> Answer:
        lacking = [
            f"{key} : Expected a string, but received: {'undefined' if key not in given else '...'}"
            for key in ("access_key", "secret_key")
            if not isinstance(given.get(key), str)
        ]
        if lacking:
            return self.answer(Case.KEYS_INCOMPLETE, detail=lacking)
        accepted = (self.settings.access_key, self.settings.secret_key)
        if None in accepted or (given["access_key"], given["secret_key"]) != accepted:
            return self.answer(Case.KEYS_REFUSED)
        lifetime_seconds = self.settings.access_token_lifetime_seconds
        token = self.tokens.exchange(now, lifetime_seconds, self.settings.operator_id)
        return self.answer(Case.KEYS_ACCEPTED, access_token=token)

    # --- Journeys -------------------------------------------------------------------------

    def _judge(self, sent: _Submission) -> Answer:
        if not isinstance(sent.payload, dict):
            return self.answer(Case.NO_JOURNEY_ID, sent.api)
        operator_id = sent.payload.get("operator_id", self.settings.operator_id)
        if isinstance(operator_id, bool) or operator_id != self.settings.operator_id:
            return self.answer(Case.OPERATOR_MISMATCH, sent.api)
        journey = self._validated(sent)
        if isinstance(journey, Answer):
            return journey
        if journey.end > sent.now:
            return self.answer(Case.FUTURE, sent.api)
        return self._register(sent, journey)

    def _validated(self, sent: _Submission) -> Journey | Answer:
        result = self._validate(sent.api, sent.text)
        if isinstance(result, Refusal) and sent.api == "v3":
            # 2025 asks for phones after everything else, 2023 not at all.
            lacking, completed = _with_phones(sent.payload)
            if lacking:
                result = self._validate("v3", completed)
                if isinstance(result, Journey) and not self._is_2023:
                    detail = f"{lacking[0]}.identity should have a phone or phone_trunc"
                    return self.answer(Case.NO_PHONE, detail=detail)
        return result if isinstance(result, Journey) else self._refusal(sent, result)

    def _refusal(self, sent: _Submission, refusal: Refusal) -> Answer:
        if all(each.code == "start_after_end" for each in refusal.violations):
            return self.answer(Case.FUTURE, sent.api)  # the servers ask this after their validator
        named = _named_id(sent.payload, sent.api) or ""
        if not self._is_2023:
            unstorable = texts.database_text(refusal.violations, sent.payload)
            if unstorable is None:
                detail = texts.first_error(refusal.violations)
                return self.answer(Case.INVALID, sent.api, detail=detail)
            known = self.journeys.find(named, sent.now)
            return self.answer(Case.UNSTORABLE, detail=unstorable) if known is None else self._conflict(known)
        if sent.payload.get(_id_key(sent.api)) is None:
            return self.answer(Case.NO_JOURNEY_ID, sent.api)
        registered = self.journeys.registered.get(named)
        if registered is not None and registered.status is JourneyStatus.PENDING:
            registered.status = JourneyStatus.ACQUISITION_ERROR  # as the captured server does
        violations = map(texts.ajv_text, refusal.violations)
        return self.answer(
            Case.INVALID, sent.api, detail=", ".join(f"data{path} {text}" for path, text in violations)
        )

    def _register(self, sent: _Submission, journey: Journey) -> Answer:
        digest, created_at = sha256(sent.body).hexdigest(), iso_utc(sent.now)
        known = self.journeys.find(journey.journey_id, sent.now)
        if known is not None:
            created_at = known.created_at
            known.times_seen += 1
            known.last_sha256 = digest
            if not self._is_2023 or known.status not in _OVERWRITTEN:
                return self._conflict(known, sent.api)
            known.sha256, known.status = digest, JourneyStatus.PENDING
        else:
            stored = StoredJourney(
                journey.journey_id, sent.path_version, created_at, digest, digest, sent.token
            )
            if labels := self._violations(sent, journey) or list(sent.forced_labels):
                # The id is stored before the terms are judged, so that it is a conflict from now on.
                stored.status, stored.labels = JourneyStatus.TERMS_VIOLATION_ERROR, labels
                self.journeys.violating[journey.journey_id] = stored
                return self.answer(Case.TERMS_VIOLATED, sent.api, labels=labels)
            self.journeys.registered[journey.journey_id] = stored
        return self.answer(Case.ACCEPTED, sent.api, journey_id=journey.journey_id, created_at=created_at)

    def _conflict(self, known: StoredJourney, api: Version = "v3") -> Answer:
        moment = texts.javascript_date(datetime.fromisoformat(known.created_at))
        return self.answer(Case.ALREADY_REGISTERED, api, detail=f"Carpool already registered at {moment}")

    def _violations(self, sent: _Submission, journey: Journey) -> list[str]:
        terms = self.settings.terms
        if self._is_2023 or terms == "off" or (terms == "v3" and sent.api != "v3"):
            return []
        labels = ["expired"] if sent.now - journey.start > REGISTRATION_WINDOW else []
        distance = sent.payload.get("distance")  # v2 has none at the root
        if distance is not None and distance < _SHORTEST_METRES:
            labels.append("distance_too_short")
        return labels


def _id_key(api: Version) -> str:
    return "journey_id" if api == "v2" else "operator_journey_id"


def _named_id(payload: Any, api: Version) -> str | None:
    """The id that the payload names, when it is text."""
    named = payload.get(_id_key(api)) if isinstance(payload, dict) else None
    return named if isinstance(named, str) else None


def _with_phones(payload: Mapping[str, Any]) -> tuple[list[str], bytes]:
    """Who has no phone, and the body with one for each of them."""
    completed, lacking = dict(payload), []
    for role in ("driver", "passenger"):
        person = payload.get(role)
        identity = person.get("identity") if isinstance(person, dict) else None
        if isinstance(identity, dict) and not identity.keys() & {"phone", "phone_trunc"}:
            completed[role] = {**payload[role], "identity": {**identity, "phone": _ANY_PHONE}}
            lacking.append(role)
    return lacking, json.dumps(completed).encode()
