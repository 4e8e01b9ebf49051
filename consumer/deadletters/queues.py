"""Which dead-letter queues there are to read, and whether reading them is safe. Blocking.

Every read counts as one delivery on a quorum queue. Queues that we declared have a limit that is never
reached; one that an operator declared may drop a message after 20 (the default from RabbitMQ 4.0 on).
So a queue is read only when its limit is ours, or when the operator says that it may be.
"""

import logging
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from consumer.broker.connection import ConnectionFactory, is_amqp
from consumer.broker.inspect import NotPermittedError, can_ask, differences, queue_facts, why
from consumer.broker.queue_reader import AmqpQueueReader
from consumer.broker.virtual import VirtualQueueReader
from consumer.core.topology import QueueSpec, Topology
from consumer.deadletters.sweep import QueueReaders
from consumer.errors import BrokerError

log = logging.getLogger("journey_consumer.dead_letters")


class UnsafeQueueError(BrokerError):
    """Reading this queue might drop messages of it."""


def build_queue_readers(
    connections: Callable[[], ConnectionFactory],
    url: str,
    topology: Topology,
    reasons: Collection[str],
    *,
    unverified: bool,
    on_unsafe: Callable[[UnsafeQueueError], None],
    on_shared: Callable[[str], None],
    force: bool = False,
) -> QueueReaders:
    """A way to open each dead-letter queue of ``reasons`` (none: all). Raises BrokerError.

    ``url`` is the broker's first address. A queue that does not exist is left out, unless it was named.
    An unsafe one is left out when ``on_unsafe`` does not raise its error. ``unverified`` reads also where
    we may not ask for the limit, ``force`` also where it is another one. ``on_shared`` is called with each
    queue that has another consumer at the moment.
    """
    queues = {
        reason: topology.dead_letter_queue(reason)
        for reason in topology.dead_letter_reasons
        if not reasons or reason in reasons
    }
    if not is_amqp(url):
        return {reason: partial(VirtualQueueReader, url, queue) for reason, queue in queues.items()}

    def reader(queue: str) -> AmqpQueueReader:
        return AmqpQueueReader(connections(), queue)

    specs = {spec.name: spec for spec in topology.support()}
    try:
        connection = connections().connect("dead letters")
    except ConnectionFactory.ERRORS as error:
        raise BrokerError(f"cannot connect to the broker: {why(error)}") from error
    try:
        existing = {
            reason: facts
            for reason, queue in queues.items()
            if (facts := queue_facts(connection, queue)) is not None
        }
        if reasons and (missing := queues.keys() - existing.keys()):
            raise BrokerError(f"the queue {queues[min(missing)]!r} does not exist")
        if not existing:
            raise BrokerError(f"there is no dead-letter queue of {topology.queue!r}: is BROKER_QUEUE right?")
        found = {}
        for reason, facts in existing.items():
            unsafe = None if force else _unsafe(connection, specs[queues[reason]], unverified=unverified)
            if unsafe is not None:
                on_unsafe(unsafe)
                continue
            found[reason] = partial(reader, queues[reason])
            if facts.consumers:
                on_shared(queues[reason])
    except ConnectionFactory.ERRORS as error:
        raise BrokerError(f"the dead-letter queues cannot be read: {why(error)}") from error
    finally:
        connection.collect()
    return found


def _unsafe(connection: Any, spec: QueueSpec, *, unverified: bool) -> UnsafeQueueError | None:
    """Why reading is not known to be safe; None when it is. A classic queue counts no deliveries."""
    if not can_ask(connection):
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
        self._topology = topology
        self._shared: set[str] = set()
        self._warned: set[str] = set()
        self._build = partial(
            build_queue_readers,
            connections,
            url,
            topology,
            unverified=unverified,
            on_unsafe=self._warn,
            on_shared=self._shared.add,
        )

    def __call__(self, reasons: Collection[str]) -> QueueReaders:
        """The queues of ``reasons`` (none: all). Raises BrokerError."""
        for reason in reasons or self._topology.dead_letter_reasons:
            self._shared.discard(self._topology.dead_letter_queue(reason))
        return self._build(reasons)

    def shared(self, reason: str) -> bool:
        """Whether the queue of ``reason`` had another consumer, perhaps our own, when it was found."""
        return self._topology.dead_letter_queue(reason) in self._shared

    def _warn(self, unsafe: UnsafeQueueError) -> None:
        reason = str(unsafe)
        if reason not in self._warned:
            self._warned.add(reason)
            log.warning("dead-letter queue is neither read nor replayed", extra={"reason": reason})
