"""What the sandbox Registry answers to a request: the order of its checks, for both profiles.

Takes a request as values and gives an answer; knows no socket, and no fault but the labels of the terms of
use. The order is the servers' own: 2023 counts against the limit before it checks the token, 2025 after;
the payload is validated before its dates, its dates before its id, its id before the terms of use. The rules
of a payload are ``schemas``' own. No bytes make anything here raise.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

from consumer.core.clock import REGISTRATION_WINDOW, iso_utc
from consumer.sandbox.answers import Answer, Case, Profile, write
from consumer.sandbox.state import JourneyStatus, RateWindows, StoredJourney, Tokens, TokenState, Usage
from schemas import Journey, Refusal, Version, Violation

Clock = Callable[[], datetime]
Validate = Callable[[Version, bytes], Journey | Refusal]

_SHORTEST_METRES = 2_000
_SERVED: Mapping[Profile, Mapping[str, Version]] = {
    Profile.Y2023: {"v2": "v2", "v3": "v3"},
    Profile.Y2025: {"v2": "v2", "v3": "v3", "v3.2": "v3", "v3.3": "v3"},
}
_KEYS_SERVED = ("v3", "v3.3")
_OVERWRITTEN = (JourneyStatus.PENDING, JourneyStatus.ACQUISITION_ERROR)  # by the server of 2023
_VERSION = re.compile(r"v\d+(\.\d+)*")
_TOKEN_CASES = {
    TokenState.REVOKED: Case.TOKEN_REVOKED,
    TokenState.CLAIMLESS: Case.TOKEN_CLAIMLESS,
    TokenState.UNKNOWN: Case.TOKEN_UNUSABLE,
}
_ANY_PHONE = "+33612345678"  # valid; put where none is, to see whether anything else is wrong
_AJV_TEXTS = {"bad_format": "must match format", "start_after_end": "must pass validation"}


@dataclass(frozen=True, slots=True)
class Call:
    """A request as values. ``body`` is None when it exceeded the limit of 2 MB.

    ``forced_labels`` is a fault: valid journeys violate the terms of use.
    """

    method: str
    path: str
    authorization: str | None
    address: str
    body: bytes | None
    forced_labels: Sequence[str] = ()


@dataclass(slots=True)
class Verdict:
    """The answer, and what the log may hold of the request: the token's name, the journey's id."""

    answer: Answer
    token: str = "none"  # noqa: S105 -- a name for having none
    journey_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator chooses at the start. Limits are requests a minute; without both keys no key works."""

    profile: Profile = Profile.Y2025
    operator_id: int = 1
    rate_limit: int = 20_000
    access_key: str | None = None
    secret_key: str | None = None
    access_token_lifetime_seconds: float = 300.0
    key_exchange_limit: int = 5
    terms: Literal["v3", "all", "off"] = "v3"
    remember_violations: bool = False


@dataclass(frozen=True, slots=True)
class _Submission:
    """An authenticated submission on its way through the checks."""

    body: bytes
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
        self.registered: dict[str, StoredJourney] = {}
        self.violating: dict[str, StoredJourney] = {}  # ids that the terms of use refused
        self._is_2023 = settings.profile is Profile.Y2023
        self._limiter = RateWindows(settings.rate_limit)
        self._key_limiter = RateWindows(settings.key_exchange_limit)
        self._validate = validate

    def find(self, journey_id: str) -> StoredJourney | None:
        return self.registered.get(journey_id) or self.violating.get(journey_id)

    def decide(self, call: Call) -> Verdict:
        version, _, rest = call.path.strip("/").partition("/")
        route = rest if call.method == "POST" else ""
        api = _SERVED[self.settings.profile].get(version)
        if api is not None and route == "journeys":
            return self._submit(call, version, api)
        if not self._is_2023 and version in _KEYS_SERVED and route == "auth/access_token":
            return self._exchange(call)
        if api is not None or not rest:
            return Verdict(self.answer(Case.UNKNOWN_ROUTE))
        if _VERSION.fullmatch(version):
            return Verdict(self.answer(Case.UNKNOWN_VERSION, detail=f"Unknown api version {version[:32]}"))
        return Verdict(self.answer(Case.NOT_A_VERSION))

    def answer(self, case: Case, api: Version = "v3", **values: Any) -> Answer:
        return write(self.settings.profile, api, case, **values)

    def throttled(self, retry_after_seconds: int, *, with_headers: bool) -> Answer:
        now, limit = self.clock(), self.settings.rate_limit
        usage = Usage(limit, limit + 1, now.timestamp() + retry_after_seconds)
        answer = self._too_many(usage, now, retry_after_seconds)
        return answer if with_headers else replace(answer, headers={})

    # --- Limits ---------------------------------------------------------------------------

    def _with_usage(self, answer: Answer, usage: Usage, now: datetime) -> Answer:
        prefix, since = ("X-RateLimit", 0.0) if self._is_2023 else ("RateLimit", now.timestamp())
        headers = {
            f"{prefix}-Limit": str(usage.limit),
            f"{prefix}-Remaining": str(max(0, usage.limit - usage.current)),
            f"{prefix}-Reset": str(max(0, math.ceil(usage.resets_at - since))),
        }
        return replace(answer, headers=headers)

    def _too_many(self, usage: Usage, now: datetime, retry_after_seconds: int = 60) -> Answer:
        """60, the window's length, whatever is left of it: as the server does."""
        reset_time = iso_utc(datetime.fromtimestamp(usage.resets_at, UTC))
        answer = self.answer(
            Case.TOO_MANY_REQUESTS, limit=usage.limit, current=usage.current, reset_time=reset_time
        )
        answer = self._with_usage(answer, usage, now)
        return replace(answer, headers={**answer.headers, "Retry-After": str(retry_after_seconds)})

    # --- Tokens and keys ------------------------------------------------------------------

    def _check_token(
        self, authorization: str | None, api: Version, now: datetime
    ) -> tuple[Answer | None, str]:
        """The refusal, None when the token is accepted; and the token's name."""
        if authorization is None:
            return self.answer(Case.TOKEN_MISSING, api), "none"
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer":
            return self.answer(Case.TOKEN_UNUSABLE, api, detail="jwt malformed"), "unknown"
        state, name = self.tokens.check(token, now)
        if state is TokenState.ACCEPTED:
            return None, name
        return self.answer(_TOKEN_CASES[state], api, detail=_jwt_error(token)), name

    def _exchange(self, call: Call) -> Verdict:
        now = self.clock()
        request = self._read(call, "v3")
        if isinstance(request, Answer):
            return Verdict(request)
        usage = self._key_limiter.count(call.address, now)
        if usage.exceeded:
            return Verdict(self._too_many(usage, now))
        return Verdict(self._with_usage(self._exchanged(request, now), usage, now))

    def _exchanged(self, request: Any, now: datetime) -> Answer:
        given = request if isinstance(request, dict) else {}
        lacking = [key for key in ("access_key", "secret_key") if not isinstance(given.get(key), str)]
        if lacking:
            return self.answer(Case.KEYS_INCOMPLETE, detail=[f"/{key}: must be string" for key in lacking])
        accepted = (self.settings.access_key, self.settings.secret_key)
        if None in accepted or (given["access_key"], given["secret_key"]) != accepted:
            return self.answer(Case.KEYS_REFUSED)
        lifetime_seconds = self.settings.access_token_lifetime_seconds
        token = self.tokens.exchange(now, lifetime_seconds, self.settings.operator_id)
        return self.answer(Case.KEYS_ACCEPTED, access_token=token)

    # --- Journeys -------------------------------------------------------------------------

    def _read(self, call: Call, api: Version) -> Any:
        """What the body holds, an empty object when it is empty; the refusal when it cannot be read."""
        if call.body is None:
            return self.answer(Case.TOO_LARGE, api)
        try:
            # ``int`` raises ValueError for NaN and Infinity, which are not JSON.
            return json.loads(call.body.decode(), parse_constant=int) if call.body else {}
        except (ValueError, RecursionError):
            return self.answer(Case.MALFORMED_JSON, api)

    def _submit(self, call: Call, version: str, api: Version) -> Verdict:
        now = self.clock()
        payload = self._read(call, api)
        if isinstance(payload, Answer):
            if self._is_2023:  # refused before it is counted
                return Verdict(payload)
            return Verdict(self._with_usage(payload, self._limiter.count(call.address, now, cost=0), now))
        journey_id = _named_id(payload, api)
        if self._is_2023:
            usage = self._limiter.count(call.address, now)
            if usage.exceeded:
                return Verdict(self._too_many(usage, now), journey_id=journey_id)
        refused, token = self._check_token(call.authorization, api, now)
        if not self._is_2023:
            usage = self._limiter.count(call.address, now, cost=0 if refused else 1)
            if not refused and usage.exceeded:
                return Verdict(self._too_many(usage, now), token, journey_id)
        answer = refused or self._judge(
            _Submission(call.body or b"", payload, version, api, token, now, call.forced_labels)
        )
        return Verdict(self._with_usage(answer, usage, now), token, journey_id)

    def _judge(self, sent: _Submission) -> Answer:
        if not isinstance(sent.payload, dict):
            return self.answer(Case.NO_JOURNEY_ID, sent.api, detail=["/: must be object"])
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
        result = self._validate(sent.api, sent.body)
        if isinstance(result, Refusal) and sent.api == "v3":
            # 2025 asks for phones after everything else, 2023 not at all.
            completed = _with_phones(sent.payload)
            if completed is not None:
                result = self._validate("v3", completed)
                if isinstance(result, Journey) and not self._is_2023:
                    return self.answer(Case.NO_PHONE)
        return result if isinstance(result, Journey) else self._refusal(sent, result)

    def _refusal(self, sent: _Submission, refusal: Refusal) -> Answer:
        if all(each.code == "start_after_end" for each in refusal.violations):
            return self.answer(Case.FUTURE, sent.api)  # the servers ask this after their validator
        violations = [ajv_text(each) for each in refusal.violations]
        if not self._is_2023:
            detail = [f"{path or '/'}: {text}" for path, text in violations]
            return self.answer(Case.INVALID, sent.api, detail=detail)
        if sent.payload.get(_id_key(sent.api)) is None:
            return self.answer(Case.NO_JOURNEY_ID, sent.api)
        known = self.registered.get(_named_id(sent.payload, sent.api) or "")
        if known is not None and known.status is JourneyStatus.PENDING:
            known.status = JourneyStatus.ACQUISITION_ERROR  # as the captured server does
        return self.answer(
            Case.INVALID, sent.api, detail=", ".join(f"data{path} {text}" for path, text in violations)
        )

    def _register(self, sent: _Submission, journey: Journey) -> Answer:
        digest, created_at = sha256(sent.body).hexdigest(), iso_utc(sent.now)
        known = self.find(journey.journey_id)
        if known is not None:
            created_at = known.created_at
            known.times_seen += 1
            known.last_sha256 = digest
            if not self._is_2023 or known.status not in _OVERWRITTEN:
                detail = f"Carpool already registered at {created_at}"
                return self.answer(Case.ALREADY_REGISTERED, sent.api, detail=detail)
            known.sha256, known.status = digest, JourneyStatus.PENDING
        elif labels := self._violations(sent, journey) or list(sent.forced_labels):
            if self.settings.remember_violations:
                self.violating[journey.journey_id] = StoredJourney(
                    *(journey.journey_id, sent.path_version, created_at, digest, digest, sent.token),
                    JourneyStatus.TERMS_VIOLATION_ERROR,
                )
            return self.answer(Case.TERMS_VIOLATED, sent.api, labels=labels)
        else:
            self.registered[journey.journey_id] = StoredJourney(
                journey.journey_id, sent.path_version, created_at, digest, digest, sent.token
            )
        return self.answer(Case.ACCEPTED, sent.api, journey_id=journey.journey_id, created_at=created_at)

    def _violations(self, sent: _Submission, journey: Journey) -> list[str]:
        terms = self.settings.terms
        if self._is_2023 or terms == "off" or (terms == "v3" and sent.api != "v3"):
            return []
        labels = ["expired"] if sent.now - journey.start > REGISTRATION_WINDOW else []
        distance = sent.payload.get("distance")  # v2 has none at the root
        if distance is not None and distance < _SHORTEST_METRES:
            labels.append("distance_too_short")
        return labels


def ajv_text(violation: Violation) -> tuple[str, str]:
    """A violation as the Registry's validator puts it: ``("/driver/identity", "must ...")``.

    Clients read these texts ("data must ...", "data/...") to tell a refusal from an outage.
    """
    path = violation.path.split(".") if violation.path else []
    text = violation.message
    if violation.code == "missing" and text == "is required":
        path, text = path[:-1], f"must have required property '{path[-1]}'"
    elif violation.code == "unknown_key":
        text = "must NOT have additional properties"
    elif not text.startswith("must "):
        text = _AJV_TEXTS.get(violation.code, "must match a schema in anyOf")
    return "".join(f"/{part}" for part in path), text


def _id_key(api: Version) -> str:
    return "journey_id" if api == "v2" else "operator_journey_id"


def _named_id(payload: Any, api: Version) -> str | None:
    """The id that the payload names, when it is text."""
    named = payload.get(_id_key(api)) if isinstance(payload, dict) else None
    return named if isinstance(named, str) else None


def _with_phones(payload: Mapping[str, Any]) -> bytes | None:
    """The body with a phone for each person who has none; None when each has one."""
    completed = dict(payload)
    for role in ("driver", "passenger"):
        person = payload.get(role)
        identity = person.get("identity") if isinstance(person, dict) else None
        if isinstance(identity, dict) and not identity.keys() & {"phone", "phone_trunc"}:
            completed[role] = {**payload[role], "identity": {**identity, "phone": _ANY_PHONE}}
    return None if completed == payload else json.dumps(completed).encode()


def _jwt_error(token: str) -> str:
    """What the 2023 server's library says of a token that it cannot use."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 -- header, claims, signature
        return "jwt malformed"
    try:
        json.loads(base64.urlsafe_b64decode(parts[0] + "==="))
    except (ValueError, binascii.Error):
        return "invalid token"
    return "invalid signature" if parts[2] else "jwt signature is required"
