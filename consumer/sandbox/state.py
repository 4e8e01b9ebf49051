"""What the sandbox Registry remembers: journeys and their status, tokens, rate windows, traffic.

Knows no HTTP and no answer: ``rules`` decides what follows. Time is an argument. Of a payload only the
journey's id and digests of the body are kept; of a token only its name leaves this module.
"""

import base64
import json
import secrets
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

_WINDOW_SECONDS = 60.0
_REQUESTS_KEPT = 20_000


class JourneyStatus(StrEnum):
    """The Registry's own names; ``processed`` is of 2023."""

    PENDING = "pending"
    OK = "ok"
    PROCESSED = "processed"
    CANCELED = "canceled"
    EXPIRED = "expired"
    ACQUISITION_ERROR = "acquisition_error"
    VALIDATION_ERROR = "validation_error"
    NORMALIZATION_ERROR = "normalization_error"
    ANOMALY_ERROR = "anomaly_error"
    FRAUD_ERROR = "fraud_error"
    TERMS_VIOLATION_ERROR = "terms_violation_error"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class StoredJourney:
    """A journey that the Registry has.

    ``times_seen`` counts every valid submission, ``sha256`` is of the stored body's exact
    bytes, ``last_sha256`` of the last submitted one; ``token`` is the name of the token. ``labels`` say why
    the status is an error, ``conflicting_journey_id`` which journey an anomaly collides with.
    """

    journey_id: str
    api_version: str
    created_at: str
    sha256: str
    last_sha256: str
    token: str
    status: JourneyStatus = JourneyStatus.PENDING
    times_seen: int = 1
    labels: Sequence[str] = ()
    conflicting_journey_id: str | None = None


class Journeys:
    """The journeys by id: those that count, and those that the terms of use refused."""

    def __init__(self, ok_after_seconds: float | None) -> None:
        self.registered: dict[str, StoredJourney] = {}
        self.violating: dict[str, StoredJourney] = {}
        self._ok_after = None if ok_after_seconds is None else timedelta(seconds=ok_after_seconds)

    def find(self, journey_id: str, now: datetime) -> StoredJourney | None:
        journey = self.registered.get(journey_id) or self.violating.get(journey_id)
        return None if journey is None else self._moved_on(journey, now)

    def by_status(self, status: str, now: datetime) -> list[StoredJourney]:
        known = (*self.registered.values(), *self.violating.values())
        return [each for each in known if self._moved_on(each, now).status == status]

    def repair(self, journey: StoredJourney) -> None:
        """Let a journey be pending, whatever was wrong with it."""
        journey.status, journey.labels, journey.conflicting_journey_id = JourneyStatus.PENDING, (), None
        if self.violating.pop(journey.journey_id, None) is not None:
            self.registered[journey.journey_id] = journey

    def _moved_on(self, journey: StoredJourney, now: datetime) -> StoredJourney:
        """Pending journeys become ``ok`` when their time has come."""
        if self._ok_after is not None and journey.status is JourneyStatus.PENDING:
            age = now - datetime.fromisoformat(journey.created_at)
            journey.status = JourneyStatus.OK if age >= self._ok_after else journey.status
        return journey


class TokenState(StrEnum):
    ACCEPTED = "accepted"
    REVOKED = "revoked"
    EXPIRED = "expired"
    CLAIMLESS = "claimless"
    UNKNOWN = "unknown"


class Tokens:
    """The application tokens, and the five-minute ones given for keys."""

    def __init__(self, accepted: Iterable[str], claimless: Iterable[str]) -> None:
        self._names: dict[str, str] = {}
        self._states: dict[str, TokenState] = {}
        self._exchanged: dict[str, datetime] = {}
        for token in accepted:
            self.accept(token)
        for number, token in enumerate(claimless, 1):
            self._names[token] = f"claimless-{number}"
            self._states[token] = TokenState.CLAIMLESS

    def find(self, token_or_name: str) -> str:
        """The application token of that value or name. Raises KeyError when there is none."""
        if token_or_name in self._names:
            return token_or_name
        return {name: token for token, name in self._names.items()}[token_or_name]

    def accept(self, token: str) -> None:
        self._names.setdefault(token, f"token-{len(self._names) + 1}")
        self._states[token] = TokenState.ACCEPTED

    def revoke(self, token_or_name: str) -> None:
        """Refuse a token from now on. Raises KeyError as ``find`` does."""
        self._states[self.find(token_or_name)] = TokenState.REVOKED

    def revoke_exactly(self, tokens_or_names: Iterable[str]) -> None:
        """Revoke these and accept every other application token again. Raises KeyError as ``find`` does."""
        revoked = {self.find(each) for each in tokens_or_names}
        for token, state in self._states.items():
            if state is not TokenState.CLAIMLESS:
                self._states[token] = TokenState.REVOKED if token in revoked else TokenState.ACCEPTED

    def check(self, token: str, now: datetime) -> tuple[TokenState, str]:
        """The state of ``token`` and its name."""
        expires = self._exchanged.get(token)
        if expires is not None:
            return (TokenState.ACCEPTED if now < expires else TokenState.EXPIRED), "exchanged"
        return self._states.get(token, TokenState.UNKNOWN), self._names.get(token, "unknown")

    def exchange(self, now: datetime, lifetime_seconds: float, operator_id: int) -> str:
        """Make a token in the form of a JWT, with a random signature, valid for ``lifetime_seconds``."""
        expires = now + timedelta(seconds=lifetime_seconds)
        claims = {
            "iat": int(now.timestamp()),
            "exp": int(expires.timestamp()),
            "jti": secrets.token_hex(8),
            "operator_id": operator_id,
        }
        parts = (json.dumps({"alg": "RS256"}).encode(), json.dumps(claims).encode(), secrets.token_bytes(32))
        token = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
        self._exchanged[token] = expires
        return token

    def revoke_exchanged(self) -> None:
        """Forget every exchanged token, as when the keys are replaced."""
        self._exchanged.clear()

    def states(self) -> dict[str, str]:
        """States by name; never a token."""
        return {name: self._states[token].value for token, name in self._names.items()}


class Usage(NamedTuple):
    """How much of a window is used; ``resets_at`` is epoch seconds."""

    limit: int
    current: int
    resets_at: float

    @property
    def exceeded(self) -> bool:
        return self.current > self.limit


class RateWindows:
    """Fixed windows of one minute for each client address, from its first request on."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._windows: dict[str, tuple[float, int]] = {}

    def count(self, address: str, now: datetime, *, cost: int = 1) -> Usage:
        """Count a request; with ``cost=0`` only read the window."""
        moment = now.timestamp()
        resets_at, used = self._windows.get(address, (0.0, 0))
        if moment >= resets_at:
            resets_at, used = moment + _WINDOW_SECONDS, 0
        self._windows[address] = (resets_at, used + cost)
        return Usage(self._limit, used + cost, resets_at)


class SeenRequest(NamedTuple):
    """One request as it was answered; ``status`` 0 means that the connection was cut instead.

    ``time`` is epoch seconds by the real clock, also when the sandbox has another.
    """

    time: float
    method: str
    path: str
    status: int
    token: str
    journey_id: str | None


@dataclass(slots=True)
class Traffic:
    """The last 20,000 requests, and counts of all."""

    requests: deque[SeenRequest] = field(default_factory=lambda: deque(maxlen=_REQUESTS_KEPT))
    by_status: Counter[int] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0

    def arrive(self) -> None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def leave(self, seen: SeenRequest) -> None:
        self.in_flight -= 1
        self.by_status[seen.status] += 1
        self.requests.append(seen)

    def reset(self) -> None:
        """Forget the answered requests; those in flight still count."""
        self.requests.clear()
        self.by_status.clear()
        self.most_in_flight = self.in_flight
