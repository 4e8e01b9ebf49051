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
from consumer.broker.virtual_reader import VirtualQueueReader
from consumer.core.topology import QueueSpec, Topology
from consumer.deadletters.sweep import QueueReaders
from consumer.errors import BrokerError

log = logging.getLogger("journey_consumer.dead_letters")


class UnsafeQueueError(BrokerError):
    """Reading this queue might drop messages of it."""

    def __init__(self, queue: str, reason: str) -> None:
        super().__init__(
            f"reading the queue {queue!r} could drop messages, each read being a delivery: {reason}"
        )


def build_queue_readers(
    connections: Callable[[], ConnectionFactory],
    url: str,
    topology: Topology,
    reasons: Collection[str],
    *,
    unverified: bool,
    leave_out: Callable[[UnsafeQueueError], bool],
    on_shared: Callable[[str], None] = lambda _queue: None,
    force: bool = False,
) -> QueueReaders:
    """A way to open each dead-letter queue of ``reasons`` (none: all). Raises BrokerError.

    ``url`` is the broker's first address. A queue that does not exist is left out, unless it was named.
    ``leave_out`` says whether to leave out an unsafe queue instead of raising the error. ``unverified`` reads
    also where we may not ask for the limit, ``force`` also where it is another one. ``on_shared`` is called
    with the name of each queue that has another consumer at the moment.
    """
    wanted = [reason for reason in topology.dead_letter_reasons if not reasons or reason in reasons]
    if not is_amqp(url):
        return {
            reason: partial(VirtualQueueReader, url, topology.dead_letter_queue(reason)) for reason in wanted
        }

    def is_left_out(connection: Any, spec: QueueSpec) -> bool:
        if force or not can_ask(connection):
            return False
        unsafe = _unsafe(connection, spec, unverified=unverified)
        if unsafe is not None and not leave_out(unsafe):
            raise unsafe
        return unsafe is not None

    def reader(queue: str) -> AmqpQueueReader:
        return AmqpQueueReader(connections(), queue)

    found = _existing(connections(), topology, wanted, is_left_out, on_shared, named=bool(reasons))
    return {reason: partial(reader, topology.dead_letter_queue(reason)) for reason in found}


class SafeQueueReaders:
    """For the service: a queue that is not safe to read is left out, with one warning."""

    def __init__(
        self, connections: Callable[[], ConnectionFactory], url: str, topology: Topology, *, unverified: bool
    ) -> None:
        self._topology = topology
        self._shared: set[str] = set()
        self._build = partial(
            build_queue_readers,
            connections,
            url,
            topology,
            unverified=unverified,
            leave_out=self._leave_out,
            on_shared=self._shared.add,
        )
        self._warned: set[str] = set()

    def __call__(self, reasons: Collection[str]) -> QueueReaders:
        """The queues of ``reasons`` (none: all). Raises BrokerError."""
        for reason in reasons or self._topology.dead_letter_reasons:
            self._shared.discard(self._topology.dead_letter_queue(reason))
        return self._build(reasons)

    def shared(self, reason: str) -> bool:
        """Whether the queue of ``reason`` had another consumer, perhaps our own, when it was found."""
        return self._topology.dead_letter_queue(reason) in self._shared

    def _leave_out(self, unsafe: UnsafeQueueError) -> bool:
        reason = str(unsafe)
        if reason not in self._warned:
            self._warned.add(reason)
            log.warning("dead-letter queue is neither read nor replayed", extra={"reason": reason})
        return True


def _existing(
    connections: ConnectionFactory,
    topology: Topology,
    wanted: list[str],
    is_left_out: Callable[[Any, QueueSpec], bool],
    on_shared: Callable[[str], None],
    *,
    named: bool,
) -> list[str]:
    specs = {spec.name: spec for spec in topology.support()}
    try:
        connection = connections.connect_to_broker("dead letters")
    except ConnectionFactory.ERRORS as error:
        raise BrokerError(f"cannot connect to the broker: {why(error)}") from error
    existing, found = 0, []
    try:
        for reason in wanted:
            name = topology.dead_letter_queue(reason)
            facts = queue_facts(connection, name)
            if facts is None:
                if named:
                    raise BrokerError(f"the queue {name!r} does not exist")
                continue
            existing += 1
            if not is_left_out(connection, specs[name]):
                found.append(reason)
                if facts.consumers:
                    on_shared(name)
    except ConnectionFactory.ERRORS as error:
        raise BrokerError(f"the dead-letter queues cannot be read: {why(error)}") from error
    finally:
        connection.collect()
    if not existing:
        raise BrokerError(f"there is no dead-letter queue of {topology.queue!r}: is BROKER_QUEUE right?")
    return found


def _unsafe(connection: Any, spec: QueueSpec, *, unverified: bool) -> UnsafeQueueError | None:
    """Why reading is not known to be safe; None when it is. A classic queue counts no deliveries."""
    try:
        differing = differences(connection, spec)
    except NotPermittedError as error:
        hint = "DEAD_LETTERS_UNVERIFIED=true reads it all the same"
        return None if unverified else UnsafeQueueError(spec.name, f"{error}; {hint}")
    if "x-delivery-limit" in differing and "x-queue-type" not in differing:
        return UnsafeQueueError(spec.name, "its x-delivery-limit is not ours")
    return None
