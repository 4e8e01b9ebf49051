"""A publisher for a command: connected, with a target that exists, or an error in words.

The service's publisher waits for its broker without limit; a command reports what is wrong.
"""

import asyncio
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from consumer.broker.connection import ConnectionFactory, build_connections, is_amqp
from consumer.broker.inspect import exchange_exists, queue_facts, why
from consumer.broker.publisher import AmqpPublisher
from consumer.broker.virtual import VirtualLink
from consumer.config import Settings
from consumer.core.topology import Topology
from consumer.errors import BrokerError, ConfigurationError
from consumer.metrics import Metrics

CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where to publish to; the default exchange is empty."""

    exchange: str
    routing_key: str

    def __str__(self) -> str:
        if not self.exchange:
            return f"the queue {self.routing_key!r}"
        return f"the exchange {self.exchange!r} with routing key {self.routing_key!r}"


async def connect(settings: Settings, target: Target) -> AmqpPublisher | VirtualLink:
    """Start a publisher whose ``target`` exists; the caller closes it. Declares nothing on AMQP.

    Raises BrokerError, or ConfigurationError for what a transport cannot do.
    """
    url = settings.broker_urls[0]
    if is_amqp(url):
        reachable = await asyncio.to_thread(_reachable_first, settings, target)
        publisher = AmqpPublisher(
            connections=build_connections(settings, *reachable),
            topology=None,
            declare=False,
            metrics=Metrics(CollectorRegistry()),
            confirm_timeout_seconds=settings.broker_confirm_timeout_seconds,
        )
        publisher.start()
        return publisher
    if target.exchange:
        raise ConfigurationError(["--exchange works with AMQP only"])
    if url.startswith("memory:"):
        raise ConfigurationError(["memory:// ends with this process: no other process can read its queues"])
    try:
        return await connect_virtual(url, target.routing_key)
    except TimeoutError:
        raise BrokerError(f"{settings.broker_addresses[0]} cannot be reached") from None


async def connect_virtual(url: str, queue: str) -> VirtualLink:
    """Start a publisher on a transport without AMQP. Raises TimeoutError."""
    link = VirtualLink(
        url=url,
        topology=Topology(queue=queue, dead_letter_reasons=()),
        prefetch=1,
        metrics=Metrics(CollectorRegistry()),
    )
    link.start()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            while not link.connected:  # noqa: ASYNC110 - the link has no event for it
                await asyncio.sleep(0.01)
    except BaseException:
        await link.close()
        raise
    return link


def _reachable_first(settings: Settings, target: Target) -> tuple[str, ...]:
    """The addresses of the brokers, the first that answers in front. Blocking; raises BrokerError.

    A broker that has just started may connect and fail to find its queues: the next one is tried.
    """
    urls, problems = settings.broker_urls, []
    for index, (url, shown) in enumerate(zip(urls, settings.broker_addresses, strict=True)):
        try:
            connection = build_connections(settings, url).connect("publish")
            try:
                found = _exists(connection, target)
            finally:
                connection.collect()
        except ConnectionFactory.ERRORS as error:
            problems.append(f"{shown}: {why(error)}")
            continue
        if not found:
            raise BrokerError(f"{target} does not exist on {shown}")
        return (*urls[index:], *urls[:index])
    raise BrokerError(f"no broker can be reached ({'; '.join(problems)})")


def _exists(connection: object, target: Target) -> bool:
    if target.exchange:
        return exchange_exists(connection, target.exchange)
    return queue_facts(connection, target.routing_key) is not None
