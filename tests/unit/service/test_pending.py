"""The oldest pending journey: its start does not become younger for any reason but progress."""

import asyncio
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.publishing import samples
from consumer.service.inflight import MOST_REMEMBERED, InFlight
from tests.corridor import Corridor, passes, registered, unavailable
from tests.travel import loop, travelling

OLDEST = "oldest_pending_start_timestamp_seconds"
_FINAL = {"registered", "already_registered", "exhausted", "expired"}


def _publish(corridor: Corridor, *hours: float) -> dict[int, str]:
    """Publish journeys that ended so many hours ago; returns their ids by the timestamp of their start."""
    ids = {}
    for number, ago in enumerate(hours):
        payload = corridor.payload(number, ends_in_seconds=-3600.0 * ago - number)
        corridor.link.put(samples.encode(payload))
        start = datetime.fromisoformat(payload["start"]["datetime"]).timestamp()
        ids[round(start)] = payload["operator_journey_id"]
    return ids


@travelling
async def test_an_old_journey_stays_the_oldest_while_probes_take_others() -> None:
    """It went back to a queue; the probes of a pause meet younger ones."""
    corridor = Corridor(unavailable())
    async with corridor.serving():
        oldest = min(_publish(corridor, 20, *[1] * 40))
        await passes(60)
        for _ in range(200):
            await passes(7)
            assert round(corridor.value(OLDEST)) == oldest


@travelling
async def test_a_lost_connection_in_a_pause_forgets_no_journey() -> None:
    """Everything is unacknowledged then, and comes again: until it does its start is known."""
    corridor = Corridor(unavailable())
    async with corridor.serving():
        oldest = min(_publish(corridor, 20, *[1] * 40))
        await passes(5)
        corridor.link.lose()
        await passes(1)
        assert corridor.value("in_flight") == 0
        assert round(corridor.value(OLDEST)) == oldest


@travelling
async def test_the_end_of_a_pause_forgets_no_journey_that_did_not_come_again() -> None:
    """It waits behind all others in the queue, or in the delay queue."""
    corridor = Corridor(unavailable(), retry_delays_seconds=(300, 600))
    async with corridor.serving():
        oldest = min(_publish(corridor, 20, *[1] * 40))
        await passes(60)
        corridor.answers = [registered()]
        corridor.link.put(samples.encode(corridor.payload(99)))  # the probe
        await passes(60)
        assert corridor.admission.pausing is None
        assert round(corridor.value(OLDEST)) == oldest
        await passes(600)
        assert corridor.value(OLDEST) == 0


@travelling
async def test_a_journey_in_a_delay_queue_is_pending() -> None:
    """Alone it pauses nothing, and is in flight for a moment now and then."""
    corridor = Corridor(unavailable(), retry_delays_seconds=(600,))
    async with corridor.serving():
        (start,) = _publish(corridor, 1)
        await passes(30)
        for _ in range(30):
            await passes(60)
            assert round(corridor.value(OLDEST)) == start


@travelling
async def test_a_journey_that_another_pod_took_is_forgotten() -> None:
    """It was due, and the queue has delivered all that was in it since: it is not there any more."""
    corridor = Corridor()
    async with corridor.open():
        in_flight = corridor.assembled.in_flight
        entry = corridor.entry()
        in_flight.close(entry)
        in_flight.sent_back(entry, due=100.0)
        for now, room, pending in (
            (90.0, True, True),
            (104.0, True, True),  # due for less than a moment
            (104.5, False, True),
            (200.0, True, True),  # there is room again since now
            (204.0, True, True),
            (206.0, True, False),
        ):
            in_flight.forget_delivered(now, room=room)
            assert (in_flight.oldest_start is not None) is pending, now


@settings(max_examples=15, deadline=None)
@given(
    hours=st.lists(st.integers(1, 21), min_size=1, max_size=15),
    troubles=st.lists(
        st.tuples(st.floats(5.0, 120.0), st.sampled_from(["lose", "down", "up", "blocked"])), max_size=8
    ),
)
def test_the_oldest_start_rises_only_with_a_final_outcome(
    hours: list[int], troubles: list[tuple[float, str]]
) -> None:
    """Whatever happens to connections, the Registry and the broker."""

    @travelling
    async def run() -> None:
        corridor = Corridor(unavailable(), retry_delays_seconds=(20, 60))
        rose = []  # from which start, and when

        async def watch() -> None:
            seen = 0.0
            while True:
                value = corridor.value(OLDEST)
                if seen and (value == 0 or value > seen):
                    rose.append((seen, loop().now()))
                seen = value
                await passes(0.5)

        async with corridor.serving():
            ids = _publish(corridor, *hours)
            watching = asyncio.create_task(watch())
            await passes(5)
            for at, trouble in sorted(troubles):
                await passes(max(0.0, 1000.0 + at - loop().time()))
                match trouble:
                    case "lose":
                        corridor.link.lose()
                    case "blocked":
                        corridor.link.confirm_after_seconds = 3.0
                    case answer:
                        corridor.answers = [registered() if answer == "up" else unavailable()]
            corridor.answers = [registered()]
            await passes(250)
            watching.cancel()
            assert corridor.value(OLDEST) == 0
        final = {line["journey_id"]: line["ts"] for line in corridor.settled() if line["outcome"] in _FINAL}
        assert rose
        for start, when in rose:
            assert datetime.fromisoformat(final[ids[round(start)]]) <= when

    run()


@travelling
async def test_of_many_journeys_in_queues_the_oldest_are_remembered() -> None:
    """The memory is bounded; what it drops is younger than what it keeps."""
    corridor = Corridor()
    async with corridor.open():
        in_flight = InFlight("v3")
        starts = []
        for number in range(2 * MOST_REMEMBERED + 1):
            payload = corridor.payload(number, ends_in_seconds=-3600.0 - (number * 7919) % 3000)
            entry = in_flight.open(corridor.delivery(samples.encode(payload)))
            in_flight.read(entry)
            in_flight.close(entry)
            in_flight.sent_back(entry, due=0.0)
            starts.append(datetime.fromisoformat(payload["start"]["datetime"]))
        assert in_flight.oldest_start == min(starts)
        assert len(in_flight._queued) == MOST_REMEMBERED
        assert max(start for start, _ in in_flight._queued.values()) - min(starts) < timedelta(seconds=3000)
