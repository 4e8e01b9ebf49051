"""Asks an AMQP broker what exists and what this user is permitted to do, and changes nothing.

1. Nothing is declared, published, consumed or deleted. Permissions are tested with an argument that
   RabbitMQ refuses *after* it has checked the permission: 406 means "permitted".
2. Blocking. Every request uses a channel of its own, because a negative answer closes it.
3. Knows no settings; no answer holds a password.
"""

import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amqp.basic_message import Message
from amqp.exceptions import AccessRefused, NotAllowed, NotFound, PreconditionFailed, ResourceLocked

from consumer.core.topology import QueueSpec
from consumer.errors import BrokerError

_INEQUIVALENT = re.compile(r"inequivalent arg '([\w-]+)'")
_IMPOSSIBLE = "impossible"


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
        raise BrokerError(f"the broker refuses access to the queue {name!r}") from error
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
        raise BrokerError(f"the broker refuses access to the exchange {name!r}") from error
    channel.close()
    return True


def differences(connection: Any, spec: QueueSpec) -> list[str]:
    """The names of properties in which the *existing* queue differs from ``spec``.

    Only for a queue that exists: declaring it again changes nothing. The broker names one property at a
    time, so it is asked again without that one; a property that also differs from its default ends the
    list. Raises NotPermittedError.
    """
    arguments, found = dict(spec.arguments), list[str]()
    while True:
        channel = connection.channel()
        try:
            channel.queue_declare(
                spec.name, durable=True, exclusive=False, auto_delete=False, arguments=arguments
            )
        except PreconditionFailed as error:
            named = _INEQUIVALENT.search(str(error))
            name = named[1] if named else "unknown"
            if name not in found:
                found.append(name)
            if arguments.pop(name, None) is None:
                return found
        except (AccessRefused, ResourceLocked) as error:
            raise NotPermittedError(f"not permitted to configure the queue {spec.name!r}") from error
        else:
            channel.close()
            return found


def can_ask(connection: Any) -> bool:
    """Whether the broker is known to check permissions before arguments."""
    return bool(connection.server_properties.get("product") == "RabbitMQ")


def may_declare(connection: Any, queue: str) -> bool:
    arguments = {"x-expires": _IMPOSSIBLE}  # not a number
    return _permitted(connection, lambda channel: channel.queue_declare(queue, arguments=arguments))


def may_consume(connection: Any, queue: str) -> bool:
    arguments = {"x-priority": _IMPOSSIBLE}  # not a number
    return _permitted(connection, lambda channel: channel.basic_consume(queue, arguments=arguments))


def may_publish(connection: Any, exchange: str) -> bool:

    def publish(channel: Any) -> None:
        channel.basic_publish(Message(b"", expiration=_IMPOSSIBLE), exchange, _IMPOSSIBLE)
        channel.basic_qos(0, 1, a_global=False)  # a publish has no answer: wait for that of another method

    return _permitted(connection, publish)


def _permitted(connection: Any, ask: Callable[[Any], Any]) -> bool:
    try:
        ask(connection.channel())
    except AccessRefused:
        return False
    except PreconditionFailed:
        return True
    raise BrokerError("the broker accepted an impossible argument")


def why(error: Exception) -> str:  # noqa: PLR0911 - one row for each kind
    """Why connecting or a request failed; never quotes the address."""
    match error:
        case BrokerError():
            return str(error)
        case AccessRefused():
            return "the broker refuses this user name and password"
        case NotAllowed():
            return "the virtual host does not exist, or this user has no access to it"
        case ssl.SSLCertVerificationError():
            return f"the certificate is not accepted: {error.verify_message}"
        case ssl.SSLError():
            reason = getattr(error, "reason", None)  # unset when Python made the error itself
            return f"TLS failed ({reason or type(error).__name__})"
        case socket.gaierror():
            return "the host name cannot be resolved"
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "connection refused: no server listens on this address and port"
        case OSError(strerror=str(text)):
            return text
        case _:
            return type(error).__name__
