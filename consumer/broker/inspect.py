"""Questions to an AMQP broker that change nothing: what is there, and what we would be allowed to do.

1. Nothing is declared, published, taken or deleted. Whether a method is permitted is asked with an
   argument that RabbitMQ refuses *after* it has looked at the permissions: 406 means "permitted".
2. Blocking. Every question uses a channel of its own, because a "no" closes it.
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
    """The broker's user may not ask this."""


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What a passive declaration tells: messages ready to be delivered, and consumers."""

    messages: int
    consumers: int


def server(connection: Any) -> str:
    """Product and version of the broker, as it says itself."""
    properties = connection.server_properties
    return f"{properties.get('product', 'unknown product')} {properties.get('version', '')}".strip()


def queue_facts(connection: Any, name: str) -> QueueFacts | None:
    """What is known of the queue ``name``; None when it does not exist. Raises BrokerError."""
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
    """Whether the exchange ``name`` exists. Raises BrokerError."""
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
    """Name the properties in which the *existing* queue differs from ``spec``, as far as can be told.

    Only for a queue that is known to exist: declaring it again changes nothing, whatever it is like,
    and a passive declaration compares nothing. The broker names one property at a time, so it is
    asked again without that one; a property with another value of its own ends the list.
    Raises NotPermittedError when we may not ask.
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
    """Whether the broker is known to look at permissions before it looks at arguments."""
    return bool(connection.server_properties.get("product") == "RabbitMQ")


def may_declare(connection: Any, queue: str) -> bool:
    """Whether we are permitted to declare ``queue`` (configure)."""
    arguments = {"x-expires": _IMPOSSIBLE}  # not a number
    return _permitted(connection, lambda channel: channel.queue_declare(queue, arguments=arguments))


def may_consume(connection: Any, queue: str) -> bool:
    """Whether we are permitted to consume the existing ``queue`` (read)."""
    arguments = {"x-priority": _IMPOSSIBLE}  # not a number
    return _permitted(connection, lambda channel: channel.basic_consume(queue, arguments=arguments))


def may_publish(connection: Any, exchange: str) -> bool:
    """Whether we are permitted to publish to the existing ``exchange`` (write)."""

    def publish(channel: Any) -> None:
        channel.basic_publish(Message(b"", expiration=_IMPOSSIBLE), exchange, _IMPOSSIBLE)
        channel.basic_qos(0, 1, a_global=False)  # publishing has no answer: wait for that of another method

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
    """Why connecting failed, in words; never quotes the address."""
    match error:
        case BrokerError():
            return str(error)
        case AccessRefused():
            return "the broker refuses this user name and password"
        case NotAllowed():
            return "the virtual host does not exist, or this user may not enter it"
        case ssl.SSLCertVerificationError():
            return f"the certificate is not accepted: {error.verify_message}"
        case ssl.SSLError():
            return f"TLS failed ({error.reason or type(error).__name__})"
        case socket.gaierror():
            return "the host name is not known"
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "nobody listens there"
        case OSError(strerror=str(text)):
            return text
        case _:
            return type(error).__name__
