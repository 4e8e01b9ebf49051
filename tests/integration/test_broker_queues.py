"""Queues that cannot keep the promise: what is refused, what is warned of, where the broker moves messages.

Everything is asked of real queues; what their arguments are is known from the broker's refusals only.
"""

import json
from typing import Any

import amqp
import pytest

from consumer.broker.connection import ConnectionFactory
from consumer.broker.inspect import differences, known_differences
from consumer.core.topology import DELIVERY_LIMIT, Topology, losses
from tests.broker import Broker
from tests.deadletters import typed
from tests.integration.conftest import Run
from tests.ledger import QUEUE, TOPOLOGY, Ledger
from tests.local_registry import LocalRegistry
from tests.waiting import wait_until

OURS = TOPOLOGY.main.arguments
ROUTE = {
    "x-dead-letter-exchange": TOPOLOGY.dead_letter_exchange,
    "x-dead-letter-routing-key": DELIVERY_LIMIT,
}
BROKER_SIDE = TOPOLOGY.dead_letter_queue(DELIVERY_LIMIT)


def declare(broker: Broker, arguments: dict[str, Any], **properties: bool) -> None:
    """Declare the main queue as an operator might."""
    with broker.channel() as channel:
        channel.queue_declare(
            QUEUE, **{"durable": True, "auto_delete": False, **properties}, arguments=arguments
        )


# --- what is known --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (OURS, {}),
        ({"x-queue-type": "stream", "x-max-age": "1D"}, {"x-queue-type": "stream"}),
        ({**OURS, "x-expires": 600_000, "x-single-active-consumer": True, "x-message-ttl": 60_000},
         {"x-expires": 600_000, "x-single-active-consumer": True, "x-message-ttl": 60_000}),
        ({**OURS, "x-overflow": "drop-head", "x-max-length": 5, "x-max-length-bytes": 5_000_000_000},
         {"x-overflow": "drop-head", "x-max-length": 5, "x-max-length-bytes": 5_000_000_000}),
        ({**OURS, **dict.fromkeys(ROUTE, "theirs")}, dict.fromkeys(ROUTE, "theirs")),
    ],
)  # fmt: skip
def test_differences_are_known_by_name_and_value(
    vhost: Broker, arguments: dict[str, Any], expected: dict[str, Any]
) -> None:
    declare(vhost, arguments)
    connection = ConnectionFactory([vhost.url]).connect("test")
    try:
        assert differences(connection, TOPOLOGY.main) == expected
    finally:
        connection.collect()


@pytest.mark.parametrize(("kind", "told"), [("stream", "stream"), ("classic", "?")])
def test_a_stream_is_known_also_under_a_name_that_leaves_no_room_in_the_refusal(
    vhost: Broker, kind: str, told: str
) -> None:
    """The reply text of AMQP has at most 255 bytes, and our names up to 220."""
    topology = Topology("q" * 220)
    vhost.declare(topology.queue, arguments={"x-queue-type": kind})
    connection = ConnectionFactory([vhost.url]).connect("test")
    try:
        found = differences(connection, topology.main)
    finally:
        connection.collect()
    assert found["x-queue-type"] == told


def test_asking_never_declares(vhost: Broker) -> None:
    """A queue that was deleted between two questions is not declared by the second."""
    connection = ConnectionFactory([vhost.url]).connect("test")
    try:
        assert differences(connection, TOPOLOGY.main) == {}
    finally:
        connection.collect()
    assert vhost.queue_depths() == {}


@pytest.mark.parametrize(("kind", "expected"), [("stream", {"x-queue-type": "stream"}), ("quorum", None)])
def test_a_user_who_may_only_read_is_told_of_a_stream(
    vhost: Broker, kind: str, expected: dict[str, str] | None
) -> None:
    declare(vhost, {"x-queue-type": kind})
    with vhost.user(configure="^$", write="^$") as url:
        connection = ConnectionFactory([url]).connect("test")
        try:
            assert known_differences(connection, TOPOLOGY.main) == expected
        finally:
            connection.collect()
    assert vhost.consumers(QUEUE) == 0


# --- the service ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declaration", "told"),
    [
        ({"arguments": {"x-queue-type": "stream"}}, "is a stream"),
        ({"arguments": {}, "auto_delete": True}, "is auto-delete"),
    ],
)
def test_a_queue_that_would_lose_messages_is_not_consumed(
    run: Run, vhost: Broker, sandbox: LocalRegistry, declaration: dict[str, Any], told: str
) -> None:
    """Not ready, one sentence, nothing taken; a queue of ours in its place is consumed without a restart."""
    ledger = Ledger(vhost)
    ledger.declare()
    vhost.delete_queue(QUEUE)
    declare(vhost, **declaration)
    service = run(vhost, broker_declare="false")
    good = ledger.publish(10)
    (line,) = wait_until(lambda: service.log_lines("broker unreachable"), 15, "it says so")
    assert line["reason"].startswith(f"the queue {QUEUE!r} {told}")
    assert (service.live, service.ready, vhost.consumers(QUEUE)) == (True, False, 0)
    assert not sandbox.journeys
    vhost.delete_queue(QUEUE)
    ledger.declare()
    service.await_ready()
    ledger.publish((each, ledger.published[each]) for each in good)
    ledger.await_settled()
    assert ledger.balance(sandbox).registered == set(good)
    assert sum(told in line["reason"] for line in service.log_lines("broker unreachable")) == 1


def test_what_a_queue_takes_from_the_promises_is_logged_once_at_start(
    serve: Run, vhost: Broker, sandbox: LocalRegistry
) -> None:
    """It is consumed all the same; also after a reconnection there is one line for each weakness."""
    declare(vhost, {"x-max-length": 1_000, "x-single-active-consumer": True, "x-expires": 600_000})
    service = serve(vhost)
    vhost.close_connections()
    wait_until(lambda: len(service.log_lines("broker connected")) == 2, 20, "it has reconnected")
    reasons = {line["reason"] for line in service.log_lines("the queue weakens the guarantees")}
    assert {reason.removeprefix(f"the queue {QUEUE!r}: ") for reason in reasons} == {
        "it is deleted, with its messages, 600 s after its last consumer, as in a pause",
        "it is bounded (max-length 1000), beyond which the oldest messages are dropped",
        "one replica receives everything, the others nothing",
        *losses(TOPOLOGY.main, {"x-queue-type": "classic"}),
    }
    assert len(service.log_lines("the queue weakens the guarantees")) == len(reasons)
    ledger = Ledger(vhost)
    ledger.publish(10)
    ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 10


def test_our_own_queue_is_no_reason_to_warn(serve: Run, vhost: Broker) -> None:
    """Declared by us, and found again after a restart."""
    service = serve(vhost)
    service.terminate()
    service.start()
    service.await_ready()
    assert not service.log_lines("the queue weakens the guarantees")


def test_an_exclusive_consumer_elsewhere_is_told_as_that(
    run: Run, vhost: Broker, sandbox: LocalRegistry
) -> None:
    """The code is that of a wrong password; consumption begins when the other one ends."""
    declare(vhost, {})  # classic: quorum queues ignore the flag
    with vhost.channel() as channel:
        channel.basic_consume(QUEUE, exclusive=True, callback=lambda _message: None)
        service = run(vhost)
        lines = wait_until(lambda: service.log_lines("broker connection lost"), 15, "it says so")
        assert lines[0]["reason"] == f"the queue {QUEUE!r} has an exclusive consumer elsewhere"
    ledger = Ledger(vhost)
    ledger.publish(5)
    ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 5


def test_an_exclusive_queue_is_told_as_that(run: Run, vhost: Broker) -> None:
    with vhost.channel() as channel:
        channel.queue_declare(QUEUE, durable=False, exclusive=True, auto_delete=False)
        service = run(vhost)
        (line,) = wait_until(lambda: service.log_lines("broker unreachable"), 15, "it says so")
        assert line["reason"].endswith(f"the queue {QUEUE!r} is exclusive to another connection")
        assert not service.ready


# --- what the broker moves to its own dead-letter route --------------------------------------


@pytest.mark.parametrize(
    ("arguments", "properties", "moved", "detail"),
    [
        (OURS, {"expiration": "100"}, 3, "expired"),  # the publisher's own, on our queue
        ({**OURS, "x-message-ttl": 100}, {}, 3, "expired"),
        ({"x-message-ttl": 100, **ROUTE}, {}, 3, "expired"),
        ({"x-queue-type": "quorum", "x-max-length": 1, **ROUTE}, {}, 2, "overflow"),
        ({"x-max-length": 1, **ROUTE}, {}, 2, "overflow"),
        ({"x-max-length": 1, "x-overflow": "reject-publish-dlx", **ROUTE}, {}, 2, "overflow"),
    ],
)
def test_what_expires_or_overflows_is_shown_as_that(
    vhost: Broker, arguments: dict[str, Any], properties: dict[str, str], moved: int, detail: str
) -> None:
    """All lie in one queue, because its routing key is fixed; list and summary tell them apart."""
    Ledger(vhost).declare()
    vhost.delete_queue(QUEUE)
    declare(vhost, arguments)
    with vhost.channel() as channel:
        # Not confirmed: one may be refused.
        for body in (b'{"journey_id": "a"}', b'{"journey_id": "b"}', b'{"journey_id": "c"}'):
            channel.basic_publish(amqp.Message(body, **properties), "", QUEUE)
        channel.queue_declare(QUEUE, passive=True)
    wait_until(lambda: vhost.depth(BROKER_SIDE).ready == moved, 15, "the broker has moved them")
    assert broker_side(vhost) == {detail: moved}
    listed = typed(vhost, "list", "--json", "--detail", detail).stdout.splitlines()
    assert {json.loads(line)["detail"] for line in listed} == {detail}
    assert len(listed) == moved


def test_the_newest_death_counts_after_a_delayed_retry(vhost: Broker) -> None:
    """What expired from a delay queue, as it should, and then reached the delivery limit."""
    Ledger(vhost).declare()
    vhost.publish(TOPOLOGY.delay_queue(1), b"{}")
    wait_until(lambda: vhost.depth(QUEUE).ready == 1, 15, "it is back")

    def returned_until_moved() -> bool:
        with vhost.channel() as channel:
            if (message := channel.basic_get(QUEUE)) is not None:
                channel.basic_reject(message.delivery_tag, requeue=True)
                channel.queue_declare(QUEUE, passive=True)
        return vhost.depth(BROKER_SIDE).ready == 1

    wait_until(returned_until_moved, 30, "the delivery limit")
    assert broker_side(vhost) == {"delivery_limit": 1}


def broker_side(broker: Broker) -> dict[str, int]:
    """What ``summary`` says of the queue that the broker fills, by detail."""
    groups = json.loads(typed(broker, "summary", "--json").stdout)["groups"]
    return {group["detail"]: group["count"] for group in groups if group["reason"] == DELIVERY_LIMIT}
