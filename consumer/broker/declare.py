"""Declares missing queues and exchanges; what exists is used as it is. Blocking.

A passive declaration asks whether a queue exists without comparing arguments, so that an operator's
queue with arguments of its own can be used (an active declaration would answer 406).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed

from consumer.broker.causes import why
from consumer.broker.inspect import can_ask, exchange_exists, known_differences, queue_facts
from consumer.core.topology import QueueSpec, Topology, losses, refusal
from consumer.errors import BrokerError


def ensure(connection: Any, topology: Topology, *, declare: bool) -> list[str]:
    """Verify, and with ``declare`` create, every queue and exchange of ``topology``.

    Returns the names of what was created. Raises ``BrokerError`` when something is missing that may
    not be declared, or when the broker refuses.
    """
    created = []
    exchange = topology.dead_letter_exchange
    if not exchange_exists(connection, exchange):
        with _declaring(connection, f"exchange {exchange!r}", declare=declare) as channel:
            channel.exchange_declare(exchange, "direct", durable=True, auto_delete=False)
        created.append(exchange)
    for spec in (*topology.support(), topology.main):
        if queue_facts(connection, spec.name) is None:
            with _declaring(connection, f"queue {spec.name!r}", declare=declare) as channel:
                channel.queue_declare(
                    spec.name, durable=True, exclusive=False, auto_delete=False, arguments=spec.arguments
                )
            created.append(spec.name)
        for source, key in spec.bindings if declare else ():
            with _attempt(connection, f"bind queue {spec.name!r} to exchange {source!r}") as channel:
                channel.queue_bind(spec.name, source, key)
    return created


def weaknesses(connection: Any, spec: QueueSpec) -> list[str]:
    """What the arguments of an existing main queue take from our promises, as far as the broker names them.

    Raises ``BrokerError`` when it must not be consumed.
    """
    found = (known_differences(connection, spec) if can_ask(connection) else None) or {}
    if (refused := refusal(found)) is not None:
        raise BrokerError(f"the queue {spec.name!r} {refused}")
    return [f"the queue {spec.name!r}: {each}" for each in losses(spec, found)] if found else []


@contextmanager
def _declaring(connection: Any, what: str, *, declare: bool) -> Iterator[Any]:
    if not declare:
        raise BrokerError(f"the {what} does not exist and BROKER_DECLARE is false")
    with _attempt(connection, f"declare {what}") as channel:
        yield channel


@contextmanager
def _attempt(connection: Any, what: str) -> Iterator[Any]:
    channel = connection.channel()
    try:
        yield channel
    except (AccessRefused, NotFound, PreconditionFailed) as error:
        raise BrokerError(f"the broker refuses to {what}: {why(error)}") from error
    channel.close()
