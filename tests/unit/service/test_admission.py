"""Who may submit, when, and what everybody learns from it."""

import asyncio
import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumer.app import breakers_of
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
from consumer.core.rate_limiter import Pacer
from consumer.metrics import PREFIX, Metrics
from consumer.service.admission import Gate, Pulse, Ticket
from tests.travel import loop, travelling

OK = Registered(201)
THRESHOLD, BASE, CAP = 3, 10.0, 40.0
CAUSES: dict[PauseCause, Outcome] = {
    PauseCause.UNAUTHORIZED: Unauthorized(401, "401"),
    PauseCause.FORBIDDEN: Forbidden(403, "403"),
    PauseCause.MISCONFIGURED: Misconfigured(404, "http_404"),
    PauseCause.UNAVAILABLE: Unavailable("503", 503),
}


@dataclass
class Bench:
    """A gate with what is around it."""

    gate: Gate
    pacer: Pacer
    collector: CollectorRegistry
    changes: list[PauseCause | None]

    def value(self, name: str, **labels: str) -> float | None:
        """Return a sample as a scrape would see it."""
        return self.collector.get_sample_value(PREFIX + name, labels)

    async def enter(self, *, until: float = float("inf")) -> Ticket | None:
        """Ask for leave, patiently."""
        return await self.gate.enter(give_up=lambda: False, until=until)

    async def fail(self, outcome: Outcome, times: int = THRESHOLD) -> None:
        """Let different journeys meet ``outcome``."""
        for number in range(times):
            ticket = await self.enter()
            assert ticket is not None
            self.gate.report(ticket, outcome, number)


def bench(rate_per_minute: float = 1e9) -> Bench:
    """Make a gate whose breakers all open after three."""
    collector = CollectorRegistry()
    pacer = Pacer(rate_per_minute, 1)
    policy = BreakerPolicy(THRESHOLD, BASE, CAP)
    changes: list[PauseCause | None] = []
    gate = Gate(
        breakers={cause: Breaker(policy) for cause in PauseCause},
        pacer=pacer,
        metrics=Metrics(collector),
        clock=lambda: loop().time(),
    )
    gate.listen(lambda: changes.append(gate.pausing))
    return Bench(gate, pacer, collector, changes)


def test_every_cause_of_a_pause_has_a_breaker() -> None:
    """A cause without one would never pause, or raise when it is reported."""
    assert breakers_of(Settings()).keys() == set(PauseCause)
    assert CAUSES.keys() == set(PauseCause)


@travelling
async def test_nobody_waits_while_all_is_well() -> None:
    """The hot path: an ordinary ticket, at once."""
    b = bench()
    for number in range(100):
        assert await b.enter() == Ticket()
        b.gate.report(Ticket(), OK, number)
    assert loop().time() == pytest.approx(1000.0, abs=0.01)
    assert b.gate.pausing is None


@travelling
async def test_requests_keep_the_pace() -> None:
    """Ten a second: the last of 31 goes after three seconds, and the waiting is counted."""
    b = bench(rate_per_minute=600)
    began = loop().time()
    await asyncio.gather(*(b.enter() for _ in range(31)))
    assert loop().time() - began == pytest.approx(3.0)
    assert b.value("limiter_wait_seconds_total") == pytest.approx(sum(n / 10 for n in range(31)))


@travelling
async def test_a_pulse_does_not_bring_a_slot_forward() -> None:
    """Whoever keeps a slot keeps it, however often something changes for others."""
    b = bench(rate_per_minute=60)
    began = loop().time()
    await b.enter()
    second = asyncio.create_task(b.enter())
    for _ in range(5):
        await asyncio.sleep(0.1)
        b.gate.pulse.fire()
    await second
    assert loop().time() - began == pytest.approx(1.0)


@pytest.mark.parametrize("cause", PauseCause)
@travelling
async def test_a_pause_and_its_end(cause: PauseCause) -> None:
    """Enough failures pause; one at a time probes; a success lets everybody go."""
    b = bench()
    await b.fail(CAUSES[cause])
    assert b.gate.pausing is cause
    assert b.changes == [cause]
    assert (b.value("paused", cause=cause), b.value("breaker_state", cause=cause)) == (1, 2)
    began = loop().time()
    waiting = [asyncio.create_task(b.enter()) for _ in range(5)]
    await asyncio.sleep(BASE)
    probes = [task for task in waiting if task.done()]
    assert len(probes) == 1
    assert BASE / 2 <= loop().time() - began <= BASE
    assert b.value("breaker_state", cause=cause) == 1
    ticket = probes[0].result()
    assert ticket == Ticket((cause,))
    b.gate.report(ticket, OK, "probe")
    await asyncio.gather(*waiting)
    assert loop().time() - began <= BASE + 0.1
    assert b.gate.pausing is None
    assert b.changes == [cause, None]
    assert b.value("paused", cause=cause) == 0


@travelling
async def test_probes_come_at_growing_distances() -> None:
    """A Registry that is down is asked ever more rarely, and not more rarely than the cap."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAVAILABLE])
    asked = [loop().time()]
    for _ in range(6):
        ticket = await b.enter()
        assert ticket is not None
        asked.append(loop().time())
        b.gate.report(ticket, CAUSES[PauseCause.UNAVAILABLE], "probe")
    waits = [later - sooner for sooner, later in itertools.pairwise(asked)]
    for wait, most in zip(waits, (10, 20, 40, 40, 40, 40), strict=True):
        assert most / 2 <= wait <= most


@travelling
async def test_a_probe_given_back_is_made_by_another() -> None:
    """A probe that was never sent may not block the gate for ever."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAVAILABLE])
    ticket = await b.enter()
    assert ticket is not None
    b.gate.withdraw(ticket)
    began = loop().time()
    assert await b.enter() == Ticket((PauseCause.UNAVAILABLE,))
    assert loop().time() - began <= BASE


@pytest.mark.parametrize("outcome", [Invalid("x"), Early(None), Throttled(1.0)])
@travelling
async def test_a_probe_that_says_nothing_is_repeated(outcome: Outcome) -> None:
    """Neither good nor bad: another probe after the base wait."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAUTHORIZED])
    ticket = await b.enter()
    assert ticket is not None
    b.gate.report(ticket, outcome, "probe")
    assert b.gate.pausing is PauseCause.UNAUTHORIZED
    assert await b.enter() == Ticket((PauseCause.UNAUTHORIZED,))


@travelling
async def test_the_same_journey_alone_is_no_outage() -> None:
    """One journey that fails again and again does not stop the others."""
    b = bench()
    for _ in range(20):
        b.gate.report(Ticket(), CAUSES[PauseCause.UNAVAILABLE], "always the same")
    assert b.gate.pausing is None


@travelling
async def test_a_refusal_proves_that_the_registry_works() -> None:
    """What looks at the payload has let the token in."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAUTHORIZED])
    ticket = await b.enter()
    assert ticket is not None
    assert b.value("token_accepted") == 0
    b.gate.report(ticket, Rejected(400, "x"), "probe")
    assert b.gate.pausing is None
    assert b.value("token_accepted") == 1


@travelling
async def test_two_pauses_at_once_end_one_by_one() -> None:
    """The probe serves both causes that are due; what it says of each counts for each."""
    b = bench()
    for number in range(THRESHOLD):
        b.gate.report(Ticket(), CAUSES[PauseCause.UNAUTHORIZED], number)
    for number in range(THRESHOLD):
        b.gate.report(Ticket(), CAUSES[PauseCause.MISCONFIGURED], number)
    ticket = await b.enter()
    assert ticket is not None
    assert set(ticket.probing) == {PauseCause.UNAUTHORIZED, PauseCause.MISCONFIGURED}
    b.gate.report(ticket, CAUSES[PauseCause.UNAUTHORIZED], "probe")
    assert b.gate.pausing is PauseCause.UNAUTHORIZED
    ticket = await b.enter()
    assert ticket is not None
    b.gate.report(ticket, OK, "probe")
    assert b.gate.pausing is None


@travelling
async def test_a_hold_stops_everybody_for_its_time() -> None:
    """Also those who had their slot already."""
    b = bench(rate_per_minute=60)
    began = loop().time()
    await b.enter()
    waiting = asyncio.create_task(b.enter())
    await asyncio.sleep(0.5)
    b.gate.hold(30)
    await waiting
    assert loop().time() - began >= 30.5


@travelling
async def test_a_probe_waits_for_a_hold_too() -> None:
    """Paused and throttled: the longer wait counts."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAVAILABLE])
    b.gate.hold(100)
    began = loop().time()
    await b.enter()
    assert loop().time() - began >= 100


@travelling
async def test_a_new_token_is_tried_at_once() -> None:
    """No waiting for the next probe."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAUTHORIZED])
    waiting = asyncio.create_task(b.enter())
    await asyncio.sleep(1)
    assert not waiting.done()
    b.gate.hasten(PauseCause.UNAUTHORIZED)
    await asyncio.sleep(0.01)
    assert waiting.done()
    assert waiting.result() == Ticket((PauseCause.UNAUTHORIZED,))


@travelling
async def test_a_new_token_during_a_probe_is_tried_right_after_it() -> None:
    """The probe under way was sent with the old one."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAUTHORIZED])
    ticket = await b.enter()
    assert ticket is not None
    b.gate.hasten(PauseCause.UNAUTHORIZED)
    began = loop().time()
    b.gate.report(ticket, CAUSES[PauseCause.UNAUTHORIZED], "probe")
    assert await b.enter() == Ticket((PauseCause.UNAUTHORIZED,))
    assert loop().time() - began < 0.1


def _pause(b: Bench) -> None:
    for number in range(THRESHOLD):
        b.gate.report(Ticket(), CAUSES[PauseCause.UNAVAILABLE], number)
    ticket = b.gate._probe(loop().time() + CAP)  # somebody else probes, for ever
    assert ticket.probing


def _pace(b: Bench) -> None:
    b.pacer.reserve(loop().time())


@pytest.mark.parametrize(("arrange", "rate"), [(_pause, 1e9), (_pace, 0.1)], ids=["paused", "paced"])
@travelling
async def test_nobody_waits_longer_than_allowed(arrange: Any, rate: float) -> None:
    """``until`` and ``give_up`` end every wait without a ticket."""
    b = bench(rate)
    arrange(b)
    began = loop().time()
    assert await b.enter(until=began + 50) is None
    assert loop().time() - began == pytest.approx(50, abs=1.1)
    stop = False
    waiting = asyncio.create_task(b.gate.enter(give_up=lambda: stop, until=float("inf")))
    await asyncio.sleep(3)
    stop = True
    b.gate.pulse.fire()
    await asyncio.sleep(0.01)
    assert waiting.done()
    assert waiting.result() is None


@travelling
async def test_transitions_are_counted() -> None:
    """For the alert that tells a flapping Registry from a dead one."""
    b = bench()
    await b.fail(CAUSES[PauseCause.UNAVAILABLE])
    ticket = await b.enter()
    assert ticket is not None
    b.gate.report(ticket, OK, "probe")
    for state in BreakerState:
        assert b.value("breaker_transitions_total", cause="unavailable", to=state.value) == 1


@travelling
async def test_a_pulse_wakes_everybody_once() -> None:
    """Who waits is woken; who comes later waits."""
    pulse = Pulse()
    waiting = [asyncio.create_task(pulse.wait(100)) for _ in range(3)]
    await asyncio.sleep(1)
    pulse.fire()
    began = loop().time()
    await asyncio.gather(*waiting)
    assert loop().time() == began
    await pulse.wait(5)
    assert loop().time() == began + 5
