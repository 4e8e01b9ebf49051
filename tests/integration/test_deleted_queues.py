"""The queue is deleted and declared again while deliveries of the old one are held: no new message is lost.

With the consumer alone on a real broker, so that what is acknowledged, and when, is the test's choice.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from consumer.broker import consumer as module
from consumer.broker.connection import ConnectionFactory
from consumer.broker.consumer import AmqpConsumer
from consumer.core.delivery import Delivery, Mode
from consumer.core.topology import Topology
from consumer.metrics import Metrics
from tests.broker import Broker
from tests.waiting import await_until

QUEUE = "journeys"
HELD, NEW, PREFETCH = 20, 50, 64
ARGUMENTS = {"quorum": {"x-queue-type": "quorum"}, "classic": {"x-queue-type": "classic"}}
KINDS = [(old, new) for old in ARGUMENTS for new in ARGUMENTS]


class Held:
    """A running consumer, and everything that it has delivered."""

    def __init__(self, broker: Broker) -> None:
        self.deliveries: list[Delivery] = []
        self.losses = 0
        self.consumer = AmqpConsumer(
            connections=ConnectionFactory([broker.url]),
            topology=Topology(QUEUE),
            prefetch=PREFETCH,
            declare=True,
            metrics=Metrics(CollectorRegistry()),
        )

    def lost(self) -> None:
        self.losses += 1

    def bodies(self, kind: bytes) -> list[bytes]:
        return [each.body for each in self.deliveries if each.body.startswith(kind)]


@contextlib.asynccontextmanager
async def holding(broker: Broker, kind: str, mode: Mode = Mode.FLOW) -> AsyncIterator[Held]:
    """Hold HELD deliveries (one with PROBE) of a queue of this kind."""
    await asyncio.to_thread(broker.declare, QUEUE, arguments=ARGUMENTS[kind])
    await asyncio.to_thread(broker.publish, QUEUE, *[b"old %d" % number for number in range(HELD)])
    held = Held(broker)
    running = asyncio.create_task(held.consumer.run(held.deliveries.append, held.lost))
    held.consumer.want(mode)
    wanted = 1 if mode is Mode.PROBE else HELD
    await await_until(lambda: len(held.deliveries) == wanted, 20, "they are held")
    try:
        yield held
    finally:
        await held.consumer.close()
        await asyncio.wait_for(running, 20)


def replace(broker: Broker, kind: str) -> None:
    """Delete the queue, declare it as another kind, and fill it; returns when everything is confirmed."""
    broker.delete_queue(QUEUE)
    broker.declare(QUEUE, arguments=ARGUMENTS[kind])
    broker.publish(QUEUE, *[b"new %d" % number for number in range(NEW)])


async def all_new_are_left(broker: Broker) -> None:
    """None of the new messages was acknowledged."""

    def left() -> int:
        return broker.depth(QUEUE).total

    await await_until(lambda: asyncio.to_thread(left), 10, "the queue answers")
    await asyncio.to_thread(broker.close_connections)
    await await_until(lambda: asyncio.to_thread(lambda: broker.depth(QUEUE).unacked == 0), 20, "given back")
    assert left() == NEW


async def written(held: Held) -> None:
    """Every acknowledgement is on its way, and the broker has answered something that was sent after it."""
    await await_until(
        lambda: not any(each.ledger.pending for each in held.consumer._subscriptions.values()), 5, "written"
    )


@pytest.mark.parametrize(("old", "new"), KINDS)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)], ids=["rising", "last-first", "mixed"])
async def test_acknowledged_after_a_pause(
    vhost: Broker, old: str, new: str, order: tuple[int, int, int]
) -> None:
    """While paused no consumer exists, so nothing tells of the deletion: old tags must hit no new message."""
    async with holding(vhost, old) as held:
        held.consumer.want(Mode.NONE)
        await asyncio.to_thread(replace, vhost, new)
        held.consumer.want(Mode.FLOW)
        await await_until(lambda: len(held.bodies(b"new")) == NEW, 20, "the new ones are delivered")
        for third in order:
            for delivery in held.deliveries[third:HELD:3]:
                held.consumer.acknowledge(delivery)
            await written(held)
        held.consumer.want(Mode.NONE)
        await asyncio.to_thread(vhost.close_connections)
        await all_new_are_left(vhost)


@pytest.mark.parametrize(("old", "new"), KINDS)
async def test_acknowledged_while_paused_and_probing(vhost: Broker, old: str, new: str) -> None:
    """A held probe of the old queue, and probes of the new one."""
    async with holding(vhost, old, Mode.PROBE) as held:
        held.consumer.want(Mode.NONE)
        await asyncio.to_thread(replace, vhost, new)
        held.consumer.want(Mode.PROBE)
        await await_until(lambda: len(held.bodies(b"new")) == 1, 20, "a new one is delivered")
        held.consumer.acknowledge(held.deliveries[0])
        await written(held)
        held.consumer.want(Mode.NONE)
        await all_new_are_left(vhost)


@pytest.mark.parametrize(("old", "new"), KINDS)
@pytest.mark.parametrize("late", [False, True], ids=["meanwhile", "late"])
async def test_deleted_in_full_flow(
    vhost: Broker, monkeypatch: pytest.MonkeyPatch, old: str, new: str, *, late: bool
) -> None:
    """The broker cancels the consumer. RabbitMQ 3.10 does not when a quorum queue is there again at once.

    It then gives the new messages to the old consumer, which never sees them, until that is renewed.
    """
    monkeypatch.setattr(module, "IDLE_SECONDS", 2.0)
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.5)
    async with holding(vhost, old) as held:
        if late:
            await asyncio.to_thread(replace, vhost, new)
            await settle_slowly(held)
        else:
            await asyncio.gather(asyncio.to_thread(replace, vhost, new), settle_slowly(held))
        await await_until(lambda: len(set(held.bodies(b"new"))) == NEW, 20, lambda: f"{held.losses} losses")
        held.consumer.want(Mode.NONE)
        await all_new_are_left(vhost)


async def settle_slowly(held: Held) -> None:
    for delivery in held.deliveries[:HELD]:
        held.consumer.acknowledge(delivery)
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(("old", "new"), KINDS)
async def test_deleted_while_reconnecting(vhost: Broker, old: str, new: str) -> None:
    """A delivery of a lost connection is never current again."""
    async with holding(vhost, old) as held:
        await asyncio.to_thread(vhost.close_connections)
        await asyncio.to_thread(replace, vhost, new)
        await await_until(lambda: len(set(held.bodies(b"new"))) == NEW, 20, "the new ones are delivered")
        for delivery in held.deliveries[:HELD]:
            assert not held.consumer.acknowledge(delivery)
        held.consumer.want(Mode.NONE)
        await all_new_are_left(vhost)
