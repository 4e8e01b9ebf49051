"""Pausing and resuming the intake on a real broker: the connection lives, no delivery count is burned."""

import asyncio

from prometheus_client import CollectorRegistry

from consumer.broker.connection import ConnectionFactory
from consumer.broker.consumer import AmqpConsumer
from consumer.core.delivery import Delivery, Mode
from consumer.core.topology import Topology
from consumer.metrics import Metrics
from tests.broker import Broker
from tests.waiting import await_until

PREFETCH, MESSAGES = 16, 100


async def test_resuming_with_unacknowledged_deliveries_keeps_the_connection(vhost: Broker) -> None:
    """A consumer that comes back while deliveries are unsettled takes more, on the same connection."""
    held: list[Delivery] = []
    lost: list[None] = []
    consumer = AmqpConsumer(
        connections=ConnectionFactory([vhost.url]),
        topology=Topology("q"),
        prefetch=PREFETCH,
        declare=True,
        metrics=Metrics(CollectorRegistry()),
    )
    consumer.want(Mode.FLOW)
    running = asyncio.create_task(consumer.run(held.append, lambda: lost.append(None)))
    try:
        await await_until(lambda: consumer.subscribed, timeout=20)
        vhost.publish("q", *(b"%d" % number for number in range(MESSAGES)))
        await await_until(lambda: len(held) >= PREFETCH, timeout=20)
        for _ in range(3):
            before = len(held)
            consumer.want(Mode.NONE)
            await asyncio.sleep(0.2)  # the broker takes the cancel; nothing tells when it has
            assert consumer.acknowledge(held.pop())
            await asyncio.sleep(0.05)
            consumer.want(Mode.FLOW)
            await await_until(lambda before=before: len(held) >= before or lost, timeout=20)
            assert not lost
        assert not lost
        for delivery in held:
            assert consumer.acknowledge(delivery)
        assert not any(delivery.redelivered for delivery in held)
    finally:
        await consumer.close()
        await running


async def test_the_last_acknowledgements_arrive_before_the_channel_closes(vhost: Broker) -> None:
    """What is acknowledged in the moment of leaving does not come again."""
    held: list[Delivery] = []
    consumer = AmqpConsumer(
        connections=ConnectionFactory([vhost.url]),
        topology=Topology("q"),
        prefetch=300,
        declare=True,
        metrics=Metrics(CollectorRegistry()),
    )
    consumer.want(Mode.FLOW)
    running = asyncio.create_task(consumer.run(held.append, lambda: None))
    await await_until(lambda: consumer.subscribed, timeout=20)
    vhost.publish("q", *(b"%d" % number for number in range(300)))
    await await_until(lambda: len(held) == 300, timeout=20)
    for delivery in held:
        assert consumer.acknowledge(delivery)
    await consumer.close()
    await running
    assert vhost.depth("q").total == 0
