"""AMQP connections: URLs in turn, TLS, heartbeats, socket options. Blocking: for threads only.

Connections are py-amqp's, made by kombu's transport, with eight changes:
1. A channel that the broker closed stays closed. py-amqp reopens it silently, without consumers and
   with delivery tags from 1 again (an old ack could hit a new message).
2. Bodies stay bytes. py-amqp decodes them by ``content_encoding``, which kombu's publishers always set.
3. Properties that py-amqp cannot read are replaced by a note. py-amqp ends the connection, and the same
   message arrives again, with all its neighbours, until its delivery limit.
4. In an exchange or routing key that is not UTF-8, bytes that are not ASCII are read as "?".
5. A frame larger than ``frame_max`` allows (``check_frame_size``) ends the connection before it is read.
6. Every call that waits for an answer has a deadline (``within``), whatever arrives meanwhile. py-amqp
   waits without limit for a broker that is silent after the handshake.
7. A body of more than ``MOST_BODY_BYTES`` is not kept: the message arrives without it, and
   ``unread_body_bytes`` tells its size meanwhile.
8. A channel can be opened and consumed from without waiting (``consume``), for the event loop.
"""

import itertools
import logging
import random
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import kombu
from amqp import spec
from amqp.basic_message import Message
from amqp.exceptions import FrameSyntaxError, UnexpectedFrame
from amqp.method_framing import frame_handler
from kombu.transport import pyamqp

from consumer import __version__
from consumer.broker.causes import why
from consumer.broker.frames import check_frame_size
from consumer.config import Settings
from consumer.config.settings import AMQP_SCHEMES
from consumer.core.clock import backoff_seconds
from consumer.core.delivery import Delivery
from consumer.errors import BrokerError

log = logging.getLogger("journey_consumer.broker")

#: Longest wait for a connection, all of the handshake included; for several addresses in turn, of all.
CONNECT_SECONDS, CONNECT_ALL_SECONDS = 10.0, 24.0
#: Longest wait for the answer to one call of a connected broker.
ANSWER_SECONDS = 10.0
CLOSE_TIMEOUT_SECONDS = 3.0
WRITE_TIMEOUT_SECONDS = 15
RECONNECT_CAP_SECONDS = 20.0
SHORT_LIFE_SECONDS = 5.0
#: How long sent bytes may stay unacknowledged before the kernel ends the connection; py-amqp's
#: default of one second ends it at the first lost packet (py-amqp 186).
TCP_USER_TIMEOUT_MILLISECONDS = 20_000

#: Replaces properties that cannot be read: text that is not UTF-8, a time out of range (milliseconds
#: where AMQP wants seconds), an unknown type of field.
UNREADABLE_PROPERTIES = {"x-unreadable-properties": True}
_HEADER_FRAME = 2
_HEADER_FIXED_BYTES = 12  # class, weight, body size (AMQP 0-9-1, section 4.2.6.1)
_REPLACEMENT: bytes = Message(application_headers=UNREADABLE_PROPERTIES)._serialize_properties()  # noqa: SLF001
#: No journey is nearly as large, and RabbitMQ 4 takes no larger message; 3.10 takes 128 MB.
MOST_BODY_BYTES = 16 * 1024 * 1024
_BODY_FRAME, _BODY_SIZE = 3, struct.Struct(">Q")
#: A whole frame: kind, channel, size, method, tag, multiple, end (AMQP 0-9-1, section 1.8.3.13).
_ACK, _ACK_SIZE, _FRAME_END = struct.Struct(">BHIHHQ?B"), 13, 0xCE
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
#: Python cannot copy, compare or encode headers that are nested much deeper.
_DEEPEST_HEADER = 32


def _tolerant_frame_handler(connection: Any, callback: Any) -> Callable[[Any], Any]:
    on_frame = frame_handler(connection, callback)
    unread: dict[int, int] = {}  # bytes of a body that are still to come, by channel

    def tolerant(frame: tuple[int, int, bytes]) -> Any:
        kind, channel, payload = frame
        if kind == _BODY_FRAME and channel in unread:
            unread[channel] -= len(payload)
            if unread[channel] <= 0:
                del unread[channel]
            return False
        if kind == _HEADER_FRAME and len(payload) >= _HEADER_FIXED_BYTES:
            (size,) = _BODY_SIZE.unpack_from(payload, 4)
            if size > MOST_BODY_BYTES:
                unread[channel] = connection.unread_body_bytes = size
                frame = kind, channel, payload[:4] + bytes(8) + payload[_HEADER_FIXED_BYTES:]
        try:
            return on_frame(frame)
        except _UNREADABLE:
            if kind != _HEADER_FRAME:
                raise
            return on_frame((kind, channel, frame[2][:_HEADER_FIXED_BYTES] + _REPLACEMENT))
        finally:
            connection.unread_body_bytes = 0

    return tolerant


def build_delivery(message: Any, *, channel: int, generation: int = 0) -> Delivery:
    """A delivery from py-amqp's message; headers that are nested too deeply are replaced by a note."""
    info, properties = message.delivery_info, dict(message.properties)
    headers = properties.pop("application_headers", None) or {}
    return Delivery(
        body=message.body or b"",  # py-amqp gives "" for an empty body
        headers=dict(UNREADABLE_PROPERTIES) if _is_deep(headers, _DEEPEST_HEADER) else headers,
        properties=properties,
        exchange=info["exchange"],
        routing_key=info["routing_key"],
        redelivered=bool(info["redelivered"]),
        received_at=time.monotonic(),
        tag=info["delivery_tag"],
        channel=channel,
        generation=generation,
    )


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


class _Answering:
    """A channel or a connection whose calls are answered in time, or raise TimeoutError."""

    connection: Any

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        if self.connection is None:
            return super().wait(*args, **kwargs)  # type: ignore[misc]
        with self.connection.within(ANSWER_SECONDS):
            return super().wait(*args, **kwargs)  # type: ignore[misc]


class _Channel(_Answering, pyamqp.Channel):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.auto_decode = False
        self.on_commit_ok: Callable[[], None] | None = None
        #: What the broker has answered to ``consume`` and ``cancel``.
        self.consuming = self.cancelled = False

    def consume(
        self,
        queue: str,
        tag: str,
        prefetch: int,
        on_message: Callable[[Any], None],
        on_cancel: Callable[[str], None],
    ) -> None:
        """Open this channel and consume with ``prefetch``; waits for no answer."""
        self.callbacks[tag], self.cancel_callbacks[tag] = on_message, on_cancel
        self._callbacks[spec.Basic.ConsumeOk] = self._on_consume_ok
        self.send_method(spec.Channel.Open, "s", ("",))
        self.send_method(spec.Basic.Qos, "lBb", (0, prefetch, False))
        self.send_method(spec.Basic.Consume, "BssbbbbF", (0, queue, tag, False, False, False, False, {}))

    def cancel(self, tag: str) -> None:
        """Cancel; ``cancelled`` once nothing more is delivered. Waits for no answer."""
        self.send_method(spec.Basic.Cancel, "sb", (tag, False))

    def acknowledge(self, acks: Sequence[tuple[int, bool]]) -> None:
        """Write acknowledgements, each of a tag and whether it means all before it, with one call."""
        frames = [
            _ACK.pack(1, self.channel_id, _ACK_SIZE, *spec.Basic.Ack, tag, multiple, _FRAME_END)
            for tag, multiple in acks
        ]
        self.connection.bytes_sent += 1  # an idle connection sends heartbeats
        self.connection.transport.write(b"".join(frames))

    def leave(self) -> None:
        """Close; waits for no answer."""
        self.is_closing = True
        self.send_method(spec.Channel.Close, "BsBB", (0, "", 0, 0))

    def _on_consume_ok(self, _tag: str) -> None:
        self.consuming = True

    def _on_basic_cancel_ok(self, tag: str) -> None:
        super()._on_basic_cancel_ok(tag)
        self.cancelled = True

    def dispatch_method(self, method_sig: tuple[int, int], payload: bytes, content: Any) -> Any:
        if method_sig == spec.Tx.CommitOk and self.on_commit_ok is not None:
            self.on_commit_ok()  # py-amqp drops the answer to a commit that did not wait for it
        try:
            return super().dispatch_method(method_sig, payload, content)
        except UnicodeDecodeError:
            if method_sig != spec.Basic.Deliver or (readable := _readable(payload)) == payload:
                raise
            return super().dispatch_method(method_sig, readable, content)

    def _do_revive(self) -> None:
        self.is_open = False


class _Connection(_Answering, pyamqp.Connection):
    Channel = _Channel
    _deadline: float | None = None
    unread_body_bytes = 0

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Raise TimeoutError from what is still read or written after ``seconds``; the outermost rules."""
        sock = None if self._transport is None else self._transport.sock
        if self._deadline is not None:
            yield
            return
        self._deadline = time.monotonic() + seconds
        before = None
        try:
            if sock is not None:
                before = sock.gettimeout()
                sock.settimeout(seconds)
            yield
        finally:
            self._deadline = None
            if sock is not None and sock.fileno() >= 0:
                sock.settimeout(before)

    def Transport(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 py-amqp's name
        transport = super().Transport(*args, **kwargs)
        read, setup = transport._read, transport._setup_transport  # noqa: SLF001

        def bounded_read(size: int, initial: bool = False) -> bytes:  # noqa: FBT001, FBT002
            check_frame_size(size, self.frame_max)
            return bytes(read(size, initial))

        def set_up() -> None:
            setup()
            receive = transport._quick_recv  # noqa: SLF001

            def timely_receive(size: int) -> bytes:
                if self._deadline is not None:
                    if (left := self._deadline - time.monotonic()) <= 0:
                        raise TimeoutError
                    transport.sock.settimeout(left)
                return bytes(receive(size))

            transport._quick_recv = timely_receive  # noqa: SLF001

        transport._read, transport._setup_transport = bounded_read, set_up  # noqa: SLF001
        return transport

    def connect(self, callback: Any = None) -> None:
        try:
            with self.within(self.connect_timeout):
                super().connect(callback)
            self._transport.sock.settimeout(WRITE_TIMEOUT_SECONDS)
        except BaseException as error:
            close_connection(self, graceful=False)
            if isinstance(error, Exception) and not isinstance(error, ConnectionFactory.ERRORS):
                # Anything can come out of py-amqp for a handshake that is none: KeyError, struct.error ...
                raise UnexpectedFrame(f"the handshake cannot be read ({type(error).__name__})") from error
            raise

    def new_channel(self) -> Any:
        """A channel that is not open yet: see ``consume``."""
        return self.Channel(self)

    def collect(self) -> None:
        if self._transport is not None and self._transport.sock is not None:
            self._transport.sock.settimeout(0.0)  # closing TLS does not wait for the broker's goodbye
        super().collect()


class _Transport(pyamqp.Transport):
    Connection = _Connection


def is_amqp(url: str) -> bool:
    """Whether ``url`` names an AMQP broker; the others are ``virtual``."""
    return urlsplit(url).scheme in AMQP_SCHEMES


def close_connection(connection: Any, *, graceful: bool) -> None:
    """End a connection within CLOSE_TIMEOUT_SECONDS and close its socket; never raises. Blocking.

    ``graceful=False`` sends no close: for a broker that is gone or may not answer.
    """
    transport = connection._transport  # noqa: SLF001 the property reconnects or warns
    sock = None if transport is None else transport.sock
    try:
        if graceful and sock is not None:
            with connection.within(CLOSE_TIMEOUT_SECONDS):
                connection.close()
        connection.collect()
    except Exception as error:  # noqa: BLE001 the socket is closed below either way
        log.debug("closing a broker connection failed", extra={"reason": type(error).__name__})
    finally:
        if sock is not None:
            sock.close()


def is_unexpected(error: Exception) -> bool:
    """Whether a broker, or what listens in its place, spoke and was not understood."""
    return isinstance(error, UnexpectedFrame) or not isinstance(
        error, (*ConnectionFactory.ERRORS, BrokerError)
    )


class LogOnce:
    """Logs each reason at ``level`` once until ``reset``; repetitions are logged as debug."""

    def __init__(self, event: str, level: int = logging.WARNING, logger: logging.Logger = log) -> None:
        self._logger = logger
        self._event = event
        self._level = level
        self._logged: set[str] = set()

    def warn(self, error: Exception) -> None:
        """Log the reason; never an address, which may hold a password."""
        reason = why(error)
        level = logging.DEBUG if reason in self._logged else self._level
        self._logged.add(reason)
        self._logger.log(level, self._event, extra={"reason": reason})

    def reset(self) -> None:
        self._logged.clear()


class ReconnectDelay:
    """Doubles with each connection that failed or lived shorter than SHORT_LIFE_SECONDS; with jitter."""

    def __init__(self, base_seconds: float) -> None:
        self._base = base_seconds
        self._failures = 0

    def next(self, lived_seconds: float = 0.0) -> float:
        if lived_seconds > SHORT_LIFE_SECONDS:
            self._failures = 0
        delay = backoff_seconds(self._failures, self._base, RECONNECT_CAP_SECONDS)
        self._failures += 1
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 jitter


class ConnectionFactory:
    """Connects to the next of its URLs at each call of ``connect``.

    Raises what kombu and py-amqp raise (``ERRORS``); the caller decides how long to wait.
    """

    ERRORS: tuple[type[Exception], ...] = (
        *pyamqp.Transport.connection_errors,
        *pyamqp.Transport.channel_errors,
        OSError,
    )

    def __init__(
        self,
        urls: Sequence[str],
        *,
        heartbeat_seconds: int = 30,
        ca_file: str | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        client_cert_file: str | None = None,
        client_key_file: str | None = None,
    ) -> None:
        self._urls: Iterator[str] = itertools.cycle(urls)
        self._heartbeat = heartbeat_seconds
        self._ca_file = ca_file
        self._connect_seconds = connect_seconds
        self._client_certificate = {"certfile": client_cert_file, "keyfile": client_key_file}

    def connect(self, purpose: str) -> Any:
        """``purpose`` names the connection in the broker's management views."""
        url = next(self._urls)
        parts = urlsplit(url)
        tls = parts.scheme == "amqps"
        options: dict[str, Any] = {
            "client_properties": {
                "product": "journey-consumer",
                "version": __version__,
                "connection_name": f"journey-consumer {purpose} {socket.gethostname()}",
            },
            "frame_handler": _tolerant_frame_handler,
        }
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            options["socket_settings"] = {socket.TCP_USER_TIMEOUT: TCP_USER_TIMEOUT_MILLISECONDS}
        client = kombu.Connection(
            url,
            heartbeat=self._heartbeat,
            connect_timeout=self._connect_seconds,
            transport_options=options,
        )
        if tls:
            # The host name is checked only when it is given (py-amqp).
            client.ssl = {
                "ca_certs": self._ca_file,
                **self._client_certificate,  # its files are read at each connection
                "cert_reqs": ssl.CERT_REQUIRED,
                "server_hostname": parts.hostname,
                "tls_minimum_version": ssl.TLSVersion.TLSv1_2,
            }
        return _Transport(client, default_port=5671 if tls else 5672).establish_connection()


def build_connections(settings: Settings, *urls: str) -> ConnectionFactory:
    """Return a factory of connections to ``urls``, by default those of BROKER_URL, from the first on."""
    return ConnectionFactory(
        urls or settings.broker_urls,
        heartbeat_seconds=settings.broker_heartbeat_seconds,
        ca_file=str(settings.broker_ca_file) if settings.broker_ca_file else None,
        connect_seconds=min(CONNECT_SECONDS, CONNECT_ALL_SECONDS / len(settings.broker_urls)),
        client_cert_file=str(settings.broker_client_cert_file) if settings.broker_client_cert_file else None,
        client_key_file=str(settings.broker_client_key_file) if settings.broker_client_key_file else None,
    )
