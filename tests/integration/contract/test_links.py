"""What every broker must keep, asked of all of them: the tests' own as well as the real ones."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from consumer.core.delivery import Delivery, Mode
from consumer.core.outcome import Reason
from consumer.core.outgoing import Outgoing, copy_of
from consumer.errors import PublishError, PublishFailure
from tests.integration.contract.conftest import PREFETCH, Side
from tests.waiting import await_until


class Taker:
    """Remembers what is delivered and whether the connection was lost."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.lost = 0

    def on_delivery(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    def on_lost(self) -> None:
        self.lost += 1

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for delivery in self.deliveries]

    async def has(self, count: int) -> None:
        """Wait until ``count`` have come."""
        await await_until(lambda: len(self.deliveries) >= count, 10, lambda: f"{count} in {self.bodies}")


async def started(side: Side, mode: Mode = Mode.FLOW) -> tuple[Taker, Any, Any]:
    """A link that is connected and takes what ``mode`` says."""
    taker = Taker()
    consumer, publisher = await side.link(taker.on_delivery, taker.on_lost)
    consumer.want(mode)
    await await_until(lambda: consumer.connected, 15, "connected")
    return taker, consumer, publisher


async def stays(condition: Callable[[], bool], seconds: float = 0.3) -> bool:
    """Whether ``condition`` holds for that long: there is nothing to wait for when nothing may happen."""
    deadline = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < deadline:
        if not condition():
            return False
        await asyncio.sleep(0.02)
    return True


async def test_a_delivery_is_the_message(side: Side) -> None:
    """Body, headers, content type and id are the operator's; the routing key is our queue."""
    body = '{"a": "é \\u0000 \\ud83d\\ude97"}'.encode() + b"\xff\x00"
    await side.put(body, {"x-trace": "abc", "n": 3}, content_type="application/json", message_id="m-1")
    taker, consumer, _ = await started(side)
    await taker.has(1)
    (delivery,) = taker.deliveries
    assert delivery.body == body
    assert {k: v for k, v in delivery.headers.items() if k != "x-delivery-count"} == {
        "x-trace": "abc",
        "n": 3,
    }
    assert (delivery.content_type, delivery.message_id) == ("application/json", "m-1")
    assert (delivery.exchange, delivery.routing_key) == ("", side.topology.queue)
    assert not delivery.redelivered
    assert consumer.is_current(delivery)


async def test_an_empty_body_is_delivered(side: Side) -> None:
    """It is no journey, but it must be settled like one."""
    await side.put(b"")
    taker, _, _ = await started(side)
    await taker.has(1)
    assert taker.bodies == [b""]


async def test_what_is_acknowledged_is_gone(side: Side) -> None:
    """In any order, and also when the link closes right afterwards."""
    for number in range(PREFETCH):
        await side.put(str(number).encode())
    taker, consumer, _ = await started(side)
    await taker.has(PREFETCH)
    for delivery in (taker.deliveries[2], taker.deliveries[0], taker.deliveries[3], taker.deliveries[1]):
        assert consumer.acknowledge(delivery)
    await side.close()
    assert await side.held(side.topology.queue) == []


async def test_what_is_not_acknowledged_comes_again(side: Side) -> None:
    """Closing gives back exactly what was not settled; nothing can be acknowledged afterwards."""
    for number in range(3):
        await side.put(str(number).encode())
    taker, consumer, _ = await started(side)
    await taker.has(3)
    assert consumer.acknowledge(taker.deliveries[1])
    await side.close()
    assert taker.lost == 1
    assert not consumer.is_current(taker.deliveries[0])
    assert not consumer.acknowledge(taker.deliveries[0])
    assert not consumer.connected
    assert not consumer.subscribed
    again, _, _ = await started(side)
    await again.has(2)
    # By what was taken, not by number: SQS does not promise the order.
    left = [delivery.body for delivery in taker.deliveries if delivery is not taker.deliveries[1]]
    assert sorted(again.bodies) == sorted(left)


async def test_no_more_is_taken_than_the_prefetch(side: Side) -> None:
    """One acknowledgement makes room for one more."""
    for number in range(PREFETCH + 2):
        await side.put(str(number).encode())
    taker, consumer, _ = await started(side)
    await taker.has(PREFETCH)
    assert await stays(lambda: len(taker.deliveries) == PREFETCH)
    consumer.acknowledge(taker.deliveries[0])
    await taker.has(PREFETCH + 1)
    assert await stays(lambda: len(taker.deliveries) == PREFETCH + 1)


async def test_a_pause_leaves_the_backlog_in_the_queue(side: Side) -> None:
    """Nothing is taken while nothing is wanted; afterwards everything comes."""
    taker, consumer, _ = await started(side, Mode.NONE)
    await side.put(b"0")
    assert await stays(lambda: not taker.deliveries)
    assert consumer.connected
    assert not consumer.subscribed
    consumer.want(Mode.FLOW)
    await taker.has(1)
    assert consumer.subscribed
    consumer.want(Mode.NONE)
    await await_until(lambda: not consumer.subscribed, 5, "no longer subscribed")
    assert consumer.acknowledge(taker.deliveries[0])
    await side.put(b"1")
    assert await stays(lambda: len(taker.deliveries) == 1)
    consumer.want(Mode.FLOW)
    await taker.has(2)


async def test_a_probe_takes_one_at_a_time(side: Side) -> None:
    """The next one only when the first is settled."""
    for number in range(3):
        await side.put(str(number).encode())
    taker, consumer, _ = await started(side, Mode.PROBE)
    await taker.has(1)
    assert await stays(lambda: len(taker.deliveries) == 1)
    assert consumer.acknowledge(taker.deliveries[0])
    await taker.has(2)
    assert await stays(lambda: len(taker.deliveries) == 2)
    consumer.want(Mode.FLOW)
    await taker.has(3)


@pytest.mark.parametrize("reason", Reason)
async def test_a_dead_letter_lies_in_the_queue_of_its_reason(side: Side, reason: Reason) -> None:
    """The future ends when it is there, with body and headers as given."""
    _, _, publisher = await started(side)
    headers = {"x-reason": reason.value, "x-attempts": 2, "x-status": 400, "x-trace": "abc"}
    body = b'{"odd": "\xff\x00"}'
    properties = {"delivery_mode": 2, "content_type": "application/json", "message_id": "m"}
    outgoing = Outgoing(side.topology.dead_letter_exchange, reason.value, body, headers, properties)
    await asyncio.wait_for(publisher.submit(outgoing), 10)
    assert await side.held(side.topology.dead_letter_queue(reason)) == [(body, headers)]


async def test_what_is_returned_comes_again(side: Side) -> None:
    """A copy to the end of our own queue, then the acknowledgement of the original."""
    await side.put(b"body", {"x-trace": "abc"}, content_type="application/json", message_id="m-1")
    taker, consumer, publisher = await started(side)
    await taker.has(1)
    came = taker.deliveries[0]
    outgoing = copy_of(
        came, exchange="", routing_key=side.topology.queue, headers={**came.headers, "x-attempts": 1}
    )
    await asyncio.wait_for(publisher.submit(outgoing), 10)
    assert consumer.acknowledge(came)
    await taker.has(2)
    again = taker.deliveries[1]
    assert (again.body, again.message_id, again.content_type) == (b"body", "m-1", "application/json")
    assert (again.headers["x-trace"], again.headers["x-attempts"]) == ("abc", 1)


async def test_many_publishes_are_under_way_together(side: Side) -> None:
    """Each ends once and none is lost; the order is not promised (SQS keeps none)."""
    _, _, publisher = await started(side, Mode.NONE)
    exchange = side.topology.dead_letter_exchange
    futures = [
        publisher.submit(Outgoing(exchange, "invalid", str(number).encode(), {}, {"delivery_mode": 2}))
        for number in range(50)
    ]
    await asyncio.wait_for(asyncio.gather(*futures), 20)
    bodies = [body for body, _ in await side.held(side.topology.dead_letter_queue("invalid"))]
    assert sorted(bodies, key=int) == [str(number).encode() for number in range(50)]


async def test_nothing_is_published_after_closing(side: Side) -> None:
    """The future ends with an error."""
    _, _, publisher = await started(side, Mode.NONE)
    await side.close()
    with pytest.raises(PublishError):
        await publisher.submit(Outgoing("", side.topology.queue, b"", {}, {}))


async def test_an_unroutable_publish_is_returned(side: Side) -> None:
    """A message that no queue receives is not confirmed."""
    _, _, publisher = await started(side, Mode.NONE)
    outgoing = Outgoing(side.topology.dead_letter_exchange, "no-such-reason", b"", {}, {})
    with pytest.raises(PublishError) as caught:
        await asyncio.wait_for(publisher.submit(outgoing), 10)
    assert caught.value.kind is PublishFailure.RETURNED


async def test_a_withdrawn_publish_is_not_sent(side: Side) -> None:
    """Its future ends at once; a publish that is already confirmed stays confirmed."""
    _, _, publisher = await started(side, Mode.NONE)
    exchange = side.topology.dead_letter_exchange
    withdrawn = publisher.submit(Outgoing(exchange, "invalid", b"0", {}, {"delivery_mode": 2}))
    publisher.withdraw(withdrawn)
    with pytest.raises(PublishError) as caught:
        await withdrawn
    assert caught.value.kind is PublishFailure.OUT_OF_DATE
    confirmed = publisher.submit(Outgoing(exchange, "invalid", b"1", {}, {"delivery_mode": 2}))
    await asyncio.wait_for(confirmed, 10)
    publisher.withdraw(confirmed)
    assert confirmed.exception() is None
    held = [body for body, _ in await side.held(side.topology.dead_letter_queue("invalid"))]
    assert held[-1:] == [b"1"]
    assert len(held) <= 2  # the thread may have taken it before it was withdrawn
