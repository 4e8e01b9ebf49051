"""What the sandbox Registry makes of a request: the order of its checks, for both profiles.

Takes a request as values and gives an answer; knows no socket, and no fault but the labels
that are part of a verdict. The order is the servers' own: 2023 counts against the limit before
it looks at the token, 2025 after; the payload is validated before its dates, its dates before
its id, its id before the terms of use.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from consumer.sandbox.access import Access
from consumer.sandbox.answers import Answer, Case, Profile, answer
from consumer.sandbox.payload import ajv_words, id_key, named_id, parse, with_phones
from consumer.sandbox.state import Journeys, JourneyStatus, RateWindows, Tokens, Usage
from schemas import Journey, Refusal, Version

Clock = Callable[[], datetime]
Validate = Callable[[Version, bytes], Journey | Refusal]
Terms = Literal["v3", "all", "off"]

_DEADLINE = timedelta(hours=24)
_SHORTEST_METRES = 2_000
_SERVED: Mapping[Profile, Mapping[str, Version]] = {
    Profile.Y2023: {"v2": "v2", "v3": "v3"},
    Profile.Y2025: {"v2": "v2", "v3": "v3", "v3.2": "v3", "v3.3": "v3"},
}
_KEYS_SERVED = ("v3", "v3.3")
_VERSION = re.compile(r"v\d+(\.\d+)*")


@dataclass(frozen=True, slots=True)
class Call:
    """A request as values. ``body`` is None when it exceeded the limit of 2 MB."""

    method: str
    path: str
    authorization: str | None
    address: str
    body: bytes | None


@dataclass(slots=True)
class Verdict:
    """The answer, and what the log may know of the request: the token's name, the journey's id."""

    answer: Answer
    token: str = "none"  # noqa: S105 -- a name for having none
    journey_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator chooses at the start. Limits are requests a minute."""

    profile: Profile = Profile.Y2025
    operator_id: int = 1
    rate_limit: int = 20_000
    access_key: str | None = None
    secret_key: str | None = None
    access_token_lifetime_seconds: float = 300.0
    key_exchange_limit: int = 5
    terms: Terms = "v3"
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
    forced_labels: tuple[str, ...]


class Rules:
    """One Registry's mind: its memory, and what follows from it."""

    def __init__(self, settings: Settings, validate: Validate, clock: Clock, tokens: Tokens) -> None:
        self.settings = settings
        self.clock = clock
        self.tokens = tokens
        self.journeys = Journeys()
        self._limiter = RateWindows(settings.rate_limit)
        self._key_limiter = RateWindows(settings.key_exchange_limit)
        self._validate = validate
        self._access = Access(
            settings.profile,
            tokens,
            keys=(settings.access_key, settings.secret_key),
            lifetime_seconds=settings.access_token_lifetime_seconds,
            operator_id=settings.operator_id,
        )

    def reset(self) -> None:
        """Forget everything that came; the tokens are those of the start."""
        self.journeys.reset()
        self.tokens.reset()
        self._limiter.reset()
        self._key_limiter.reset()

    def decide(self, call: Call, forced_labels: tuple[str, ...] = ()) -> Verdict:
        """The verdict on one request; ``forced_labels`` make valid journeys violate the terms."""
        version, _, rest = call.path.strip("/").partition("/")
        route = rest if call.method == "POST" else ""
        api = _SERVED[self.settings.profile].get(version)
        if api is not None and route == "journeys":
            return self._submit(call, version, api, forced_labels)
        keys_served = self.settings.profile is Profile.Y2025 and version in _KEYS_SERVED
        if keys_served and route == "auth/access_token":
            return self._exchange(call)
        if api is not None or not rest:
            return Verdict(self.say(Case.UNKNOWN_ROUTE))
        if _VERSION.fullmatch(version):
            return Verdict(self.say(Case.UNKNOWN_VERSION, detail=f"Unknown api version {version[:32]}"))
        return Verdict(self.say(Case.NOT_A_VERSION))

    def say(self, case: Case, api: Version = "v3", **values: Any) -> Answer:
        """The answer of this profile's table."""
        return answer(self.settings.profile, api, case, **values)

    def throttled(self, retry_after_seconds: int, *, with_headers: bool) -> Answer:
        """A 429 on demand, with all of its headers or with none."""
        now = self.clock()
        limit = self.settings.rate_limit
        answered = self._too_many(Usage(limit, limit + 1, now.timestamp() + retry_after_seconds), now)
        headers = {**answered.headers, "Retry-After": str(retry_after_seconds)} if with_headers else {}
        return replace(answered, headers=headers)

    # --- Limits ---------------------------------------------------------------------------

    def _with_usage(self, answered: Answer, usage: Usage, now: datetime) -> Answer:
        limit, remaining = str(usage.limit), str(usage.remaining)
        if self.settings.profile is Profile.Y2023:
            headers = {
                "X-RateLimit-Limit": limit,
                "X-RateLimit-Remaining": remaining,
                "X-RateLimit-Reset": str(math.ceil(usage.resets_at)),
            }
        else:
            headers = {
                "RateLimit-Limit": limit,
                "RateLimit-Remaining": remaining,
                "RateLimit-Reset": str(max(0, math.ceil(usage.resets_at - now.timestamp()))),
            }
        return replace(answered, headers=headers)

    def _too_many(self, usage: Usage, now: datetime) -> Answer:
        reset_time = _instant(datetime.fromtimestamp(usage.resets_at, UTC))
        answered = self._with_usage(
            self.say(Case.TOO_MANY_REQUESTS, limit=usage.limit, current=usage.current, reset_time=reset_time),
            usage,
            now,
        )
        # 60 whatever is left of the window: the server names the window's length.
        return replace(answered, headers={**answered.headers, "Retry-After": "60"})

    # --- The two routes -------------------------------------------------------------------

    def _unreadable(self, call: Call, api: Version) -> Answer:
        return self.say(Case.TOO_LARGE if call.body is None else Case.MALFORMED_JSON, api)

    def _exchange(self, call: Call) -> Verdict:
        now = self.clock()
        readable, request = parse(call.body)
        if not readable:
            return Verdict(self._unreadable(call, "v3"))
        usage = self._key_limiter.count(call.address, now)
        if usage.exceeded:
            return Verdict(self._too_many(usage, now))
        return Verdict(self._with_usage(self._access.exchange(request, now), usage, now))

    def _submit(self, call: Call, version: str, api: Version, forced_labels: tuple[str, ...]) -> Verdict:
        now = self.clock()
        counts_first = self.settings.profile is Profile.Y2023
        readable, payload = parse(call.body)
        if not readable:
            answered = self._unreadable(call, api)
            if counts_first:  # refused before the limiter is asked
                return Verdict(answered)
            return Verdict(self._with_usage(answered, self._limiter.count(call.address, now, cost=0), now))
        journey_id = named_id(payload, api)
        if counts_first:
            usage = self._limiter.count(call.address, now)
            if usage.exceeded:
                return Verdict(self._too_many(usage, now), journey_id=journey_id)
        refused, token = self._access.check(call.authorization, api, now)
        if not counts_first:
            usage = self._limiter.count(call.address, now, cost=0 if refused else 1)
            if not refused and usage.exceeded:
                return Verdict(self._too_many(usage, now), token, journey_id)
        answered = refused or self._judge(
            _Submission(call.body or b"", payload, version, api, token, now, forced_labels)
        )
        return Verdict(self._with_usage(answered, usage, now), token, journey_id)

    # --- Journeys -------------------------------------------------------------------------

    def _judge(self, sent: _Submission) -> Answer:
        if not isinstance(sent.payload, dict):
            return self.say(Case.NO_JOURNEY_ID, sent.api, detail=["/: must be object"])
        operator_id = sent.payload.get("operator_id", self.settings.operator_id)
        if isinstance(operator_id, bool) or operator_id != self.settings.operator_id:
            return self.say(Case.OPERATOR_MISMATCH, sent.api)
        journey = self._validated(sent)
        if isinstance(journey, Answer):
            return journey
        if journey.end > sent.now:
            return self.say(Case.FUTURE, sent.api)
        return self._register(sent, journey)

    def _register(self, sent: _Submission, journey: Journey) -> Answer:
        known = self.journeys.find(journey.journey_id)
        if known is not None:
            overwrite = self.settings.profile is Profile.Y2023 and known.status in (
                JourneyStatus.PENDING,
                JourneyStatus.ACQUISITION_ERROR,
            )
            self.journeys.see(known, sent.body, overwrite=overwrite)
            if overwrite:
                return self._accepted(sent.api, known.journey_id, known.created_at)
            detail = f"Carpool already registered at {known.created_at}"
            return self.say(Case.ALREADY_REGISTERED, sent.api, detail=detail)
        created_at = _instant(sent.now)
        labels = self._violations(sent, journey) or list(sent.forced_labels)
        if not labels or self.settings.remember_violations:
            self.journeys.add(
                journey.journey_id,
                sent.body,
                api_version=sent.path_version,
                created_at=created_at,
                token=sent.token,
                violating=bool(labels),
            )
        if labels:
            return self.say(Case.TERMS_VIOLATED, sent.api, labels=labels)
        return self._accepted(sent.api, journey.journey_id, created_at)

    def _accepted(self, api: Version, journey_id: str, created_at: str) -> Answer:
        return self.say(Case.ACCEPTED, api, journey_id=journey_id, created_at=created_at)

    def _violations(self, sent: _Submission, journey: Journey) -> list[str]:
        terms = self.settings.terms
        if self.settings.profile is Profile.Y2023 or terms == "off" or (terms == "v3" and sent.api != "v3"):
            return []
        labels = ["expired"] if sent.now - journey.start > _DEADLINE else []
        distance = sent.payload.get("distance")  # v2 has none at the root
        if distance is not None and distance < _SHORTEST_METRES:
            labels.append("distance_too_short")
        return labels

    def _validated(self, sent: _Submission) -> Journey | Answer:
        result = self._validate(sent.api, sent.body)
        if isinstance(result, Refusal) and sent.api == "v3":
            # Phones are asked for after everything else in 2025, and not at all in 2023.
            completed = with_phones(sent.payload)
            if completed is not None:
                result = self._validate("v3", completed)
                if isinstance(result, Journey) and self.settings.profile is Profile.Y2025:
                    return self.say(Case.NO_PHONE)
        return result if isinstance(result, Journey) else self._refusal(sent, result)

    def _refusal(self, sent: _Submission, refusal: Refusal) -> Answer:
        if all(each.code == "start_after_end" for each in refusal.violations):
            return self.say(Case.FUTURE, sent.api)  # the servers ask this after their validator
        violations = [ajv_words(each) for each in refusal.violations]
        if self.settings.profile is Profile.Y2025:
            detail = [f"{path or '/'}: {words}" for path, words in violations]
            return self.say(Case.INVALID, sent.api, detail=detail)
        if sent.payload.get(id_key(sent.api)) is None:
            return self.say(Case.NO_JOURNEY_ID, sent.api)
        journey_id = named_id(sent.payload, sent.api)
        known = self.journeys.registered.get(journey_id) if journey_id is not None else None
        if known is not None and known.status is JourneyStatus.PENDING:
            known.status = JourneyStatus.ACQUISITION_ERROR  # the captured server's own damage
        text = ", ".join(f"data{path} {words}" for path, words in violations)
        return self.say(Case.INVALID, sent.api, detail=text)


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
