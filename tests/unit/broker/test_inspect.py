"""Questions to the broker: what each answer means, and that each has a channel of its own."""

import socket
import ssl
from typing import Any

import pytest
from amqp.exceptions import AccessRefused, NotAllowed, NotFound, PreconditionFailed, ResourceLocked

from consumer.broker import inspect
from consumer.broker.declare import ensure
from consumer.core.topology import QueueSpec, Topology
from consumer.errors import BrokerError
from tests.unit.broker.scripted import Connection, found

SPEC = QueueSpec("q", {"x-queue-type": "quorum", "x-max-length": 5})


def inequivalent(name: str) -> PreconditionFailed:
    return PreconditionFailed(f"inequivalent arg '{name}' for queue 'q'")


def test_a_queue_is_asked_for_passively() -> None:
    connection = Connection(queue_declare=[found(3, 2)])
    assert inspect.queue_facts(connection, "q") == inspect.QueueFacts(3, 2)
    assert connection.calls == [(0, "queue_declare", ("q",), {"passive": True}), (0, "close", (), {})]


@pytest.mark.parametrize("error", [AccessRefused(), ResourceLocked()])
def test_refused_access_is_no_missing_queue(error: Exception) -> None:
    with pytest.raises(BrokerError, match="refuses access to the queue 'q'"):
        inspect.queue_facts(Connection(queue_declare=[error]), "q")


def test_what_is_missing_is_none_or_false() -> None:
    assert inspect.queue_facts(Connection(queue_declare=[NotFound()]), "q") is None
    assert not inspect.exchange_exists(Connection(exchange_declare=[NotFound()]), "e")
    assert inspect.exchange_exists(Connection(), "e")
    with pytest.raises(BrokerError, match="refuses access to the exchange 'e'"):
        inspect.exchange_exists(Connection(exchange_declare=[AccessRefused()]), "e")


def test_differences_are_named_one_by_one() -> None:
    """Each on a channel of its own, without those already named."""
    connection = Connection(queue_declare=[inequivalent("x-max-length"), inequivalent("x-queue-type"), None])
    assert inspect.differences(connection, SPEC) == ["x-max-length", "x-queue-type"]
    assert len(connection.channels) == 3


def test_a_difference_that_is_no_argument_ends_the_list() -> None:
    connection = Connection(queue_declare=[inequivalent("durable"), AssertionError("asked once too often")])
    assert inspect.differences(connection, SPEC) == ["durable"]
    connection = Connection(queue_declare=[PreconditionFailed("something else")])
    assert inspect.differences(connection, SPEC) == ["unknown"]


def test_differences_need_a_permission() -> None:
    with pytest.raises(inspect.NotPermittedError):
        inspect.differences(Connection(queue_declare=[AccessRefused()]), SPEC)


@pytest.mark.parametrize(
    ("ask", "method"),
    [
        (inspect.may_declare, "queue_declare"),
        (inspect.may_consume, "basic_consume"),
        (inspect.may_publish, "basic_qos"),
    ],
)
def test_a_permission_is_read_from_the_refusal_of_an_impossible_argument(ask: Any, method: str) -> None:
    """403 comes before 406; no refusal at all would mean that something was done."""
    assert ask(Connection(**{method: [PreconditionFailed()]}), "name")
    assert not ask(Connection(**{method: [AccessRefused()]}), "name")
    with pytest.raises(BrokerError, match="impossible argument"):
        ask(Connection(), "name")


def test_only_rabbitmq_is_asked_for_permissions() -> None:
    connection = Connection()
    assert inspect.can_ask(connection)
    assert inspect.server(connection) == "RabbitMQ 3.10.8"
    connection.server_properties = {}
    assert not inspect.can_ask(connection)
    assert inspect.server(connection) == "unknown product"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (BrokerError("as it is"), "as it is"),
        (AccessRefused(), "the broker refuses this user name and password"),
        (NotAllowed(), "the virtual host does not exist, or this user has no access to it"),
        (ssl.SSLError(1, "x"), "TLS failed"),
        (socket.gaierror(-2, "secret"), "the host name cannot be resolved"),
        (TimeoutError(), "no answer in time"),
        (ConnectionRefusedError(), "connection refused: no server listens on this address and port"),
        (OSError(113, "No route to host"), "No route to host"),
        (KeyError("secret"), "KeyError"),
    ],
)
def test_why_names_the_kind_of_an_error(error: Exception, text: str) -> None:
    assert inspect.why(error).startswith(text)
    assert "secret" not in inspect.why(error)


TOPOLOGY = Topology("q", exchange="operator", routing_key="k", delays_seconds=(60,))
QUEUES = [*(spec.name for spec in TOPOLOGY.support()), "q"]


def test_ensure_declares_only_what_is_missing() -> None:
    """The main queue last, when what it dead-letters to exists; our bindings are made again."""
    answers: list[Any] = [found(0)] * (len(QUEUES) - 1) + [NotFound(), None]
    connection = Connection(queue_declare=answers)
    assert ensure(connection, TOPOLOGY, declare=True) == ["q"]
    declared = [
        (args[0], kwargs) for _, method, args, kwargs in connection.calls if method == "queue_declare"
    ]
    assert [name for name, kwargs in declared if not kwargs.get("passive")] == ["q"]
    assert declared[-1][1]["arguments"] == TOPOLOGY.main.arguments
    bound = [args for _, method, args, _ in connection.calls if method == "queue_bind"]
    assert ("q", "operator", "k") in bound


def test_ensure_without_permission_to_declare_changes_nothing() -> None:
    connection = Connection(queue_declare=[found(0)] * len(QUEUES))
    assert ensure(connection, TOPOLOGY, declare=False) == []
    assert "queue_bind" not in connection.methods()
    with pytest.raises(BrokerError, match=r"'q\.dead-letter' does not exist and BROKER_DECLARE is false"):
        ensure(Connection(exchange_declare=[NotFound()]), TOPOLOGY, declare=False)


@pytest.mark.parametrize("error", [AccessRefused(), NotFound(), PreconditionFailed()])
def test_a_refused_declaration_is_an_error_in_words(error: Exception) -> None:
    with pytest.raises(BrokerError, match=r"refuses to declare exchange 'q\.dead-letter'"):
        ensure(Connection(exchange_declare=[NotFound(), error]), TOPOLOGY, declare=True)
