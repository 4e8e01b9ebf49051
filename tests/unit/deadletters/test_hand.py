"""What a pass of a sweep holds: it comes out by deadline, whole, and never too much of it at once."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from consumer.broker.queue_reader import BATCH_BYTES
from consumer.core.delivery import Delivery
from consumer.deadletters.hand import DeadLetterMessage, ReorderBuffer
from consumer.deadletters.record import read
from consumer.publishing import samples

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
TAP: Any = object()


def dead(number: int, size: int = 0) -> DeadLetterMessage:
    """A dead letter whose deadline is the farther the greater its number; of so many bytes more."""
    payload = samples.journey("v3", random.Random(number), NOW)
    payload["start"]["datetime"] = (NOW + timedelta(minutes=number)).isoformat()
    delivery = Delivery(samples.encode(payload) + b" " * size, tag=number)
    return DeadLetterMessage(read(delivery, "rejected"), delivery, TAP, "rejected")


def test_what_waited_comes_out_as_it_went_in() -> None:
    """In the order of the deadlines, with its record and the tap that it must be acknowledged on."""
    every = [dead(number) for number in range(50)]
    shuffled = random.Random(1).sample(every, 50)
    hand = ReorderBuffer([each.record.urgency for each in every], most=None, most_bytes=10**9)
    out = list[DeadLetterMessage]()
    for start in range(0, 50, 10):
        hand.take_in(shuffled[start : start + 10])
        out += hand.take_out(len(hand))
    hand.no_more()
    out += hand.take_out(len(hand))
    assert [each.delivery.tag for each in out] == list(range(50))
    assert [each.record for each in out] == [each.record for each in every]
    assert [each.delivery.body for each in out] == [each.delivery.body for each in every]
    assert {(each.tap, each.queue_reason) for each in out} == {(TAP, "rejected")}


def test_a_batch_is_enough_in_number_or_in_bytes() -> None:
    """What is due is handed on before it is more than a batch may be."""
    every = [dead(number, size=3_000_000) for number in range(4)]
    hand = ReorderBuffer([each.record.urgency for each in every], most=None, most_bytes=10**9)
    hand.take_in(every[:2])
    assert (hand.has_batch(2), hand.has_batch(3)) == (True, False)
    hand.take_in(every[2:3])
    assert hand.has_batch(1_000), "9 MB"
    hand.take_out(1)
    assert not hand.has_batch(1_000)


def test_what_unpacks_to_much_comes_out_a_few_at_a_time() -> None:
    """Megabytes of spaces wait as a few kilobytes; all of them at once would not fit."""
    large = [dead(number, size=2_000_000) for number in range(20)]
    hand = ReorderBuffer([each.record.urgency for each in large], most=None, most_bytes=10**6)
    hand.take_in(large[1:])
    assert len(hand) == 0, "they wait for the first one"
    hand.take_in(large[:1])
    assert len(hand) == 20
    seen = 0
    while batch := hand.take_out(1_000):
        assert sum(len(each.delivery.body) for each in batch) < BATCH_BYTES + 3_000_000
        seen += len(batch)
    assert seen == 20
