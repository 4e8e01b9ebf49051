"""Consumes an AMQP queue and acknowledges, on the event loop.

1. The loop reads the socket, as kombu's own worker loop does. Connecting, TLS and declaring block:
   a thread does them before the loop takes the connection over.
2. Any error on the connection or a channel ends the whole connection. Deliveries carry the
   generation of their connection and are never acknowledged on another.
3. A pause cancels the consumer: the backlog stays in the queue and no delivery is counted.
   Subscribing again is one frame without an answer to wait for.
4. Two channels: one with the full prefetch, one with a prefetch of 1 for probes.
"""

import asyncio
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
    CLOSE_TIMEOUT_SECONDS,
    ConnectionFactory,
    LogOnce,
    ReconnectDelay,
    build_delivery,
    close_connection,
)
from consumer.broker.declare import ensure, weaknesses
from consumer.broker.frames import FrameReader
from consumer.core.delivery import Delivery, Mode
from consumer.core.topology import Topology
from consumer.errors import BrokerError
from consumer.metrics import Metrics

log = logging.getLogger("journey_consumer.broker")

RECONNECT_BASE_SECONDS = 0.1
HEARTBEAT_TICK_SECONDS = 1.0
#: Acknowledgements are delayed by this, so that one frame can cover many.
ACK_DELAY_SECONDS = 0.004
_CLOSED = "closed"
_CHANNEL_MODES = (Mode.FLOW, Mode.PROBE)
_UNREACHABLE: tuple[type[Exception], ...] = (*ConnectionFactory.ERRORS, BrokerError)


class Subscription:
    """One AMQP channel with its prefetch, its consumer and its outstanding tags."""

    def __init__(self, number: int, channel: Any, queue: str) -> None:
        self.number = number
        self.channel = channel
        self.ledger = AckLedger()
        self.subscribed = False
        self._queue = queue
        self._tag = self._last_tag = ""
        self._turn = 0

    def start(self, callback: Callable[[Any], None], on_cancel: Callable[[str], None]) -> None:
        """Subscribe, without waiting for the broker's answer."""
        if self.subscribed:
            return
        self.subscribed = True
        # A new tag each time: RabbitMQ 3.10 ends the channel when a quorum queue's consumer comes
        # back under a tag that still has unacknowledged deliveries.
        self.channel.callbacks.pop(self._last_tag, None)
        self._turn += 1
        self._last_tag, self._tag = self._tag, f"journey-consumer.{self.number}.{self._turn}"
        self.channel.basic_consume(
            self._queue, consumer_tag=self._tag, nowait=True, callback=callback, on_cancel=on_cancel
        )

    def cancel(self) -> None:
        """Cancel the consumer. What is outstanding can still be acknowledged."""
        if self.subscribed:
            self.subscribed = False
            # Deliveries already on their way still reach the callback, which stays registered:
            # py-amqp requeues a delivery without callback, which is one more delivery on its count.
            self.channel.basic_cancel(self._tag, nowait=True)

    def write_acks(self, *, everything: bool = False) -> None:
        for tag, multiple in self.ledger.collect(everything=everything):
            self.channel.basic_ack(tag, multiple=multiple)


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
    ) -> None:
        self._connections = connections
        self._topology = topology
        self._prefetch = prefetch
        self._declare = declare
        self._metrics = metrics
        self._mode = Mode.NONE
        self._connection: Any = None
        self._subscriptions: list[Subscription] = []
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
        return any(subscription.subscribed for subscription in self._subscriptions)

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
                connection, channels = await self._loop.run_in_executor(self._thread, self._open)
            except _UNREACHABLE as error:
                unreachable.warn(error)
            else:
                unreachable.reset()
                opened = time.monotonic()
                reason = await self._serve(connection, channels)
                lived = time.monotonic() - opened
                if reason == _CLOSED:
                    return
                log.warning("broker connection lost", extra={"reason": reason})
                self._metrics.reconnects["consume"].inc()
            await asyncio.sleep(delay.next(lived))

    async def close(self) -> None:
        self._closing = True
        if self._connection is None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            return
        connection, channels = self._connection, [each.channel for each in self._subscriptions]
        self._guard(lambda: self._write_acks(everything=True))
        self._drop(_CLOSED)
        self._frames.give_back()
        await asyncio.get_running_loop().run_in_executor(
            self._thread, _close_after_acks, connection, channels, self._topology.queue
        )
        self._thread.shutdown(wait=False)

    # --- connection --------------------------------------------------------------------

    def _open(self) -> tuple[Any, list[Any]]:
        """In the thread: connect, verify the queues, open the two channels."""
        connection = self._connections.connect("consume")
        try:
            created = ensure(connection, self._topology, declare=self._declare)
            if created:
                log.info("declared", extra={"names": ", ".join(created)})
            for weakness in weaknesses(connection, self._topology.main):
                self._weak.warn(BrokerError(weakness))
            channels = []
            for prefetch in (self._prefetch, 1):
                channel = connection.channel()
                channel.basic_qos(0, prefetch, a_global=False)
                channels.append(channel)
        except BaseException:
            close_connection(connection, graceful=True)
            raise
        return connection, channels

    async def _serve(self, connection: Any, channels: list[Any]) -> str:
        """Own the connection until it is lost; returns why."""
        if self._closing:
            close_connection(connection, graceful=True)
            return _CLOSED
        self._generation += 1
        self._subscriptions = [
            Subscription(number, channel, self._topology.queue) for number, channel in enumerate(channels)
        ]
        self._connection = connection
        self._frames = FrameReader(connection)
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
            self._connection = None
            self._subscriptions = []
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
            self._guard(connection.heartbeat_tick)

    # --- frames ------------------------------------------------------------------------

    def _on_readable(self) -> None:
        self._guard(self._frames.read)

    def _apply_mode(self) -> None:
        allowed = {Mode.FLOW: self._prefetch, Mode.PROBE: 1, Mode.NONE: 0}
        self._metrics.prefetch.set(allowed[self._mode])
        for mode, subscription in zip(_CHANNEL_MODES, self._subscriptions, strict=True):
            if mode is self._mode:
                subscription.start(partial(self._deliver, subscription), self._on_cancel)
            else:
                subscription.cancel()

    def _on_cancel(self, _consumer_tag: str) -> None:
        self._metrics.broker_cancels.inc()
        raise ConnectionAbortedError("consumer cancelled by the broker")

    def _deliver(self, subscription: Subscription, message: Any) -> None:
        delivery = build_delivery(message, channel=subscription.number, generation=self._generation)
        subscription.ledger.delivered(delivery.tag)
        self._on_delivery(delivery)

    def _on_flush(self) -> None:
        self._flush = None
        self._guard(self._write_acks)
        if any(subscription.ledger.pending for subscription in self._subscriptions):
            self._flush = self._loop.call_later(ACK_DELAY_SECONDS, self._on_flush)

    def _write_acks(self, *, everything: bool = False) -> None:
        for subscription in self._subscriptions:
            subscription.write_acks(everything=everything)


def _close_after_acks(connection: Any, channels: list[Any], queue: str) -> None:
    """Close after the queue has taken the last acknowledgements.

    A quorum queue drops those that are still on their way when the channel closes. They have arrived
    when a later request on the same channel is answered.
    """
    try:
        connection.sock.settimeout(CLOSE_TIMEOUT_SECONDS)
        for channel in channels:
            channel.queue_declare(queue, passive=True)
    except Exception as error:  # noqa: BLE001 what was not acknowledged is delivered again
        log.debug("the last acknowledgements may be lost", extra={"reason": type(error).__name__})
    close_connection(connection, graceful=True)
