"""Who may submit, when, and what everybody learns from it."""

import asyncio
import itertools
import logging
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumer.app import build_breakers
from consumer.config import Settings
from consumer.core.breaker import Breaker, BreakerPolicy, BreakerState
from consumer.core.outcome import (
    Early,
    Forbidden,
    Invalid,
    Misconfigured,
    Outcome,
    PauseCause,
    Registered,
    Rejected,
    Throttled,
    Unauthorized,
    Unavailable,
)
from consumer.core.rate_limiter import RateLimiter
from consumer.core.reply import Reply
from consumer.metrics import PREFIX, Metrics
from consumer.registry.classify import classify
from consumer.service import admission
from consumer.service.admission import PAUSE_HOLD_SECONDS, REMIND_SECONDS, Admission, Notifier, Permit
from tests.travel import loop, travelling

OK = Registered(201)
THRESHOLD, BASE, CAP = 3, 10.0, 40.0
FIRST_SECONDS = 20.0
CAUSES: dict[PauseCause, Outcome] = {
    PauseCause.UNAUTHORIZED: Unauthorized(401, "401"),
    PauseCause.FORBIDDEN: Forbidden(403, "403"),
    PauseCause.MISCONFIGURED: Misconfigured(404, "http_404"),
    PauseCause.UNAVAILABLE: Unavailable("503", 503),
}


@dataclass
class Bench:
    """An admission with what is around it."""

    admission: Admission
    rate_limiter: RateLimiter
    collector: CollectorRegistry
    changes: list[PauseCause | None]

    def value(self, name: str, **labels: str) -> float | None:
        """Return a sample as a scrape would see it."""
        return self.collector.get_sample_value(PREFIX + name, labels)

    async def acquire(self, *, until: float = float("inf")) -> Permit | None:
        """Wait for a permit."""
        return await self.admission.acquire(give_up=lambda: False, until=until)

    async def next_permit(self) -> Permit:
        """Ask with one journey after the other until one gets a permit."""
        while (permit := await self.acquire()) is None:
            pass
        return permit

    async def fail(self, outcome: Outcome, times: int = THRESHOLD) -> None:
        """Let different journeys meet ``outcome``."""
        for number in range(times):
            permit = await self.acquire()
            assert permit is not None
            self.admission.record(permit, outcome, number)


def bench(rate_per_minute: float = 1e9) -> Bench:
    """Make an admission whose breakers all open after three."""
    collector = CollectorRegistry()
    rate_limiter = RateLimiter(rate_per_minute, 1)
    policy = BreakerPolicy(THRESHOLD, BASE, CAP)
    changes: list[PauseCause | None] = []
    admission = Admission(
        breakers={cause: Breaker(policy) for cause in PauseCause},
        rate_limiter=rate_limiter,
        metrics=Metrics(collector),
        clock=lambda: loop().time(),
        first_seconds=FIRST_SECONDS,
    )

    class Recorded(Notifier):
        def notify_all(self) -> None:
            changes.append(admission.pausing)
            super().notify_all()

    admission.proven = True
    admission.pause_changed = Recorded()
    return Bench(admission, rate_limiter, collector, changes)


def test_every_cause_of_a_pause_has_a_breaker() -> None:
    """A cause without one would never pause, or raise when it is reported."""
    assert build_breakers(Settings()).keys() == set(PauseCause)
    assert CAUSES.keys() == set(PauseCause)


@travelling
async def test_nobody_waits_while_all_is_well() -> None:
    """The hot path: an ordinary ticket, at once."""
    b = bench()
    for number in range(100):
        assert await b.acquire() == Permit()
        b.admission.record(Permit(), OK, number)
    assert loop().time() == pytest.approx(1000.0, abs=0.01)
    assert b.admission.pausing is None


@travelling
async def test_requests_keep_the_pace() -> None:
    """Ten a second: the last of 31 goes after three seconds, and the waiting is counted."""
    b = bench(rate_per_minute=600)
    began = loop().time()
    await asyncio.gather(*(b.acquire() for _ in range(31)))
    assert loop().time() - began == pytest.approx(3.0)
    assert b.value("limiter_wait_seconds_total") == pytest.approx(sum(n / 10 for n in range(31)))


@travelling
async def test_a_pulse_does_not_bring_a_slot_forward() -> None:
    """Whoever keeps a slot keeps it, however often something changes for others."""
    b = bench(rate_per_minute=60)
    began = loop().time()
    await b.acquire()
    second = asyncio.create_task(b.acquire())
    for _ in range(5):
        await asyncio.sleep(0.1)
        b.admission.notifier.notify_all()
    await second
    assert loop().time() - began == pytest.approx(1.0)


@pytest.mark.parametrize("cause", PauseCause)
@travelling
async def test_a_pause_and_its_end(cause: PauseCause) -> None:
    """Enough failures pause; one at a time probes; a success lets everybody go."""
    b = bench()
    await b.fail(CAUSES[cause])
    assert b.admission.pausing is cause
    assert b.changes == [cause]
    assert (b.value("paused", cause=cause), b.value("breaker_state", cause=cause)) == (1, 2)
    began = loop().time()
    waiting = [asyncio.create_task(b.acquire()) for _ in range(5)]
    await asyncio.sleep(BASE)
    probes = [task for task in waiting if task.done()]
    assert len(probes) == 1
    assert BASE / 2 <= loop().time() - began <= BASE + 0.01
    assert b.value("breaker_state", cause=cause) == 1
    permit = probes[0].result()
    assert permit == Permit((cause,))
    b.admission.record(permit, OK, "probe")
    await asyncio.gather(*waiting)
    assert loop().time() - began <= BASE + 0.1
    assert b.admission.pausing is None
    assert b.changes == [cause, None]
    assert b.value("paused", cause=cause) == 0


@travelling
async def test_probes_come_at_growing_distances() -> None:
    """A Registry that is down is asked ever more rarely, and not more rarely than the cap."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAVAILABLE])
    asked = [loop().time()]
    for _ in range(6):
        permit = await b.next_permit()
        asked.append(loop().time())
        b.admission.record(permit, CAUSES[PauseCause.UNAVAILABLE], "probe")
    waits = [later - sooner for sooner, later in itertools.pairwise(asked)]
    for wait, most in zip(waits, (10, 20, 40, 40, 40, 40), strict=True):
        assert most / 2 <= wait <= most


@travelling
async def test_a_probe_given_back_is_made_by_another() -> None:
    """A probe that was never sent must not block all others without end."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAVAILABLE])
    permit = await b.next_permit()
    b.admission.release(permit)
    began = loop().time()
    assert await b.next_permit() == Permit((PauseCause.UNAVAILABLE,))
    assert loop().time() - began <= BASE + 0.01


@pytest.mark.parametrize("outcome", [Invalid("x"), Early(None), Throttled(1.0)])
@travelling
async def test_a_probe_that_says_nothing_is_repeated(outcome: Outcome) -> None:
    """Neither good nor bad: another probe after the base wait."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAUTHORIZED])
    permit = await b.next_permit()
    b.admission.record(permit, outcome, "probe")
    assert b.admission.pausing is PauseCause.UNAUTHORIZED
    assert await b.next_permit() == Permit((PauseCause.UNAUTHORIZED,))


@travelling
async def test_the_same_journey_alone_is_no_outage() -> None:
    """One journey that fails again and again does not stop the others."""
    b = bench()
    for _ in range(20):
        b.admission.record(Permit(), CAUSES[PauseCause.UNAVAILABLE], "always the same")
    assert b.admission.pausing is None


@travelling
async def test_a_refusal_proves_that_the_registry_works() -> None:
    """What looks at the payload has let the token in."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAUTHORIZED])
    permit = await b.next_permit()
    assert b.value("token_accepted") == 0
    b.admission.record(permit, Rejected(400, "x"), "probe")
    assert b.admission.pausing is None
    assert b.value("token_accepted") == 1


@travelling
async def test_two_pauses_at_once_end_one_by_one() -> None:
    """The probe serves both causes that are due; what it says of each counts for each."""
    b = bench()
    for number in range(THRESHOLD):
        b.admission.record(Permit(), CAUSES[PauseCause.UNAUTHORIZED], number)
    for number in range(THRESHOLD):
        b.admission.record(Permit(), CAUSES[PauseCause.MISCONFIGURED], number)
    permit = await b.next_permit()
    assert set(permit.probing) == {PauseCause.UNAUTHORIZED, PauseCause.MISCONFIGURED}
    b.admission.record(permit, CAUSES[PauseCause.UNAUTHORIZED], "probe")
    assert b.admission.pausing is PauseCause.UNAUTHORIZED
    permit = await b.next_permit()
    b.admission.record(permit, OK, "probe")
    assert b.admission.pausing is None


@travelling
async def test_a_hold_stops_everybody_for_its_time() -> None:
    """Also those who had their slot already."""
    b = bench(rate_per_minute=60)
    began = loop().time()
    await b.acquire()
    waiting = asyncio.create_task(b.acquire())
    await asyncio.sleep(0.5)
    b.rate_limiter.hold(loop().time() + 30)
    await waiting
    assert loop().time() - began >= 30.5


async def held(b: Bench, waiters: int = 5, seconds: float = 30.0) -> list["asyncio.Task[Permit | None]"]:
    """Let submissions wait for the end of a hold; returns them when one of them may go."""
    b.rate_limiter.hold(loop().time() + seconds)
    tasks = [asyncio.create_task(b.acquire()) for _ in range(waiters)]
    await asyncio.sleep(seconds + 0.1)
    return tasks


def going(tasks: list["asyncio.Task[Permit | None]"]) -> list[Permit | None]:
    """Return the permits so far."""
    return [task.result() for task in tasks if task.done()]


@pytest.mark.parametrize("outcome", [OK, Rejected(400, "x"), Unavailable("500", 500), Unavailable("read")])
@travelling
async def test_after_a_hold_one_goes_first(outcome: Outcome) -> None:
    """The others follow its answer, at the limiter's pace."""
    b = bench(rate_per_minute=60)
    tasks = await held(b)
    late = asyncio.create_task(b.acquire())
    await asyncio.sleep(3)
    assert going([*tasks, late]) == [Permit(first=True)]
    b.admission.record(Permit(first=True), outcome, "first")
    began = loop().time()
    await asyncio.gather(*tasks, late)
    assert going(tasks)[1:] == [Permit()] * 4
    assert loop().time() - began == pytest.approx(4.0, abs=0.1), "five, a second apart"


@pytest.mark.parametrize("outcome", [Throttled(10.0), Unavailable("503", 503), None])
@travelling
async def test_another_refusal_lets_the_next_one_go_first(outcome: Outcome | None) -> None:
    """Also when the first one had to stop before it was sent."""
    b = bench()
    tasks = await held(b)
    for number in range(1, 4):
        assert going(tasks) == [Permit(first=True)] * number
        if isinstance(outcome, Throttled):
            b.rate_limiter.hold(loop().time() + 10.0)
        if outcome is None:
            b.admission.release(Permit(first=True))
        else:
            b.admission.record(Permit(first=True), outcome, "always the same")
        await asyncio.sleep(10.1)
    b.admission.record(Permit(first=True), OK, "other")
    await asyncio.sleep(0.1)
    assert len(going(tasks)) == 5


@travelling
async def test_one_that_hangs_is_waited_for_no_longer_than_a_request_lasts() -> None:
    """Then the next one goes first; a late answer to the first lets all go."""
    b = bench()
    tasks = await held(b)
    assert len(going(tasks)) == 1
    await asyncio.sleep(FIRST_SECONDS)
    assert going(tasks) == [Permit(first=True)] * 2
    b.admission.record(Permit(first=True), OK, "late")
    await asyncio.sleep(0.1)
    assert len(going(tasks)) == 5


@travelling
async def test_an_answer_to_what_was_sent_before_the_hold_lets_nobody_go() -> None:
    """It says nothing about the limit that was reached since; nor does one that comes during the hold."""
    b = bench()
    b.rate_limiter.hold(loop().time() + 30)
    b.admission.record(Permit(first=True), OK, "of the hold before")
    tasks = await held(b)
    b.admission.record(Permit(), OK, "before")
    await asyncio.sleep(1)
    assert len(going(tasks)) == 1


@travelling
async def test_a_probe_that_passes_is_the_first() -> None:
    """Paused and held: when the probe passes, nobody waits for a second one."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAVAILABLE])
    tasks = await held(b, seconds=BASE - 0.5)
    (permit,) = going(tasks)
    assert permit == Permit((PauseCause.UNAVAILABLE,))
    b.admission.record(permit, OK, "probe")
    await asyncio.sleep(0.1)
    assert going(tasks)[1:] == [Permit()] * 4


@travelling
async def test_a_probe_waits_for_a_hold_too() -> None:
    """Paused and throttled: the longer wait counts."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAVAILABLE])
    b.rate_limiter.hold(loop().time() + 9)
    began = loop().time()
    await b.acquire()
    assert loop().time() - began >= 9


@travelling
async def test_a_new_token_is_tried_at_once() -> None:
    """No waiting for the next probe."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAUTHORIZED])
    waiting = asyncio.create_task(b.acquire())
    await asyncio.sleep(1)
    assert not waiting.done()
    b.admission.probe_now(PauseCause.UNAUTHORIZED)
    await asyncio.sleep(0.01)
    assert waiting.done()
    assert waiting.result() == Permit((PauseCause.UNAUTHORIZED,))


@travelling
async def test_a_new_token_during_a_probe_is_tried_right_after_it() -> None:
    """The probe under way was sent with the old one."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAUTHORIZED])
    permit = await b.acquire()
    assert permit is not None
    b.admission.probe_now(PauseCause.UNAUTHORIZED)
    began = loop().time()
    b.admission.record(permit, CAUSES[PauseCause.UNAUTHORIZED], "probe")
    assert await b.acquire() == Permit((PauseCause.UNAUTHORIZED,))
    assert loop().time() - began < 0.1


def _pause(b: Bench) -> None:
    for number in range(THRESHOLD):
        b.admission.record(Permit(), CAUSES[PauseCause.UNAVAILABLE], number)
    permit = b.admission._probe(loop().time() + CAP)  # another journey probes, without an end
    assert permit.probing


def _pace(b: Bench) -> None:
    b.rate_limiter.reserve(loop().time())


@pytest.mark.parametrize(
    ("arrange", "rate", "most"),
    [(_pause, 1e9, PAUSE_HOLD_SECONDS), (_pace, 0.1, 50)],
    ids=["paused", "paced"],
)
@travelling
async def test_no_wait_is_longer_than_allowed(arrange: Any, rate: float, most: float) -> None:
    """``until``, a pause and ``give_up`` end every wait without a permit."""
    b = bench(rate)
    arrange(b)
    began = loop().time()
    assert await b.acquire(until=began + 50) is None
    assert loop().time() - began == pytest.approx(most, abs=1.1)
    stop = False
    waiting = asyncio.create_task(b.admission.acquire(give_up=lambda: stop, until=float("inf")))
    await asyncio.sleep(3)
    stop = True
    b.admission.notifier.notify_all()
    await asyncio.sleep(0.01)
    assert waiting.done()
    assert waiting.result() is None


@travelling
async def test_transitions_are_counted() -> None:
    """For the alert that tells a flapping Registry from a dead one."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAVAILABLE])
    permit = await b.acquire()
    assert permit is not None
    b.admission.record(permit, OK, "probe")
    for state in BreakerState:
        assert b.value("breaker_transitions_total", cause="unavailable", to=state.value) == 1


@travelling
async def test_a_pulse_wakes_everybody_once() -> None:
    """Who waits is woken; who comes later waits."""
    notifier = Notifier()
    waiting = [asyncio.create_task(notifier.wait(100)) for _ in range(3)]
    await asyncio.sleep(1)
    notifier.notify_all()
    began = loop().time()
    await asyncio.gather(*waiting)
    assert loop().time() == pytest.approx(began)
    await notifier.wait(5)
    assert loop().time() == pytest.approx(began + 5)


@travelling
@pytest.mark.parametrize(
    ("status", "body", "delays"),
    [
        (503, b'{"code": 503, "error": "Service Unavailable"}', True),
        (429, b"<html>", False),
        (503, b"<html>", False),
    ],
)
async def test_only_the_registry_may_ask_everybody_to_wait(status: int, body: bytes, delays: bool) -> None:  # noqa: FBT001
    """A gateway's Retry-After may be about one journey's text: it does not delay the next probe."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAVAILABLE])
    permit, answer = await b.next_permit(), Reply(status, {"retry-after": "1800"}, body)
    b.admission.record(permit, classify(answer), "another")
    started = loop().time()
    await b.next_permit()
    assert (loop().time() - started >= 1800.0) is delays


@pytest.mark.parametrize(
    ("outcome", "seen"),
    [
        (Unavailable("connect", exception="ConnectError"), "connect (ConnectError)"),
        (Unavailable("503", 503), "503"),
        (Unauthorized(401, "401"), "401"),
        (Forbidden(403, "-32503"), "403 -32503"),
        (Misconfigured(404, "http_404"), "404 http_404"),
        (Misconfigured(0, "token_file_empty"), "token_file_empty"),
    ],
)
@travelling
async def test_a_pause_tells_its_story_in_the_log(
    outcome: Outcome, seen: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was seen, when the next probe is, what to do; again every five minutes; how long it was."""
    caplog.set_level(logging.INFO)
    b = bench()
    for key in range(THRESHOLD):
        b.admission.record(Permit(), outcome, key)
        await asyncio.sleep(1)
    began = loop().time()
    (paused,) = caplog.records
    assert (paused.getMessage(), paused.levelname, paused.seen) == ("consumption paused", "WARNING", seen)
    assert 0 < paused.next_probe_seconds <= BASE
    assert paused.do
    while loop().time() < began + 2.5 * REMIND_SECONDS:
        b.admission.remind()
        await asyncio.sleep(0.2)
    told = [(r.getMessage(), round(r.paused_seconds / 60)) for r in caplog.records[1:]]
    assert told == [("consumption is still paused", 5), ("consumption is still paused", 10)]
    assert {(r.seen, r.do) for r in caplog.records[1:]} == {(seen, paused.do)}
    b.admission.record(Permit(), OK, "another")
    ended = caplog.records[-1]
    assert ended.getMessage() == "consumption resumes"
    assert ended.paused_seconds == pytest.approx(2.5 * REMIND_SECONDS, abs=3)
    b.admission.remind()
    assert caplog.records[-1] is ended


def test_every_cause_of_a_pause_has_a_remedy() -> None:
    """The log says what to do, whatever the cause."""
    assert set(admission._REMEDIES) == set(PauseCause)


@travelling
async def test_a_wait_that_is_over_when_it_begins_is_no_error() -> None:
    """A slot of the rate limiter may be some millionths of a second away, and the clock goes on."""
    b, passed = bench(rate_per_minute=4e6), itertools.count()
    b.admission._clock = lambda: loop().time() + 1e-5 * next(passed)
    for _ in range(50):
        assert await b.acquire() is not None
