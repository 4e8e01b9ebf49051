"""Make sure of the queues: declare what is missing, use what is there, never redeclare.

A passive declaration asks whether a queue exists without comparing arguments, so an operator's
queue with arguments of its own is used as it is (an active one would answer 406). Blocking.
"""

from typing import Any

from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed

from consumer.core.topology import QueueSpec, Topology
from consumer.errors import BrokerError


def ensure(connection: Any, topology: Topology, *, declare: bool) -> list[str]:
    """Check, and with ``declare`` create, every queue and exchange of ``topology``.

    Returns what was created, by name. Raises ``BrokerError`` when something is missing that may
    not be declared, or that we are not permitted to touch.
    """
    created = []
    exchange = topology.dead_letter_exchange
    if not _exists(connection, "exchange", exchange):
        _require(declare, "exchange", exchange)
        _attempt(
            connection,
            f"declare exchange {exchange!r}",
            lambda channel: channel.exchange_declare(exchange, "direct", durable=True, auto_delete=False),
        )
        created.append(exchange)
    for spec in (*topology.support(), topology.main):
        if not _exists(connection, "queue", spec.name):
            _require(declare, "queue", spec.name)
            _declare_queue(connection, spec)
            created.append(spec.name)
        if declare:
            _bind(connection, spec)
    return created


def _require(declare: bool, kind: str, name: str) -> None:  # noqa: FBT001
    if not declare:
        raise BrokerError(f"the {kind} {name!r} does not exist and BROKER_DECLARE is false")


def _declare_queue(connection: Any, spec: QueueSpec) -> None:
    _attempt(
        connection,
        f"declare queue {spec.name!r}",
        lambda channel: channel.queue_declare(
            spec.name, durable=True, exclusive=False, auto_delete=False, arguments=spec.arguments
        ),
    )


def _bind(connection: Any, spec: QueueSpec) -> None:
    for exchange, key in spec.bindings:
        _attempt(
            connection,
            f"bind queue {spec.name!r} to exchange {exchange!r}",
            lambda channel, e=exchange, k=key: channel.queue_bind(spec.name, e, k),
        )


def _exists(connection: Any, kind: str, name: str) -> bool:
    """Ask on a channel of its own, because a "no" closes the channel."""
    channel = connection.channel()
    try:
        if kind == "exchange":
            channel.exchange_declare(name, "direct", passive=True, durable=True, auto_delete=False)
        else:
            channel.queue_declare(name, passive=True)
    except NotFound:
        return False
    except AccessRefused as error:
        raise BrokerError(f"the broker refuses access to the {kind} {name!r}") from error
    channel.close()
    return True


def _attempt(connection: Any, what: str, action: Any) -> None:
    channel = connection.channel()
    try:
        action(channel)
    except (AccessRefused, NotFound, PreconditionFailed) as error:
        raise BrokerError(f"the broker refuses to {what} ({type(error).__name__})") from error
    channel.close()
