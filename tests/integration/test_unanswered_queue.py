"""A queue that answers nothing, as a quorum queue without its majority: noticed, said, tried elsewhere."""

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
from tests.proxy import Proxy
from tests.waiting import await_until

QUEUE = "journeys"
_PROCESSES = "[begin {Name, _} = amqqueue:get_pid(Q), sys:%s(whereis(Name)), [] end || Q <- "
_OUR_QUEUE = (
    'rabbit_amqqueue:list(<<"%s">>), amqqueue:get_name(Q) =:= {resource, <<"%s">>, queue, <<"journeys">>}]'
)


@contextlib.contextmanager
def silent(broker: Broker) -> "contextlib.AbstractContextManager[None]":  # type: ignore[misc]
    """The queue's process answers nothing meanwhile: neither commands nor queries."""
    which = _OUR_QUEUE % (broker.vhost, broker.vhost)
    broker.node.eval(_PROCESSES % "suspend" + which)
    try:
        yield
    finally:
        broker.node.eval(_PROCESSES % "resume" + which)


class Watched:
    """A consumer with what it has delivered and how often it was lost."""

    def __init__(self, *urls: str) -> None:
        self.deliveries: list[Delivery] = []
        self.losses = 0
        self.consumer = AmqpConsumer(
            connections=ConnectionFactory(urls),
            topology=Topology(QUEUE),
            prefetch=10,
            declare=True,
            metrics=Metrics(CollectorRegistry()),
        )

    def lost(self) -> None:
        self.losses += 1


@contextlib.asynccontextmanager
async def watched(*urls: str) -> AsyncIterator[Watched]:
    """A consumer that is subscribed."""
    made = Watched(*urls)
    running = asyncio.create_task(made.consumer.run(made.deliveries.append, made.lost))
    try:
        await await_until(lambda: made.consumer.connected, 20, "connected")
        yield made
    finally:
        await made.consumer.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_an_idle_subscription_is_renewed_without_loss(
    vhost: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue still answers: nothing is lost and nothing delivered twice."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(module, "LINGER_SECONDS", 0.5)
    async with watched(vhost.url) as seen:
        seen.consumer.want(Mode.FLOW)
        await await_until(lambda: seen.consumer.subscribed, 10, "subscribed")
        first = seen.consumer._current
        await await_until(lambda: seen.consumer._current is not first, 10, "renewed")
        await asyncio.to_thread(vhost.publish, QUEUE, b"1", b"2")
        await await_until(lambda: len(seen.deliveries) == 2, 10, "delivered")
        assert all(map(seen.consumer.acknowledge, seen.deliveries))
        monkeypatch.setattr(module, "IDLE_SECONDS", 60.0)
        await await_until(lambda: asyncio.to_thread(lambda: vhost.depth(QUEUE).total == 0), 10, "settled")
        await await_until(lambda: len(seen.consumer._subscriptions) == 1, 10, "old channels are closed")
        assert seen.losses == 0


async def test_a_silent_queue_is_noticed(
    vhost: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not subscribed, one line in words, and delivered again when it answers."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 1.0)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 2.0)
    async with watched(vhost.url) as seen:
        seen.consumer.want(Mode.FLOW)
        await await_until(lambda: seen.consumer.subscribed, 10, "subscribed")
        with silent(vhost):
            await await_until(lambda: seen.losses == 1, 15, "noticed")
            assert not seen.consumer.subscribed
        await asyncio.to_thread(vhost.publish, QUEUE, b"1")
        await await_until(lambda: seen.deliveries, 40, "delivered")
    reasons = [r.__dict__["reason"] for r in caplog.records if r.message == "broker connection lost"]
    assert reasons[0] == "the queue does not answer: a majority of its nodes may be gone"


async def test_the_next_address_is_tried_when_the_subscription_is_not_answered(
    vhost: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a node that is cut off."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    with Proxy("127.0.0.1", vhost.node.port) as proxy:
        async with watched(vhost.url_at(proxy.port), vhost.url) as seen:
            proxy.blackhole()
            seen.consumer.want(Mode.FLOW)
            await await_until(lambda: seen.losses == 1, 10, "noticed")
            await await_until(lambda: seen.consumer.subscribed, 20, "subscribed at the other address")
