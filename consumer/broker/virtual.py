"""Brokers without AMQP, by kombu's transports: ``memory://`` and ``sqs://``. Consumer, publisher and reader.

1. One thread owns one kombu connection and does everything on it: consume, acknowledge, publish.
2. These brokers have neither delay queues nor a dead-letter route that we declare. What that takes from our
   promises is said by ``transport_limits`` and logged at the start.
3. The rest of the program sees the interface of the AMQP classes (``want``, ``acknowledge``, ``submit``).
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import kombu
from kombu.transport import virtual

from consumer.broker.confirms import resolve
from consumer.broker.connection import LogOnce
from consumer.broker.queue_reader import BATCH_BYTES
from consumer.config.settings import is_loopback
from consumer.core.delivery import Delivery, Mode
from consumer.core.outgoing import Outgoing
from consumer.core.topology import Topology
from consumer.errors import BrokerError, PublishFailure
from consumer.metrics import Metrics

POLL_SECONDS = 0.005
IDLE_SECONDS = 0.05
RECONNECT_SECONDS = 2.0
#: How long SQS holds a request to an empty queue open; acknowledgements and publishes wait behind it.
SQS_WAIT_SECONDS = 1
_SQS_CLIENT = {"connect_timeout": 5, "read_timeout": 10, "retries": {"total_max_attempts": 2}}
#: How SQS refuses one message: too large, or with characters that it does not take.
_SQS_REFUSALS = ("InvalidParameterValue", "InvalidMessageContents")

_PROPERTIES = ("message_id", "correlation_id", "reply_to", "type", "app_id", "timestamp", "priority")
_LIMITS = {
    "memory": "everything is lost when the process ends: for demonstrations and tests only",
    "sqs": "a message that is held longer than its queue's visibility timeout is delivered again",
}
_COMMON = (
    "no delay queues: a retry waits in this process, unacknowledged, and returns to the end of the queue; "
    "a message that kills the process is not dead-lettered, unless the queue has a redrive policy of its own"
)


def transport_limits(url: str) -> str:
    """What the broker of ``url`` cannot promise, in one sentence."""
    return f"{_LIMITS[urlsplit(url).scheme]}; {_COMMON}"


@dataclass(frozen=True, slots=True)
class VirtualFacts:
    """What exists at a broker: None for what does not, or has no such attribute."""

    messages: int | None
    visibility_timeout_seconds: int | None


def inspect_virtual(url: str, name: str) -> VirtualFacts:
    """Ask for the queue ``name``. Blocking; raises BrokerError, which does not quote the URL."""
    try:
        with open_link(url) as link:
            channel = open_channel(link)
            if not channel._has_queue(name):  # noqa: SLF001 kombu's passive declaration raises on one transport
                return VirtualFacts(None, None)
            visibility = channel.visibility_timeout_of(name) if url.startswith("sqs:") else None
            return VirtualFacts(_count(channel, name), visibility)
    except Exception as error:  # each transport raises its own library's errors
        raise BrokerError(_why(error)) from error


def open_link(url: str) -> Any:
    """A kombu connection to ``url``, not yet connected."""
    parts = urlsplit(url)
    options: dict[str, Any] = {"polling_interval": POLL_SECONDS}
    if parts.scheme == "memory":
        return kombu.Connection(url, transport_options=options)
    from consumer.broker.sqs import SqsTransport  # noqa: PLC0415 boto3 is an extra

    query = dict(parse_qsl(parts.query))
    options |= {
        "region": query.get("region"),
        "wait_time_seconds": SQS_WAIT_SECONDS,
        "sqs_base64_encoding": False,  # a third smaller; kombu reads both
        "client-config": _SQS_CLIENT,
    }
    if parts.hostname:
        options["is_secure"] = query.get("is_secure", str(not is_loopback(url)).lower()) == "true"
    return kombu.Connection(url.partition("?")[0], transport=SqsTransport, transport_options=options)


def open_channel(link: Any) -> Any:
    channel = link.channel()
    channel.Message = RawMessage
    # kombu writes what it cannot give back to a file and to standard error, bodies included.
    channel.do_restore = False
    return channel


class RawMessage(virtual.Message):
    """Without kombu's decompression of a body that claims to be compressed, which has no bound."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any) -> None:
        headers = payload.get("headers") or {}
        plain = {k: v for k, v in headers.items() if k != "compression"}
        super().__init__({**payload, "headers": plain}, channel=channel, **kwargs)
        self.headers = headers


def build_delivery(message: Any, generation: int = 0) -> Delivery:
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
    """Consumer and publisher in one. ``start`` is enough to publish; ``run`` also delivers."""

    delay_queues = False
    blocked = False

    def __init__(self, *, url: str, topology: Topology, prefetch: int, metrics: Metrics) -> None:
        self._url = url
        self._topology = topology
        self._prefetch = prefetch
        self._metrics = metrics
        self._commands: queue.SimpleQueue[Callable[[Any], None]] = queue.SimpleQueue()
        self._mode = Mode.NONE
        self._generation = 0
        self.connected = self.subscribed = False
        self._closing = False
        self._runs = False  # until ``run``: nothing is consumed
        self._on_lost: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._main, name="virtual-link", daemon=True)

    # --- consumer ----------------------------------------------------------------------

    def want(self, mode: Mode) -> None:
        if mode is not self._mode:
            self._mode = mode
            self._commands.put(self._apply_mode)

    def is_current(self, delivery: Delivery) -> bool:
        return self.connected and delivery.generation == self._generation

    def acknowledge(self, delivery: Delivery) -> bool:
        if not self.is_current(delivery):
            return False
        self._commands.put(lambda channel: channel.basic_ack(delivery.tag))
        return True

    async def run(self, on_delivery: Callable[[Delivery], None], on_lost: Callable[[], None]) -> None:
        self._on_delivery, self._on_lost = on_delivery, on_lost
        self._runs = True
        self.start()
        self._commands.put(self._apply_mode)
        await self._ended.wait()

    async def close(self) -> None:
        """Finish what was submitted, then disconnect; what is unacknowledged goes back to its queue."""
        self._closing = True
        if self._thread.ident is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join, 5.0)

    # --- publisher ---------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self.connected

    async def watch(self) -> None:
        await asyncio.Event().wait()

    def start(self) -> None:
        """Start the thread, once."""
        if self._thread.ident is None:
            self._ended = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            self._thread.start()

    def submit(self, outgoing: Outgoing) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        if self._closing:
            resolve(future, PublishFailure.CLOSED)
        else:
            self._commands.put(lambda channel: self._publish(channel, outgoing, future))
        return future

    def withdraw(self, future: asyncio.Future[None]) -> None:
        resolve(future, PublishFailure.OUT_OF_DATE)

    # --- in the thread -----------------------------------------------------------------

    def _main(self) -> None:
        lost = LogOnce("broker connection lost")
        while not self._closing:
            try:
                with open_link(self._url) as link:
                    self._serve(link, lost.reset)
            except Exception as error:  # noqa: BLE001 each transport raises its own library's errors
                lost.warn(BrokerError(_why(error)))
                self._metrics.reconnects["consume"].inc()
                time.sleep(RECONNECT_SECONDS if not self._closing else 0)
            finally:
                if self.connected:
                    self.connected = self.subscribed = False
                    self._gauge(0)
                    self._loop.call_soon_threadsafe(self._on_lost)
        self._loop.call_soon_threadsafe(self._ended.set)

    def _serve(self, link: Any, on_connected: Callable[[], None]) -> None:
        channel = open_channel(link)
        try:
            self._declare(channel)
            self._generation += 1
            self.connected = True
            on_connected()
            self._gauge(1)
            self._apply_mode(channel)
            while True:
                closing = self._closing  # read first: what was submitted before is still done
                command = self._next_command()
                if command is not None:
                    command(channel)
                elif closing:
                    break
                elif self.subscribed:
                    with contextlib.suppress(TimeoutError):
                        link.drain_events(timeout=IDLE_SECONDS)
        finally:
            if channel._qos is not None:  # noqa: SLF001 asking for `qos` would make one
                channel.qos.restore_unacked()
        channel.close()

    def _next_command(self) -> Callable[[Any], None] | None:
        """Waits only while there is nothing to consume."""
        try:
            return self._commands.get(timeout=0 if self.subscribed or self._closing else IDLE_SECONDS)
        except queue.Empty:
            return None

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
        if self.subscribed:
            channel.basic_cancel("journey-consumer")
        self.subscribed = self._runs and self._mode is not Mode.NONE
        if self.subscribed:
            held = len(channel.qos._delivered) - len(channel.qos._dirty)  # noqa: SLF001 kombu counts per channel
            most = held + 1 if self._mode is Mode.PROBE else self._prefetch
            channel.basic_qos(0, most, False)  # noqa: FBT003
            channel.basic_consume(self._topology.queue, False, self._deliver, "journey-consumer")  # noqa: FBT003

    def _deliver(self, message: Any) -> None:
        self._loop.call_soon_threadsafe(self._on_delivery, build_delivery(message, self._generation))

    def _publish(self, channel: Any, outgoing: Outgoing, future: asyncio.Future[None]) -> None:
        if future.done():
            return  # withdrawn or cancelled
        properties = dict(outgoing.properties)
        message = channel.prepare_message(
            outgoing.body,
            priority=properties.pop("priority", None),
            content_type=properties.pop("content_type", None),
            content_encoding=properties.pop("content_encoding", None),
            headers=dict(outgoing.headers),
            properties=properties,
        )
        failure = None
        try:
            if channel._lookup(outgoing.exchange, outgoing.routing_key):  # noqa: SLF001 kombu drops the unroutable
                channel.basic_publish(message, exchange=outgoing.exchange, routing_key=outgoing.routing_key)
            else:
                failure = PublishFailure.RETURNED
        except Exception as error:
            failure = PublishFailure.UNENCODABLE if _is_refused(error) else PublishFailure.CONNECTION
            if failure is PublishFailure.CONNECTION:
                raise
        finally:
            if failure is not None:
                self._metrics.publish_failures[failure].inc()
            self._loop.call_soon_threadsafe(resolve, future, failure)


class VirtualQueueReader:
    """Reads one queue. ``open`` may be called again: it counts what waits now."""

    def __init__(self, url: str, queue: str) -> None:
        self._url = url
        self._queue = queue
        self._left = 0
        self._link: Any = None

    def open(self, at_least: int = 0) -> int:  # noqa: ARG002 these brokers take messages back at once
        try:
            if self._link is None:
                self._link = open_link(self._url)
                self._channel = open_channel(self._link)
            self._left = _count(self._channel, self._queue)
        except Exception as error:  # each transport raises its own library's errors
            raise BrokerError(f"the queue {self._queue!r} cannot be read: {_why(error)}") from error
        return self._left

    def read(self, most: int) -> list[Delivery]:
        batch = list[Delivery]()
        size = 0
        while len(batch) < min(most, self._left) and size < BATCH_BYTES:
            message = self._channel.basic_get(self._queue)
            if message is None:
                break
            batch.append(build_delivery(message))
            size += len(batch[-1].body)
        self._left -= len(batch)
        return batch

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self._channel.basic_ack(delivery.tag)

    def finish(self) -> None:
        """An acknowledgement has been answered when ``acknowledge`` returns."""

    def keep_alive(self) -> None:
        """These brokers have no heartbeats."""

    def close(self) -> None:
        if self._link is not None:
            self._channel.qos.restore_unacked()
            self._channel.close()
            self._link.release()


def _count(channel: Any, name: str) -> int:
    return int(channel.queue_declare(name, passive=True).message_count)


def _refusal(error: Exception) -> str:
    """The code of an AWS answer; empty for any other error."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _is_refused(error: Exception) -> bool:
    """Whether this message alone cannot be published: its headers, its size or its characters."""
    return isinstance(error, TypeError | ValueError | RecursionError) or _refusal(error) in _SQS_REFUSALS


def _why(error: Exception) -> str:
    """The kind of an error; never its text, which may quote a URL."""
    return _refusal(error) or type(error).__name__
