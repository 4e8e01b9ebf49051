"""Outcome events: what they say, and that nothing about them can hurt."""

import asyncio
import json
from datetime import UTC, datetime

import jsonschema
import pytest
from prometheus_client import CollectorRegistry

from consumer.commands.asyncapi import document
from consumer.core.delivery import Delivery
from consumer.core.headers import TrackingHeaders
from consumer.core.outcome import Acknowledge, AlreadyRegistered, DeadLetter, Invalid, Reason, Registered
from consumer.core.outgoing import Outgoing
from consumer.core.parse import Ready
from consumer.errors import PublishError, PublishFailure
from consumer.metrics import Metrics
from consumer.service import outcome_events as events
from consumer.service.inflight import Entry, HandlingResult, InFlight
from consumer.service.outcome_events import OutcomeEvents, build_event
from schemas import Journey

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
JOURNEY = Journey("j-1", NOW, NOW)
RESULTS = {
    "registered": (
        HandlingResult(Acknowledge(Registered(201, "2026-11-23T11:59:59.000Z")), 2),
        JOURNEY,
        TrackingHeaders(replays=1),
    ),
    "already_registered": (
        HandlingResult(Acknowledge(AlreadyRegistered(409)), 1),
        JOURNEY,
        TrackingHeaders(),
    ),
    "rejected": (
        HandlingResult(DeadLetter(Reason.REJECTED, "too_short", 422), 1),
        JOURNEY,
        TrackingHeaders(),
    ),
    "invalid": (HandlingResult(DeadLetter(Reason.INVALID, "not_json", None), 0), None, TrackingHeaders()),
}


def settled(outcome: str, delivery: Delivery | None = None) -> tuple[Entry, HandlingResult, str]:
    """What the settler says of a delivery that ended as ``outcome``."""
    result, journey, tracking = RESULTS[outcome]
    parsed = Invalid("not_json") if journey is None else Ready(journey, b"{}")
    return Entry(delivery or Delivery(b"{}"), tracking, parsed), result, outcome


class Publisher:
    """Keeps what it is given; the test ends the futures."""

    def __init__(self) -> None:
        self.sent: list[tuple[Outgoing, asyncio.Future[None]]] = []

    def submit(self, outgoing: Outgoing) -> asyncio.Future[None]:
        """Publish."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent.append((outgoing, future))
        return future


@pytest.mark.parametrize("outcome", RESULTS)
def test_an_event_is_what_the_document_says(outcome: str) -> None:
    """Valid by the schema of the AsyncAPI document, which knows each outcome."""
    whole = document("q", "v3", "outcomes")
    schema = whole["components"]["schemas"]["OutcomeEvent"]
    event = build_event(*settled(outcome), source="/journey-consumer/q", now=NOW)
    jsonschema.validate(event, schema)
    assert ("subject" in event) == (RESULTS[outcome][1] is not None)
    if outcome == "registered":
        assert event["data"]["created_at"] == "2026-11-23T11:59:59.000Z"
        assert event["id"] == "j-1/registered/1"


def test_the_event_of_an_invalid_journey_names_it() -> None:
    """By the id that its payload has, so that the operator's systems find it."""
    in_flight = InFlight("v3")
    entry = in_flight.open(Delivery(b'{"operator_journey_id": "j-7", "start": {}}'))
    in_flight.read(entry)
    event = build_event(entry, RESULTS["invalid"][0], "invalid", source="/journey-consumer/q", now=NOW)
    assert (event["subject"], event["data"]["journey_id"], event["id"]) == ("j-7", "j-7", "j-7/invalid/0")


async def test_what_became_of_events_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Confirmed, unroutable, failed; and beyond the bound they are dropped without being made."""
    monkeypatch.setattr(events, "MOST_WAITING", 3)
    registry, publisher = CollectorRegistry(), Publisher()
    told = OutcomeEvents(publisher, exchange="e", queue="a b", metrics=Metrics(registry), now=lambda: NOW)
    for _ in range(5):
        told.settled(*settled("rejected"))
    outgoing = publisher.sent[0][0]
    assert (outgoing.exchange, outgoing.routing_key) == ("e", "rejected")
    assert json.loads(outgoing.body)["source"] == "/journey-consumer/a%20b"
    assert len(publisher.sent) == 3
    for (_, future), error in zip(
        publisher.sent,
        (None, PublishError(PublishFailure.RETURNED), PublishError(PublishFailure.CONNECTION)),
        strict=True,
    ):
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
    await asyncio.sleep(0)
    told.settled(*settled("rejected"))
    assert len(publisher.sent) == 4, "there is room again"

    def value(result: str) -> float | None:
        return registry.get_sample_value("journey_consumer_events_total", {"result": result})

    assert (value("published"), value("unrouted"), value("dropped")) == (1, 1, 3)


async def test_an_event_that_comes_back_makes_no_event() -> None:
    """A binding of the operator's that leads back to our queue would otherwise never come to an end."""
    publisher = Publisher()
    told = OutcomeEvents(
        publisher, exchange="e", queue="q", metrics=Metrics(CollectorRegistry()), now=lambda: NOW
    )
    told.settled(*settled("invalid"))
    ((first, future),) = publisher.sent
    told.settled(*settled("invalid", Delivery(first.body, headers=first.headers)))
    assert len(publisher.sent) == 1
    future.set_result(None)
