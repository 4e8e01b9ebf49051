"""Taking from a real queue by hand: what is given back may take a moment to be there again."""

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


def test_opening_waits_for_what_is_on_its_way_back(vhost: Broker) -> None:
    """Messages that another one holds and gives back meanwhile are all there when it begins."""
    vhost.declare("q")
    vhost.publish("q", b"1", b"2", b"3")
    holding, giving = AmqpQueueReader(ConnectionFactory([vhost.url]), "q"), threading.Event()
    assert holding.open() == 3
    assert len(holding.take(3)) == 3
    opened: list[int] = []

    def late() -> None:
        tap = AmqpQueueReader(ConnectionFactory([vhost.url]), "q")
        giving.set()
        opened.append(tap.open(at_least=3))
        assert [each.body for each in tap.take(3)] == [b"1", b"2", b"3"]
        tap.close()

    thread = threading.Thread(target=late)
    thread.start()
    assert giving.wait(10)
    thread.join(0.3)
    assert not opened, "it must not begin without them"
    holding.close()
    thread.join(10)
    assert opened == [3]
    assert wait_until(lambda: vhost.depth("q").ready == 3)


def test_opening_does_not_wait_for_ever(vhost: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody else took will not come: it begins with what there is."""
    monkeypatch.setattr(module, "GIVEN_BACK_SECONDS", 0.2)
    vhost.declare("q")
    vhost.publish("q", b"1")
    tap = AmqpQueueReader(ConnectionFactory([vhost.url]), "q")
    before = time.monotonic()
    assert tap.open(at_least=2) == 1
    assert time.monotonic() - before >= 0.2
    tap.close()


def test_a_batch_is_bounded_in_bytes(vhost: Broker) -> None:
    """Dead letters may be larger than anything that the Registry takes: they come a few at a time."""
    vhost.declare("q")
    bodies = [b"%02d" % number + bytes(1_000_000) for number in range(20)]
    vhost.publish("q", *bodies)
    tap, taken = AmqpQueueReader(ConnectionFactory([vhost.url]), "q"), list[bytes]()
    assert tap.open() == 20
    while batch := tap.take(1_000):
        assert sum(len(each.body) for each in batch) < module.BATCH_BYTES + 2_000_000
        taken += [each.body for each in batch]
    tap.close()
    assert taken == bodies


@pytest.mark.parametrize("act", ["take", "acknowledge", "keep_alive"])
def test_a_lost_connection_is_told_in_words(vhost: Broker, act: str) -> None:
    """Whatever is done next; closing is quiet, and what was not acknowledged is in its queue again."""
    vhost.declare("q")
    vhost.publish("q", *(b"%d" % number for number in range(10)))
    tap = AmqpQueueReader(ConnectionFactory([vhost.url]), "q")
    tap.open()
    taken = [] if act == "take" else tap.take(5)  # otherwise all ten may have arrived already
    assert vhost.close_connections() == 1
    actions = {
        "take": lambda: tap.take(10),
        "acknowledge": lambda: tap.acknowledge(taken),
        "keep_alive": tap.keep_alive,
    }

    def repeat() -> None:
        for _ in range(50):  # until the end of the connection has arrived
            actions[act]()
            taken.clear()
            time.sleep(0.02)

    with pytest.raises(BrokerError, match="'q'"):
        repeat()
    tap.close()
    assert wait_until(lambda: vhost.depth("q").ready == 10)


def test_no_number_of_looks_loses_one(vhost: Broker) -> None:
    """Each counts as a delivery, and RabbitMQ 4 gives up after 20 unless told otherwise; ours are told."""
    Ledger(vhost).declare()
    queue = TOPOLOGY.dead_letter_queue("invalid")
    bodies = [b"%d" % number for number in range(200)]
    vhost.publish(queue, *bodies)
    for look in range(50):
        tap = AmqpQueueReader(ConnectionFactory([vhost.url]), queue)
        assert tap.open(at_least=200) == 200, look
        assert [each.body for each in tap.take(200)] == bodies, look
        tap.close()
    assert wait_until(lambda: vhost.depth(queue).ready == 200)
    assert {message.delivery_count for message in vhost.messages(queue)} == {50}


def test_acknowledging_does_not_read_ahead(vhost: Broker) -> None:
    """What is on its way meanwhile stays on its way, however large: only one batch is ever held."""
    vhost.declare("q")
    vhost.publish("q", *(b"%02d" % number + bytes(1_000_000) for number in range(40)))
    tap, taken = AmqpQueueReader(ConnectionFactory([vhost.url]), "q"), list[bytes]()
    assert tap.open() == 40
    while batch := tap.take(1_000):
        taken += (each.body[:2] for each in batch)
        tap.acknowledge(batch)
        assert sum(len(each.body) for each in tap._read) < module.BATCH_BYTES + 1_000_002
    tap.finish()
    tap.close()
    assert taken == [b"%02d" % number for number in range(40)]
    assert vhost.depth("q").total == 0


def test_what_was_acknowledged_is_gone_also_when_little_was_read(vhost: Broker) -> None:
    """Closing early: the acknowledged ones are gone, all others are back, in their order."""
    vhost.declare("q")
    vhost.publish("q", *(b"%03d" % number + bytes(100_000) for number in range(200)))
    tap = AmqpQueueReader(ConnectionFactory([vhost.url]), "q")
    tap.open()
    tap.acknowledge(tap.take(5))
    tap.close()
    assert wait_until(lambda: vhost.depth("q").ready == 195)
    assert [each.body[:3] for each in vhost.messages("q")] == [b"%03d" % number for number in range(5, 200)]


def test_an_end_that_was_not_heard_is_told(vhost: Broker) -> None:
    """The answer is still on its way, behind large messages, when the connection ends."""
    vhost.declare("q")
    vhost.publish("q", *(bytes(2_000_000) for _ in range(60)))
    with Proxy("127.0.0.1", vhost.node.port) as proxy:
        tap = AmqpQueueReader(ConnectionFactory([vhost.url_at(proxy.port)]), "q")
        tap.open()
        tap.acknowledge(tap.take(1))
        assert any(channel.unanswered for channel in tap._channels)
        proxy.cut()
        with pytest.raises(BrokerError, match="some messages may still be in it"):
            tap.finish()
        tap.close()
    assert wait_until(lambda: vhost.depth("q").ready in {59, 60})


@pytest.mark.parametrize("act", ["take", "acknowledge", "finish", "close"])
def test_a_broker_that_says_nothing_is_not_waited_for(
    vhost: Broker, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """The connection stands, and no answer comes: each call ends with an error in words, closing quietly."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(module, "WINDOW", 5)
    vhost.declare("q")
    vhost.publish("q", *(b"%d" % number for number in range(10)))
    with Proxy("127.0.0.1", vhost.node.port) as proxy:
        tap = AmqpQueueReader(ConnectionFactory([vhost.url_at(proxy.port)]), "q")
        tap.open()
        taken = tap.take(5)
        proxy.blackhole()
        before = time.monotonic()
        if act == "take":
            with pytest.raises(BrokerError, match="no answer in time"):  # it opens another lane
                tap.take(5)
        elif act != "close":
            with pytest.raises(BrokerError, match="no answer in time"):
                tap.acknowledge(taken)
            if act == "finish":
                with pytest.raises(BrokerError, match="no answer in time"):
                    tap.finish()
        tap.close()
        assert time.monotonic() - before < 10
    assert wait_until(lambda: vhost.depth("q").ready == 10, 20)


def test_what_was_looked_at_and_removed_stays_so_after_a_restart(own_vhost: Broker) -> None:
    """The broker replays its log: what was given back and what was acknowledged must be the same ones then.

    Not so after a look by ``basic_get`` (1,500 of them and a closed channel, on 3.10 and 4.0: a third of the
    acknowledged ones were back, and as many others gone). That is why a tap consumes.
    """
    own_vhost.declare("q")
    own_vhost.publish("q", *(b"%d" % number for number in range(1_500)))
    for removed in (0, 500):
        tap = AmqpQueueReader(ConnectionFactory([own_vhost.url]), "q")
        assert tap.open(at_least=1_500) == 1_500
        taken = list[Delivery]()
        while batch := tap.take(1_000):
            taken += batch
        assert [each.body for each in taken] == [b"%d" % number for number in range(1_500)]
        tap.acknowledge(taken[:removed])
        tap.finish()
        tap.close()
    own_vhost.node.restart()
    wait_until(lambda: own_vhost.depth("q").ready == 1_000, 20, "the queue is there again")
    assert [each.body for each in own_vhost.messages("q")] == [b"%d" % number for number in range(500, 1_500)]
