"""The account of a simulated day: what must hold for every seed. The numbers are those of ``world``."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.simulation.faults import PATIENT, POISON, TOKEN

if TYPE_CHECKING:
    from tests.simulation.world import Journey, World

BOUND_SECONDS, BOUND_SECONDS_FOR_EACH_BAD, SPARSE_SECONDS = 900.0, 7.5, 3600.0
OUTAGE_REQUESTS, OUTAGE_REQUESTS_A_MINUTE = 600, 80
AUTH_PAUSE_AFTER = 5
#: RETRY_MAX_ATTEMPTS, and those in pauses.
REQUESTS_FOR_A_BAD_ONE = 150

Interval = tuple[float, float]


class ViolationError(AssertionError):
    """An invariant does not hold; the text ends with the trace."""


def bound_seconds(journeys: Iterable["Journey"], *, sparse: bool) -> float:
    """Return how long a good journey may wait for its registration."""
    bad = sum(journey.poison is not None for journey in journeys)
    return BOUND_SECONDS + BOUND_SECONDS_FOR_EACH_BAD * bad + SPARSE_SECONDS * sparse


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the intervals without overlap, in order."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def longest_gap(start: float, end: float, excused: Sequence[Interval]) -> float:
    """Return the longest time between ``start`` and ``end`` that nothing excuses."""
    within = [(max(a, start), min(b, end)) for a, b in excused if a < end and b > start]
    edges = [start, *(edge for interval in within for edge in interval), end]
    return max(b - a for a, b in list(pairwise(edges))[::2])


def check(world: "World") -> None:  # noqa: C901 - one branch for each invariant
    """Raise ViolationError unless all invariants hold."""
    where, excused = world.where(), merged(world.excused)
    if world.found:
        world.violated(world.found[0])
    if world.link.mistaken:
        world.violated(f"{world.link.mistaken} deliveries of an earlier connection were acknowledged")
    bad = sum(journey.poison is not None for journey in world.journeys.values())
    if world.paused and bad <= 1 and not excused and not world.plan.day:
        world.violated("one bad journey alone paused consumption")
    refused = 0
    for journey in world.journeys.values():
        places = where.get(journey.id, [])
        dead = {reason for reason in map(world.reason, places) if reason is not None}
        if len(dead) > 1 and not journey.doubled:
            world.violated(f"{journey.id} ({journey.poison}) was dead-lettered as {sorted(dead)}")
        if journey.deleted and not places:
            continue
        if journey.poison is None:
            refused += dead == {"unauthorized"}
            _check_good(world, journey, places, dead, excused)
        else:
            _check_bad(world, journey, places, dead)
    tokens = sum(fault.kind in TOKEN for fault in world.plan.faults)
    if refused > AUTH_PAUSE_AFTER * tokens + (len(world.started_at) if tokens else 0):
        world.violated(f"{refused} good journeys were dead-lettered as unauthorized")
    for start, end in merged(world.outages):
        asked = sum(start <= at < end for at in world.requests)
        starts = 1 + sum(start <= at < end for at in world.started_at)
        world.note(f"{asked} requests in {end - start:.0f} s of outage, {starts} starts")
        if asked > OUTAGE_REQUESTS * starts + OUTAGE_REQUESTS_A_MINUTE * (end - start) / 60:
            world.violated(f"{asked} requests in an outage of {end - start:.0f} s")


def _check_good(
    world: "World", journey: "Journey", places: list[str], dead: set[str], excused: Sequence[Interval]
) -> None:
    at = journey.registered_at
    if at is None:
        expired = dead == {"expired"} and world.expired(journey)
        if not expired and dead != {"unauthorized"}:  # those are counted
            state = f"is in {places}" if places else "is lost"
            world.violated(f"{journey.id} is good, was not registered, and {state}")
    elif dead and not journey.doubled:
        world.violated(f"{journey.id} is registered and dead-lettered as {sorted(dead)}")
    else:
        late = longest_gap(journey.published_at, at, excused)
        world.latest = max(world.latest, late)
        if late > world.bound:
            world.violated(f"{journey.id} was registered {late:.0f} s after the Registry took it")


def _check_bad(world: "World", journey: "Journey", places: list[str], dead: set[str]) -> None:
    name = f"{journey.id} ({journey.poison})"
    reason = POISON[journey.poison or ""][1]
    if not places:
        world.violated(f"{name} is lost")
    world.most_asked = max(world.most_asked, world.asked[journey.id] if world.plan.day else 0)
    if world.plan.day and world.asked[journey.id] > REQUESTS_FOR_A_BAD_ONE:
        world.violated(f"{name} was submitted {world.asked[journey.id]} times in a day")
    if not dead <= {reason, "unauthorized"}:
        world.violated(f"{name} was dead-lettered as {sorted(dead)}")
    if not dead and (reason not in PATIENT or world.plan.day):
        world.violated(f"{name} is still in {places}")
    for place in places:
        for stored in world.link.queues[place] if world.reason(place) == "exhausted" else ():
            failed = datetime.fromisoformat(stored.headers["x-last-failure"])
            if stored.properties["message_id"] == journey.id and failed > journey.deadline:
                world.violated(f"{name} ended at {failed}, after its deadline")
