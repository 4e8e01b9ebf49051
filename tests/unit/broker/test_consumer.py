"""One channel's subscription, and a consumer without a broker."""

import asyncio
import struct
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from consumer.broker.connection import ConnectionFactory
from consumer.broker.consumer import LINGER_SECONDS, AmqpConsumer, Subscription
from consumer.core.delivery import Delivery, Mode
from consumer.core.topology import Topology
from consumer.metrics import Metrics
from tests.unit.broker.scripted import Connection
from tests.waiting import await_until


def subscription() -> tuple[Subscription, Connection]:
    connection = Connection()
    return Subscription(1, connection.channel(), Mode.FLOW), connection


def test_settled_tags_are_acknowledged() -> None:
    subscribed, connection = subscription()
    for tag in (1, 2, 3):
        subscribed.ledger.delivered(tag)
    for tag in (1, 2):
        subscribed.ledger.settle(tag)
    subscribed.write_acks()
    assert connection.calls == [(0, "acknowledge", ([(2, True)],), {})]


def test_a_channel_is_kept_while_something_can_come_or_be_acknowledged() -> None:
    """And then for a while, because a quorum queue drops acknowledgements when their channel closes."""
    subscribed, connection = subscription()
    channel: Any = connection.channels[0]
    subscribed.ledger.delivered(1)
    channel.cancelled = False
    assert not subscribed.unneeded(0)
    channel.cancelled = True
    assert not subscribed.unneeded(100)
    subscribed.ledger.settle(1)
    assert not subscribed.unneeded(200)
    subscribed.write_acks()
    assert not subscribed.unneeded(300)
    assert not subscribed.unneeded(300 + LINGER_SECONDS)
    assert subscribed.unneeded(300.1 + LINGER_SECONDS)


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


class Broken:
    """Raises one error after the other from ``connect``."""

    ERRORS = (KeyError, struct.error, UnicodeDecodeError, TypeError, MemoryError)

    def __init__(self) -> None:
        self.calls = 0

    def connect(self, _purpose: str) -> Any:
        error = self.ERRORS[self.calls % len(self.ERRORS)]
        self.calls += 1
        raise error("utf-8", b"", 0, 1, "x") if error is UnicodeDecodeError else error("x")


async def test_no_exception_while_connecting_ends_the_intake(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted and tried again."""
    monkeypatch.setattr("consumer.broker.connection.RECONNECT_CAP_SECONDS", 0.05)
    connections, metrics = Broken(), Metrics(CollectorRegistry())
    consumer = AmqpConsumer(
        connections=cast("ConnectionFactory", connections),
        topology=Topology("q"),
        prefetch=1,
        declare=True,
        metrics=metrics,
    )
    running = asyncio.create_task(consumer.run(lambda _: None, lambda: None))
    await await_until(lambda: connections.calls > len(Broken.ERRORS), 20, "it has tried again after each")
    assert not running.done()
    assert metrics.reconnects["consume"]._value.get() >= len(Broken.ERRORS)
    await consumer.close()
    await asyncio.wait_for(asyncio.gather(running, return_exceptions=True), 10)
