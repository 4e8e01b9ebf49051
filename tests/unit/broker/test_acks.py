"""Acknowledgement frames against a model of the broker's side of one channel."""

from unittest import mock

import pytest
from amqp import spec
from amqp.method_framing import frame_writer
from amqp.serialization import dumps
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumer.broker.acks import AckLedger
from consumer.broker.connection import _Channel


class Channel(RuleBasedStateMachine):
    """Deliver, settle in any order, write frames at any moment; the broker obeys each frame."""

    @initialize()
    def open(self) -> None:
        self.ledger = AckLedger()
        self.next_tag = 1
        self.unsettled: set[int] = set()
        self.waiting: dict[int, int] = {}  # settled, not yet acknowledged: collects since
        self.returned: set[int] = set()
        self.unacked: set[int] = set()  # what the broker would deliver again
        self.acked: list[int] = []

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        for tag in range(self.next_tag, self.next_tag + count):
            self.ledger.delivered(tag, tag)
            self.unsettled.add(tag)
            self.unacked.add(tag)
        self.next_tag += count

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.unsettled)))
        self.unsettled.discard(tag)
        self.waiting[tag] = 0
        self.ledger.settle(tag)

    @precondition(lambda self: self.unsettled)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.unsettled)))
        self.unsettled.discard(tag)
        self.unacked.discard(tag)
        self.returned.add(tag)
        self.ledger.returned(tag)

    @rule(everything=st.booleans())
    def write(self, everything: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        for tag, multiple in self.ledger.collect(everything=everything):
            assert tag in self.unacked, "an unknown tag closes the channel"
            covered = {t for t in self.unacked if t <= tag} if multiple else {tag}
            assert covered <= self.waiting.keys(), "an unsettled delivery would be acknowledged"
            self.unacked -= covered
            self.acked += covered
            for settled in covered:
                del self.waiting[settled]
        self.waiting = {tag: waited + 1 for tag, waited in self.waiting.items()}
        assert not (everything and self.waiting)
        assert all(waited < 2 for waited in self.waiting.values()), "waits for one more call at most"

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if hasattr(self, "ledger"):
            assert len(self.acked) == len(set(self.acked))
            assert self.unacked == self.unsettled | self.waiting.keys()
            assert self.ledger.pending == bool(self.waiting)
            assert (self.ledger.held, self.ledger.held_bytes) == (len(self.unsettled), sum(self.unsettled))

    def teardown(self) -> None:
        """Settle the rest: everything is acknowledged once and nothing is remembered."""
        if hasattr(self, "ledger"):
            for tag in sorted(self.unsettled):
                self.waiting[tag] = 0
                self.ledger.settle(tag)
            self.unsettled.clear()
            self.write(everything=True)
            assert sorted(self.returned.union(self.acked)) == list(range(1, self.next_tag))


TestChannel = Channel.TestCase


@given(order=st.permutations(range(1, 30)))
def test_a_settled_run_costs_one_frame(order: list[int]) -> None:
    """Settled in any order before a frame is written: one frame speaks for all."""
    ledger = AckLedger()
    for tag in sorted(order):
        ledger.delivered(tag)
    for tag in order:
        ledger.settle(tag)
    assert ledger.collect() == [(29, True)]


def test_a_lone_tag_is_not_multiple() -> None:
    """A multiple acknowledgement of one tag would be slower for the broker and say nothing more."""
    ledger = AckLedger()
    ledger.delivered(1)
    ledger.settle(1)
    assert ledger.collect() == [(1, False)]
    assert ledger.collect() == []


def test_what_was_acknowledged_alone_is_not_acknowledged_again() -> None:
    """The front that catches up with lone tags leaves them out."""
    ledger = AckLedger()
    for tag in (1, 2, 3):
        ledger.delivered(tag)
    ledger.settle(2)
    assert ledger.collect() == []
    assert ledger.collect() == [(2, False)]
    ledger.settle(1)
    assert ledger.collect() == [(1, False)]
    ledger.settle(3)
    assert ledger.collect() == [(3, False)]


@pytest.mark.parametrize("acks", [[(1, False)], [(7, True), (9, False), (2**63 - 1, False)]])
def test_acknowledgements_are_the_frames_that_py_amqp_writes(acks: list[tuple[int, bool]]) -> None:
    """With one write for all."""

    class Connection:
        bytes_sent = 0
        transport = mock.Mock()

    ours, theirs = _Channel.__new__(_Channel), []
    ours.channel_id, ours.connection = 3, Connection()
    ours.acknowledge(acks)
    transport = mock.Mock(write=lambda data: theirs.append(bytes(data)))
    connection = mock.Mock(frame_max=131_072, transport=transport, bytes_sent=0)
    write_frame = frame_writer(connection, transport)
    for tag, multiple in acks:
        write_frame(1, 3, spec.Basic.Ack, dumps("Lb", (tag, multiple)), None)
    Connection.transport.write.assert_called_once_with(b"".join(theirs))
