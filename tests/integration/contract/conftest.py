"""The brokers under contract: the tests' own, ``memory://``, an SQS over real HTTP, and a real RabbitMQ."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Protocol

import pytest
from prometheus_client import CollectorRegistry

from consumer.broker.connection import ConnectionFactory
from consumer.broker.consumer import AmqpConsumer
from consumer.broker.publisher import AmqpPublisher
from consumer.broker.virtual import VirtualLink, open_link
from consumer.core.topology import Topology
from consumer.metrics import Metrics
from tests.broker import Broker
from tests.memory_link import MemoryLink

PREFETCH = 4


class Outside(Protocol):
    """The broker as an operator and a test see it; every call may block."""

    def put(self, body: bytes, headers: Mapping[str, Any], properties: Mapping[str, Any]) -> None:
        """Publish to the consumed queue."""

    def held(self, queue: str) -> list[tuple[bytes, dict[str, Any]]]:
        """Body and headers of what lies ready in ``queue``; leaves or takes it."""


class Side:
    """One broker with a fresh queue; ``link`` makes a new (consumer, publisher) on it."""

    def __init__(self, topology: Topology, outside: Outside, make: Callable[[], tuple[Any, Any]]) -> None:
        self.topology = topology
        self.outside = outside
        self._make = make
        self._running: list[tuple[Any, Any, asyncio.Task[None]]] = []

    async def link(self, on_delivery: Callable[[Any], None], on_lost: Callable[[], None]) -> tuple[Any, Any]:
        """Start a new consumer and publisher."""
        consumer, publisher = self._make()
        publisher.start()
        running = asyncio.create_task(consumer.run(on_delivery, on_lost))
        self._running.append((consumer, publisher, running))
        return consumer, publisher

    async def put(self, body: bytes, headers: Mapping[str, Any] | None = None, **properties: Any) -> None:
        """Publish to the consumed queue."""
        await self._blocking(lambda: self.outside.put(body, headers or {}, properties))

    async def held(self, queue: str) -> list[tuple[bytes, dict[str, Any]]]:
        """What lies ready in ``queue``."""
        return await self._blocking(lambda: self.outside.held(queue))

    async def _blocking(self, call: Callable[[], Any]) -> Any:
        if isinstance(self.outside, _InMemory):  # belongs to the loop
            return call()
        return await asyncio.to_thread(call)

    async def close(self) -> None:
        """Close what is open, in the order of the service's drain."""
        while self._running:
            consumer, publisher, task = self._running.pop()
            await publisher.close()
            await consumer.close()
            await asyncio.wait_for(task, 10)


class _InMemory:
    def __init__(self, link: MemoryLink) -> None:
        self._link = link

    def put(self, body: bytes, headers: Mapping[str, Any], properties: Mapping[str, Any]) -> None:
        self._link.put(body, headers=headers, properties=properties)

    def held(self, queue: str) -> list[tuple[bytes, dict[str, Any]]]:
        return [(stored.body, dict(stored.headers)) for stored in self._link.queues[queue]]


class _Rabbit:
    def __init__(self, broker: Broker, queue: str) -> None:
        self._broker, self._queue = broker, queue

    def put(self, body: bytes, headers: Mapping[str, Any], properties: Mapping[str, Any]) -> None:
        self._broker.publish(self._queue, body, headers=headers, **properties)

    def held(self, queue: str) -> list[tuple[bytes, dict[str, Any]]]:
        if queue not in self._broker.queue_depths():
            return []
        return [(seen.body, seen.headers) for seen in self._broker.messages(queue)]


class _Virtual:
    """A kombu connection of the test's own; memory:// is shared within the process."""

    def __init__(self, url: str, queue: str) -> None:
        self._url, self._queue = url, queue

    @contextlib.contextmanager
    def _channel(self) -> Iterator[Any]:
        with open_link(self._url) as connection, connection.channel() as channel:
            yield channel

    def put(self, body: bytes, headers: Mapping[str, Any], properties: Mapping[str, Any]) -> None:
        with self._channel() as channel:
            channel.queue_declare(self._queue, durable=True)
            named = {k: v for k, v in properties.items() if k != "content_type"}
            message = channel.prepare_message(
                body,
                content_type=properties.get("content_type"),
                headers=dict(headers),
                properties=named,
            )
            channel.basic_publish(message, exchange="", routing_key=self._queue)

    def held(self, queue: str) -> list[tuple[bytes, dict[str, Any]]]:
        found = []
        with self._channel() as channel:
            channel.queue_declare(queue, durable=True)
            while (message := channel.basic_get(queue)) is not None:
                found.append((bytes(message.body), dict(message.headers)))
            channel.close()  # gives back what was looked at
        return found


@pytest.fixture(params=["fake", "memory", "sqs", "rabbitmq"])
async def side(request: pytest.FixtureRequest) -> AsyncIterator[Side]:
    """Each broker in turn, with a queue of its own."""
    topology = Topology(f"journeys.{uuid.uuid4().hex[:8]}", delays_seconds=(60,))
    metrics = Metrics(CollectorRegistry())
    kind = request.param
    side: Side
    if kind == "fake":
        link = MemoryLink(topology=topology, prefetch=PREFETCH)
        link.start()
        side = Side(topology, _InMemory(link), lambda: (link, link))
    elif kind == "rabbitmq":
        broker: Broker = request.getfixturevalue("vhost")
        broker.declare(topology.queue, arguments=topology.main.arguments)

        def amqp() -> tuple[AmqpConsumer, AmqpPublisher]:
            shared = {"topology": topology, "declare": True, "metrics": metrics}
            return (
                AmqpConsumer(connections=ConnectionFactory([broker.url]), prefetch=PREFETCH, **shared),
                AmqpPublisher(connections=ConnectionFactory([broker.url]), **shared),
            )

        side = Side(topology, _Rabbit(broker, topology.queue), amqp)
    else:
        url = request.getfixturevalue("sqs").url if kind == "sqs" else "memory://"

        def virtual() -> tuple[VirtualLink, VirtualLink]:
            link = VirtualLink(url=url, topology=topology, prefetch=PREFETCH, metrics=metrics)
            return link, link

        side = Side(topology, _Virtual(url, topology.queue), virtual)
    yield side
    await side.close()
