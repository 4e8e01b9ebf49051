"""Taking deliveries from an AMQP queue and acknowledging them, on the event loop.

1. The socket is read by the loop, the way kombu's own worker loop does it; connecting, TLS and
   declaring block, so a thread does them before the loop takes the connection over.
2. Any error on the connection or a channel throws the whole connection away. Deliveries carry
   the generation of their connection and are never acknowledged on another.
3. Pausing cancels the consumer: the backlog stays in the queue, no delivery count is burned.
   Subscribing again is one frame without an answer to wait for.
4. Two channels: one with the full prefetch, one that takes a single delivery to probe with.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from consumer.broker.connection import (
    CLOSE_TIMEOUT_SECONDS,
    ConnectionFactory,
    LogOnce,
    bounded,
    close_connection,
)
from consumer.broker.declare import ensure
from consumer.broker.frames import FrameReader
from consumer.broker.subscription import Subscription
from consumer.core.delivery import Delivery, Mode
from consumer.core.topology import Topology
from consumer.errors import BrokerError
from consumer.metrics import Metrics

log = logging.getLogger("journey_consumer.intake")

RECONNECT_BASE_SECONDS, RECONNECT_CAP_SECONDS = 0.1, 20.0
#: A connection that lived shorter than this counts as one more failure in a row.
SHORT_LIFE_SECONDS = 5.0
HEARTBEAT_TICK_SECONDS = 1.0
#: Acknowledgements wait this long for company: one frame can then speak for many.
ACK_DELAY_SECONDS = 0.004
_CLOSED = "closed"
_UNREACHABLE: tuple[type[Exception], ...] = (*ConnectionFactory.ERRORS, BrokerError)


class AmqpConsumer:
    """The consuming connection: connects for ever, delivers, acknowledges.

    Who ``listen``s is called on the loop for every delivery, and after a connection was thrown
    away (its unacknowledged deliveries will come again).
    """

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
        self._channels: dict[Mode, Subscription] = {}
        self._generation = 0
        self._lost: asyncio.Future[str] | None = None
        self._flush: asyncio.TimerHandle | None = None
        self._closing = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="intake-dial")

    # --- what the rest of the program asks ---------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether a connection is up, with its queues verified."""
        return self._connection is not None

    @property
    def subscribed(self) -> bool:
        """Whether the broker may send us deliveries now."""
        return any(channel.subscribed for channel in self._channels.values())

    def want(self, mode: Mode) -> None:
        """Take all, one to probe with, or nothing, now and after every reconnection."""
        if mode is not self._mode:
            self._mode = mode
            self._guard(self._apply_mode)

    def is_current(self, delivery: Delivery) -> bool:
        """Whether ``delivery`` can still be acknowledged."""
        return self._connection is not None and delivery.generation == self._generation

    def acknowledge(self, delivery: Delivery) -> bool:
        """Acknowledge, within milliseconds; False when the delivery's connection is gone."""
        if not self.is_current(delivery):
            return False
        self._channels_by_number[delivery.channel].ledger.settle(delivery.tag)
        if self._flush is None:
            self._flush = self._loop.call_later(ACK_DELAY_SECONDS, self._on_flush)
        return True

    async def run(self, on_delivery: Callable[[Delivery], None], on_lost: Callable[[], None]) -> None:
        """Stay connected until ``close``: connect, deliver, and after a loss wait and connect again."""
        self._on_delivery, self._on_lost = on_delivery, on_lost
        self._loop = asyncio.get_running_loop()
        failures = 0
        complaint = LogOnce(log, "broker unreachable")
        while True:
            started = time.monotonic()
            try:
                connection, channels = await self._loop.run_in_executor(self._thread, self._open)
            except _UNREACHABLE as error:
                complaint.tell(error)
            else:
                complaint.settle()
                reason = await self._serve(connection, channels)
                if reason == _CLOSED:
                    return
                log.warning("broker connection lost", extra={"reason": reason})
                self._metrics.reconnects["consume"].inc()
                if time.monotonic() - started > SHORT_LIFE_SECONDS:
                    failures = 0
            delay = min(RECONNECT_CAP_SECONDS, RECONNECT_BASE_SECONDS * 2**failures)
            failures = min(failures + 1, 10)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 jitter

    async def close(self) -> None:
        """Write the last acknowledgements and close; what is unacknowledged goes back."""
        self._closing = True
        if self._connection is None:
            self._thread.shutdown(wait=False, cancel_futures=True)
            return
        connection, subscriptions = self._connection, list(self._channels.values())
        self._guard(lambda: self._write_acks(everything=True))
        self._drop(_CLOSED)
        self._frames.give_back()
        await asyncio.get_running_loop().run_in_executor(
            self._thread, _farewell, connection, subscriptions, self._topology.queue
        )
        self._thread.shutdown(wait=False)

    # --- connection --------------------------------------------------------------------

    def _open(self) -> tuple[Any, list[Any]]:
        """In the thread: connect, make sure of the queues, open the two channels."""
        connection = self._connections.connect_to_broker("consume")
        try:
            created = ensure(connection, self._topology, declare=self._declare)
            if created:
                log.info("declared", extra={"names": ", ".join(created)})
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
        queue = self._topology.queue
        self._channels = {
            mode: Subscription(number, channel, queue)
            for number, (mode, channel) in enumerate(zip((Mode.FLOW, Mode.PROBE), channels, strict=True))
        }
        self._channels_by_number = list(self._channels.values())
        self._connection = connection
        self._frames = FrameReader(connection)
        self._lost = self._loop.create_future()
        # Kept, because py-amqp forgets the socket as soon as the broker closes the connection.
        self._descriptor = connection.sock.fileno()
        self._loop.add_reader(self._descriptor, self._on_readable)
        self._metrics.broker_connected["consume"].set(1)
        log.info("broker connected", extra={"server": _server(connection)})
        ticker = self._loop.create_task(self._heartbeats(connection))
        try:
            self._guard(self._apply_mode)
            self._guard(self._frames.read)  # frames that came while the thread still read
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
        """Forget the connection: from here on its deliveries are no longer current."""
        if self._connection is not None:
            self._loop.remove_reader(self._descriptor)
            self._connection = None
            self._channels = {}
            if self._flush is not None:
                self._flush.cancel()
                self._flush = None
            self._on_lost()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(reason)

    def _guard(self, action: Callable[[], None]) -> None:
        """Run what writes to or reads from the broker; whatever it raises costs the connection."""
        if self._connection is None:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 py-amqp also raises AttributeError and struct.error
            self._drop(type(error).__name__)

    async def _heartbeats(self, connection: Any) -> None:
        while self._connection is connection:
            await asyncio.sleep(HEARTBEAT_TICK_SECONDS)
            self._guard(connection.heartbeat_tick)

    # --- frames ------------------------------------------------------------------------

    def _on_readable(self) -> None:
        self._guard(self._frames.read)

    def _apply_mode(self) -> None:
        for mode, channel in self._channels.items():
            if mode is not self._mode:
                channel.cancel()
        allowed = {Mode.FLOW: self._prefetch, Mode.PROBE: 1, Mode.NONE: 0}
        self._metrics.prefetch.set(allowed[self._mode])
        wanted = self._channels.get(self._mode)
        if wanted is not None:
            number = wanted.number
            wanted.start(lambda message: self._deliver(message, number), self._on_cancel)

    def _on_cancel(self, _consumer_tag: str) -> None:
        self._metrics.broker_cancels.inc()
        raise ConnectionAbortedError("consumer cancelled by the broker")

    def _deliver(self, message: Any, number: int) -> None:
        info = message.delivery_info
        tag = info["delivery_tag"]
        properties = dict(message.properties)
        headers = bounded(properties.pop("application_headers", None))
        body = message.body or b""  # py-amqp gives "" for an empty body
        self._channels_by_number[number].ledger.delivered(tag)
        self._on_delivery(
            Delivery(
                body=body,
                headers=headers,
                properties=properties,
                exchange=info["exchange"],
                routing_key=info["routing_key"],
                redelivered=bool(info["redelivered"]),
                received_at=time.monotonic(),
                tag=tag,
                channel=number,
                generation=self._generation,
            )
        )

    def _on_flush(self) -> None:
        self._flush = None
        self._guard(self._write_acks)
        if any(channel.ledger.pending for channel in self._channels.values()):
            self._flush = self._loop.call_later(ACK_DELAY_SECONDS, self._on_flush)

    def _write_acks(self, *, everything: bool = False) -> None:
        for channel in self._channels.values():
            channel.write_acks(everything=everything)


def _server(connection: Any) -> str:
    properties = connection.server_properties
    return f"{properties.get('product', '?')} {properties.get('version', '?')}"


def _farewell(connection: Any, subscriptions: Collection[Subscription], queue: str) -> None:
    """Close only after the queue has taken the last acknowledgements.

    A quorum queue drops those that are still on their way when the channel closes. The answer to a
    question asked after them on the same channel tells that they have arrived.
    """
    try:
        connection.sock.settimeout(CLOSE_TIMEOUT_SECONDS)
        for subscription in subscriptions:
            subscription.channel.queue_declare(queue, passive=True)
    except Exception as error:  # noqa: BLE001 we are leaving; what was not acknowledged comes again
        log.debug("the last acknowledgements are uncertain", extra={"reason": type(error).__name__})
    close_connection(connection, graceful=True)
