"""Reading a queue: counts, bounds and errors, with a broker that answers as written down."""

from collections.abc import Callable
from typing import Any

import pytest
from amqp import spec
from amqp.exceptions import NotFound

from consumer.broker import queue_reader as module
from consumer.broker.queue_reader import AmqpQueueReader
from consumer.errors import BrokerError
from tests.unit.broker.scripted import Connection, found, message


class Factory:
    """Gives the one connection of the test."""

    def __init__(self, connection: Connection | Exception) -> None:
        self._connection = connection

    def connect(self, _purpose: str) -> Connection:
        if isinstance(self._connection, Exception):
            raise self._connection
        return self._connection


def reader_of(connection: Connection | Exception) -> AmqpQueueReader:
    factory: Any = Factory(connection)
    return AmqpQueueReader(factory, "q")


def delivering(connection: Connection, tag: int, body: bytes = b"{}", channel: int = 1) -> Callable[[], None]:
    """An event: the broker delivers on a channel; 0 is the one that asked for the queue."""

    def deliver() -> None:
        consumer = connection.channels[channel].consumer
        assert consumer is not None
        consumer(message(tag, body))

    return deliver


def committed(connection: Connection, channel: int = 1) -> Callable[[], None]:
    def answer() -> None:
        connection.channels[channel].on_commit_ok()

    return answer


def test_no_more_is_read_than_was_there_at_the_start() -> None:
    """What comes back to the queue meanwhile is not read again."""
    connection = Connection(queue_declare=[found(2)])
    reader = reader_of(connection)
    assert reader.open() == 2
    connection.events.extend(delivering(connection, tag) for tag in (1, 2, 3))
    assert [each.tag for each in reader.read(10)] == [1, 2]
    assert reader.read(10) == []


def test_a_queue_without_further_deliveries_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another consumer has taken the rest."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.05)
    connection = Connection(queue_declare=[found(5)])
    reader = reader_of(connection)
    reader.open()
    connection.events.append(delivering(connection, 1))
    assert [each.tag for each in reader.read(5)] == [1]


def test_a_batch_ends_at_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 10)
    connection = Connection(queue_declare=[found(3)])
    reader = reader_of(connection)
    reader.open()
    connection.events.extend(delivering(connection, tag, bytes(6)) for tag in (1, 2, 3))
    assert [each.tag for each in reader.read(3)] == [1, 2]
    assert [each.tag for each in reader.read(3)] == [3]


def test_a_full_channel_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each delivery remembers its channel, and is acknowledged there with one commit."""
    monkeypatch.setattr(module, "WINDOW", 2)
    connection = Connection(queue_declare=[found(3)])
    reader = reader_of(connection)
    reader.open()
    connection.events.extend(
        [*(delivering(connection, tag) for tag in (1, 2)), delivering(connection, 1, channel=2)]
    )
    taken = reader.read(3)
    assert [(each.channel, each.tag) for each in taken] == [(0, 1), (0, 2), (1, 1)]
    connection.events.extend([committed(connection, 1), committed(connection, 2)])
    reader.acknowledge(taken)
    written = [call for call in connection.calls if call[1] in ("basic_ack", "send_method")]
    assert written == [
        (1, "basic_ack", (2,), {"multiple": True}),
        (1, "send_method", (spec.Tx.Commit,), {}),
        (2, "basic_ack", (1,), {"multiple": False}),
        (2, "send_method", (spec.Tx.Commit,), {}),
    ]


def test_finish_waits_for_the_commit_and_drops_what_comes_before_it() -> None:
    connection = Connection(queue_declare=[found(2)])
    reader = reader_of(connection)
    reader.open()
    connection.events.append(delivering(connection, 1))
    reader._channels.append(module.PrefetchChannel(connection, 0, "q", reader._on_message))
    (delivery,) = reader.read(1)
    connection.events.append(committed(connection))
    reader.acknowledge([delivery])
    reader._channels[0].unanswered = 1
    connection.events.extend([delivering(connection, 2), committed(connection)])
    reader.finish()
    assert not reader._read


@pytest.mark.parametrize("heartbeats", [0, 3])
def test_a_commit_without_an_answer_is_an_error(monkeypatch: pytest.MonkeyPatch, heartbeats: int) -> None:
    """Heartbeats alone are no answer."""
    monkeypatch.setattr(module, "COMMIT_SECONDS", 0.0)
    connection = Connection(queue_declare=[found(1)])
    reader = reader_of(connection)
    reader.open()
    connection.events.append(delivering(connection, 1))
    taken = reader.read(1)
    connection.events.extend([lambda: None] * heartbeats)
    with pytest.raises(BrokerError, match="'q' did not take an acknowledgement: no answer in time"):
        reader.acknowledge(taken)
    with pytest.raises(BrokerError, match="some messages may still be in it"):
        reader.finish()


def test_opening_waits_for_messages_that_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.0)
    assert reader_of(Connection(queue_declare=[found(0), found(1), found(3)])).open(at_least=3) == 3
    monkeypatch.setattr(module, "GIVEN_BACK_SECONDS", 0.0)
    assert reader_of(Connection(queue_declare=[found(1)])).open(at_least=3) == 1


@pytest.mark.parametrize(
    ("connection", "text"),
    [
        (Connection(queue_declare=[NotFound()]), "the queue 'q' does not exist"),
        (ConnectionRefusedError(), "the queue 'q' cannot be read: connection refused"),
    ],
)
def test_a_queue_that_cannot_be_read_is_named(connection: Connection | Exception, text: str) -> None:
    with pytest.raises(BrokerError, match=text):
        reader_of(connection).open()


def test_heartbeats_are_answered_between_batches() -> None:
    connection = Connection(queue_declare=[found(0)])
    reader = reader_of(connection)
    reader.open()
    reader.keep_alive()
    assert connection.methods()[-1] == "heartbeat_tick"
    connection.events.append(_lose)
    with pytest.raises(BrokerError, match="'q' is no longer connected"):
        reader.keep_alive()


def _lose() -> None:
    raise ConnectionResetError


def test_closing_cancels_every_consumer_before_it_closes_a_channel() -> None:
    """None receives what another one gives back; a connection that is lost is closed all the same."""
    connection = Connection(queue_declare=[found(0)])
    reader = reader_of(connection)
    reader.open()
    reader._channels = [module.PrefetchChannel(connection, n, "q", reader._on_message) for n in range(2)]
    connection.calls.clear()
    reader.close()
    assert connection.methods() == ["basic_cancel", "basic_cancel", "close", "close"]
    assert connection.closed
    reader.close()
    lost = Connection(queue_declare=[found(0)], basic_cancel=[ConnectionResetError()])
    reader = reader_of(lost)
    reader.open()
    reader._channels = [module.PrefetchChannel(lost, 0, "q", reader._on_message)]
    reader.close()
    assert lost.closed


def test_a_cancelled_consumer_is_a_lost_connection() -> None:
    with pytest.raises(ConnectionAbortedError):
        module._on_cancel("tag")


def test_a_message_too_large_to_be_read_is_never_acknowledged(caplog: pytest.LogCaptureFixture) -> None:
    """Not given to the caller, nor covered by an acknowledgement of those behind it."""
    connection = Connection(queue_declare=[found(3)])
    reader = reader_of(connection)
    reader.open()

    def deliver_large() -> None:
        connection.unread_body_bytes = 100_000_000
        delivering(connection, 1, b"")()
        connection.unread_body_bytes = 0

    connection.events.extend([deliver_large, delivering(connection, 2), delivering(connection, 3)])
    read = reader.read(2)
    assert [each.tag for each in read] == [2, 3]
    connection.events.append(committed(connection))
    reader.acknowledge(read)
    acks = [(args, kwargs) for _, method, args, kwargs in connection.calls if method == "basic_ack"]
    assert acks == [((2,), {"multiple": False}), ((3,), {"multiple": False})]
    assert "too large" in caplog.text
