"""Publishes with confirms, from one thread that owns a connection of its own.

1. A publish is done when the broker has confirmed it: not before, and not when it was returned
   as unroutable (``mandatory``). Confirms are matched by delivery tag, many are in flight.
2. Consuming and publishing never share a connection: under a memory or disk alarm the broker
   stops reading from publishers, and a blocked write must not block acknowledgements.
3. After any error the connection is closed and everything unconfirmed fails. What was not sent yet
   stays in line for the next connection.
4. ``submit`` is called on the event loop and returns a future of it; the thread does the rest.
5. No ``Exception`` ends the thread. If something else does (``SystemExit``), ``watch`` raises.
"""

import asyncio
import logging
import os
import select
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from amqp.basic_message import Message
from amqp.exceptions import FrameSyntaxError

from consumer.broker.causes import why
from consumer.broker.confirms import Request, Result, Unconfirmed, resolve
from consumer.broker.connection import (
    ConnectionFactory,
    LogOnce,
    ReconnectDelay,
    close_connection,
    is_unexpected,
)
from consumer.broker.declare import ensure
from consumer.broker.frames import read_all
from consumer.core.outgoing import Outgoing
from consumer.core.topology import Topology
from consumer.errors import BrokerError, PublishError, PublishFailure
from consumer.metrics import Metrics

log = logging.getLogger("journey_consumer.broker")

RECONNECT_BASE_SECONDS = 0.2
TICK_SECONDS = 1.0
#: The thread is woken so long after a publish was asked for, once for all that come meanwhile: each time it
#: runs, the event loop waits for it.
GATHER_SECONDS = 0.002
#: Publishes are written together, up to about so many bytes.
WRITTEN_AT_ONCE_BYTES = 64 * 1024
#: Unconfirmed publishes at once; bounds memory here and in the broker's channel.
WINDOW = 1_000
#: Of a header frame: type, channel, size, class, weight, length of the body, end.
_FRAME_OVERHEAD = 20
#: What py-amqp raises for headers and properties that no frame can hold.
ENCODING_ERRORS = (FrameSyntaxError, struct.error, TypeError, ValueError, RecursionError)


class ThreadEndedError(RuntimeError):
    """The publisher's thread has ended by itself."""


class Wakeup:
    """Wakes the thread that polls ``fileno``, now or at its next wait; ``set`` is for any thread."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._event

    def set(self) -> None:
        os.eventfd_write(self._event, 1)

    def clear(self) -> None:
        with suppress(BlockingIOError):  # it was not set
            os.eventfd_read(self._event)

    def wait(self, seconds: float) -> None:
        """Return after ``seconds`` or when set."""
        select.select([self._event], [], [], seconds)
        self.clear()

    def close(self) -> None:
        os.close(self._event)


@contextmanager
def written_together(transport: Any) -> Iterator[None]:
    """Write what py-amqp sends inside with few system calls. Raises TimeoutError as the socket does."""
    write, waiting = transport._write, bytearray()  # noqa: SLF001

    def gather(data: bytes) -> None:
        waiting.extend(data)
        if len(waiting) >= WRITTEN_AT_ONCE_BYTES:
            write(bytes(waiting))
            waiting.clear()

    transport._write = gather  # noqa: SLF001
    try:
        yield
        if waiting:
            write(bytes(waiting))
    finally:
        transport._write = write  # noqa: SLF001


class BoundedMessage(Message):
    """Raises FrameSyntaxError when encoded with properties that exceed the one frame that must hold them.

    A delivery's properties may not fit once our headers are added. py-amqp would send them, and the broker
    would end the connection (501), with everything that is unconfirmed on it.
    """

    def __init__(self, outgoing: Outgoing, frame_max: int) -> None:
        headers = dict(outgoing.headers)
        super().__init__(outgoing.body, application_headers=headers, **dict(outgoing.properties))
        self._frame_max = frame_max

    def _serialize_properties(self) -> bytes:
        encoded: bytes = super()._serialize_properties()
        if len(encoded) > self._frame_max - _FRAME_OVERHEAD:
            raise FrameSyntaxError("properties larger than a frame")
        return encoded


class AmqpPublisher:
    """Confirmed, mandatory, persistent publishes. Start with ``start``, end with ``close``.

    Without a ``topology`` no queue is declared or verified. ``purpose`` names the connection at the
    broker and in the log.
    """

    delay_queues = True

    def __init__(
        self,
        *,
        connections: ConnectionFactory,
        topology: Topology | None,
        declare: bool,
        metrics: Metrics,
        confirm_timeout_seconds: float = 30.0,
        purpose: str = "publish",
    ) -> None:
        self._connections = connections
        self._purpose = purpose
        self._topology = topology
        self._declare = declare
        self._metrics = metrics
        self._confirm_timeout = confirm_timeout_seconds
        self._requests: deque[Request] = deque()
        self._unconfirmed = Unconfirmed()
        self.blocked = False
        self._returned = False
        self._nacked = self._renewing = False
        self._open_channel = False
        self._closing = False
        self._wakeup = Wakeup()
        self._waking = False
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    # --- on the event loop -------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; it reconnects until ``close``."""
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._thread.start()

    async def watch(self) -> None:
        await self._ended.wait()
        raise ThreadEndedError(f"the thread of the connection {self._purpose!r} has ended")

    @property
    def ready(self) -> bool:
        return self._open_channel and not self.blocked

    def submit(self, outgoing: Outgoing) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        if self._closing:
            resolve(future, PublishFailure.CLOSED)
        else:
            self._requests.append(Request(outgoing, future))
            if not self._waking:
                self._waking = True
                self._loop.call_later(GATHER_SECONDS, self._wake)
        return future

    def _wake(self) -> None:
        self._waking = False
        if not self._closing:  # closing wakes the thread by itself, and ends the wake-up
            self._wakeup.set()

    def withdraw(self, future: asyncio.Future[None]) -> None:
        resolve(future, PublishFailure.OUT_OF_DATE)

    async def close(self) -> None:
        self._closing = True
        self._wakeup.set()
        if self._thread.ident is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join, 10.0)
        self._wakeup.close()

    # --- in the thread -----------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._main()
        finally:
            if not self._closing:
                self._loop.call_soon_threadsafe(self._ended.set)

    def _main(self) -> None:
        cannot_publish, delay = LogOnce("cannot publish"), ReconnectDelay(RECONNECT_BASE_SECONDS)
        while not self._closing:
            try:
                connection = self._connections.connect(self._purpose)
            except Exception as error:  # noqa: BLE001 whatever a broker says or does, we try again
                cannot_publish.warn(error)
                if is_unexpected(error):
                    self._metrics.reconnects["publish"].inc()
                self._wait(delay.next())
                continue
            kind, opened = PublishFailure.CONNECTION, time.monotonic()
            try:
                channel = self._open(connection)
                cannot_publish.reset()
                self._serve(connection, channel)
            except PublishError as error:
                kind = error.kind
            except BrokerError as error:
                cannot_publish.warn(error)
            except Exception as error:  # noqa: BLE001 py-amqp also raises AttributeError and struct.error
                log.warning(
                    "publish connection lost",
                    extra={"connection": self._purpose, "reason": why(error)},
                )
            finally:
                self._open_channel = False
                self._metrics.broker_connected["publish"].set(0)
                self._on_unblocked()
                self._fail_unconfirmed(kind)
                close_connection(connection, graceful=self._closing)
            if not self._closing:
                self._metrics.reconnects["publish"].inc()
                self._wait(delay.next(time.monotonic() - opened))
        self._fail_unconfirmed(PublishFailure.CONNECTION)

    def _open(self, connection: Any) -> Any:
        connection.on_blocked, connection.on_unblocked = self._on_blocked, self._on_unblocked
        if self._topology is not None:
            ensure(connection, self._topology, declare=self._declare)
        channel = self._confirming(connection)
        self._metrics.broker_connected["publish"].set(1)
        self._open_channel = True
        return channel

    def _confirming(self, connection: Any) -> Any:
        channel = connection.channel()
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        self._nacked = self._renewing = False
        return channel

    def _renewed(self, connection: Any, channel: Any) -> Any:
        """Replace a channel that has nacked: RabbitMQ 3.10 nacks on it also when the queue has room again."""
        channel.close()
        self._unconfirmed.clear()  # it is empty; the tags start again
        return self._confirming(connection)

    def _serve(self, connection: Any, channel: Any) -> None:
        poll = select.poll()
        poll.register(connection.sock.fileno(), select.POLLIN)
        poll.register(self._wakeup.fileno(), select.POLLIN)
        next_tick = time.monotonic() + TICK_SECONDS
        while not (self._closing and not self._unconfirmed and not self._requests):
            poll.poll(max(0.0, next_tick - time.monotonic()) * 1000)
            self._wakeup.clear()
            read_all(connection)
            if self._renewing and not self._unconfirmed:
                channel = self._renewed(connection, channel)
            if not self._renewing:
                with written_together(connection.transport):
                    self._send_waiting(channel)
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK_SECONDS
                connection.heartbeat_tick()
                self._check_confirms(now)
                self._declare_missing(connection)
                self._renewing = self._nacked
                if self._closing:
                    return  # closing does not wait for confirms longer than this
            self._metrics.publishes_unconfirmed.set(len(self._unconfirmed))

    def _send_waiting(self, channel: Any) -> None:
        requests = self._requests
        while requests and not self.blocked and len(self._unconfirmed) < WINDOW:
            request = requests.popleft()
            if request.future.done():
                continue  # withdrawn or cancelled
            outgoing = request.outgoing
            request.sent_at = time.monotonic()
            tag = self._unconfirmed.sent(request)
            try:
                channel.basic_publish(
                    BoundedMessage(outgoing, channel.connection.frame_max),
                    outgoing.exchange,
                    outgoing.routing_key,
                    mandatory=True,
                )
            except ENCODING_ERRORS:
                # Raised while encoding, before a byte was written: the connection is still good.
                self._unconfirmed.unsent(tag)
                self._resolve([(request, PublishFailure.UNENCODABLE)])

    def _check_confirms(self, now: float) -> None:
        """A confirm that is overdue ends the connection, unless the broker blocks publishers."""
        if self.blocked or not self._unconfirmed:
            return
        if now - self._unconfirmed.oldest_sent_at > self._confirm_timeout:
            log.warning("publish not confirmed in time", extra={"seconds": self._confirm_timeout})
            raise PublishError(PublishFailure.TIMEOUT)

    def _declare_missing(self, connection: Any) -> None:
        """After an unroutable publish: one of our queues was deleted. Declare it again, if we may."""
        if self._returned and self._topology is not None and self._declare:
            self._returned = False
            created = ensure(connection, self._topology, declare=True)
            log.warning("a publish was unroutable: queues verified", extra={"names": ", ".join(created)})

    # --- called by py-amqp -------------------------------------------------------------

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 py-amqp's signature
        self._resolve(self._unconfirmed.answered(tag, multiple=multiple))

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 py-amqp's signature
        self._nacked = True
        self._resolve(self._unconfirmed.answered(tag, PublishFailure.NACKED, multiple=multiple))

    def _on_return(self, _error: Exception, exchange: str, routing_key: str, message: Any) -> None:
        self._returned = True
        self._unconfirmed.returned(exchange, routing_key, message.body or b"")

    def _on_blocked(self, _reason: str) -> None:
        self.blocked = True
        self._metrics.broker_blocked.set(1)
        log.warning("broker blocks publishers: memory or disk alarm")

    def _on_unblocked(self) -> None:
        if self.blocked:
            self.blocked = False
            self._metrics.broker_blocked.set(0)
            log.info("broker no longer blocks publishers")

    # --- results -----------------------------------------------------------------------

    def _fail_unconfirmed(self, kind: PublishFailure) -> None:
        requests = self._unconfirmed.clear()
        if self._closing:
            requests += self._requests
            self._requests.clear()
        self._resolve([(request, kind) for request in requests])
        self._metrics.publishes_unconfirmed.set(0)

    def _resolve(self, results: list[Result]) -> None:
        for _, failure in results:
            if failure is not None:
                self._metrics.publish_failures[failure].inc()
        if results:
            self._loop.call_soon_threadsafe(_resolve_on_loop, results)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._closing and (left := until - time.monotonic()) > 0:
            self._wakeup.wait(left)


def _resolve_on_loop(results: list[Result]) -> None:
    for request, failure in results:
        resolve(request.future, failure)
