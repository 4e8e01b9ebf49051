"""Asks an AMQP broker what exists and what this user is permitted to do, and changes nothing.

1. Nothing is declared, published, consumed or deleted. Permissions are tested with an argument that
   RabbitMQ refuses *after* it has checked the permission: 406 means "permitted".
2. Blocking. Every request uses a channel of its own, because a negative answer closes it.
3. Knows no settings; no answer holds a password.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amqp.basic_message import Message
from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed, ResourceLocked

from consumer.broker.causes import why
from consumer.core.topology import STREAM, UNKNOWN, QueueSpec, Value
from consumer.errors import BrokerError

_INEQUIVALENT = re.compile(r"inequivalent arg '([\w-]+)'")
_CURRENT = re.compile(r"but current is (?:none|(?:the value )?'(.*?)'(?: of type '\w+')?$)")
_NUMBER = re.compile(r"-?\d{1,18}")
_IMPOSSIBLE = "impossible"
_STREAMS_ONLY = "x-max-age"


class NotPermittedError(BrokerError):
    """The user lacks the permission that this question needs."""


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """The answer to a passive declaration: messages ready for delivery, and consumers."""

    messages: int
    consumers: int


def server(connection: Any) -> str:
    properties = connection.server_properties
    return f"{properties.get('product', 'unknown product')} {properties.get('version', '')}".strip()


def queue_facts(connection: Any, name: str) -> QueueFacts | None:
    """None when the queue does not exist. Raises BrokerError."""
    channel = connection.channel()
    try:
        found = channel.queue_declare(name, passive=True)
    except NotFound:
        return None
    except (AccessRefused, ResourceLocked) as error:
        raise BrokerError(f"the broker refuses access to the queue {name!r}: {why(error)}") from error
    channel.close()
    return QueueFacts(found.message_count, found.consumer_count)


def exchange_exists(connection: Any, name: str) -> bool:
    """Raises BrokerError when access is refused."""
    channel = connection.channel()
    try:
        channel.exchange_declare(name, "direct", passive=True)
    except NotFound:
        return False
    except AccessRefused as error:
        raise BrokerError(f"the broker refuses access to the exchange {name!r}: {why(error)}") from error
    channel.close()
    return True


def differences(connection: Any, spec: QueueSpec) -> dict[str, Value]:
    """The properties in which the *existing* queue differs from ``spec``, each with the queue's own value.

    The broker names one difference at a time, so it is asked again with the value that it named. It compares
    no policies, and only the arguments that the type of the queue knows. A stream ends the list: nothing else
    matters. Creates nothing: the argument of a stream is added, which a new queue of ours may not have.
    Raises NotPermittedError.
    """
    arguments, found = {**spec.arguments, _STREAMS_ONLY: _IMPOSSIBLE}, dict[str, Value]()
    properties = {"durable": True, "exclusive": False, "auto_delete": False}
    while (difference := _difference(connection, spec.name, properties, arguments)) is not None:
        name, value = difference
        if name in found:
            return found
        if found.get("x-queue-type") == UNKNOWN:  # asked again as a stream it is not named: it is one
            return found | {"x-queue-type": STREAM}
        found[name] = value
        if name == "unknown" or (name, value) == ("x-queue-type", STREAM):
            return found
        if name in properties:
            properties[name] = not properties[name]
        elif (name, value) == ("x-queue-type", UNKNOWN):
            arguments[name] = STREAM
        elif value in {None, UNKNOWN}:
            arguments.pop(name, None)
        else:
            arguments[name] = value
    return found


def _difference(
    connection: Any, queue: str, properties: dict[str, bool], arguments: dict[str, Any]
) -> tuple[str, Value] | None:
    """The first difference that the broker names; None without one, also when the queue has been deleted."""
    channel = connection.channel()
    try:
        channel.queue_declare(queue, **properties, arguments=arguments)
    except PreconditionFailed as error:
        text = str(error)
        if (named := _INEQUIVALENT.search(text)) is not None:
            return named[1], _value(text)
        return None if _STREAMS_ONLY in text else ("unknown", UNKNOWN)
    except (AccessRefused, ResourceLocked) as error:
        raise NotPermittedError(f"not permitted to configure the queue {queue!r}") from error
    channel.close()
    return None


def _value(text: str) -> Value:
    """The queue's own value in a refusal; UNKNOWN when a long name left no room for it."""
    found = _CURRENT.search(text)
    if found is None or found[1] is None:
        return None if found else UNKNOWN
    if found[1] in {"true", "false"}:
        return found[1] == "true"
    return int(found[1]) if _NUMBER.fullmatch(found[1]) else found[1]


def known_differences(connection: Any, spec: QueueSpec) -> dict[str, Value] | None:
    """As ``differences``; None without the permission to configure the queue, unless it is a stream.

    The refusal to consume with an impossible argument names a stream to every user who may read it.
    """
    try:
        return differences(connection, spec)
    except NotPermittedError:
        stream = "rabbit_stream_queue" in (_refusal(connection, _consuming(spec.name)) or "")
        return {"x-queue-type": STREAM} if stream else None


def can_ask(connection: Any) -> bool:
    """Whether the broker is known to check permissions before arguments."""
    return bool(connection.server_properties.get("product") == "RabbitMQ")


def may_declare(connection: Any, queue: str) -> bool:
    arguments = {"x-expires": _IMPOSSIBLE}  # not a number
    return _permitted(connection, lambda channel: channel.queue_declare(queue, arguments=arguments))


def may_consume(connection: Any, queue: str) -> bool:
    return _permitted(connection, _consuming(queue))


def may_publish(connection: Any, exchange: str) -> bool:

    def publish(channel: Any) -> None:
        channel.basic_publish(Message(b"", expiration=_IMPOSSIBLE), exchange, _IMPOSSIBLE)
        channel.basic_qos(0, 1, a_global=False)  # a publish has no answer: wait for that of another method

    return _permitted(connection, publish)


def _consuming(queue: str) -> Callable[[Any], Any]:
    arguments = {"x-priority": _IMPOSSIBLE}  # not a number; a stream does not know it at all
    return lambda channel: channel.basic_consume(queue, arguments=arguments)


def _permitted(connection: Any, ask: Callable[[Any], Any]) -> bool:
    return _refusal(connection, ask) is not None


def _refusal(connection: Any, ask: Callable[[Any], Any]) -> str | None:
    """How the broker refuses the impossible argument; None when the user may not ask."""
    try:
        ask(connection.channel())
    except AccessRefused:
        return None
    except PreconditionFailed as error:
        return str(error)
    raise BrokerError("the broker accepted an impossible argument")
