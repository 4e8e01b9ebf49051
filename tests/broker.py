"""One virtual host of the private node: publish, read, count.

Speaks AMQP with py-amqp directly, never through the code under test. Every call opens and closes its own
connection, so that nothing here is shared between threads or survives a broker restart. Depths are read live
from the queues' own state, not from the statistics, which lag by five seconds.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import amqp

from tests.rabbit_setup import NodeError
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.rabbit import RabbitNode


_DEPTHS = """[begin
    Counts = case amqqueue:get_type(Q) of
        rabbit_quorum_queue ->
            {ok, {_, N}, _} = ra:leader_query(amqqueue:get_pid(Q), fun(State) ->
                {Leaving, _} = rabbit_fifo:query_stat_dlx(State),
                [rabbit_fifo:query_messages_ready(State),
                 rabbit_fifo:query_messages_checked_out(State) + Leaving] end),
            N;
        _ ->
            [N || {_, N} <- rabbit_amqqueue:info(Q, [messages_ready, messages_unacknowledged])]
    end,
    io_lib:format("~ts\\t~b\\t~b~n", [element(4, amqqueue:get_name(Q)) | Counts])
end || Q <- rabbit_amqqueue:list(<<"%s">>)]"""

_CLOSE_CONNECTIONS = """integer_to_list(length([rabbit_networking:close_connection(Pid, "tests")
    || Pid <- rabbit_networking:connections(),
       rabbit_networking:connection_info(Pid, [vhost]) =:= [{vhost, <<"%s">>}]]))"""


class Depth(NamedTuple):
    """What a queue holds: ``ready`` for anyone, ``unacked`` with a consumer.

    With a quorum queue ``unacked`` also counts what the broker itself is moving to another queue.
    """

    ready: int
    unacked: int

    @property
    def total(self) -> int:
        """Everything the queue would lose if it were deleted."""
        return self.ready + self.unacked


@dataclass(frozen=True, slots=True)
class Seen:
    """A message as it lies in a queue; ``properties`` without the headers.

    ``headers`` are the publisher's: a quorum queue's own ``x-delivery-count`` is taken out of them.
    """

    body: bytes
    headers: dict[str, Any]
    properties: dict[str, Any]
    exchange: str
    routing_key: str
    redelivered: bool
    delivery_count: int


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
        return f"amqp://guest:guest@{self.node.place.host}:{port}/{self.vhost}"

    @contextlib.contextmanager
    def user(
        self,
        *,
        configure: str = ".*",
        write: str = ".*",
        read: str = ".*",
        password: str = "pw",  # noqa: S107
    ) -> Iterator[str]:
        """Lend a user with these permissions; gives the URL with the user and the password."""
        name, backend = f"user-{self.vhost}", "rabbit_auth_backend_internal"
        self.node.eval(
            f'begin ok = {backend}:add_user(<<"{name}">>, <<"{password}">>, <<"tests">>), '
            f'ok = {backend}:set_permissions(<<"{name}">>, <<"{self.vhost}">>, '
            f'<<"{configure}">>, <<"{write}">>, <<"{read}">>, <<"tests">>), [] end'
        )
        try:
            yield self.url.replace("guest:guest", f"{name}:{password}")
        finally:
            self.node.eval(f'begin ok = {backend}:delete_user(<<"{name}">>, <<"tests">>), [] end')

    @contextlib.contextmanager
    def channel(self) -> Iterator[amqp.Channel]:
        """Lend a channel on a connection of its own."""
        with self.connection() as connection:
            channel = connection.channel()
            channel.auto_decode = False  # py-amqp would decode bodies by their content encoding
            yield channel

    @contextlib.contextmanager
    def connection(self, **options: Any) -> Iterator[amqp.Connection]:
        """Lend a py-amqp connection; ``options`` as its constructor takes them."""
        connection = amqp.Connection(
            **{"host": f"{self.node.place.host}:{self.node.port}", "virtual_host": self.vhost}
            | {"connect_timeout": 10}
            | options
        )
        try:
            connection.connect()
            yield connection
            with contextlib.suppress(OSError, amqp.AMQPError):  # the broker may have stopped in the meantime
                connection.close()
        finally:
            _close_socket(connection)

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

        Reading counts as one delivery on a quorum queue, so read less often than its delivery limit. It
        is the end of a test: RabbitMQ may mistake messages for each other when some are acknowledged after it
        and the node is restarted then (seen with 1,500 of them).
        """
        with self.channel() as channel:
            return list(self._get_all(channel, queue))

    def take(self, queue: str) -> list[Seen]:
        """Return all ready messages of ``queue`` in order and remove them."""
        before = self.depth(queue).unacked
        with self.channel() as channel:
            found = list(self._get_all(channel, queue))
            channel.basic_ack(0, multiple=True)
            # A quorum queue takes acknowledgements in portions and drops the rest when the channel closes.
            wait_until(lambda: self.depth(queue).unacked <= before, 10, "the acknowledgements are taken")
            return found

    def _get_all(self, channel: amqp.Channel, queue: str) -> Iterator[Seen]:
        while (message := channel.basic_get(queue)) is not None:
            properties = dict(message.properties)
            headers = dict(properties.pop("application_headers", {}))
            body = message.body
            info = message.delivery_info
            yield Seen(
                body=body.encode() if isinstance(body, str) else bytes(body),
                delivery_count=headers.pop("x-delivery-count", 0),
                headers=headers,
                properties=properties,
                exchange=info["exchange"],
                routing_key=info["routing_key"],
                redelivered=info["redelivered"],
            )

    def queue_depths(self) -> dict[str, Depth]:
        """Return what each queue holds at this moment, by name."""
        rows = (line.split("\t") for line in self._eval_while_declaring(_DEPTHS % self.vhost).splitlines())
        return {name: Depth(int(ready), int(unacked)) for name, ready, unacked in rows}

    def _eval_while_declaring(self, expression: str) -> str:
        """Ask again when a queue was just being declared: for a moment it has a name and no process."""
        deadline = time.monotonic() + 5.0
        while True:
            try:
                return self.node.eval(expression)
            except NodeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

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
        return int(self.node.eval(_CLOSE_CONNECTIONS % self.vhost))


def _close_socket(connection: amqp.Connection) -> None:
    # What py-amqp leaves open when connecting fails or the broker has stopped; here leaks are errors.
    transport = connection._transport
    if transport is not None and transport.sock is not None:
        transport.sock.close()
        transport.sock = None
    connection.collect()
