"""Dead letters that wait for their turn come out as they went in, and are small meanwhile."""

import random
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from consumer.core.delivery import Delivery
from consumer.deadletters.packing import Packer
from consumer.publishing import samples

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
#: All that an AMQP table can hold.
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.decimals(allow_nan=False, allow_infinity=False, places=2).map(Decimal),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TABLES = st.dictionaries(st.text(max_size=20), VALUES, max_size=6)
DELIVERIES = st.builds(
    Delivery,
    body=st.binary(max_size=10_000),
    headers=TABLES,
    properties=TABLES,
    exchange=st.text(),
    routing_key=st.text(),
    redelivered=st.booleans(),
    received_at=st.floats(0, 1e9),
    tag=st.integers(1, 2**63 - 1) | st.text(),
    channel=st.integers(0, 2047),
    generation=st.integers(0, 100),
)


def fields(delivery: Delivery) -> dict[str, Any]:
    """All of it."""
    return {name: getattr(delivery, name) for name in Delivery.__slots__}


@given(st.lists(DELIVERIES, min_size=1, max_size=5))
def test_what_is_packed_comes_out_as_it_went_in(deliveries: list[Delivery]) -> None:
    """Whatever they hold, in whatever order, however little they have in common."""
    packer = Packer()
    packed = [packer.pack(delivery) for delivery in deliveries]
    for delivery, small in reversed(list(zip(deliveries, packed, strict=True))):
        assert fields(packer.unpack(small)) == fields(delivery)


def test_journeys_of_one_operator_take_little() -> None:
    """Each of a hundred takes less than half of its own payload, headers and all."""
    rng, packer = random.Random(5), Packer()
    for number in range(100):
        payload = samples.journey("v2", rng, NOW)
        delivery = Delivery(
            samples.encode(payload),
            headers={"x-reason": "unauthorized", "x-detail": "token_refused", "x-attempts": 1},
            properties={"message_id": payload["journey_id"], "delivery_mode": 2},
            tag=number,
        )
        assert len(packer.pack(delivery)) < len(delivery.body) / 2
