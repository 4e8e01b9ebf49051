"""The one exit door: every disposition, every failure on the way out, and what is counted."""

import asyncio
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from consumer import __version__
from consumer.core.outcome import (
    Acknowledge,
    AlreadyRegistered,
    DeadLetter,
    Delay,
    Disposition,
    Reason,
    Registered,
    Release,
    Republish,
)
from consumer.publishing import samples
from consumer.service.inflight import HandlingResult
from tests.corridor import QUEUE, Corridor, passes
from tests.travel import loop, travelling

NOW = "2026-11-23T16:00:00.000Z"


def result_of(disposition: Disposition, attempts: int = 1) -> HandlingResult:
    """What the handler would have returned."""
    return HandlingResult(disposition, attempts)


SETTLED: dict[type[Disposition], tuple[Disposition, str | None, str]] = {
    # disposition -> an example, the queue of the copy, the outcome's name
    Acknowledge: (Acknowledge(Registered(201)), None, "registered"),
    DeadLetter: (DeadLetter(Reason.REJECTED, "x", 400), "journeys.dead-letter.rejected", "rejected"),
    Delay: (Delay(60, "503", 503), "journeys.retry.60s", "delayed"),
    Republish: (Republish("held too long"), QUEUE, "returned"),
    Release: (Release(), None, ""),
}


def test_every_disposition_has_an_example() -> None:
    """A new one must be added to the table below."""
    assert set(get_args(Disposition)) == SETTLED.keys()


@pytest.mark.parametrize("kind", SETTLED)
@travelling
async def test_every_disposition_is_settled(kind: type[Disposition]) -> None:
    """The copy is where it belongs, the original is gone (or left alone), and it is counted once."""
    disposition, queue, outcome = SETTLED[kind]
    corridor = Corridor()
    async with corridor.open():
        entry = corridor.entry()
        settled = await corridor.settler.settle(entry, result_of(disposition))
        assert settled is (None if kind is Release else disposition)
        assert bool(corridor.link._unacked) is (kind is Release)
        copies = {name: len(held) for name, held in corridor.link.queues.items() if held}
        assert copies == ({queue: 1} if queue else {})
    lines = corridor.settled()
    assert [line["outcome"] for line in lines] == ([outcome] if outcome else [])
    counted = corridor.metrics.journeys if outcome in corridor.metrics.journeys else corridor.metrics.returned
    if outcome:
        name = "journeys_total" if counted is corridor.metrics.journeys else "returned_total"
        label = "outcome" if name == "journeys_total" else "kind"
        found = [
            sample.value
            for metric in corridor.collector.collect()
            for sample in metric.samples
            if sample.name.endswith(name) and sample.labels.get(label, outcome) == outcome
        ]
        assert sum(found) == 1


@pytest.mark.parametrize("reason", Reason)
@travelling
async def test_a_dead_letter_carries_its_past(reason: Reason) -> None:
    """Body, properties and headers as they came, and why, when, how often and where from."""
    corridor = Corridor()
    async with corridor.open():
        body = samples.encode(corridor.payload()) + b"\n"
        entry = corridor.entry(
            body,
            headers={"x-trace": "abc", "x-first-failure": "2026-11-23T12:00:00+00:00", "x-attempts": 4},
            properties={"message_id": "m-1", "content_type": "application/json", "expiration": "5000"},
        )
        result = result_of(DeadLetter(reason, "-32602 at driver.revenue", 400), attempts=5)
        assert await corridor.settler.settle(entry, result)
    (letter,) = corridor.dead(reason)
    assert letter.body == body
    assert letter.exchange == "journeys.dead-letter"
    assert letter.properties == {
        "message_id": "m-1",
        "content_type": "application/json",
        "delivery_mode": 2,
    }
    assert letter.headers == {
        "x-trace": "abc",
        "x-reason": reason.value,
        "x-detail": "-32602 at driver.revenue",
        "x-status": 400,
        "x-attempts": 5,
        "x-first-failure": "2026-11-23T12:00:00+00:00",
        "x-last-failure": NOW,
        "x-original-exchange": "",
        "x-original-routing-key": QUEUE,
        "x-original-expiration": "5000",
        "x-consumer-version": __version__,
    }
    assert corridor.value("dead_lettered_total", reason=reason.value) == 1
    assert corridor.value("journeys_total", outcome=reason.value) == 1
    if reason in (Reason.INVALID, Reason.REJECTED):
        found = corridor.value("refused_fields_total", reason=reason.value, field="driver.revenue")
        assert found == 1


@travelling
async def test_a_delayed_journey_carries_what_the_next_visit_needs() -> None:
    """Attempts, visits, the first failure and the origin."""
    corridor = Corridor()
    async with corridor.open():
        entry = corridor.entry(headers={"x-trace": "abc", "CC": ["elsewhere"]})
        await corridor.settler.settle(entry, result_of(Delay(300, "503", 503), attempts=3))
        (waiting,) = corridor.link.queues["journeys.retry.300s"]
    assert waiting.headers == {
        "x-trace": "abc",
        "x-attempts": 3,
        "x-visits": 1,
        "x-detail": "503",
        "x-status": 503,
        "x-first-failure": NOW,
        "x-original-exchange": "",
        "x-original-routing-key": QUEUE,
    }


@pytest.mark.parametrize("failure", ["nacked", "returned", "timeout", "connection"])
@travelling
async def test_no_confirm_no_acknowledgement(failure: str) -> None:
    """A publish that fails is tried again until it is confirmed; only then the original goes."""
    corridor = Corridor()
    corridor.link.publish_failures.extend([failure] * 5)
    async with corridor.open():
        entry = corridor.entry()
        result = result_of(DeadLetter(Reason.INVALID, "x", None))
        settling = asyncio.create_task(corridor.settler.settle(entry, result))
        while corridor.link.publish_failures:
            await passes(0.05)
            assert corridor.link._unacked or not corridor.link.publish_failures
            assert corridor.value("dead_lettered_total", reason="invalid") == 0
        assert await settling
    assert len(corridor.dead("invalid")) == 1
    assert len(corridor.link.submitted) == 6
    assert corridor.value("dead_lettered_total", reason="invalid") == 1


@travelling
async def test_a_lost_connection_ends_the_attempts() -> None:
    """The delivery will come again: nothing more is published, nothing is counted."""
    corridor = Corridor()
    corridor.link.publish_failures.extend(["nacked"] * 3)
    async with corridor.open():
        entry = corridor.entry()
        result = result_of(DeadLetter(Reason.INVALID, "x", None))
        settling = asyncio.create_task(corridor.settler.settle(entry, result))
        await passes(0.01)
        corridor.link.lose()
        assert not await settling
    assert corridor.dead("invalid") == []
    assert corridor.settled() == []
    assert corridor.value("dead_lettered_total", reason="invalid") == 0
    assert corridor.value("refused_fields_total", reason="invalid", field="payload") == 0


@travelling
async def test_what_is_not_published_yet_is_called_back_when_the_connection_is_lost() -> None:
    """Otherwise the dead letter would be there twice: this one, and that of the redelivery."""
    corridor = Corridor()
    corridor.link.confirm_after_seconds = 5.0
    async with corridor.open():
        entry = corridor.entry()
        result = result_of(DeadLetter(Reason.INVALID, "x", None))
        settling = asyncio.create_task(corridor.settler.settle(entry, result))
        await passes(1)
        corridor.link.lose()
        corridor.settler.withdraw(corridor.assembled.in_flight)
        assert not await settling
        await passes(10)
    assert corridor.dead("invalid") == []


@travelling
async def test_a_confirm_that_comes_too_late_settles_nothing() -> None:
    """Confirmed, but the original belongs to the broker again: a duplicate, never a loss, not counted."""
    corridor = Corridor()
    corridor.link.confirm_after_seconds = 5.0
    async with corridor.open():
        entry = corridor.entry()
        result = result_of(DeadLetter(Reason.INVALID, "x", None))
        settling = asyncio.create_task(corridor.settler.settle(entry, result))
        await passes(1)
        corridor.link.lose()
        assert not await settling
        assert len(corridor.link.queues[QUEUE]) == 1
    assert corridor.settled() == []


@travelling
async def test_headers_that_no_frame_holds_are_left_behind() -> None:
    """The body counts: what cannot be written again goes without it."""
    corridor = Corridor()
    corridor.link.publish_failures.append("unencodable")
    async with corridor.open():
        odd = {"x-odd": 1e400, "when": datetime(1, 1, 1, tzinfo=UTC), "x-trace": "abc"}
        entry = corridor.entry(headers=odd, properties={"message_id": "m", "timestamp": -1})
        result = result_of(DeadLetter(Reason.REJECTED, "x", 400))
        assert await corridor.settler.settle(entry, result)
    (letter,) = corridor.dead("rejected")
    assert letter.properties == {"message_id": "m", "delivery_mode": 2}
    assert letter.headers["x-reason"] == "rejected"
    assert letter.headers["x-trace"] == "abc"
    assert not letter.headers.keys() & {"x-odd", "when"}


@travelling
async def test_what_can_not_be_made_smaller_is_tried_at_a_pace() -> None:
    """Whatever is wrong with it then: no busy loop, and it goes out as soon as it can."""
    corridor = Corridor()
    corridor.link.publish_failures += ["unencodable"] * 3
    async with corridor.open():
        entry = corridor.entry(headers={"x-trace": "abc"}, properties={"message_id": "m"})
        began = loop().time()
        assert await corridor.settler.settle(entry, result_of(DeadLetter(Reason.REJECTED, "x", 400)))
        assert loop().time() > began
    (letter,) = corridor.dead("rejected")
    assert letter.headers["x-trace"] == "abc"


@travelling
async def test_without_delay_queues_the_waiting_is_done_here() -> None:
    """Unacknowledged, within the holding limit; then to the end of our own queue."""
    corridor = Corridor(hold_limit_seconds=200.0)
    corridor.link.delay_queues = False
    async with corridor.open():
        entry = corridor.entry()
        began = loop().time()
        assert await corridor.settler.settle(entry, result_of(Delay(300, "503", 503)))
        assert 200 <= loop().time() - began < 201
        (again,) = corridor.link.queues[QUEUE]
    assert again.headers["x-visits"] == 1


def _age(corridor: Corridor) -> float:
    return corridor.value("journey_age_at_registration_seconds_count")


@pytest.mark.parametrize(
    ("disposition", "hours_ago", "missed", "aged"),
    [
        (Acknowledge(Registered(201)), 2, 0, 1),
        (Acknowledge(AlreadyRegistered(409)), 2, 0, 0),
        (DeadLetter(Reason.EXHAUSTED, "503", 503), 25, 1, 0),
        (DeadLetter(Reason.EXHAUSTED, "503", 503), 23, 0, 0),
    ],
)
@travelling
async def test_the_deadline_is_measured(
    disposition: Disposition, hours_ago: int, missed: int, aged: int
) -> None:
    """The age at registration, and the journeys that no longer can be registered."""
    corridor = Corridor()
    async with corridor.open():
        body = samples.encode(corridor.payload(ends_in_seconds=-3600 * hours_ago))
        entry = corridor.entry(body)
        await corridor.settler.settle(entry, result_of(disposition))
    assert corridor.value("deadline_missed_total") == missed
    assert _age(corridor) == aged


@travelling
async def test_the_log_names_ids_and_reason_only() -> None:
    """One line; nothing of the payload but its id."""
    corridor = Corridor()
    async with corridor.open():
        payload = corridor.payload(7)
        entry = corridor.entry(samples.encode(payload), properties={"message_id": "m-7"})
        result = result_of(DeadLetter(Reason.REJECTED, "-32602 at driver", 400), attempts=2)
        await corridor.settler.settle(entry, result)
    (line,) = corridor.settled()
    assert {k: v for k, v in line.items() if k not in ("ts", "level", "logger", "event")} == {
        "outcome": "rejected",
        "journey_id": "journey-7",
        "message_id": "m-7",
        "attempts": 2,
        "status": 400,
        "detail": "-32602 at driver",
        "age_seconds": 5400.0,
        "redelivered": False,
    }


@pytest.mark.parametrize(
    ("change", "journey_id", "known"),
    [
        ({"passenger": None}, "journey-0", True),
        ({"start": {"datetime": "never"}}, "journey-0", False),
        ({"operator_journey_id": "+33 6 12 34 56 78"}, None, True),
        ({"operator_journey_id": "0612345678"}, None, True),
        ({"operator_journey_id": "anna@example.org"}, None, True),
        ({"operator_journey_id": "x" * 300}, None, True),
        ({"operator_journey_id": 7}, None, True),
        ({"padding": "x" * 70_000}, None, False),
    ],
)
@travelling
async def test_an_invalid_journey_is_known_by_its_ids_and_age(
    change: dict[str, Any], journey_id: str | None, *, known: bool
) -> None:
    """In the log, as far as the payload has them, and nothing else of it; it is no missed deadline."""
    corridor = Corridor()
    async with corridor.serving():
        payload = corridor.payload() | {"distance": -1} | change
        corridor.link.put(samples.encode(payload), properties={"message_id": "m-1"})
        await passes(1)
    (line,) = corridor.settled()
    assert (line["outcome"], line["journey_id"], line["message_id"]) == ("invalid", journey_id, "m-1")
    assert (line["age_seconds"] == pytest.approx(5400, abs=2)) if known else line["age_seconds"] is None
    assert corridor.value("deadline_missed_total") == 0
