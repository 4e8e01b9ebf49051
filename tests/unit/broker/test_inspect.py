"""Questions to the broker: what each answer means, and that each has a channel of its own."""

from typing import Any

import pytest
from amqp.exceptions import AccessRefused, NotFound, PreconditionFailed, ResourceLocked

from consumer.broker import inspect
from consumer.broker.declare import ensure, weaknesses
from consumer.core.topology import QueueSpec, Topology
from consumer.errors import BrokerError
from tests.unit.broker.scripted import Connection, found

SPEC = QueueSpec("q", {"x-queue-type": "quorum", "x-max-length": 5})


def inequivalent(name: str, values: str) -> PreconditionFailed:
    return PreconditionFailed(f"inequivalent arg '{name}' for queue 'q' in vhost '/': {values}")


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


def test_differences_are_named_one_by_one_with_the_value_of_the_queue() -> None:
    """Each on a channel of its own, with what the broker has named so far; the last answer is no refusal."""
    connection = Connection(
        queue_declare=[
            inequivalent("x-max-length", "received '5' but current is '7'"),
            inequivalent("x-queue-type", "received the value 'quorum' of type 'longstr' but current is none"),
            inequivalent("x-expires", "received none but current is the value '9' of type 'signedint'"),
            inequivalent("durable", "received 'true' but current is 'false'"),
            None,
        ]
    )
    assert inspect.differences(connection, SPEC) == {
        "x-max-length": 7, "x-queue-type": None, "x-expires": 9, "durable": False
    }  # fmt: skip
    assert len(connection.channels) == 5
    asked = [kwargs for _, method, _, kwargs in connection.calls if method == "queue_declare"]
    assert {**asked[-1]["arguments"], "x-max-age": None} == {
        "x-max-length": 7,
        "x-expires": 9,
        "x-max-age": None,
    }
    assert asked[-1]["durable"] is False
    assert all("x-max-age" in each["arguments"] for each in asked), "no new queue may have this argument"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([inequivalent("x-max-length", "received '5' but cur")] * 2, {"x-max-length": "?"}),
        ([inequivalent("x-queue-type", "recei")] * 2, {"x-queue-type": "?"}),
        (
            [inequivalent("x-queue-type", "recei"), inequivalent("x-max-length", "")],
            {"x-queue-type": "stream"},
        ),
        (
            [inequivalent("x-dead-letter-exchange", "received none but current is 'stream'"), None],
            {"x-dead-letter-exchange": "stream"},
        ),
        ([PreconditionFailed("something else")], {"unknown": "?"}),
        ([PreconditionFailed("invalid arg 'x-max-age' for queue 'q'")], {}),  # deleted in the meantime
        (
            [inequivalent("x-queue-type", "received 'quorum' but current is 'stream'")],
            {"x-queue-type": "stream"},
        ),
    ],
)
def test_the_list_of_differences_ends(answers: list[Any], expected: dict[str, Any]) -> None:
    """At a value that the text has no room for, at another refusal, at a stream."""
    connection = Connection(queue_declare=[*answers, AssertionError("asked once too often")])
    assert inspect.differences(connection, SPEC) == expected


def test_differences_need_a_permission_and_a_stream_only_that_to_read() -> None:
    with pytest.raises(inspect.NotPermittedError):
        inspect.differences(Connection(queue_declare=[AccessRefused()]), SPEC)
    refused = PreconditionFailed("invalid arg 'x-priority' for queue 'q' of queue type rabbit_stream_queue")
    for answer, expected in (
        (refused, {"x-queue-type": "stream"}),
        (PreconditionFailed("expected integer"), None),
        (AccessRefused(), None),
    ):
        connection = Connection(queue_declare=[AccessRefused()], basic_consume=[answer])
        assert inspect.known_differences(connection, SPEC) == expected


@pytest.mark.parametrize(
    ("current", "refused"),
    [("x-queue-type' for queue 'q': received 'quorum' but current is 'stream", "is a stream"),
     ("auto_delete' for queue 'q': received 'false' but current is 'true", "is auto-delete")],
)  # fmt: skip
def test_a_queue_that_would_lose_messages_is_not_consumed(current: str, refused: str) -> None:
    connection = Connection(queue_declare=[PreconditionFailed(f"inequivalent arg '{current}'")])
    with pytest.raises(BrokerError, match=f"the queue 'q' {refused}"):
        weaknesses(connection, SPEC)


def test_weaknesses_are_asked_of_rabbitmq_only() -> None:
    """What another broker does with an impossible argument is not known."""
    connection = Connection(queue_declare=[inequivalent("x-expires", "received none but current is '9000'")])
    assert weaknesses(connection, SPEC) == [
        "the queue 'q': it is deleted, with its messages, 9 s after its last consumer, as in a pause"
    ]
    connection.server_properties = {}
    connection.calls.clear()
    assert weaknesses(connection, SPEC) == []
    assert connection.calls == []


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
