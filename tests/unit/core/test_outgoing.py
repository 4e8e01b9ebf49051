"""What is published again, through py-amqp's own serializer."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import amqp
from amqp.basic_message import Message
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.delivery import Delivery
from consumer.core.outgoing import Outgoing, bare, copy_of

BASIC = 60  # the AMQP class of the properties

short = st.text(max_size=60).filter(lambda text: len(text.encode()) <= 255)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(-1000, 1000, places=3).map(lambda d: Decimal(str(d)))
    | st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)).map(lambda d: d.replace(microsecond=0))  # noqa: DTZ001 - py-amqp's are naive
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(short, inner, max_size=4),
    max_leaves=8,
)
tables = st.dictionaries(short, values, max_size=6)
properties_of_an_operator = st.fixed_dictionaries(
    {},
    optional={
        "content_type": short,
        "content_encoding": short,
        "delivery_mode": st.sampled_from([1, 2]),
        "priority": st.integers(0, 9),
        "correlation_id": short,
        "reply_to": short,
        "expiration": st.integers(0, 10**6).map(str),
        "message_id": short,
        "timestamp": st.integers(0, 2**40),
        "type": short,
        "user_id": short,
        "app_id": short,
        "cluster_id": short,
    },
)


def through_the_wire(body: bytes, headers: dict[str, Any], properties: dict[str, Any]) -> Delivery:
    """Write a message's properties as py-amqp does, and read them as our intake does."""
    sent = amqp.Message(body, application_headers=headers, **properties)
    written = sent._serialize_properties()
    received = amqp.Message()
    received._load_properties(BASIC, b"\0" * 12 + written, 12)
    found = dict(received.properties)
    return Delivery(body=body, headers=found.pop("application_headers", None) or {}, properties=found)


@given(headers=tables, properties=properties_of_an_operator, body=st.binary())
def test_what_was_received_can_be_published_and_is_the_same(
    headers: dict[str, Any], properties: dict[str, Any], body: bytes
) -> None:
    """Body, headers and properties survive reading and writing again, but for what steers the broker."""
    came = through_the_wire(body, headers, properties)
    outgoing = copy_of(came, exchange="e", routing_key="k", headers=came.headers)
    again = through_the_wire(outgoing.body, dict(outgoing.headers), dict(outgoing.properties))

    assert again.body == body
    moved = {"expiration": "x-original-expiration", "user_id": "x-original-user-id"}
    kept = {k: v for k, v in came.properties.items() if k not in (*moved, "cluster_id")}
    assert again.properties == kept | {"delivery_mode": 2}
    for name, header in moved.items():
        if name in came.properties and header not in came.headers:
            assert again.headers[header] == came.properties[name]
    ours = {*moved.values(), "x-original-cc", "x-original-bcc"}
    steering = {"CC", "BCC", "x-delivery-count", "x-acquired-count"}
    assert {k: v for k, v in again.headers.items() if k not in ours} == {
        k: v for k, v in came.headers.items() if k not in ours | steering
    }


@given(cc=st.lists(short), bcc=st.lists(short))
def test_a_copy_goes_to_one_place_only(cc: list[str], bcc: list[str]) -> None:
    """CC and BCC would route the copy to further queues; they are kept under other names."""
    came = through_the_wire(b"{}", {"CC": cc, "BCC": bcc}, {})
    outgoing = copy_of(came, exchange="e", routing_key="k", headers=came.headers)
    assert not outgoing.headers.keys() & {"CC", "BCC"}
    assert outgoing.headers["x-original-cc"] == cc
    assert outgoing.headers["x-original-bcc"] == bcc


def test_what_was_moved_before_is_not_overwritten() -> None:
    """A message on its second way round still knows its first expiration."""
    came = Delivery(
        body=b"{}",
        headers={"x-original-expiration": "1000"},
        properties={"expiration": "5", "user_id": "guest"},
    )
    outgoing = copy_of(came, exchange="", routing_key="q", headers=came.headers)
    assert outgoing.headers == {"x-original-expiration": "1000", "x-original-user-id": "guest"}
    assert outgoing.properties == {"delivery_mode": 2}


def test_the_delivery_stays_as_it_was() -> None:
    """Headers and properties of a delivery are shared with whoever else looks at it."""
    came = Delivery(body=b"{}", headers={"CC": ["x"]}, properties={"user_id": "guest", "priority": 4})
    copy_of(came, exchange="", routing_key="q", headers=came.headers)
    assert (came.headers, came.properties) == ({"CC": ["x"]}, {"user_id": "guest", "priority": 4})


@given(
    st.dictionaries(
        st.sampled_from(("mine", "x-a", "x-é", "x-b", "x-c")) | st.integers(0, 200).map(lambda n: f"x-{n}"),
        st.sampled_from(["short", "é" * 300, "y" * 400, "z" * 131_000, 7, 2.5, [1], {"a": 1}, None]),
        max_size=200,
    )
)
def test_what_is_bare_fits_any_frame(headers: dict[str, Any]) -> None:
    """Small headers are kept, as many as fit; the body and what names the message always."""
    properties = {"message_id": "m", "content_type": "application/json", "delivery_mode": 2, "type": "t"}
    found = bare(Outgoing("e", "k", b"body", headers, properties))
    assert (found.exchange, found.routing_key, found.body) == ("e", "k", b"body")
    assert found.properties.keys() == {"message_id", "content_type", "delivery_mode"}
    message = Message(found.body, application_headers=dict(found.headers), **found.properties)
    assert len(message._serialize_properties()) < 20_000
    assert all(headers[name] == value for name, value in found.headers.items())
    assert bare(found) == found
