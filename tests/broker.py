"""One virtual host of the private node, as a test sees it: publish, look, count.

Speaks AMQP with py-amqp directly, never through the code under test. Every call opens and closes its own
connection, so that nothing here is shared between threads or survives a broker restart.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import amqp

if TYPE_CHECKING:
    from tests.rabbit import RabbitNode


class Depth(NamedTuple):
    """What a queue holds: ``ready`` for anyone, ``unacked`` with a consumer."""

    ready: int
    unacked: int

    @property
    def total(self) -> int:
        """Everything the queue would lose if it were deleted."""
        return self.ready + self.unacked


@dataclass(frozen=True, slots=True)
class Seen:
    """A message as it lies in a queue; ``properties`` without the headers."""

    body: bytes
    headers: dict[str, Any]
    properties: dict[str, Any]
    exchange: str
    routing_key: str
    redelivered: bool


class Broker:
    """A virtual host of ``node``."""

    def __init__(self, node: "RabbitNode", vhost: str) -> None:
        self.node = node
        self.vhost = vhost

    @property
    def url(self) -> str:
        """The broker's URL as the service takes it."""
        return self.url_at(self.node.port)

    @property
    def tls_url(self) -> str:
        """The TLS listener's URL; the node must have been made with ``tls``."""
        return f"amqps://guest:guest@localhost:{self.node.ports.tls}/{self.vhost}"

    def url_at(self, port: int) -> str:
        """Return the URL through another port of this machine, such as a proxy's."""
        return f"amqp://guest:guest@127.0.0.1:{port}/{self.vhost}"

    @contextlib.contextmanager
    def channel(self) -> Iterator[amqp.Channel]:
        """Lend a channel on a connection of its own."""
        connection = amqp.Connection(
            host=f"127.0.0.1:{self.node.port}",
            userid="guest",
            password="guest",
            virtual_host=self.vhost,
            connect_timeout=10,
            read_timeout=30,
            write_timeout=30,
        )
        try:
            connection.connect()
            yield connection.channel()
        finally:
            with contextlib.suppress(OSError, amqp.AMQPError):  # the broker may have gone in the meantime
                connection.close()
            connection.collect()

    def declare(self, queue: str, *, arguments: Mapping[str, Any] | None = None) -> None:
        """Declare a durable queue, a quorum queue unless ``arguments`` say otherwise."""
        wanted = {"x-queue-type": "quorum"} if arguments is None else dict(arguments)
        with self.channel() as channel:
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=wanted)

    def publish(
        self,
        queue: str,
        *bodies: bytes,
        exchange: str = "",
        headers: Mapping[str, Any] | None = None,
        **properties: Any,
    ) -> None:
        """Publish persistent messages to ``queue`` (the routing key) and wait for every confirm."""
        self.publish_all(((body, headers or {}) for body in bodies), queue, exchange=exchange, **properties)

    def publish_all(
        self,
        messages: Iterable[tuple[bytes, Mapping[str, Any]]],
        queue: str,
        *,
        exchange: str = "",
        **properties: Any,
    ) -> int:
        """Publish (body, headers) pairs, all in flight together; return how many were confirmed."""
        properties = {"delivery_mode": 2, "content_type": "application/json"} | properties
        with self.channel() as channel:
            confirmed: set[int] = set()
            sent = 0

            def ack(tag: int, multiple: bool) -> None:  # noqa: FBT001
                confirmed.update(range(1, tag + 1) if multiple else (tag,))

            channel.confirm_select()
            channel.events["basic_ack"].add(ack)
            for body, headers in messages:
                message = amqp.Message(body, application_headers=dict(headers), **properties)
                channel.basic_publish(message, exchange=exchange, routing_key=queue, mandatory=True)
                sent += 1
            while len(confirmed) < sent:
                channel.connection.drain_events(timeout=30)
        return sent

    def messages(self, queue: str) -> list[Seen]:
        """Return all ready messages of ``queue`` in order and leave them there.

        Looking counts as one delivery on a quorum queue, so look less often than its delivery limit.
        """
        with self.channel() as channel:
            return list(self._get_all(channel, queue))

    def take(self, queue: str) -> list[Seen]:
        """Return all ready messages of ``queue`` in order and remove them."""
        with self.channel() as channel:
            found = list(self._get_all(channel, queue))
            if found:
                channel.basic_ack(0, multiple=True)
                channel.queue_declare(queue, passive=True)  # answered after the acknowledgements were read
            return found

    def _get_all(self, channel: amqp.Channel, queue: str) -> Iterator[Seen]:
        while (message := channel.basic_get(queue)) is not None:
            properties = dict(message.properties)
            headers = properties.pop("application_headers", {})
            body = message.body
            info = message.delivery_info
            yield Seen(
                body=body.encode() if isinstance(body, str) else bytes(body),
                headers=headers,
                properties=properties,
                exchange=info["exchange"],
                routing_key=info["routing_key"],
                redelivered=info["redelivered"],
            )

    def queue_depths(self) -> dict[str, Depth]:
        """Return what each queue holds at this moment, by name."""
        return self.node.queue_depths(self.vhost)

    def depth(self, queue: str) -> Depth:
        """Return what ``queue`` holds; nothing when it does not exist."""
        return self.queue_depths().get(queue, Depth(0, 0))

    def consumers(self, queue: str) -> int:
        """Return how many consumers ``queue`` has; 0 when it does not exist."""
        try:
            with self.channel() as channel:
                return int(channel.queue_declare(queue, passive=True).consumer_count)
        except amqp.NotFound:
            return 0

    def purge(self, queue: str) -> None:
        """Drop what is ready in ``queue``."""
        with self.channel() as channel:
            channel.queue_purge(queue)

    def delete_queue(self, queue: str) -> None:
        """Delete ``queue`` with its messages; its consumers are cancelled by the broker."""
        with self.channel() as channel:
            channel.queue_delete(queue)

    def delete_exchange(self, exchange: str) -> None:
        """Delete ``exchange`` and its bindings."""
        with self.channel() as channel:
            channel.exchange_delete(exchange)

    def close_connections(self) -> int:
        """Close every client connection to this virtual host from the broker's side; return how many."""
        return self.node.close_connections(self.vhost)
