"""One channel's subscription, and a consumer without a broker."""

import asyncio
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumer.broker.connection import ConnectionFactory
from consumer.broker.consumer import AmqpConsumer, Subscription
from consumer.core.delivery import Delivery, Mode
from consumer.core.topology import Topology
from consumer.metrics import Metrics
from tests.unit.broker.scripted import Connection
from tests.waiting import await_until


def subscription() -> tuple[Subscription, Connection]:
    connection = Connection()
    return Subscription(0, connection.channel(), "q"), connection


def test_every_subscription_has_a_new_tag() -> None:
    """RabbitMQ 3.10 ends the channel when a tag with unacknowledged deliveries comes back."""
    subscribed, connection = subscription()
    for _ in range(3):
        subscribed.start(lambda _message: None, lambda _tag: None)
        subscribed.start(lambda _message: None, lambda _tag: None)
        assert subscribed.subscribed
        subscribed.cancel()
        subscribed.cancel()
    tags = [kwargs.get("consumer_tag") or args[0] for _, _, args, kwargs in connection.calls]
    assert tags == [f"journey-consumer.0.{n}" for n in (1, 1, 2, 2, 3, 3)]
    assert connection.methods() == ["basic_consume", "basic_cancel"] * 3


def test_a_callback_outlives_its_cancel_by_one_turn() -> None:
    """Deliveries on their way still arrive; py-amqp requeues one without a callback."""
    subscribed, connection = subscription()
    callbacks: dict[str, Any] = connection.channels[0].callbacks
    for turn in (1, 2, 3):
        subscribed.start(lambda _message: None, lambda _tag: None)
        callbacks[f"journey-consumer.0.{turn}"] = None  # as py-amqp does
        subscribed.cancel()
    assert list(callbacks) == ["journey-consumer.0.2", "journey-consumer.0.3"]


def test_settled_tags_are_acknowledged() -> None:
    subscribed, connection = subscription()
    for tag in (1, 2, 3):
        subscribed.ledger.delivered(tag)
    for tag in (1, 2):
        subscribed.ledger.settle(tag)
    subscribed.write_acks()
    assert connection.calls == [(0, "basic_ack", (2,), {"multiple": True})]


async def test_without_a_broker_nothing_is_current(caplog: pytest.LogCaptureFixture) -> None:
    """It reconnects until it is closed, and says why once."""
    consumer = AmqpConsumer(
        connections=ConnectionFactory(["amqp://guest:hidden@127.0.0.1:1"]),
        topology=Topology("q"),
        prefetch=1,
        declare=True,
        metrics=Metrics(CollectorRegistry()),
    )
    consumer.want(Mode.FLOW)
    running = asyncio.create_task(consumer.run(lambda _: None, lambda: None))
    await await_until(lambda: "broker unreachable" in caplog.text, 10, "the reason")
    delivery = Delivery(b"")
    assert not any((consumer.connected, consumer.subscribed, consumer.is_current(delivery)))
    assert not consumer.acknowledge(delivery)
    assert "hidden" not in caplog.text
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await consumer.close()
