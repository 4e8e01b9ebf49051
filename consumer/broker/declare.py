"""Declares missing queues and exchanges; what exists is used as it is. Blocking.

A passive declaration asks whether a queue exists without comparing arguments, so that an operator's
queue with arguments of its own can be used (an active declaration would answer 406).
"""

from typing import Any

from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed

from consumer.broker.inspect import exchange_exists, queue_facts
from consumer.core.topology import QueueSpec, Topology
from consumer.errors import BrokerError


def ensure(connection: Any, topology: Topology, *, declare: bool) -> list[str]:
    """Verify, and with ``declare`` create, every queue and exchange of ``topology``.

    Returns the names of what was created. Raises ``BrokerError`` when something is missing that may
    not be declared, or when the broker refuses.
    """
    created = []
    exchange = topology.dead_letter_exchange
    if not exchange_exists(connection, exchange):
        _create(
            connection,
            f"exchange {exchange!r}",
            lambda channel: channel.exchange_declare(exchange, "direct", durable=True, auto_delete=False),
            declare=declare,
        )
        created.append(exchange)
    for spec in (*topology.support(), topology.main):
        if queue_facts(connection, spec.name) is None:
            _create(
                connection,
                f"queue {spec.name!r}",
                lambda channel, spec=spec: channel.queue_declare(
                    spec.name, durable=True, exclusive=False, auto_delete=False, arguments=spec.arguments
                ),
                declare=declare,
            )
            created.append(spec.name)
        if declare:
            _bind(connection, spec)
    return created


def _create(connection: Any, what: str, action: Any, *, declare: bool) -> None:
    if not declare:
        raise BrokerError(f"the {what} does not exist and BROKER_DECLARE is false")
    _attempt(connection, f"declare {what}", action)


def _bind(connection: Any, spec: QueueSpec) -> None:
    for exchange, key in spec.bindings:
        _attempt(
            connection,
            f"bind queue {spec.name!r} to exchange {exchange!r}",
            lambda channel, e=exchange, k=key: channel.queue_bind(spec.name, e, k),
        )


def _attempt(connection: Any, what: str, action: Any) -> None:
    channel = connection.channel()
    try:
        action(channel)
    except (AccessRefused, NotFound, PreconditionFailed) as error:
        raise BrokerError(f"the broker refuses to {what} ({type(error).__name__})") from error
    channel.close()
