"""kombu's other transports (memory, Redis, SQS, file system, SQL): intake and publisher in one.

1. One thread owns one kombu connection and does everything on it: consume, acknowledge, publish.
2. These transports have neither confirms nor dead-lettering nor queues that wait. What that
   takes from our promises is said by ``promises.promises`` and logged at the start.
3. The rest of the program sees the same faces as with AMQP (``want``, ``acknowledge``, ``submit``).
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import kombu
from kombu.transport import virtual

from consumer.core.delivery import Delivery, Mode
from consumer.core.outgoing import Outgoing
from consumer.core.topology import Topology
from consumer.errors import BrokerError, PublishError, PublishFailure
from consumer.metrics import Metrics

log = logging.getLogger("journey_consumer.virtual")

POLL_SECONDS = 0.005
IDLE_SECONDS = 0.05
RECONNECT_SECONDS = 2.0
REACH_SECONDS = 5.0

_PROPERTIES = ("message_id", "correlation_id", "reply_to", "type", "app_id", "timestamp", "priority")


def reach(url: str) -> None:
    """Connect once and let go. Blocking; raises BrokerError, which does not quote the URL."""
    try:
        with kombu.Connection(url, connect_timeout=REACH_SECONDS) as link:
            link.connect()
            link.default_channel.close()
    except Exception as error:  # each transport raises its own library's errors
        raise BrokerError(type(error).__name__) from error


def transport_options(url: str) -> dict[str, Any]:
    """What kombu is told about the transport of ``url``; creates the folder of ``filesystem:///folder``.

    kombu's own default reads one folder and writes another: what returns to our queue would never
    be read again.
    """
    options: dict[str, Any] = {"polling_interval": POLL_SECONDS}
    parts = urlsplit(url)
    if parts.scheme == "filesystem":
        folder = Path(unquote(parts.netloc + parts.path) or ".")
        folder.mkdir(parents=True, exist_ok=True)
        options |= dict.fromkeys(("data_folder_in", "data_folder_out"), str(folder))
        options["control_folder"] = str(folder / "control")
    return options


class RawMessage(virtual.Message):
    """kombu decompresses a message that says it is compressed, without bound, before anyone looks."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any) -> None:
        headers = payload.get("headers") or {}
        seen = {k: v for k, v in headers.items() if k != "compression"}
        super().__init__({**payload, "headers": seen}, channel=channel, **kwargs)
        self._raw = payload
        self.headers = headers


def delivery_of(message: Any, generation: int = 0) -> Delivery:
    """One of kombu's messages as the rest of the program sees it."""
    info = message.delivery_info or {}
    properties = {k: message.properties[k] for k in _PROPERTIES if message.properties.get(k) is not None}
    for name in ("content_type", "content_encoding"):
        if getattr(message, name):
            properties[name] = getattr(message, name)
    body = message.body or b""
    return Delivery(
        body=body.encode() if isinstance(body, str) else bytes(body),
        headers=message.headers or {},
        properties=properties,
        exchange=info.get("exchange") or "",
        routing_key=info.get("routing_key") or "",
        redelivered=bool(info.get("redelivered") or message.properties.get("redelivered")),
        received_at=time.monotonic(),
        tag=message.delivery_tag,
        generation=generation,
    )


class VirtualLink:
    """Both sides of a broker without AMQP. Start with ``run``; every call is made on the loop."""

    delay_queues = False
    blocked = False

    def __init__(
        self,
        *,
        url: str,
        topology: Topology,
        prefetch: int,
        metrics: Metrics,
    ) -> None:
        self._url = url
        self._topology = topology
        self._prefetch = prefetch
        self._metrics = metrics
        self._commands: queue.SimpleQueue[Callable[[Any], None]] = queue.SimpleQueue()
        self._mode = Mode.NONE
        self._generation = 0
        self._connected = False
        self._subscribed = False
        self._closing = False
        self._on_delivery: Callable[[Delivery], None] = lambda _delivery: None
        self._on_lost: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._main, name="virtual-link", daemon=True)

    # --- intake ------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the queues are there and can be read."""
        return self._connected

    @property
    def subscribed(self) -> bool:
        """Whether deliveries are being taken."""
        return self._subscribed

    def want(self, mode: Mode) -> None:
        """Take all, one to probe with, or nothing."""
        if mode is not self._mode:
            self._mode = mode
            self._commands.put(self._apply_mode)

    def is_current(self, delivery: Delivery) -> bool:
        """Whether ``delivery`` can still be acknowledged."""
        return self._connected and delivery.generation == self._generation

    def acknowledge(self, delivery: Delivery) -> bool:
        """Acknowledge; False when the delivery's connection is gone."""
        if not self.is_current(delivery):
            return False
        tag = delivery.tag
        self._commands.put(lambda channel: channel.basic_ack(tag))
        return True

    async def run(self, on_delivery: Callable[[Delivery], None], on_lost: Callable[[], None]) -> None:
        """Serve until ``close``."""
        self._on_delivery, self._on_lost = on_delivery, on_lost
        self.start()
        await self._ended.wait()

    async def close(self) -> None:
        """Finish what was asked, then disconnect; what is unacknowledged goes back to its queue."""
        self._closing = True
        if self._thread.ident is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join, 5.0)

    # --- publisher ---------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the transport takes publishes now."""
        return self._connected

    def start(self) -> None:
        """Start the thread once."""
        if self._thread.ident is None:
            self._ended = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            self._thread.start()

    def submit(self, outgoing: Outgoing) -> asyncio.Future[None]:
        """Publish; the future ends when the transport has taken the message."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self._closing:
            future.set_exception(PublishError(PublishFailure.CLOSED))
        else:
            self._commands.put(lambda channel: self._publish(channel, outgoing, future))
        return future

    def withdraw(self, future: asyncio.Future[None]) -> None:
        """End ``future`` as out of date; its message is not published if it was not sent yet."""
        if not future.done():
            future.set_exception(PublishError(PublishFailure.OUT_OF_DATE))

    # --- in the thread -----------------------------------------------------------------

    def _main(self) -> None:
        warned = False
        while not self._closing:
            try:
                with kombu.Connection(self._url, transport_options=transport_options(self._url)) as link:
                    self._serve(link)
                    warned = False
            except Exception as error:  # noqa: BLE001 each transport raises its own library's errors
                if not warned:
                    log.warning("broker connection lost", extra={"reason": type(error).__name__})
                    warned = True
                self._metrics.reconnects["consume"].inc()
                time.sleep(RECONNECT_SECONDS if not self._closing else 0)
            finally:
                if self._connected:
                    self._connected = self._subscribed = False
                    self._gauge(0)
                    self._loop.call_soon_threadsafe(self._on_lost)
        self._loop.call_soon_threadsafe(self._ended.set)

    def _serve(self, link: Any) -> None:
        channel = link.channel()
        channel.Message = RawMessage
        # kombu would write what it cannot give back to a file and to standard error, bodies included.
        channel.do_restore = False
        try:
            self._serve_channel(link, channel)
        finally:
            if channel._qos is not None:  # noqa: SLF001 asking for `qos` would make one
                channel.qos.restore_unacked()
        channel.close()

    def _serve_channel(self, link: Any, channel: Any) -> None:
        self._declare(channel)
        self._generation += 1
        self._connected = True
        self._gauge(1)
        self._apply_mode(channel)
        while True:
            while not self._commands.empty():
                self._commands.get()(channel)
            if self._closing:
                return
            if self._subscribed:
                try:
                    link.drain_events(timeout=IDLE_SECONDS)
                except TimeoutError:
                    continue
            else:
                self._wait_for_command(channel)

    def _wait_for_command(self, channel: Any) -> None:
        try:
            command = self._commands.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            return
        command(channel)

    def _gauge(self, value: int) -> None:
        for side in ("consume", "publish"):
            self._metrics.broker_connected[side].set(value)

    def _declare(self, channel: Any) -> None:
        topology = self._topology
        channel.exchange_declare(topology.dead_letter_exchange, "direct", durable=True)
        channel.queue_declare(topology.queue, durable=True)
        for reason in topology.dead_letter_reasons:
            name = topology.dead_letter_queue(reason)
            channel.queue_declare(name, durable=True)
            channel.queue_bind(name, topology.dead_letter_exchange, reason)

    def _apply_mode(self, channel: Any) -> None:
        if self._subscribed:
            channel.basic_cancel("journey-consumer")
        self._subscribed = self._mode is not Mode.NONE
        if self._subscribed:
            channel.basic_qos(0, 1 if self._mode is Mode.PROBE else self._prefetch, False)  # noqa: FBT003
            channel.basic_consume(self._topology.queue, False, self._deliver, "journey-consumer")  # noqa: FBT003

    def _deliver(self, message: Any) -> None:
        self._loop.call_soon_threadsafe(self._on_delivery, delivery_of(message, self._generation))

    def _publish(self, channel: Any, outgoing: Outgoing, future: asyncio.Future[None]) -> None:
        if future.done():
            return
        properties = dict(outgoing.properties)
        message = channel.prepare_message(
            outgoing.body,
            priority=properties.pop("priority", None),
            content_type=properties.pop("content_type", None),
            content_encoding=properties.pop("content_encoding", None),
            headers=dict(outgoing.headers),
            properties=properties,
        )
        try:
            channel.basic_publish(message, exchange=outgoing.exchange, routing_key=outgoing.routing_key)
        except Exception:
            self._loop.call_soon_threadsafe(_end, future, PublishError(PublishFailure.CONNECTION))
            raise
        self._loop.call_soon_threadsafe(_end, future, None)


def _end(future: asyncio.Future[None], error: PublishError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
