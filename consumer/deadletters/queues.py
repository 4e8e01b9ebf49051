"""Which dead-letter queues there are to read, and whether reading them is safe. Blocking.

Every read counts as one delivery on a quorum queue. Queues that we declared have a limit that is never
reached; one that an operator declared may drop a message after 20 (the default from RabbitMQ 4.0 on).
So a queue is read only when its limit is ours, or when the operator says that it may be.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from consumer.broker.causes import why
from consumer.broker.connection import ConnectionFactory, LogOnce, is_amqp
from consumer.broker.inspect import NotPermittedError, can_ask, differences, queue_facts
from consumer.broker.queue_reader import AmqpQueueReader, QueueReader
from consumer.broker.virtual import VirtualQueueReader
from consumer.core.topology import QueueSpec, Topology
from consumer.deadletters.sweep import QueueReaders
from consumer.errors import BrokerError

log = logging.getLogger("journey_consumer.dead_letters")


class UnsafeQueueError(BrokerError):
    """Reading this queue might drop messages of it."""


@dataclass(frozen=True, slots=True)
class FoundQueues:
    """Readers by reason; why others were left out; the reasons whose queue has another consumer now."""

    readers: dict[str, Callable[[], QueueReader]]
    unsafe: list[UnsafeQueueError] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)


def find_queues(
    connections: Callable[[], ConnectionFactory],
    url: str,
    topology: Topology,
    reasons: Collection[str],
    *,
    unverified: bool,
    force: bool = False,
) -> FoundQueues:
    """The dead-letter queues of ``reasons`` (none: all those that exist). Raises BrokerError.

    ``url`` is the broker's first address. ``unverified`` reads also where we may not ask for the limit,
    ``force`` also where it is another one.
    """
    queues = {
        reason: topology.dead_letter_queue(reason)
        for reason in topology.dead_letter_reasons
        if not reasons or reason in reasons
    }
    if not is_amqp(url):
        return FoundQueues({each: partial(VirtualQueueReader, url, queue) for each, queue in queues.items()})
    specs = {spec.name: spec for spec in topology.support()}
    found = FoundQueues({})
    try:
        connection = connections().connect("dead letters")
    except ConnectionFactory.ERRORS as error:
        raise BrokerError(f"cannot connect to the broker: {why(error)}") from error
    try:
        for reason, queue in queues.items():
            facts = queue_facts(connection, queue)
            if facts is None and reasons:
                raise BrokerError(f"the queue {queue!r} does not exist")
            if facts is None:
                continue
            if (unsafe := _unsafe(connection, specs[queue], unverified=unverified, force=force)) is not None:
                found.unsafe.append(unsafe)
                continue
            found.readers[reason] = partial(lambda name: AmqpQueueReader(connections(), name), queue)
            if facts.consumers:
                found.shared.append(reason)
    except ConnectionFactory.ERRORS as error:
        raise BrokerError(f"the dead-letter queues cannot be read: {why(error)}") from error
    finally:
        connection.collect()
    if not found.readers and not found.unsafe:
        raise BrokerError(f"there is no dead-letter queue of {topology.queue!r}: is BROKER_QUEUE right?")
    return found


def _unsafe(connection: Any, spec: QueueSpec, *, unverified: bool, force: bool) -> UnsafeQueueError | None:
    """Why reading is not known to be safe; None when it is. A classic queue counts no deliveries."""
    if force or not can_ask(connection):
        return None
    text = f"reading the queue {spec.name!r} could drop messages, each read being a delivery"
    try:
        differing = differences(connection, spec)
    except NotPermittedError as error:
        hint = "DEAD_LETTERS_UNVERIFIED=true reads it all the same"
        return None if unverified else UnsafeQueueError(f"{text}: {error}; {hint}")
    if "x-delivery-limit" in differing and "x-queue-type" not in differing:
        return UnsafeQueueError(f"{text}: its x-delivery-limit is not ours")
    return None


class SafeQueueReaders:
    """For the service: a queue that is not safe to read is left out, with one warning."""

    def __init__(
        self, connections: Callable[[], ConnectionFactory], url: str, topology: Topology, *, unverified: bool
    ) -> None:
        self._find = partial(find_queues, connections, url, topology, unverified=unverified)
        self._shared: set[str] = set()
        self._left_out = LogOnce("dead-letter queue is neither read nor replayed", logger=log)

    def __call__(self, reasons: Collection[str]) -> QueueReaders:
        """The queues of ``reasons`` (none: all). Raises BrokerError."""
        self._shared -= set(reasons or self._shared)
        found = self._find(reasons)
        self._shared.update(found.shared)
        for unsafe in found.unsafe:
            self._left_out.warn(unsafe)
        return found.readers

    def shared(self, reason: str) -> bool:
        """Whether the queue of ``reason`` had another consumer, perhaps our own, when it was found."""
        return reason in self._shared
