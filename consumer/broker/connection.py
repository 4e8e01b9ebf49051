"""How a connection to the broker is made: URLs in turn, TLS, heartbeats, socket options.

Blocking: called from threads only. Hands out py-amqp connections made by kombu's transport, with
four changes:
1. A channel that the broker closed stays closed. py-amqp would reopen it silently, without
   consumers, with delivery tags starting at 1 again (an old ack could hit a new message).
2. Bodies stay bytes. py-amqp would decode them by ``content_encoding``, and kombu's publishers
   always set that.
3. Properties that py-amqp cannot read cost the message its properties, not us the connection.
   Otherwise it would come again at once, until its delivery limit, with all its neighbours.
4. The same for an exchange or routing key that is not UTF-8: it is read with "?" for what is not ASCII.
"""

import itertools
import logging
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import kombu
from amqp import spec
from amqp.basic_message import Message
from amqp.exceptions import FrameSyntaxError
from amqp.method_framing import frame_handler
from kombu.transport import pyamqp

from consumer import __version__
from consumer.config.settings import AMQP_SCHEMES
from consumer.errors import BrokerError

log = logging.getLogger("journey_consumer.dial")

CONNECT_TIMEOUT_SECONDS = 10
CLOSE_TIMEOUT_SECONDS = 3.0
WRITE_TIMEOUT_SECONDS = 15
#: Unacknowledged bytes may stay this long before the kernel gives the connection up; py-amqp's
#: own default of one second drops it at the first lost packet (py-amqp 186).
TCP_USER_TIMEOUT_MILLISECONDS = 20_000


#: What a message has instead of properties that cannot be read: text that is not UTF-8, a time
#: beyond the calendar (milliseconds where AMQP wants seconds), an unknown type of field.
UNREADABLE_PROPERTIES = {"x-unreadable-properties": True}
_HEADER_FRAME = 2
_HEADER_FIXED_BYTES = 12  # class, weight, body size (AMQP 0-9-1, section 4.2.6.1)
_REPLACEMENT: bytes = Message(application_headers=UNREADABLE_PROPERTIES)._serialize_properties()  # noqa: SLF001
_METHOD_NUMBER_BYTES, _TAG_AND_FLAG_BYTES = 4, 9
_UNREADABLE: tuple[type[Exception], ...] = (
    FrameSyntaxError,
    ValueError,
    OverflowError,
    OSError,
    struct.error,
    LookupError,
    RecursionError,
)
#: No publisher needs more; what is nested deeper could not be written, copied or compared again.
_DEEPEST_HEADER = 32


def _tolerant_frame_handler(connection: Any, callback: Any) -> Callable[[Any], Any]:
    on_frame = frame_handler(connection, callback)

    def tolerant(frame: tuple[int, int, bytes]) -> Any:
        try:
            return on_frame(frame)
        except _UNREADABLE:
            kind, channel, payload = frame
            if kind != _HEADER_FRAME:
                raise
            return on_frame((kind, channel, payload[:_HEADER_FIXED_BYTES] + _REPLACEMENT))

    return tolerant


def bounded(headers: dict[str, Any] | None) -> dict[str, Any]:
    """``headers`` as read from the wire, or the note that nobody could follow their nesting."""
    return dict(UNREADABLE_PROPERTIES) if headers and _is_deep(headers, _DEEPEST_HEADER) else headers or {}


def _is_deep(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_is_deep(each, levels - 1) for each in inner if isinstance(each, dict | list))


def _readable(arguments: bytes) -> bytes:
    """A delivery's arguments, of the same length, with "?" in an exchange or routing key that is not UTF-8.

    After the method's number: consumer tag, delivery tag, flag, exchange, routing key, each text with its
    length in front (AMQP 0-9-1, section 1.8.3.9).
    """
    exchange = _METHOD_NUMBER_BYTES + 1 + arguments[_METHOD_NUMBER_BYTES] + _TAG_AND_FLAG_BYTES
    routing_key = exchange + 1 + arguments[exchange]
    readable = bytearray(arguments)
    for place in (exchange, routing_key):
        where = slice(place + 1, place + 1 + arguments[place])
        try:
            arguments[where].decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            readable[where] = bytes(byte if byte < 0x80 else ord("?") for byte in arguments[where])  # noqa: PLR2004
    return bytes(readable)


class _Channel(pyamqp.Channel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.auto_decode = False
        self.on_commit_ok: Callable[[], None] | None = None

    def dispatch_method(self, method_sig: tuple[int, int], payload: bytes, content: Any) -> Any:
        if method_sig == spec.Tx.CommitOk and self.on_commit_ok is not None:
            self.on_commit_ok()  # for who sent it and did not wait: py-amqp would drop it
        try:
            return super().dispatch_method(method_sig, payload, content)
        except UnicodeDecodeError:
            if method_sig != spec.Basic.Deliver or (readable := _readable(payload)) == payload:
                raise
            return super().dispatch_method(method_sig, readable, content)

    def _do_revive(self) -> None:
        self.is_open = False


class _Connection(pyamqp.Connection):
    Channel = _Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.frame_handler_cls = _tolerant_frame_handler

    def connect(self, callback: Any = None) -> Any:
        try:
            return super().connect(callback)
        except BaseException:
            close_connection(self, graceful=False)
            raise


class _Transport(pyamqp.Transport):
    Connection = _Connection


def is_amqp(url: str) -> bool:
    """Whether ``url`` names an AMQP broker; anything else is one of kombu's virtual transports."""
    return urlsplit(url).scheme in AMQP_SCHEMES


def close_connection(connection: Any, *, graceful: bool) -> None:
    """End a connection within a bound and leave no socket open; never raises. Blocking.

    Impolitely: without a word, when the other side is gone or cannot be trusted to answer.
    """
    transport = connection._transport  # noqa: SLF001 the property reconnects or warns
    sock = None if transport is None else transport.sock
    try:
        if graceful and sock is not None:
            sock.settimeout(CLOSE_TIMEOUT_SECONDS)
            connection.close()
        connection.collect()
    except Exception as error:  # noqa: BLE001 we are leaving; the socket is closed below either way
        log.debug("closing a broker connection failed", extra={"reason": type(error).__name__})
    finally:
        if sock is not None:
            sock.close()


class LogOnce:
    """Says why there is no connection: each reason as a warning once, until there was one again."""

    def __init__(self, logger: logging.Logger, event: str) -> None:
        self._logger = logger
        self._event = event
        self._said: set[str] = set()

    def tell(self, error: Exception) -> None:
        """Log the reason; never an address, which may hold a password."""
        reason = str(error) if isinstance(error, BrokerError) else type(error).__name__
        level = logging.DEBUG if reason in self._said else logging.WARNING
        self._said.add(reason)
        self._logger.log(level, self._event, extra={"reason": reason})

    def settle(self) -> None:
        """There is a connection: whatever comes next is news."""
        self._said.clear()


class ConnectionFactory:
    """Knows the broker's URLs and tries the next one at every call of ``dial``.

    Raises what kombu and py-amqp raise (``ERRORS``): the caller decides how long to wait.
    """

    ERRORS: tuple[type[Exception], ...] = (
        *pyamqp.Transport.connection_errors,
        *pyamqp.Transport.channel_errors,
        OSError,
    )

    def __init__(
        self, urls: Sequence[str], *, heartbeat_seconds: int = 30, ca_file: str | None = None
    ) -> None:
        self._urls: Iterator[str] = itertools.cycle(urls)
        self._heartbeat = heartbeat_seconds
        self._ca_file = ca_file

    def connect_to_broker(
        self,
        purpose: str,
        *,
        on_blocked: Callable[[str], None] | None = None,
        on_unblocked: Callable[[], None] | None = None,
    ) -> Any:
        """Connect to the next URL. ``purpose`` names the connection in the broker's own views."""
        url = next(self._urls)
        parts = urlsplit(url)
        options: dict[str, Any] = {
            "client_properties": {
                "product": "journey-consumer",
                "version": __version__,
                "connection_name": f"journey-consumer {purpose} {socket.gethostname()}",
            },
            "write_timeout": WRITE_TIMEOUT_SECONDS,
            "on_blocked": on_blocked,
            "on_unblocked": on_unblocked,
        }
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            options["socket_settings"] = {socket.TCP_USER_TIMEOUT: TCP_USER_TIMEOUT_MILLISECONDS}
        client = kombu.Connection(
            url,
            heartbeat=self._heartbeat,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            transport_options=options,
        )
        if parts.scheme == "amqps":
            # The host name is checked only when it is given (py-amqp).
            client.ssl = {
                "ca_certs": self._ca_file,
                "cert_reqs": ssl.CERT_REQUIRED,
                "server_hostname": parts.hostname,
                "tls_minimum_version": ssl.TLSVersion.TLSv1_2,
            }
        port = 5671 if parts.scheme == "amqps" else 5672
        return _Transport(client, default_port=port).establish_connection()
