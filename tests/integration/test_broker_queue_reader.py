"""Reading a real queue: bounds, order, and what is given back, also after a lost connection or a restart."""

import threading
import time

import pytest

from consumer.broker import queue_reader as module
from consumer.broker.connection import ConnectionFactory
from consumer.broker.queue_reader import AmqpQueueReader
from consumer.core.delivery import Delivery
from consumer.errors import BrokerError
from tests.broker import Broker
from tests.ledger import TOPOLOGY, Ledger
from tests.proxy import Proxy
from tests.waiting import wait_until


def test_opening_waits_for_messages_that_are_given_back(vhost: Broker) -> None:
    """Messages that another reader gives back meanwhile are counted."""
    vhost.declare("q")
    vhost.publish("q", b"1", b"2", b"3")
    holding, giving = AmqpQueueReader(ConnectionFactory([vhost.url]), "q"), threading.Event()
    assert holding.open() == 3
    assert len(holding.read(3)) == 3
    opened: list[int] = []

    def late() -> None:
        reader = AmqpQueueReader(ConnectionFactory([vhost.url]), "q")
        giving.set()
        opened.append(reader.open(at_least=3))
        assert [each.body for each in reader.read(3)] == [b"1", b"2", b"3"]
        reader.close()

    thread = threading.Thread(target=late)
    thread.start()
    assert giving.wait(10)
    thread.join(0.3)
    assert not opened, "opened without them"
    holding.close()
    thread.join(10)
    assert opened == [3]
    assert wait_until(lambda: vhost.depth("q").ready == 3)


def test_opening_waits_for_a_bounded_time(vhost: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages that another consumer has taken do not come back: reading begins without them."""
    monkeypatch.setattr(module, "GIVEN_BACK_SECONDS", 0.2)
    vhost.declare("q")
    vhost.publish("q", b"1")
    reader = AmqpQueueReader(ConnectionFactory([vhost.url]), "q")
    before = time.monotonic()
    assert reader.open(at_least=2) == 1
    assert time.monotonic() - before >= 0.2
    reader.close()


def test_a_batch_is_bounded_in_bytes(vhost: Broker) -> None:
    """Dead letters may be larger than anything that the Registry accepts: they are read a few at a time."""
    vhost.declare("q")
    bodies = [b"%02d" % number + bytes(1_000_000) for number in range(20)]
    vhost.publish("q", *bodies)
    reader, taken = AmqpQueueReader(ConnectionFactory([vhost.url]), "q"), list[bytes]()
    assert reader.open() == 20
    while batch := reader.read(1_000):
        assert sum(len(each.body) for each in batch) < module.BATCH_BYTES + 2_000_000
        taken += [each.body for each in batch]
    reader.close()
    assert taken == bodies


@pytest.mark.parametrize("act", ["read", "acknowledge", "keep_alive"])
def test_a_lost_connection_is_an_error_that_names_the_queue(vhost: Broker, act: str) -> None:
    """In every call; closing does not fail, and unacknowledged messages are in their queue again."""
    vhost.declare("q")
    vhost.publish("q", *(b"%d" % number for number in range(10)))
    reader = AmqpQueueReader(ConnectionFactory([vhost.url]), "q")
    reader.open()
    taken = [] if act == "read" else reader.read(5)  # otherwise all ten may have arrived already
    assert vhost.close_connections() == 1
    actions = {
        "read": lambda: reader.read(10),
        "acknowledge": lambda: reader.acknowledge(taken),
        "keep_alive": reader.keep_alive,
    }

    def repeat() -> None:
        for _ in range(50):  # until the end of the connection has arrived
            actions[act]()
            taken.clear()
            time.sleep(0.02)

    with pytest.raises(BrokerError, match="'q'"):
        repeat()
    reader.close()
    assert wait_until(lambda: vhost.depth("q").ready == 10)


def test_reading_any_number_of_times_loses_no_message(vhost: Broker) -> None:
    """Each counts as a delivery; RabbitMQ 4 drops one after 20 by default, our queues set no such limit."""
    Ledger(vhost).declare()
    queue = TOPOLOGY.dead_letter_queue("invalid")
    bodies = [b"%d" % number for number in range(200)]
    vhost.publish(queue, *bodies)
    for turn in range(50):
        reader = AmqpQueueReader(ConnectionFactory([vhost.url]), queue)
        assert reader.open(at_least=200) == 200, turn
        assert [each.body for each in reader.read(200)] == bodies, turn
        reader.close()
    assert wait_until(lambda: vhost.depth(queue).ready == 200)
    assert {message.delivery_count for message in vhost.messages(queue)} == {50}


def test_acknowledging_does_not_read_ahead(vhost: Broker) -> None:
    """However large the deliveries on their way: at most one batch is held."""
    vhost.declare("q")
    vhost.publish("q", *(b"%02d" % number + bytes(1_000_000) for number in range(40)))
    reader, taken = AmqpQueueReader(ConnectionFactory([vhost.url]), "q"), list[bytes]()
    assert reader.open() == 40
    while batch := reader.read(1_000):
        taken += (each.body[:2] for each in batch)
        reader.acknowledge(batch)
        assert sum(len(each.body) for each in reader._read) < module.BATCH_BYTES + 1_000_002
    reader.finish()
    reader.close()
    assert taken == [b"%02d" % number for number in range(40)]
    assert vhost.depth("q").total == 0


def test_closing_early_keeps_acknowledgements_and_gives_back_the_rest(vhost: Broker) -> None:
    """Acknowledged messages are removed, all others are back, in their order."""
    vhost.declare("q")
    vhost.publish("q", *(b"%03d" % number + bytes(100_000) for number in range(200)))
    reader = AmqpQueueReader(ConnectionFactory([vhost.url]), "q")
    reader.open()
    reader.acknowledge(reader.read(5))
    reader.close()
    assert wait_until(lambda: vhost.depth("q").ready == 195)
    assert [each.body[:3] for each in vhost.messages("q")] == [b"%03d" % number for number in range(5, 200)]


def test_an_unconfirmed_removal_is_an_error(vhost: Broker) -> None:
    """The connection ends while the answer is still behind large messages."""
    vhost.declare("q")
    vhost.publish("q", *(bytes(2_000_000) for _ in range(60)))
    with Proxy("127.0.0.1", vhost.node.port) as proxy:
        reader = AmqpQueueReader(ConnectionFactory([vhost.url_at(proxy.port)]), "q")
        reader.open()
        reader.acknowledge(reader.read(1))
        assert any(channel.unanswered for channel in reader._channels)
        proxy.cut()
        with pytest.raises(BrokerError, match="some messages may still be in it"):
            reader.finish()
        reader.close()
    assert wait_until(lambda: vhost.depth("q").ready in {59, 60})


@pytest.mark.parametrize("act", ["read", "acknowledge", "finish", "close"])
def test_a_broker_that_does_not_answer_is_an_error(
    vhost: Broker, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """The connection stays open without an answer: each call ends with an error, closing does not fail."""
    monkeypatch.setattr(module, "COMMIT_SECONDS", 0.5)
    for name in ("ANSWER_SECONDS", "CLOSE_TIMEOUT_SECONDS"):
        monkeypatch.setattr(f"consumer.broker.connection.{name}", 0.5)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(module, "WINDOW", 5)
    vhost.declare("q")
    vhost.publish("q", *(b"%d" % number for number in range(10)))
    with Proxy("127.0.0.1", vhost.node.port) as proxy:
        reader = AmqpQueueReader(ConnectionFactory([vhost.url_at(proxy.port)]), "q")
        reader.open()
        taken = reader.read(5)
        proxy.blackhole()
        before = time.monotonic()
        if act == "read":
            with pytest.raises(BrokerError, match="no answer in time"):  # it opens another channel
                reader.read(5)
        elif act != "close":
            with pytest.raises(BrokerError, match="no answer in time"):
                reader.acknowledge(taken)
            if act == "finish":
                with pytest.raises(BrokerError, match="no answer in time"):
                    reader.finish()
        reader.close()
        assert time.monotonic() - before < 10
    assert wait_until(lambda: vhost.depth("q").ready == 10, 20)


def test_removed_messages_stay_removed_after_a_restart(own_vhost: Broker) -> None:
    """The broker replays its log: the same messages are removed and given back as before.

    Not so with ``basic_get`` (1,500 messages and a closed channel, on 3.10 and 4.0: a third of the
    acknowledged ones were back, and as many others removed). That is why a reader consumes.
    """
    own_vhost.declare("q")
    own_vhost.publish("q", *(b"%d" % number for number in range(1_500)))
    for removed in (0, 500):
        reader = AmqpQueueReader(ConnectionFactory([own_vhost.url]), "q")
        assert reader.open(at_least=1_500) == 1_500
        taken = list[Delivery]()
        while batch := reader.read(1_000):
            taken += batch
        assert [each.body for each in taken] == [b"%d" % number for number in range(1_500)]
        reader.acknowledge(taken[:removed])
        reader.finish()
        reader.close()
    own_vhost.node.restart()
    wait_until(lambda: own_vhost.depth("q").ready == 1_000, 20, "the queue is there again")
    assert [each.body for each in own_vhost.messages("q")] == [b"%d" % number for number in range(500, 1_500)]
