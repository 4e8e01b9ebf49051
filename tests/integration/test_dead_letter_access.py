"""Which dead-letter queues the service looks into: what it may not, or must not, costs the others nothing."""

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consumer.broker.connection import ConnectionFactory
from consumer.commands import cli
from consumer.deadletters.queues import SafeQueueReaders
from tests.broker import Broker
from tests.integration.conftest import Run
from tests.ledger import TOPOLOGY, Ledger
from tests.waiting import wait_until

UNAUTHORIZED, INVALID = (TOPOLOGY.dead_letter_queue(reason) for reason in ("unauthorized", "invalid"))
GAUGE = "dead_letters_oldest_deadline_timestamp_seconds"


def put(broker: Broker, queue: str, *hours_left: float) -> list[float]:
    """Dead letters with so much time left; returns their deadlines."""
    deadlines = [datetime.now(UTC) + timedelta(hours=hours) for hours in hours_left]
    for deadline in deadlines:
        start = (deadline - timedelta(hours=24)).isoformat()
        broker.publish(queue, json.dumps({"start": {"datetime": start}}).encode())
    return [deadline.timestamp() for deadline in deadlines]


def test_a_queue_that_may_drop_messages_is_left_out_and_the_others_are_not(vhost: Broker, run: Run) -> None:
    """The operator's own queue with a limit is never touched; its neighbour is looked at; it is said once."""
    Ledger(vhost).declare()
    vhost.delete_queue(INVALID)
    vhost.declare(INVALID, arguments={"x-queue-type": "quorum", "x-delivery-limit": 20})
    put(vhost, INVALID, 5)
    (deadline,) = put(vhost, UNAUTHORIZED, 2)
    service = run(vhost, dead_letters_look_seconds="0.1", dead_letters_return_unauthorized="false")
    wait_until(lambda: service.value(GAUGE, reason="unauthorized") == pytest.approx(deadline), 20, "seen")
    wait_until(lambda: vhost.messages(UNAUTHORIZED)[0].delivery_count > 3, 20, "looked at several times")
    assert math.isnan(service.value(GAUGE, reason="invalid"))
    assert vhost.messages(INVALID)[0].delivery_count == 0
    service.terminate()
    (said,) = [line for line in service.log().splitlines() if "neither read nor replayed" in line]
    assert INVALID in said


def test_a_limit_that_may_not_be_asked_for_needs_the_setting(
    vhost: Broker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the configure permission nothing is touched, by the service or a person, unless told to."""
    Ledger(vhost).declare()
    put(vhost, UNAUTHORIZED, 2)
    with vhost.user(configure="") as url:
        modest: Any = (lambda: ConnectionFactory([url]), url, TOPOLOGY)
        assert SafeQueueReaders(*modest, unverified=False)(()) == {}
        assert set(SafeQueueReaders(*modest, unverified=True)(())) == set(TOPOLOGY.dead_letter_reasons)
        monkeypatch.setenv("BROKER_URL", url)
        monkeypatch.setenv("BROKER_QUEUE", TOPOLOGY.queue)
        assert cli.main(["dead-letters", "summary"]) == 1
        assert "DEAD_LETTERS_UNVERIFIED=true reads it all the same" in capsys.readouterr().err
        assert vhost.messages(UNAUTHORIZED)[0].delivery_count == 0
        monkeypatch.setenv("DEAD_LETTERS_UNVERIFIED", "true")
        assert cli.main(["dead-letters", "summary"]) == 0
        assert "1 can be registered" in capsys.readouterr().out


def test_another_limit_is_not_trusted(vhost: Broker) -> None:
    """DEAD_LETTERS_UNVERIFIED is for what cannot be asked, not for what was asked and is wrong."""
    Ledger(vhost).declare()
    vhost.delete_queue(INVALID)
    vhost.declare(INVALID, arguments={"x-queue-type": "quorum", "x-delivery-limit": 3})
    readers = SafeQueueReaders(lambda: ConnectionFactory([vhost.url]), vhost.url, TOPOLOGY, unverified=True)(
        ()
    )
    assert set(TOPOLOGY.dead_letter_reasons) - set(readers) == {"invalid"}
