"""The link on ``memory://``: order of submissions and closing, futures, limits; kombu's envelope on SQS."""

import asyncio
import base64
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from consumer.broker import virtual as module
from consumer.broker.sqs import _envelope
from consumer.broker.virtual import (
    VirtualFacts,
    VirtualLink,
    VirtualQueueReader,
    inspect_virtual,
    open_link,
    transport_limits,
)
from consumer.core.delivery import Mode
from consumer.core.outgoing import Outgoing
from consumer.core.topology import Topology
from consumer.errors import BrokerError, PublishError, PublishFailure
from consumer.metrics import Metrics
from tests.waiting import await_until

URL = "memory://"


async def connected() -> tuple[VirtualLink, Topology]:
    topology = Topology(f"virtual.{uuid.uuid4().hex}")
    link = VirtualLink(url=URL, topology=topology, prefetch=1, metrics=Metrics(CollectorRegistry()))
    link.start()
    await await_until(lambda: link.connected, 10, "connected")
    return link, topology


async def test_what_was_submitted_before_closing_is_published() -> None:
    link, topology = await connected()
    futures = [link.submit(Outgoing("", topology.queue, b"", {}, {})) for _ in range(100)]
    await link.close()
    await asyncio.wait_for(asyncio.gather(*futures), 5)
    assert inspect_virtual(URL, topology.queue).messages == 100
    with pytest.raises(PublishError) as caught:
        await link.submit(Outgoing("", topology.queue, b"", {}, {}))
    assert caught.value.kind is PublishFailure.CLOSED


async def test_a_withdrawn_publish_is_left_out() -> None:
    link, topology = await connected()
    future = link.submit(Outgoing("", topology.queue, b"", {}, {}))
    link.withdraw(future)
    with pytest.raises(PublishError, match="out_of_date"):
        await future
    await link.close()


async def test_nothing_is_delivered_before_run(caplog: pytest.LogCaptureFixture) -> None:
    """A link that publishes already, and whose mode is set, has no receiver yet."""
    link, topology = await connected()
    link.want(Mode.FLOW)
    await link.submit(Outgoing("", topology.queue, b"early", {}, {}))
    with pytest.raises(AssertionError, match="lost"):
        await await_until(lambda: not link.connected, 0.3, "lost")
    received: list[bytes] = []
    running = asyncio.create_task(link.run(lambda delivery: received.append(delivery.body), lambda: None))
    await await_until(lambda: received == [b"early"], 10, "delivered")
    assert "broker connection lost" not in caplog.text
    await link.close()
    await running


async def test_each_lost_connection_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also the second one with the same reason, when there was a connection in between."""

    def fail(_channel: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(module, "RECONNECT_SECONDS", 0.0)
    link, _ = await connected()
    for generation in (2, 3):
        link._commands.put(fail)
        await await_until(lambda g=generation: link.connected and link._generation == g, 10, "connected")
    await link.close()
    lost = [each for each in caplog.records if each.getMessage() == "broker connection lost"]
    assert [each.levelname for each in lost] == ["WARNING", "WARNING"]


def test_a_missing_queue_is_not_an_error_and_is_not_created() -> None:
    name = uuid.uuid4().hex
    assert inspect_virtual(URL, name) == VirtualFacts(None, None)
    assert inspect_virtual(URL, name) == VirtualFacts(None, None)
    with pytest.raises(BrokerError, match="cannot be read: ChannelError"):
        VirtualQueueReader(URL, name).open()


def test_every_broker_says_what_it_cannot_promise() -> None:
    assert transport_limits(URL).startswith("everything is lost")
    assert "visibility timeout" in transport_limits("sqs://?region=eu-west-3")


@pytest.mark.parametrize(
    ("url", "endpoint", "region"),
    [
        ("sqs://?region=eu-west-3", None, "eu-west-3"),
        ("sqs://key:s%2Fcret@?region=eu-west-3", None, "eu-west-3"),
        ("sqs://key:secret@localhost:4566?region=r", "http://localhost:4566", "r"),
        ("sqs://queue.example?region=r", "https://queue.example", "r"),
        ("sqs://queue.example:8080?region=r&is_secure=false", "http://queue.example:8080", "r"),
    ],
)
def test_an_address_of_sqs(url: str, endpoint: str | None, region: str) -> None:
    """TLS everywhere but on this machine, unless the address says otherwise."""
    link = open_link(url)
    assert link.transport_options["region"] == region
    assert (link.userid, link.password) == (
        (None, None) if "@" not in url else ("key", "s/cret" if "%2F" in url else "secret")
    )
    host = f"{link.hostname}:{link.port}" if link.port else link.hostname
    scheme = "https" if link.transport_options.get("is_secure") else "http"
    assert (f"{scheme}://{host}" if link.hostname else None) == endpoint
    assert link.transport.Channel.__name__ == "SqsChannel"


ENVELOPE = {
    "body": "",
    "headers": {},
    "properties": {"delivery_info": {}, "delivery_tag": "t", "body_encoding": "base64"},
}


@given(body=st.binary(), headers=st.dictionaries(st.text(), st.text()))
def test_an_envelope_is_recognised(body: bytes, headers: dict[str, str]) -> None:
    sent = {**ENVELOPE, "body": base64.b64encode(body).decode(), "headers": headers}
    text = json.dumps(sent)
    assert _envelope(text) == _envelope(base64.b64encode(text.encode()).decode()) == sent


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*ENVELOPE, "delivery_tag", "x"]), inner),
)


@given(text=st.text() | JSON.map(json.dumps), at=st.sampled_from(sorted(ENVELOPE)), value=JSON)
def test_nothing_else_is_an_envelope_or_an_error(text: str, at: str, value: object) -> None:
    """A foreign body is never taken apart, whatever it holds."""
    assert _envelope(text) is None
    changed = json.dumps({**ENVELOPE, at: value})
    found = _envelope(changed)
    assert found is None or (isinstance(found["body"], str) and isinstance(found["headers"], dict))
