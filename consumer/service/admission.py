"""Who may submit now: breakers and rate limiter, asked in one place.

1. Closed breakers and a free slot of the rate limiter: go. This is the hot path and awaits nothing.
2. An open breaker: all wait but one, the probe, when it is due. A journey that waits longer than a moment
   gives up, so that each probe is another journey.
3. The first submission of a process, and the first after a hold of the rate limiter, goes alone: the others
   follow its answer, unless that is another 429 or 503. After a pause the probe was the first.
4. A wait ends early when something changed: a breaker closed, a new token, the drain, a lost connection.
   ``notifier`` wakes those who wait for admission, ``pause_changed`` whoever follows the pauses.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from consumer.core.breaker import Breaker, BreakerState
from consumer.core.outcome import (
    AlreadyRegistered,
    Misconfigured,
    Outcome,
    PauseCause,
    Registered,
    Throttled,
    Unavailable,
)
from consumer.core.policy import verdict
from consumer.core.rate_limiter import RateLimiter
from consumer.metrics import Metrics

#: How long a journey waits in this process for the end of a pause.
PAUSE_HOLD_SECONDS = 10.0
#: Between two log lines about a pause that lasts.
REMIND_SECONDS = 300.0
#: What ends a pause, by its cause.
_REMEDIES = {
    PauseCause.UNAUTHORIZED: "replace the token; the new one is probed at once",
    PauseCause.FORBIDDEN: "request a token that may register these journeys; the new one is probed at once",
    PauseCause.MISCONFIGURED: "run `journey-consumer check`, correct the token file, REGISTRY_URL or "
    "REGISTRY_API_VERSION",
    PauseCause.UNAVAILABLE: "wait, it resumes by itself; if it lasts, `journey-consumer check` tells the "
    "Registry from the network",
}

log = logging.getLogger("journey_consumer.service")


class Notifier:
    """Wakes all who wait; each then checks what changed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify_all(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seconds: float) -> None:
        """Return after ``seconds``, or at the next ``notify_all``."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission to submit once. ``probing`` are the causes whose single probe this is.

    ``first``: all others wait for this submission.
    """

    probing: tuple[PauseCause, ...] = ()
    first: bool = False


_ORDINARY = Permit()
_FIRST = Permit(first=True)


@dataclass(slots=True)
class _Pause:
    """An open breaker. ``logged_at`` is when the log spoke of it last, ``seen`` the last failure."""

    breaker: Breaker
    since: float
    logged_at: float
    seen: str


class Admission:
    """Admits submissions and records their outcomes. ``clock`` is monotonic seconds.

    ``first_seconds`` is how long others wait for the one that goes first: a request takes no longer.
    """

    def __init__(
        self,
        *,
        breakers: Mapping[PauseCause, Breaker],
        rate_limiter: RateLimiter,
        metrics: Metrics,
        clock: Callable[[], float],
        first_seconds: float,
    ) -> None:
        self._breakers = dict(breakers)
        self._rate_limiter = rate_limiter
        self._metrics = metrics
        self._clock = clock
        self._open: dict[PauseCause, Breaker] = {}
        self._pauses: dict[PauseCause, _Pause] = {}
        self._all_clear = False
        self._passed_at = float("-inf")  # when a journey passed last
        self.token_refused = False  # the last word on the token
        self.recoveries = 0  # how often the token was accepted after it was refused
        self.proven = False  # whether any submission of this process has ended
        self._first_seconds = first_seconds
        self._first_until = float("-inf")  # until when others wait for the one that goes first
        self.notifier = Notifier()
        self.pause_changed = Notifier()

    @property
    def pausing(self) -> PauseCause | None:
        """What pauses consumption now; None when nothing does."""
        return next(iter(self._open), None)

    @property
    def throttled(self) -> bool:
        """Whether all wait because of a 429 or a spent rate limit."""
        return self._rate_limiter.held_for(self._clock()) > 0.0

    @property
    def probe_due(self) -> bool:
        """Whether another journey may be taken to probe with, or is being probed with."""
        now = self._clock()
        waits = (b.probe_at - now for b in self._open.values() if b.probe_at is not None)
        return not self.throttled and max(waits, default=0.0) <= 0.0

    def passed_since(self, moment: float) -> bool:
        """Whether a journey passed since ``moment``: registered, or refused in the Registry's own words."""
        return self._passed_at >= moment

    async def acquire(self, *, give_up: Callable[[], bool], until: float) -> Permit | None:
        """Wait for permission to submit; None when ``give_up`` says so or ``until`` has passed.

        During a pause the wait ends after ``PAUSE_HOLD_SECONDS`` at most.
        """
        ends, waited = until, False
        while True:
            now = self._clock()
            if waited and (give_up() or now >= ends):
                return None
            waited = True
            if not self._open:
                ends, permit = until, _ORDINARY
                if self._rate_limiter.resuming or not self.proven:
                    wait = max(self._rate_limiter.held_for(now), self._first_until - now)
                    if wait > 0.0:
                        await self.notifier.wait(min(wait, max(until - now, 0.0)))
                        self._metrics.limiter_wait_seconds.inc(self._clock() - now)
                        continue
                    permit, self._first_until = _FIRST, now + self._first_seconds
                wait = self._rate_limiter.reserve(now)
                if wait <= 0.0 or await self._sleep_out(now + wait, give_up=give_up, until=until):
                    return permit
                self.release(permit)
                continue
            wait = max(
                self._rate_limiter.held_for(now), *(self._until_probe(b, now) for b in self._open.values())
            )
            if wait <= 0.0:
                return self._probe(now)
            ends = min(ends, now + PAUSE_HOLD_SECONDS)
            await self.notifier.wait(min(wait, max(0.0, ends - now)))

    async def _sleep_out(self, at: float, *, give_up: Callable[[], bool], until: float) -> bool:
        """Keep the reserved slot, which no wake-up brings forward; False when it was lost."""
        self._metrics.limiter_wait_seconds.inc(max(at - self._clock(), 0.0))  # the clock goes on
        while (left := min(at, until) - self._clock()) > 0.0 and not give_up() and not self._open:
            await self.notifier.wait(left)
        ended = give_up() or self._clock() >= until
        return not ended and not self._open and not self.throttled

    def _until_probe(self, breaker: Breaker, now: float) -> float:
        if breaker.state is BreakerState.HALF_OPEN or breaker.probe_at is None:
            return 1.0  # a probe is under way; the notifier wakes us when it has ended
        return breaker.probe_at - now

    def _probe(self, now: float) -> Permit:
        claimed = []
        for cause, breaker in self._open.items():
            if breaker.may_probe(now):
                claimed.append(cause)
                self._note(cause, breaker)
        return Permit(tuple(claimed))

    def record(  # noqa: C901, PLR0912 one branch for each thing that an outcome may say
        self, permit: Permit, outcome: Outcome, key: Hashable, *, evidence: bool = True
    ) -> None:
        """Note an outcome. ``key`` identifies the journey: one bad journey is no outage.

        A failure is no ``evidence`` of an outage when others pass while this journey fails.
        """
        now = self._clock()
        if permit.first or permit.probing:
            self._first_ended(outcome)
        if isinstance(outcome, Registered | AlreadyRegistered):
            self._passed_at = now
            if self._all_clear:
                return  # the hot path: nothing changes
        if PauseCause.UNAUTHORIZED in (said := verdict(outcome)):
            accepted = said[PauseCause.UNAUTHORIZED]
            self._metrics.token_accepted.set(accepted)
            self.recoveries += accepted and self.token_refused
            self.token_refused = not accepted
            if all(said.values()):
                self._passed_at = now
        self._all_clear = isinstance(outcome, Registered | AlreadyRegistered)
        first, self.proven = not self.proven, True
        for cause, breaker in self._breakers.items():
            works = said.get(cause)
            if works is None:
                if cause in permit.probing:
                    breaker.abandon_probe(now)
            elif works:
                breaker.success(now)
            else:
                of_the_token = cause in _OF_THE_TOKEN
                if breaker.state is BreakerState.CLOSED and ((first and of_the_token) or _not_sent(outcome)):
                    breaker.trip(now, random.random())  # noqa: S311 jitter
                    if first and of_the_token:
                        breaker.probe_now(now)  # with another journey: it may be this one's own trouble
                elif breaker.state is not BreakerState.CLOSED or evidence or of_the_token:
                    breaker.failure(key, now, random.random(), _retry_after(outcome))  # noqa: S311 jitter
            self._note(cause, breaker, "" if works is not False else _seen(outcome))

    def release(self, permit: Permit) -> None:
        """Give a permit back unused; a probe that was not made is due again."""
        now = self._clock()
        for cause in permit.probing:
            self._breakers[cause].abandon_probe(now)
            self._note(cause, self._breakers[cause])
        if permit.first:
            self._first_ended(None)

    def _first_ended(self, outcome: Outcome | None) -> None:
        """Let the others follow, or the next one go first; ``outcome`` is None when nothing was sent."""
        self._first_until = float("-inf")
        busy = isinstance(outcome, Unavailable) and outcome.status == _BUSY
        if not (busy or outcome is None or isinstance(outcome, Throttled) or self.throttled):
            self._rate_limiter.resuming = False
        self.notifier.notify_all()

    def probe_now(self, *causes: PauseCause) -> None:
        """Something changed, such as the token: probe at once."""
        now = self._clock()
        for cause in causes:
            if cause in self._open:
                self._open[cause].probe_now(now)
        self.notifier.notify_all()

    def remind(self) -> None:
        """Log each pause that lasts, once in ``REMIND_SECONDS``."""
        now = self._clock()
        for cause, pause in self._pauses.items():
            if now - pause.logged_at >= REMIND_SECONDS:
                pause.logged_at = now
                lasts = {"cause": cause.value, "paused_seconds": round(now - pause.since)}
                log.warning("consumption is still paused", extra=lasts | self._story(cause, pause))

    def _story(self, cause: PauseCause, pause: _Pause) -> dict[str, object]:
        due = pause.breaker.probe_at
        wait = None if due is None else round(max(due - self._clock(), 0.0), 1)  # None: it is under way
        return {"seen": pause.seen, "next_probe_seconds": wait, "do": _REMEDIES[cause]}

    def _note(self, cause: PauseCause, breaker: Breaker, seen: str = "") -> None:
        """Bring metrics, log and those who wait up to date with one breaker's state; ``seen``: a failure."""
        now = self._clock()
        was_open = cause in self._open
        is_open = breaker.state is not BreakerState.CLOSED
        self._metrics.breaker(cause, breaker.state)
        if is_open and not was_open:
            self._open[cause] = breaker
            pause = self._pauses[cause] = _Pause(breaker, now, now, seen)
            log.warning("consumption paused", extra={"cause": cause.value} | self._story(cause, pause))
        elif was_open and not is_open:
            del self._open[cause]
            lasted = round(now - self._pauses.pop(cause).since, 1)
            log.info("consumption resumes", extra={"cause": cause.value, "paused_seconds": lasted})
        else:
            if is_open:
                self._pauses[cause].seen = seen or self._pauses[cause].seen
                self.notifier.notify_all()
            return
        self.pause_changed.notify_all()
        self.notifier.notify_all()


_BUSY = 503
_OF_THE_TOKEN = (PauseCause.UNAUTHORIZED, PauseCause.FORBIDDEN)


def _seen(outcome: Outcome) -> str:
    """The status, or the kind of fault, and the detail: codes only."""
    status, detail = getattr(outcome, "status", None), getattr(outcome, "detail", "")
    fault = getattr(outcome, "exception", None)
    parts = (str(status or ""), detail, fault and f"({fault})")
    return " ".join(dict.fromkeys(part for part in parts if part))


def _not_sent(outcome: Outcome) -> bool:
    """Whether there was no token to send: that concerns every journey."""
    return isinstance(outcome, Misconfigured) and outcome.status == 0


def _retry_after(outcome: Outcome) -> float:
    """The wait that the Registry asks of everybody. A gateway's answer may be about one journey's text."""
    if not isinstance(outcome, Unavailable) or outcome.foreign:
        return 0.0
    return outcome.retry_after_seconds or 0.0
