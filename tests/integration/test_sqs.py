"""What is particular to SQS: foreign bodies, visibility, limits, dead letters read from another process."""

import asyncio
import base64
import json
import random
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from consumer.broker.virtual import VirtualLink, VirtualQueueReader
from consumer.core.delivery import Delivery, Mode
from consumer.core.outcome import Reason
from consumer.core.outgoing import Outgoing
from consumer.core.topology import Topology
from consumer.errors import BrokerError, PublishError, PublishFailure
from consumer.metrics import Metrics
from consumer.publishing import samples
from tests.broker import Broker
from tests.integration.conftest import Run
from tests.local_registry import LocalRegistry
from tests.sqs import SqsServer
from tests.waiting import await_until, wait_until


class Link(VirtualLink):
    """A link of this test, running, with what it received."""

    def __init__(self, url: str, topology: Topology) -> None:
        super().__init__(url=url, topology=topology, prefetch=10, metrics=Metrics(CollectorRegistry()))
        self.received: list[Delivery] = []

    async def receives(self, count: int) -> list[Delivery]:
        await await_until(lambda: len(self.received) >= count, 15, lambda: f"{count} in {self.received}")
        return self.received


@pytest.fixture
def topology() -> Topology:
    return Topology(f"sqs.{uuid.uuid4().hex[:8]}")


@pytest.fixture
async def link(sqs: SqsServer, topology: Topology) -> AsyncIterator[Link]:
    """Connected to a queue of its own, which is consumed."""
    link = Link(sqs.url, topology)
    running = asyncio.create_task(link.run(link.received.append, lambda: None))
    link.want(Mode.FLOW)
    await await_until(lambda: link.connected, 15, "connected")
    yield link
    await link.close()
    await running


ENVELOPE: dict[str, Any] = {
    "body": base64.b64encode(b"inner").decode(),
    "content-encoding": None,
    "content-type": "application/json",
    "headers": {"x-trace": "abc"},
    "properties": {
        "message_id": "m-1",
        "delivery_info": {"exchange": "", "routing_key": "elsewhere"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "t",
    },
}


@pytest.mark.parametrize(
    "body",
    [
        '{"journey_id": "j-1"}',
        "[1, 2]",
        "not JSON: é 🚗",
        "abcd",  # valid Base64
        '{"properties": {"a": 1}, "type": "Feature"}',
        '{"properties": "text"}',
        '{"properties": null, "body": "x"}',
        json.dumps({**ENVELOPE, "body": "%"}),
        json.dumps({**ENVELOPE, "headers": "text"}),
        json.dumps({**ENVELOPE, "properties": {**ENVELOPE["properties"], "body_encoding": "rot13"}}),
        json.dumps({**ENVELOPE, "properties": {"delivery_tag": "t", "body_encoding": None}}),
        "[" * 100_000,
    ],
)
async def test_a_foreign_body_is_delivered_byte_for_byte(
    sqs: SqsServer, link: Link, topology: Topology, body: str
) -> None:
    """Kombu takes an object with a member "properties" for its own envelope, and drops the rest of it."""
    await asyncio.to_thread(sqs.put, topology.queue, body)
    (delivery,) = await link.receives(1)
    assert delivery.body == body.encode()
    assert (delivery.headers, delivery.properties) == ({}, {})
    assert (delivery.exchange, delivery.routing_key, delivery.redelivered) == ("", topology.queue, False)
    assert link.acknowledge(delivery)
    await await_until(lambda: sqs.count(topology.queue) == (0, 0), 10, "deleted")


@pytest.mark.parametrize("encode", [str, lambda text: base64.b64encode(text.encode()).decode()])
async def test_kombus_envelope_is_opened(
    sqs: SqsServer, link: Link, topology: Topology, encode: Callable[[str], str]
) -> None:
    """Plain, as we write it, or in Base64, as kombu and Celery write it by default."""
    await asyncio.to_thread(sqs.put, topology.queue, encode(json.dumps(ENVELOPE)))
    (delivery,) = await link.receives(1)
    assert (delivery.body, delivery.headers, delivery.message_id) == (b"inner", {"x-trace": "abc"}, "m-1")


async def test_unacknowledged_messages_are_visible_again_after_closing(
    sqs: SqsServer, link: Link, topology: Topology
) -> None:
    """Also a foreign one, and as redelivered; not after 30 minutes only."""
    await asyncio.to_thread(sqs.put, topology.queue, "{}")
    await link.receives(1)
    await link.close()
    assert await asyncio.to_thread(sqs.count, topology.queue) == (1, 0)
    again = Link(sqs.url, topology)
    running = asyncio.create_task(again.run(again.received.append, lambda: None))
    again.want(Mode.FLOW)
    (delivery,) = await again.receives(1)
    assert delivery.redelivered
    await again.close()
    await running


NESTED: list[Any] = []
NESTED.append(NESTED)


@pytest.mark.parametrize(("body", "headers"), [(bytes(2_000_000), {}), (b"{}", {"x": NESTED})])
async def test_a_message_that_cannot_be_sent_fails_alone(
    link: Link, topology: Topology, body: bytes, headers: dict[str, Any]
) -> None:
    """Too large, or with headers that JSON cannot hold: the connection stays, the next one is accepted."""
    exchange = topology.dead_letter_exchange
    refused = link.submit(Outgoing(exchange, Reason.INVALID, body, headers, {}))
    accepted = link.submit(Outgoing(exchange, Reason.INVALID, b"{}", {}, {}))
    with pytest.raises(PublishError) as caught:
        await asyncio.wait_for(refused, 15)
    assert caught.value.kind is PublishFailure.UNENCODABLE
    await asyncio.wait_for(accepted, 15)
    assert link.connected
    assert link._generation == 1


async def test_dead_letters_are_readable_from_another_connection(
    sqs: SqsServer, link: Link, topology: Topology
) -> None:
    """Reading leaves them visible, in any number of turns; only what is acknowledged is deleted."""
    queue = topology.dead_letter_queue(Reason.INVALID)
    for number in range(3):
        await link.submit(Outgoing(topology.dead_letter_exchange, Reason.INVALID, b"%d" % number, {}, {}))

    def read(remove: int) -> list[bytes]:
        reader = VirtualQueueReader(sqs.url, queue)
        found = reader.read(reader.open())
        reader.acknowledge(found[:remove])
        reader.close()
        assert sqs.count(queue)[1] == 0
        return [each.body for each in found]

    assert sorted(await asyncio.to_thread(read, 0)) == [b"0", b"1", b"2"]
    assert len(await asyncio.to_thread(read, 1)) == 3
    assert len(await asyncio.to_thread(read, 0)) == 2


def test_reading_a_missing_queue_creates_nothing(sqs: SqsServer) -> None:
    """It is an error that names the queue."""
    before = sqs.client.list_queues().get("QueueUrls", [])
    with pytest.raises(BrokerError, match=r"the queue 'no\.such\.queue' cannot be read"):
        VirtualQueueReader(sqs.url, "no.such.queue").open()
    assert sqs.client.list_queues().get("QueueUrls", []) == before


def test_the_service_registers_journeys_of_another_producer(
    sqs: SqsServer, sandbox: LocalRegistry, run: Run
) -> None:
    """Plain JSON in, registered or dead-lettered, nothing left; SIGTERM and SIGKILL give everything back."""
    queue = f"service.{uuid.uuid4().hex[:8]}"
    sqs.create(queue, VisibilityTimeout="5")
    dead = f"{queue}.dead-letter.{Reason.INVALID}"
    service = run(cast("Broker", sqs), broker_queue=queue)
    service.await_ready()
    good = [samples.journey("v2", random.Random(number), datetime.now(UTC)) for number in range(20)]
    for payload in good:
        sqs.put(queue, samples.encode(payload).decode())
    sqs.put(queue, "no journey")
    expected = {samples.journey_id(payload) for payload in good}
    wait_until(lambda: expected <= sandbox.journeys.keys(), 30, "registered")
    wait_until(lambda: sqs.count(queue) == (0, 0), 10, "deleted")
    wait_until(lambda: sqs.count(dead) == (1, 0), 10, "dead-lettered")
    sandbox.faults.latency_seconds = 3.0
    late = samples.journey("v2", random.Random("late"), datetime.now(UTC))
    sqs.put(queue, samples.encode(late).decode())
    wait_until(lambda: service.value("in_flight") == 1, 10, "in flight")
    service.kill()
    assert sqs.count(queue) == (0, 1)
    sandbox.faults.latency_seconds = 0.0
    again = run(cast("Broker", sqs), broker_queue=queue)
    again.await_ready()
    wait_until(lambda: samples.journey_id(late) in sandbox.journeys, 20, "delivered again after the crash")
    wait_until(lambda: sqs.count(queue) == (0, 0), 10, "deleted")
    assert again.terminate() == 0
    reader = VirtualQueueReader(sqs.url, dead)
    assert reader.open() == 1
    assert [each.body for each in reader.read(1)] == [b"no journey"]
    reader.close()
