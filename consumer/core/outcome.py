"""The results of a submission, and what follows from each.

1. An ``Outcome`` says what the Registry (or our own validation) said of a journey.
2. A ``Decision`` says what to do next; its subset ``Disposition`` ends the delivery.
3. All of them are frozen values: no clock, no I/O, nothing of kombu or httpx.
4. No field ever holds a value of a payload: ids, codes and field paths only.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Reason(StrEnum):
    """Why a journey was dead-lettered; also the last part of the queue's name."""

    INVALID = "invalid"
    REJECTED = "rejected"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    EXPIRED = "expired"
    EXHAUSTED = "exhausted"


class PauseCause(StrEnum):
    """Why consumption is paused; the label of the ``paused`` metric."""

    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    MISCONFIGURED = "misconfigured"
    UNAVAILABLE = "unavailable"


# --- Outcomes -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Registered:
    """Any 2xx that carries a result. ``created_at`` is the Registry's own text."""

    status: int
    created_at: str | None = None


class Proof(StrEnum):
    """How far a 409 proves that the journey counts; the label of ``already_registered_total``."""

    FIRST_ATTEMPT = "first_attempt"  # never sent by us before: a copy, or a correction that was not taken
    VERIFIED = "verified"  # the Registry's status of the journey says so
    UNVERIFIED = "unverified"  # sent before, and the status could not be had: it may have been refused


@dataclass(frozen=True, slots=True)
class AlreadyRegistered:
    """409: the Registry has this id; ``proof`` says whether the journey counts.

    ``detail`` is the journey's status at the Registry, or why there is none.
    """

    status: int
    proof: Proof = Proof.FIRST_ATTEMPT
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Invalid:
    """Our own validation refused the payload; it was never sent.

    ``detail`` is ``code at field.path`` of the first violation, never a value.
    """

    detail: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The Registry refused this payload; sending it again cannot help."""

    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """The token is not accepted (401, and the 500s that amount to it)."""

    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Forbidden:
    """403: the token is real but may not register this journey."""

    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Expired:
    """The Registry says that the 24 hours after the start have passed."""

    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class Early:
    """The journey ends in the future, by our clock (``status`` None) or by the Registry's."""

    status: int | None = None


@dataclass(frozen=True, slots=True)
class Throttled:
    """429. ``retry_after_seconds`` is None when the answer does not say how long."""

    retry_after_seconds: float | None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """No usable answer: an outage, a timeout, a lost connection, a 408 or a plain 5xx.

    Also whatever a gateway, a firewall or a portal answered in the Registry's place. ``status`` is None when
    there was no answer; ``exception`` is then the class of what the client raised, or
    the status of a proxy's own answer. ``foreign``: the answer is not in the Registry's own words.
    """

    detail: str
    status: int | None = None
    exception: str | None = None
    retry_after_seconds: float | None = None
    foreign: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """The route or version is not served, or redirects. ``status`` 0: there is no token, nothing was sent."""

    status: int
    detail: str


Outcome = (
    Registered
    | AlreadyRegistered
    | Invalid
    | Rejected
    | Unauthorized
    | Forbidden
    | Expired
    | Early
    | Throttled
    | Unavailable
    | Misconfigured
)


#: The detail of a journey that ends in the future.
IN_THE_FUTURE = "ends_in_future"

# --- Decisions ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The Registry has the journey: acknowledge the delivery."""

    outcome: Registered | AlreadyRegistered


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Publish to the dead-letter queue of ``reason``, wait for the confirm, acknowledge."""

    reason: Reason
    detail: str
    status: int | None


@dataclass(frozen=True, slots=True)
class Delay:
    """Publish to the delay queue of ``seconds``, wait for the confirm, acknowledge.

    ``counts`` is False for a delay that is not the journey's own: the next one is no longer than this one.
    """

    seconds: int
    detail: str
    status: int | None
    counts: bool = True

    @property
    def failed(self) -> bool:
        """Whether the Registry, or the way to it, failed; else the journey is only early."""
        return self.detail != IN_THE_FUTURE


@dataclass(frozen=True, slots=True)
class Republish:
    """Publish back to the end of our own queue, wait for the confirm, acknowledge.

    Costs no attempt. Unlike a requeue it leaves the broker's delivery count alone, so a
    long pause cannot push a good journey over the delivery limit.
    """

    detail: str


@dataclass(frozen=True, slots=True)
class Release:
    """Settle nothing: closing the channel gives the delivery back, counted once more but else untouched."""


@dataclass(frozen=True, slots=True)
class RetrySoon:
    """Wait in process, then submit again."""

    delay_seconds: float


Disposition = Acknowledge | DeadLetter | Delay | Republish | Release
Decision = Disposition | RetrySoon
