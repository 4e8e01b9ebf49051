"""Why a broker refuses or is lost, told from what RabbitMQ really answers."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from consumer.broker.causes import CANCELLED, why
from consumer.broker.connection import ConnectionFactory, close_connection
from tests.broker import Broker
from tests.integration.conftest import Run
from tests.ledger import QUEUE
from tests.proxy import Proxy
from tests.rabbit import RabbitNode
from tests.waiting import wait_until

VHOST = "the virtual host does not exist, or this user has no access to it"


@contextmanager
def connected(url: str, heartbeat_seconds: int = 0) -> Iterator[Any]:
    """A connection as the service makes it."""
    connection = ConnectionFactory([url], heartbeat_seconds=heartbeat_seconds).connect("test")
    try:
        yield connection
    finally:
        close_connection(connection, graceful=False)


def cause(request: Callable[[], Any]) -> str:
    """What is told of the failure of ``request``."""
    try:
        request()
    except Exception as error:  # noqa: BLE001 whatever comes is to be told
        return why(error)
    raise AssertionError("the broker accepted it")


def acknowledge_what_never_came(channel: Any) -> None:
    channel.basic_ack(77)
    channel.queue_declare("q", passive=True)


@pytest.mark.parametrize(
    ("request_of", "told"),
    [
        (lambda channel: channel.basic_consume("taken"),
         "the queue 'taken' has an exclusive consumer elsewhere"),
        (lambda channel: channel.queue_declare("mine", passive=True),
         "the queue 'mine' is exclusive to another connection"),
        (lambda channel: channel.basic_consume("missing"), "the queue 'missing' does not exist"),
        (lambda channel: channel.exchange_declare("missing", "direct", passive=True),
         "the exchange 'missing' does not exist"),
        (lambda channel: channel.queue_declare("q", durable=True, auto_delete=False),
         "the queue 'q' exists with another x-queue-type"),
        (lambda channel: channel.queue_declare("new", arguments={"x-expires": "soon"}),
         "the broker does not accept the argument x-expires of the queue 'new'"),
        (acknowledge_what_never_came, "an acknowledgement names a delivery that the broker does not know"),
    ],
)  # fmt: skip
def test_a_refused_request(vhost: Broker, request_of: Callable[[Any], Any], told: str) -> None:
    vhost.declare("q")
    with vhost.channel() as other, connected(vhost.url) as connection:
        other.queue_declare("taken", durable=True, auto_delete=False)
        other.basic_consume("taken", exclusive=True)
        other.queue_declare("mine", exclusive=True)
        assert cause(lambda: request_of(connection.channel())) == told


def test_a_missing_permission(vhost: Broker) -> None:
    """RabbitMQ 4 also names which; a wrong password has the same code."""
    vhost.declare("q")
    with vhost.user(configure="^$", write="^$", read="^$") as url:
        with connected(url) as connection:
            told = cause(lambda: connection.channel().basic_consume("q"))
        assert told in {f"this user lacks {which} permission on the queue 'q'" for which in ("a", "the read")}
        wrong = url.replace(":pw@", ":s3cret@")
        assert cause(lambda: ConnectionFactory([wrong]).connect("test")) == (
            "the broker refuses this user name and password"
        )


def test_a_virtual_host_that_is_missing_closed_to_the_user_or_full(vhost: Broker) -> None:
    connect = lambda url: cause(lambda: ConnectionFactory([url]).connect("test"))  # noqa: E731
    assert connect(vhost.url + "-not") == VHOST
    with vhost.user() as url:
        assert connect(url.removesuffix(vhost.vhost)) == VHOST
    vhost.node.ctl("set_vhost_limits", "--vhost", vhost.vhost, '{"max-connections": 0}')
    assert connect(vhost.url) == "the broker's limit of connections is reached"


def test_addresses_that_are_not_amqp(vhost: Broker) -> None:
    """Nobody listens; TLS to a plain port."""
    connect = lambda url: cause(lambda: ConnectionFactory([url]).connect("test"))  # noqa: E731
    assert connect("amqp://127.0.0.1:1//").startswith("connection refused")
    assert connect(vhost.url.replace("amqp:", "amqps:")).startswith("TLS failed")
    assert connect("amqp://no-such-host.invalid//") == "the host name cannot be resolved"


def test_a_deleted_queue_cancels_its_consumer(vhost: Broker) -> None:
    vhost.declare("q")
    with connected(vhost.url) as connection:
        connection.channel().basic_consume("q")
        vhost.delete_queue("q")
        assert cause(lambda: connection.drain_events(timeout=10)) == CANCELLED


def test_a_connection_that_an_operator_closes(vhost: Broker) -> None:
    with connected(vhost.url) as connection:
        wait_until(vhost.close_connections, 10, "it is known to the broker")
        assert cause(lambda: connection.drain_events(timeout=10)).startswith(
            "the broker closed the connection"
        )


def test_a_silent_broker(vhost: Broker) -> None:
    """Its heartbeats stop, while the connection stays open."""
    with (
        Proxy("127.0.0.1", vhost.node.port) as proxy,
        connected(vhost.url_at(proxy.port), heartbeat_seconds=1) as connection,
    ):
        proxy.blackhole()

        def beats() -> bool:
            connection.heartbeat_tick()
            return False

        told = cause(lambda: wait_until(beats, 30, "a missed heartbeat", interval=0.5))
    assert told == "heartbeats missed: the broker hangs, or the network is cut"


def test_a_message_held_longer_than_the_consumer_timeout(own_rabbitmq: RabbitNode, own_vhost: Broker) -> None:
    """RabbitMQ looks after it once a minute; here twice a second."""
    setting = "application:set_env(rabbit, {}, {})"
    own_vhost.declare("q")
    before = own_rabbitmq.eval(
        'io_lib:format("~p ~p", [application:get_env(rabbit, N, 0) || N <- [consumer_timeout, '
        "channel_tick_interval]])"
    ).split()
    own_rabbitmq.eval(f"begin {setting.format('consumer_timeout', 1000)}, "
                      f"{setting.format('channel_tick_interval', 500)}, [] end")  # fmt: skip
    try:
        own_vhost.publish("q", b"{}")
        with connected(own_vhost.url) as connection:
            connection.channel().basic_consume("q", callback=lambda _message: None)

            def read() -> None:
                for _ in itertools.repeat(None, 20):
                    connection.drain_events(timeout=20)

            assert cause(read) == "a message was held longer than consumer_timeout (1 s)"
    finally:
        for name, value in zip(("consumer_timeout", "channel_tick_interval"), before, strict=True):
            own_rabbitmq.eval(f"begin {setting.format(name, value)}, [] end")


def test_a_broker_that_stops(own_rabbitmq: RabbitNode, own_vhost: Broker) -> None:
    """With or without a farewell, as the node's shutdown has it."""
    with connected(own_vhost.url) as connection:
        own_rabbitmq.stop()
        told = cause(lambda: connection.drain_events(timeout=10))
    assert told.startswith(("the broker closed the connection", "the connection was "))


def test_the_service_logs_the_cause(run: Run, vhost: Broker) -> None:
    """Of a cancelled consumer, of a forced close on both connections, and of a refused login."""
    service = run(vhost)
    service.await_ready()
    vhost.delete_queue(QUEUE)
    lost = lambda: [line["reason"] for line in service.log_lines("broker connection lost")]  # noqa: E731
    wait_until(lambda: lost() == [CANCELLED], 15, lost)
    wait_until(lambda: vhost.consumers(QUEUE) == 1, 15, "it has connected again")
    vhost.close_connections()
    forced = "the broker closed the connection: it is shutting down, or an operator closed it"
    wait_until(lambda: lost() == [CANCELLED, forced], 15, lost)
    (line,) = wait_until(lambda: service.log_lines("publish connection lost"), 15, "it says so")
    assert line["reason"] == forced
    refused = run(vhost, broker_url=vhost.url.replace("guest:guest", "guest:s3cret"))
    for event in ("broker unreachable", "cannot publish"):
        (line,) = wait_until(lambda event=event: refused.log_lines(event), 15, event)
        assert line["reason"] == "the broker refuses this user name and password"
