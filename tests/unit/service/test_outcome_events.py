"""Outcome events: what they say, and that nothing about them can hurt."""

import asyncio
import json
from datetime import UTC, datetime

import jsonschema
import pytest
from prometheus_client import CollectorRegistry

from consumer.commands.asyncapi import add_events, document
from consumer.core.delivery import Delivery
from consumer.core.headers import TrackingHeaders
from consumer.core.outcome import Acknowledge, AlreadyRegistered, DeadLetter, Reason, Registered
from consumer.core.outgoing import Outgoing
from consumer.errors import PublishError, PublishFailure
from consumer.metrics import Metrics
from consumer.service import outcome_events as events
from consumer.service.outcome_events import OutcomeEvents, event_of
from consumer.service.result import HandlingResult
from schemas import Journey

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
JOURNEY = Journey("j-1", NOW, NOW)
FATES = {
    "registered": HandlingResult(
        Acknowledge(Registered(201, "2026-11-23T11:59:59.000Z")), JOURNEY, TrackingHeaders(replays=1), 2
    ),
    "already_registered": HandlingResult(Acknowledge(AlreadyRegistered(409)), JOURNEY, TrackingHeaders(), 1),
    "rejected": HandlingResult(DeadLetter(Reason.REJECTED, "too_short", 422), JOURNEY, TrackingHeaders(), 1),
    "invalid": HandlingResult(DeadLetter(Reason.INVALID, "not_json", None), None, TrackingHeaders(), 0),
}


class Publisher:
    """Keeps what it is given; the test ends the futures."""

    def __init__(self) -> None:
        self.sent: list[tuple[Outgoing, asyncio.Future[None]]] = []

    def submit(self, outgoing: Outgoing) -> asyncio.Future[None]:
        """Publish."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent.append((outgoing, future))
        return future


@pytest.mark.parametrize("outcome", FATES)
def test_an_event_is_what_the_document_says(outcome: str) -> None:
    """Valid by the schema of the AsyncAPI document, which knows each outcome."""
    whole = document("q", "v3")
    add_events(whole, "outcomes")
    schema = whole["components"]["schemas"]["OutcomeEvent"]
    event = event_of(Delivery(b"{}"), FATES[outcome], outcome, source="/journey-consumer/q", now=NOW)
    jsonschema.validate(event, schema)
    assert ("subject" in event) == (FATES[outcome].journey is not None)
    if outcome == "registered":
        assert event["data"]["created_at"] == "2026-11-23T11:59:59.000Z"
        assert event["id"] == "j-1/registered/1"


async def test_what_became_of_events_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Confirmed, unroutable, failed; and beyond the bound they are dropped without being made."""
    monkeypatch.setattr(events, "MOST_WAITING", 3)
    registry, publisher = CollectorRegistry(), Publisher()
    told = OutcomeEvents(publisher, exchange="e", queue="a b", metrics=Metrics(registry), now=lambda: NOW)
    for _ in range(5):
        told.settled(Delivery(b"{}"), FATES["rejected"], "rejected")
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
    told.settled(Delivery(b"{}"), FATES["rejected"], "rejected")
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
    told.settled(Delivery(b"{}"), FATES["invalid"], "invalid")
    ((first, future),) = publisher.sent
    told.settled(Delivery(first.body, headers=first.headers), FATES["invalid"], "invalid")
    assert len(publisher.sent) == 1
    future.set_result(None)
