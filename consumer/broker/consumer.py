"""Consumes an AMQP queue and acknowledges, on the event loop.

1. The loop reads and writes the socket, as kombu's own worker loop does. Connecting, TLS and declaring
   block: a thread does them before the loop takes the connection over.
2. Any error on the connection or a channel ends the whole connection. Deliveries carry the
   generation of their connection and are never acknowledged on another.
3. A pause cancels the consumer: the backlog stays in the queue and no delivery is counted.
4. Every subscription has a channel of its own, which is never consumed from again: what is acknowledged on
   it can only hit what was delivered on it, also when the queue was deleted and declared again meanwhile
   (no consumer, so no ``basic.cancel`` tells of it). RabbitMQ finds what an acknowledgement means to a
   classic queue by channel and number, and numbers start again in a new queue.
5. The answer to a subscription is not waited for, but its absence ends the connection; an idle one is
   renewed. That is how a quorum queue without its majority is noticed.
6. Above ``prefetch_bytes`` nothing more is read until enough is settled, whatever the prefetch still allows.
   RabbitMQ closes a connection that is not read for half a minute, so before that the consumer is
   cancelled and what is on its way goes back unread; then less is asked for. A probe is always read.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from consumer.broker import inspect
from consumer.broker.acks import AckLedger
from consumer.broker.causes import why
from consumer.broker.connection import (
    ANSWER_SECONDS,
    CLOSE_TIMEOUT_SECONDS,
    WRITE_TIMEOUT_SECONDS,
    ConnectionFactory,
    LogOnce,
    ReconnectDelay,
    build_delivery,
    close_connection,
    is_unexpected,
)
from consumer.broker.declare import ensure, weaknesses
from consumer.broker.frames import FrameReader, FrameWriter
from consumer.core.delivery import Delivery, Mode
from consumer.core.topology import Topology
from consumer.errors import BrokerError
from consumer.metrics import Metrics

log = logging.getLogger("journey_consumer.broker")

RECONNECT_BASE_SECONDS = 0.1
HEARTBEAT_TICK_SECONDS = 1.0
#: Acknowledgements are delayed by this, so that one frame can cover many.
ACK_DELAY_SECONDS = 0.004
#: A subscription that has delivered nothing for so long, and holds nothing, is renewed.
IDLE_SECONDS = 60.0
#: A channel that is not needed any more stays open for so long: a quorum queue takes many acknowledgements
#: in portions, and drops the rest when the channel closes.
LINGER_SECONDS = 5.0
#: Longest time without reading; RabbitMQ's own limit (``send_timeout``) is 15 to 30 seconds.
UNREAD_SECONDS = 8.0
#: A message larger than ``MOST_BODY_BYTES`` goes back after so long; its delivery limit ends that.
TOO_LARGE_SECONDS = 10.0
_CLOSED = "closed"


class Subscription:
    """One AMQP channel, opened for one consumer, and its outstanding tags."""

    def __init__(self, number: int, channel: Any, mode: Mode) -> None:
        self.number = number
        self.mode = mode
        self.channel = channel
        self.ledger = AckLedger()
        self.active_at = time.monotonic()  # when it was asked for, or delivered last
        self._tag = f"journey-consumer.{number}"
        self._unneeded_since: float | None = None

    def start(
        self, queue: str, prefetch: int, callback: Callable[[Any], None], on_cancel: Callable[[str], None]
    ) -> None:
        """Subscribe, without waiting for the broker's answer."""
        self.channel.consume(queue, self._tag, prefetch, callback, on_cancel)

    def cancel(self) -> None:
        """Cancel the consumer. What is outstanding, or still on its way, can be acknowledged."""
        self.channel.cancel(self._tag)

    def write_acks(self, *, everything: bool = False) -> None:
        if acks := self.ledger.collect(everything=everything):
            self.channel.acknowledge(acks)

    def unneeded(self, now: float) -> bool:
        """Whether nothing was to come or to be acknowledged for LINGER_SECONDS."""
        if not self.channel.cancelled or self.ledger.held or self.ledger.pending:
            return False
        if self._unneeded_since is None:
            self._unneeded_since = now
        return now - self._unneeded_since > LINGER_SECONDS


class AmqpConsumer:
    """The consuming connection: reconnects until closed, delivers, acknowledges."""

    def __init__(
        self,
        *,
        connections: ConnectionFactory,
        topology: Topology,
        prefetch: int,
        declare: bool,
        metrics: Metrics,
        prefetch_bytes: int = 32 * 1024 * 1024,
    ) -> None:
        self._connections = connections
        self._topology = topology
        self._prefetch = self._next_prefetch = prefetch
        self._prefetch_bytes = prefetch_bytes
        self._unread_since: float | None = None
        self._returning = False  # what is on its way goes back unread
        self._declare = declare
        self._metrics = metrics
        self._mode = Mode.NONE
        self._connection: Any = None
        self._subscriptions: dict[int, Subscription] = {}
        self._current: Subscription | None = None
        self._numbers = itertools.count(1)
        self._generation = 0
        self._lost: asyncio.Future[str] | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._closing = False
        self._weak = LogOnce("the queue weakens the guarantees")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="consumer-connect")

    @property
    def connected(self) -> bool:
        return self._connection is not None

    @property
    def subscribed(self) -> bool:
        return self._current is not None and bool(self._current.channel.consuming)

    def want(self, mode: Mode) -> None:
        if mode is not self._mode:
            self._mode = mode
            self._guard(self._apply_mode)

    def is_current(self, delivery: Delivery) -> bool:
        return self._connection is not None and delivery.generation == self._generation

    def acknowledge(self, delivery: Delivery) -> bool:
        if not self.is_current(delivery):
            return False
        self._subscriptions[delivery.channel].ledger.settle(delivery.tag)
        if self._crowded_out and self._held_bytes < self._prefetch_bytes:
            self._loop.call_soon(self._guard, self._make_room)
        if self._flush is None:
            self._flush = self._loop.call_later(ACK_DELAY_SECONDS, self._on_flush)
        return True

    async def run(self, on_delivery: Callable[[Delivery], None], on_lost: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_delivery, self._on_lost = on_delivery, on_lost
        unreachable, delay = LogOnce("broker unreachable"), ReconnectDelay(RECONNECT_BASE_SECONDS)
        while True:
            lived = 0.0
            try:
                connection = await self._loop.run_in_executor(self._thread, self._open)
            except Exception as error:  # noqa: BLE001 whatever a broker says or does, we try again
                unreachable.warn(error)
                if is_unexpected(error):
                    self._metrics.reconnects["consume"].inc()
            else:
                unreachable.reset()
                opened = time.monotonic()
                reason = await self._serve(connection)
                lived = time.monotonic() - opened
                if reason == _CLOSED:
                    return
                log.warning("broker connection lost", extra={"reason": reason})
                self._metrics.reconnects["consume"].inc()
            await asyncio.sleep(delay.next(lived))
            if self._closing:
                return

    async def close(self) -> None:
        self._closing = True
        if self._connection is None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            return
        connection, channels = self._connection, [each.channel for each in self._subscriptions.values()]
        self._guard(lambda: self._write_acks(everything=True))
        frames, writer = self._frames, self._writer
        self._drop(_CLOSED)
        frames.give_back()
        await asyncio.get_running_loop().run_in_executor(
            self._thread, _close_after_acks, connection, writer, channels, self._topology.queue
        )
        self._thread.shutdown(wait=False)

    # --- connection --------------------------------------------------------------------

    def _open(self) -> Any:
        """In the thread: connect and verify the queues."""
        connection = self._connections.connect("consume")
        try:
            created = ensure(connection, self._topology, declare=self._declare)
            for weakness in weaknesses(connection, self._topology.main):
                self._weak.warn(BrokerError(weakness))
        except BaseException:
            close_connection(connection, graceful=True)
            raise
        # Names also what the publishing connection declares meanwhile, and what was there before.
        names = [spec.name for spec in (self._topology.main, *self._topology.support())]
        log.info("queues exist", extra={"names": ", ".join(names), "declared": ", ".join(created)})
        return connection

    async def _serve(self, connection: Any) -> str:
        """Own the connection until it is lost; returns why."""
        if self._closing:
            close_connection(connection, graceful=False)
            return _CLOSED
        self._generation += 1
        self._connection = connection
        self._frames = FrameReader(connection)
        self._writer = FrameWriter(connection, self._loop, self._guard)
        self._unread_since, self._returning, self._next_prefetch = None, False, self._prefetch
        self._lost = self._loop.create_future()
        # Kept, because py-amqp forgets the socket as soon as the broker closes the connection.
        self._descriptor = connection.sock.fileno()
        self._loop.add_reader(self._descriptor, self._on_readable)
        self._metrics.broker_connected["consume"].set(1)
        log.info("broker connected", extra={"server": inspect.server(connection)})
        ticker = self._loop.create_task(self._heartbeats(connection))
        try:
            self._guard(self._apply_mode)
            self._on_readable()  # frames that arrived while the thread still read
            return await self._lost
        finally:
            ticker.cancel()
            self._metrics.broker_connected["consume"].set(0)
            if not self._closing:
                self._drop("cancelled")
                await self._loop.run_in_executor(
                    self._thread, partial(close_connection, connection, graceful=False)
                )

    def _drop(self, reason: str) -> None:
        """Forget the connection: its deliveries are no longer current."""
        if self._connection is not None:
            self._loop.remove_reader(self._descriptor)
            self._writer.close()
            self._connection = self._current = None
            self._subscriptions = {}
            if self._flush is not None:
                self._flush.cancel()
                self._flush = None
            self._on_lost()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(reason)

    def _guard(self, action: Callable[[], None]) -> None:
        """Run what writes to or reads from the broker; any exception ends the connection."""
        if self._connection is None:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 py-amqp also raises AttributeError and struct.error
            self._drop(why(error))

    async def _heartbeats(self, connection: Any) -> None:
        while self._connection is connection:
            await asyncio.sleep(HEARTBEAT_TICK_SECONDS)
            self._guard(self._tick)

    def _tick(self) -> None:
        if self._unread_since is not None:
            self._connection.bytes_recv += 1  # the broker's heartbeats may be there, unread
        self._connection.heartbeat_tick()
        if self._writer.stuck_seconds > WRITE_TIMEOUT_SECONDS:
            raise BrokerError("the broker does not read what is written to it")
        now, current = time.monotonic(), self._current
        if self._unread_since is not None:
            if now - self._unread_since > UNREAD_SECONDS:
                self._return_the_rest()
        elif current is not None:
            silent = now - current.active_at
            if not current.channel.consuming:
                if silent > ANSWER_SECONDS:
                    raise BrokerError("the queue does not answer: a majority of its nodes may be gone")
            elif silent > IDLE_SECONDS and not self._held:
                self._current = None
                current.cancel()
                self._apply_mode()
        for each in [each for each in self._subscriptions.values() if each.unneeded(now)]:
            each.channel.leave()
            del self._subscriptions[each.number]

    # --- bytes -------------------------------------------------------------------------

    @property
    def _held_bytes(self) -> int:
        return sum(each.ledger.held_bytes for each in self._subscriptions.values())

    @property
    def _crowded_out(self) -> bool:
        """Whether something is not read, or not asked for, because of the bytes that are held."""
        return self._unread_since is not None or self._returning

    def _stop_reading(self) -> None:
        if self._unread_since is None:
            self._unread_since = time.monotonic()
            self._frames.stopped = True
            self._loop.remove_reader(self._descriptor)

    def _read_on(self) -> None:
        if self._unread_since is not None:
            self._unread_since = None
            self._frames.stopped = False
            self._loop.add_reader(self._descriptor, self._on_readable)
            self._frames.read()

    def _make_room(self) -> None:
        """Enough was settled: read on, and ask again for what was given back."""
        if self._held_bytes < self._prefetch_bytes:
            self._read_on()
            if self._returning and self._held_bytes < self._prefetch_bytes / 2:
                self._returning = False
                self._apply_mode()

    def _return_the_rest(self) -> None:
        """Nothing was settled for long: hold what is here, and give back what is on its way."""
        size = self._held_bytes // max(1, self._held)
        log.warning(
            "deliveries go back unread",
            extra={"reason": "the bytes that are held are not settled", "bytes": self._held_bytes},
        )
        self._next_prefetch = max(1, min(self._prefetch, self._prefetch_bytes // max(1, size)))
        self._returning = True
        self._apply_mode()
        self._read_on()

    @property
    def _held(self) -> int:
        return sum(each.ledger.held for each in self._subscriptions.values())

    # --- frames ------------------------------------------------------------------------

    def _on_readable(self) -> None:
        if self._unread_since is None:
            self._guard(self._frames.read)

    def _apply_mode(self) -> None:
        mode = Mode.NONE if self._returning and self._mode is Mode.FLOW else self._mode
        self._metrics.prefetch.set({Mode.FLOW: self._prefetch, Mode.PROBE: 1, Mode.NONE: 0}[mode])
        current = self._current
        if current is not None and current.mode is not mode:
            self._current = None
            current.cancel()
        if self._current is None and mode is not Mode.NONE:
            prefetch = 1
            if mode is Mode.FLOW:
                prefetch, self._next_prefetch = self._next_prefetch, self._prefetch
            number = next(self._numbers)
            subscription = Subscription(number, self._connection.new_channel(), mode)
            self._current = self._subscriptions[number] = subscription
            subscription.start(
                self._topology.queue, prefetch, partial(self._deliver, subscription), self._on_cancel
            )

    def _on_cancel(self, _consumer_tag: str) -> None:
        self._metrics.broker_cancels.inc()
        raise ConnectionAbortedError("consumer cancelled by the broker")

    def _deliver(self, subscription: Subscription, message: Any) -> None:
        if self._connection is None:
            return  # closing: it goes back with its channel
        delivery = build_delivery(message, channel=subscription.number, generation=self._generation)
        subscription.active_at = delivery.received_at
        if self._connection.unread_body_bytes:
            log.warning(
                "a message is too large to be read",
                extra={"bytes": self._connection.unread_body_bytes, "message_id": delivery.message_id},
            )
            subscription.ledger.delivered(delivery.tag)  # or a "multiple" would acknowledge it
            self._loop.call_later(TOO_LARGE_SECONDS, self._give_back, delivery)
            return
        full = self._held_bytes >= self._prefetch_bytes
        if full and self._returning and subscription.mode is Mode.FLOW:
            subscription.channel.basic_reject(delivery.tag, requeue=True)
            return
        subscription.ledger.delivered(delivery.tag, len(delivery.body))
        self._on_delivery(delivery)
        if not self._returning and self._held_bytes >= self._prefetch_bytes:
            self._stop_reading()

    def _give_back(self, delivery: Delivery) -> None:
        if self.is_current(delivery):
            subscription = self._subscriptions[delivery.channel]
            subscription.ledger.returned(delivery.tag)
            self._guard(partial(subscription.channel.basic_reject, delivery.tag, requeue=True))

    def _on_flush(self) -> None:
        self._flush = None
        self._guard(self._write_acks)
        if any(each.ledger.pending for each in self._subscriptions.values()):
            self._flush = self._loop.call_later(ACK_DELAY_SECONDS, self._on_flush)

    def _write_acks(self, *, everything: bool = False) -> None:
        for subscription in self._subscriptions.values():
            subscription.write_acks(everything=everything)


def _close_after_acks(connection: Any, writer: FrameWriter, channels: list[Any], queue: str) -> None:
    """Close after the queue has taken the last acknowledgements.

    A quorum queue drops those that are still on their way when the channel closes. They have arrived
    when a later request on the same channel is answered.
    """
    try:
        with connection.within(CLOSE_TIMEOUT_SECONDS):
            writer.give_back()
            for channel in channels:
                channel.queue_declare(queue, passive=True)
    except Exception as error:  # noqa: BLE001 what was not acknowledged is delivered again
        log.debug("the last acknowledgements may be lost", extra={"reason": type(error).__name__})
    close_connection(connection, graceful=True)
