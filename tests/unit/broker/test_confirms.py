"""Publisher confirms against a model of the broker's side of one channel."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumer.broker.confirms import Request, Unconfirmed
from consumer.core.outgoing import Outgoing
from consumer.errors import PublishFailure


def request(body: bytes = b"", key: str = "key", exchange: str = "exchange") -> Request:
    """A publish whose future is not ended here."""
    loop = asyncio.new_event_loop()
    loop.close()
    return Request(Outgoing(exchange, key, body, {}, {}), asyncio.Future(loop=loop))


class Confirms(RuleBasedStateMachine):
    """Send, confirm one or many, refuse, fail to send, lose the channel: each request leaves once."""

    @initialize()
    def open(self) -> None:
        self.unconfirmed = Unconfirmed()
        self.under_way: dict[int, Request] = {}
        self.returned: set[int] = set()
        self.tag = 1  # of the next publish
        self.sent = self.left = 0

    @rule(body=st.sampled_from([b"a", b"b"]))
    def send(self, body: bytes) -> None:
        asked = request(body)
        asked.sent_at = float(self.tag)
        assert self.unconfirmed.sent(asked) == self.tag
        self.under_way[self.tag] = asked
        self.tag += 1
        self.sent += 1

    @rule()
    def send_something_unencodable(self) -> None:
        assert self.unconfirmed.sent(request()) == self.tag
        self.unconfirmed.unsent(self.tag)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), multiple=st.booleans(), good=st.booleans())
    def confirm(self, data: st.DataObject, multiple: bool, good: bool) -> None:  # noqa: FBT001 - drawn
        tag = data.draw(st.sampled_from(sorted(self.under_way)))
        results = self.unconfirmed.answered(tag, None if good else PublishFailure.NACKED, multiple=multiple)
        tags = [t for t in sorted(self.under_way) if t == tag or (multiple and t < tag)]
        expected = ["nacked" if not good else "returned" if t in self.returned else None for t in tags]
        assert [(asked, failure) for asked, failure in results] == [
            (self.under_way.pop(t), failure) for t, failure in zip(tags, expected, strict=True)
        ]
        self.returned -= set(tags)
        self.left += len(tags)

    @rule(tag=st.integers(min_value=1))
    def confirm_the_unknown(self, tag: int) -> None:
        if tag not in self.under_way:
            assert self.unconfirmed.answered(tag, multiple=False) == []

    @precondition(lambda self: self.under_way.keys() - self.returned)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.under_way.keys() - self.returned)))
        outgoing = self.under_way[tag].outgoing
        self.unconfirmed.returned(outgoing.exchange, outgoing.routing_key, outgoing.body)
        same = (t for t in sorted(self.under_way.keys() - self.returned))
        self.returned.add(next(t for t in same if self.under_way[t].outgoing.body == outgoing.body))

    @rule()
    def lose_the_channel(self) -> None:
        assert self.unconfirmed.clear() == list(self.under_way.values())
        self.left += len(self.under_way)
        self.under_way.clear()
        self.returned.clear()
        self.tag = 1

    @invariant()
    def each_leaves_exactly_once(self) -> None:
        if hasattr(self, "unconfirmed"):
            assert len(self.unconfirmed) == len(self.under_way) == self.sent - self.left
            if self.under_way:
                assert self.unconfirmed.oldest_sent_at == float(min(self.under_way))


TestConfirms = Confirms.TestCase


@given(key=st.text(), exchange=st.text(), body=st.binary())
def test_a_return_of_something_else_marks_nothing(key: str, exchange: str, body: bytes) -> None:
    """Only the same exchange, key and body is the message that came back."""
    unconfirmed = Unconfirmed()
    asked = request(b"x" + body, key + "x", exchange + "x")
    unconfirmed.sent(asked)
    for place in ((exchange, key + "x", b"x" + body), (exchange + "x", key, b"x" + body)):
        unconfirmed.returned(*place)
    unconfirmed.returned(exchange + "x", key + "x", body)
    assert unconfirmed.answered(1, multiple=False) == [(asked, None)] or body == b"x" + body


def test_nothing_sent_has_no_age() -> None:
    """Asking for the oldest of nothing is a mistake of the caller."""
    with pytest.raises(StopIteration):
        _ = Unconfirmed().oldest_sent_at
