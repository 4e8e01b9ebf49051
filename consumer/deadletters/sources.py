"""Which dead-letter queues there are to read, and whether looking into them is safe. Blocking.

Every look counts as one delivery on a quorum queue. Queues that we declared have a limit that nobody
reaches; one that an operator declared may give a message up after 20 (the default from RabbitMQ 4.0 on),
so such a queue is not touched unless that is asked for.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from consumer.broker.dial import Dialer, is_amqp
from consumer.broker.survey import can_ask, differences, queue_facts, why
from consumer.broker.tap import AmqpTap, Tap, VirtualTap
from consumer.deadletters.sweep import Taps
from consumer.errors import BrokerError
from consumer.topology import QueueSpec, Topology

_UNSAFE = (
    "may give a message up after so many deliveries, and each look is one ({why}); --force looks all the same"
)


def taps_of(
    dialer: Callable[[], Dialer], url: str, topology: Topology, reasons: Collection[str], *, force: bool
) -> Taps:
    """A way to open each dead-letter queue of ``reasons`` (none: all). Raises BrokerError.

    ``url`` is the broker's first address. A queue that does not exist is left out, unless it was named.
    """
    wanted = [reason for reason in topology.dead_letter_reasons if not reasons or reason in reasons]
    if not is_amqp(url):
        return {reason: partial(VirtualTap, url, topology.dead_letter_queue(reason)) for reason in wanted}
    found = _existing(dialer(), topology, wanted, named=bool(reasons), force=force)
    return {reason: _amqp_tap(dialer, topology.dead_letter_queue(reason)) for reason in found}


def _amqp_tap(dialer: Callable[[], Dialer], queue: str) -> Callable[[], Tap]:
    return lambda: AmqpTap(dialer(), queue)


def _existing(
    dialer: Dialer, topology: Topology, wanted: list[str], *, named: bool, force: bool
) -> list[str]:
    specs = {spec.name: spec for spec in topology.support()}
    try:
        connection = dialer.dial("dead letters")
    except Dialer.ERRORS as error:
        raise BrokerError(f"the broker can not be reached: {why(error)}") from error
    found = []
    try:
        for reason in wanted:
            name = topology.dead_letter_queue(reason)
            if queue_facts(connection, name) is None:
                if named:
                    raise BrokerError(f"the queue {name!r} does not exist")
                continue
            found.append(reason)
            if not force and can_ask(connection):
                _check(connection, specs[name])
    except Dialer.ERRORS as error:
        raise BrokerError(f"the dead-letter queues can not be read: {why(error)}") from error
    finally:
        connection.collect()
    if not found:
        raise BrokerError(f"there is no dead-letter queue of {topology.queue!r}: is BROKER_QUEUE right?")
    return found


def _check(connection: Any, spec: QueueSpec) -> None:
    """Raise BrokerError unless looking is known to be safe. A classic queue counts no deliveries."""
    try:
        differing = differences(connection, spec)
    except BrokerError as error:
        raise BrokerError(f"the queue {spec.name!r} {_UNSAFE.format(why=error)}") from error
    if "x-delivery-limit" in differing and "x-queue-type" not in differing:
        reason = "its x-delivery-limit is not ours"
        raise BrokerError(f"the queue {spec.name!r} {_UNSAFE.format(why=reason)}")
