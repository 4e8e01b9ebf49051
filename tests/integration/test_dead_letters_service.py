"""The service's own part: unauthorized dead letters return, replays are counted, outcomes are told."""

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from consumer.publishing import samples
from tests.broker import Broker
from tests.deadletters import REFUSED, UNAUTHORIZED
from tests.integration.conftest import Run
from tests.ledger import TOPOLOGY, Ledger
from tests.local_registry import TOKEN, LocalRegistry
from tests.waiting import wait_until

RETURNING = {"dead_letters_return_unauthorized": "true", "dead_letters_return_per_second": "1000"}


def bury(ledger: Ledger, count: int, **headers: Any) -> list[str]:
    """Journeys that died unauthorized long ago."""
    made = ledger.journeys(count)
    for message_id, body in made:
        ledger.broker.publish(UNAUTHORIZED, body, headers=REFUSED | headers, message_id=message_id)
        ledger.note(message_id, body)
    return [message_id for message_id, _ in made]


def test_they_return_once_a_new_token_is_accepted(
    vhost: Broker, run: Run, sandbox: LocalRegistry, tmp_path: Path
) -> None:
    """Refused: they stay, but for single probes. Rotated and accepted: all return, and are counted."""
    ledger = Ledger(vhost)
    ledger.declare()
    token = tmp_path / "token"
    token.write_text("not-yet-known")
    bury(ledger, 60)
    spent = bury(ledger, 1, **{"x-replays": 5})
    service = run(vhost, registry_token_file=str(token), **RETURNING)
    service.await_ready()
    wait_until(lambda: service.value("token_accepted") == 0, 20, "the probe was refused")
    assert not sandbox.journeys
    assert vhost.depth(UNAUTHORIZED).total + vhost.depth(ledger.topology.queue).total >= 59
    token.write_text(TOKEN)
    wait_until(
        lambda: len(sandbox.journeys) == 60,
        60,
        lambda: f"{len(sandbox.journeys)} have returned",
        interval=0.1,
    )
    ledger.await_settled()
    wait_until(lambda: service.value("replays_total", outcome="registered") >= 60, 10, "they are counted")
    service.terminate()
    account = ledger.balance(sandbox)
    assert account.dead == {"unauthorized": set(spent)}


def test_one_that_returns_can_end_the_pause(
    vhost: Broker, run: Run, sandbox: LocalRegistry, tmp_path: Path
) -> None:
    """Nothing fresh is left, consumption is paused: only a dead letter can show that the token works."""
    ledger = Ledger(vhost)
    ledger.declare()
    token = tmp_path / "token"
    token.write_text("not-yet-known")
    service = run(
        vhost, registry_token_file=str(token), auth_pause_after="5", auth_probe_seconds="3600", **RETURNING
    )
    ledger.publish(1)
    wait_until(lambda: vhost.depth(UNAUTHORIZED).total == 1, 20, "it is refused")
    wait_until(lambda: service.value("paused", cause="unauthorized") == 1, 20, "it pauses")
    token.write_text(TOKEN)
    wait_until(lambda: len(sandbox.journeys) == 1, 30, lambda: f"{len(sandbox.journeys)} were replayed")
    ledger.await_settled()
    service.terminate()
    assert not ledger.balance(sandbox).dead


def test_it_can_be_turned_off(vhost: Broker, run: Run, sandbox: LocalRegistry) -> None:
    """Then they wait for a person, whatever is accepted."""
    ledger = Ledger(vhost)
    ledger.declare()
    buried = bury(ledger, 5)
    service = run(vhost, dead_letters_return_unauthorized="false")
    fresh = ledger.publish(20)
    ledger.await_settled()
    wait_until(lambda: service.value("journeys_total", outcome="registered") == 20, 10, "it works")
    service.terminate()
    account = ledger.balance(sandbox)
    assert account.registered == set(fresh)
    assert account.dead == {"unauthorized": set(buried)}


def test_the_nearest_deadline_is_a_metric(vhost: Broker, run: Run) -> None:
    """As of the last look; 0 where there is none."""
    ledger = Ledger(vhost)
    ledger.declare()
    bury(ledger, 20)
    journey = samples.journey("v2", random.Random(1), datetime.now(UTC))
    terms = {"x-reason": "rejected", "x-detail": "-32422 distance_too_short", "x-status": 422}
    vhost.publish(TOPOLOGY.dead_letter_queue("rejected"), samples.encode(journey), headers=terms)
    starts = [
        min(json.loads(body)[role]["start"]["datetime"] for role in ("driver", "passenger"))
        for body in ledger.published.values()
    ]
    name = "dead_letters_oldest_deadline_timestamp_seconds"
    service = run(vhost, dead_letters_look_seconds="0.5")
    wait_until(lambda: service.value(name, reason="unauthorized") > 0, 20, "it has looked")
    assert (
        service.value(name, reason="unauthorized") == datetime.fromisoformat(min(starts)).timestamp() + 86_400
    )
    assert service.value(name, reason="invalid") == 0
    assert service.value(name, reason="rejected") == 0, "what is refused for good is not urgent"
    ledger.broker.purge(UNAUTHORIZED)
    wait_until(lambda: service.value(name, reason="unauthorized") == 0, 20, "it is empty")
    service.terminate()


def test_every_final_outcome_is_told(vhost: Broker, run: Run) -> None:
    """A CloudEvent each: ids and codes, the outcome as routing key; unbound outcomes are only counted."""
    ledger = Ledger(vhost)
    ledger.declare()
    with vhost.channel() as channel:
        channel.exchange_declare("outcomes", "topic", durable=True, auto_delete=False)
        channel.queue_declare("told", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
        for key in ("registered", "invalid"):
            channel.queue_bind("told", "outcomes", key)
    service = run(vhost, events_exchange="outcomes")
    good, bad = ledger.publish(10), ledger.publish(ledger.invalid(4))
    ledger.await_settled()
    wait_until(lambda: service.value("events_total", result="published") == 14, 20, "all are told")
    service.terminate()
    events = [json.loads(message.body) for message in vhost.messages("told")]
    assert {event["subject"] for event in events if event["data"]["outcome"] == "registered"} == set(good)
    assert {event["data"]["message_id"] for event in events if event["data"]["outcome"] == "invalid"} == set(
        bad
    )
    for event in events:
        assert (event["specversion"], event["source"]) == ("1.0", "/journey-consumer/journeys")
        assert event["type"] == f"journey-consumer.journey.{event['data']['outcome']}"
        assert ("created_at" if event["data"]["outcome"] == "registered" else "detail") in event["data"]
    assert len({event["id"] for event in events}) == 14
    assert "+33" not in json.dumps(events)


def test_events_that_go_nowhere_endanger_nothing(vhost: Broker, run: Run, sandbox: LocalRegistry) -> None:
    """The exchange does not exist: every journey is settled all the same, and what was lost is counted."""
    ledger = Ledger(vhost)
    ledger.declare()
    service = run(vhost, events_exchange="missing")
    ledger.publish(50)
    ledger.await_settled()
    wait_until(lambda: service.value("events_total", result="dropped") > 0, 20, "they are dropped")
    assert service.value("reconnects_total", connection="publish") == 0
    service.terminate()
    assert len(ledger.balance(sandbox).registered) == 50


def test_events_that_lead_back_come_to_an_end(vhost: Broker, run: Run) -> None:
    """An exchange that is bound to our own queue by hand: each journey makes an event, no event does."""
    ledger = Ledger(vhost)
    ledger.declare()
    with vhost.channel() as channel:
        channel.exchange_declare("outcomes", "topic", durable=True, auto_delete=False)
        channel.queue_bind(ledger.topology.queue, "outcomes", "#")
    service = run(vhost, events_exchange="outcomes")
    ledger.publish(5)
    wait_until(lambda: service.value("events_total", result="published") == 5, 20, "all are told")
    invalid = ledger.topology.dead_letter_queue("invalid")
    wait_until(lambda: vhost.depth(invalid).ready == 5, 20, "the events are no journeys")
    ledger.await_settled()
    assert service.value("events_total", result="published") == 5
    service.terminate()
