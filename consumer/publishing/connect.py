"""A publisher for a command: connected, and sure that its target exists, or an error in words.

The service's publisher waits for its broker for ever; a person at a terminal wants to be told.
"""

import asyncio
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from consumer.broker.connection import ConnectionFactory, is_amqp
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
    """Where to publish to."""

    exchange: str
    routing_key: str

    def __str__(self) -> str:
        if not self.exchange:
            return f"the queue {self.routing_key!r}"
        return f"the exchange {self.exchange!r} with routing key {self.routing_key!r}"


def build_connections(settings: Settings, *urls: str) -> ConnectionFactory:
    """Dial these addresses, or all that are configured, as the settings say."""
    ca_file = str(settings.broker_ca_file) if settings.broker_ca_file else None
    return ConnectionFactory(
        urls or settings.broker_urls, heartbeat_seconds=settings.broker_heartbeat_seconds, ca_file=ca_file
    )


async def connect(settings: Settings, target: Target) -> AmqpPublisher | VirtualLink:
    """Start a publisher whose ``target`` exists; the caller closes it. Declares nothing on AMQP.

    Raises BrokerError, or ConfigurationError for what a transport cannot do.
    """
    if not is_amqp(settings.broker_urls[0]):
        return await _connect_virtual(settings, target)
    urls = await asyncio.to_thread(_reachable_first, settings, target)
    publisher = AmqpPublisher(
        connections=build_connections(settings, *urls),
        topology=None,
        declare=False,
        metrics=Metrics(CollectorRegistry()),
        confirm_timeout_seconds=settings.broker_confirm_timeout_seconds,
    )
    publisher.start()
    return publisher


def _reachable_first(settings: Settings, target: Target) -> list[str]:
    """The URLs from the first that answers on; BrokerError when none does, or the target is missing."""
    urls, problems = settings.broker_urls, []
    for index, (url, shown) in enumerate(zip(urls, settings.broker_addresses, strict=True)):
        try:
            connection = build_connections(settings, url).connect("publish")
        except ConnectionFactory.ERRORS as error:
            problems.append(f"{shown}: {why(error)}")
            continue
        try:
            if target.exchange:
                found = exchange_exists(connection, target.exchange)
            else:
                found = queue_facts(connection, target.routing_key) is not None
        except (
            ConnectionFactory.ERRORS
        ) as error:  # a node that has just started knows its queues a moment later
            problems.append(f"{shown}: {why(error)}")
            continue
        finally:
            connection.collect()
        if not found:
            raise BrokerError(f"{target} does not exist on {shown}")
        return [*urls[index:], *urls[:index]]
    raise BrokerError(f"no broker can be reached ({'; '.join(problems)})")


async def _connect_virtual(settings: Settings, target: Target) -> VirtualLink:
    if target.exchange:
        raise ConfigurationError(["--exchange works with AMQP only"])
    url = settings.broker_urls[0]
    if url.startswith("memory:"):
        raise ConfigurationError(["memory:// ends with this process: nobody else can reach its queues"])
    link = VirtualLink(
        url=url,
        topology=Topology(queue=target.routing_key, dead_letter_reasons=()),
        prefetch=1,
        metrics=Metrics(CollectorRegistry()),
    )
    link.start()
    deadline = asyncio.get_running_loop().time() + CONNECT_SECONDS
    while not link.connected:
        if asyncio.get_running_loop().time() > deadline:
            await link.close()
            raise BrokerError(f"{settings.broker_addresses[0]} can not be reached")
        await asyncio.sleep(0.01)
    return link
