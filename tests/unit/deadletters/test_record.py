"""Reading dead letters: what is known of good ones, and that nothing about a bad one raises."""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from consumer import samples
from consumer.deadletters.masking import masked
from consumer.deadletters.overview import MOST_GROUPS, Overview
from consumer.deadletters.record import Record, fingerprint, read
from consumer.delivery import Delivery

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DEATH: dict[str, Any] = {
    "x-reason": "rejected",
    "x-detail": "d",
    "x-status": 422,
    "x-attempts": 3,
    "x-replays": 2,
    "x-last-failure": "2026-11-23T11:00:00.000Z",
}


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_record_knows_what_validation_knows(version: samples.Version) -> None:
    """Id and deadline are those of the schemas, in both versions."""
    body = samples.encode(samples.journey(version, random.Random(1), NOW))
    journey = schemas.validate(version, body)
    assert isinstance(journey, schemas.Journey)
    record = read(Delivery(body, headers=DEATH, properties={"message_id": "m"}), "rejected")
    assert (record.journey_id, record.start, record.message_id) == (journey.journey_id, journey.start, "m")
    assert record.deadline == journey.start + timedelta(hours=24)
    assert (record.reason, record.detail, record.status) == ("rejected", "d", 422)
    assert (record.attempts, record.replays) == (3, 2)
    assert record.died == NOW - timedelta(hours=1)
    assert record.is_lost(NOW) is False
    assert record.is_lost(journey.start + timedelta(hours=24)) is True


def test_a_cloudevent_is_looked_into() -> None:
    """Structured mode: the journey is its data."""
    payload = samples.journey("v3", random.Random(2), NOW)
    body = json.dumps({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": payload}).encode()
    for content_type in ("application/cloudevents+json", "application/json", None):
        record = read(Delivery(body, properties={"content_type": content_type}), "invalid")
        assert record.journey_id == payload["operator_journey_id"]
        assert record.start is not None


def test_the_brokers_own_dead_letters_have_a_reason_and_a_time() -> None:
    """What crashed the process too often has only the broker's marks."""
    death = [{"reason": "delivery_limit", "time": datetime(2026, 11, 23, 10)}]  # noqa: DTZ001 as AMQP gives it
    record = read(Delivery(b"{}", headers={"x-death": death}), "delivery-limit")
    assert (record.reason, record.died) == ("delivery-limit", NOW - timedelta(hours=2))


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ("journey_id", "start", "datetime", "driver", "passenger", "operator_journey_id", "x")
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
_HEADER = st.none() | st.text(max_size=5) | st.integers() | st.just([]) | st.just([{}]) | st.just({"a": 1})


@given(
    st.binary(max_size=40) | _JSON.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from((*DEATH, "x-death", "x-delivery-count")), _HEADER),
)
def test_reading_never_fails(body: bytes, headers: dict[str, Any]) -> None:
    """Whatever an operator published, it is counted and can be sorted, shown and told."""
    delivery = Delivery(body, headers=headers)
    record = read(delivery, "invalid")
    assert record.urgency > -1e12
    json.dumps(record.as_json(NOW))
    assert len(fingerprint(delivery)) == 24
    overview = Overview()
    overview.add(record, NOW)
    assert overview.total.count == overview.total.savable + overview.total.lost + overview.total.unknown == 1


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(-48, 48) | st.none()), max_size=60))
def test_an_overview_counts_each_once(dead: list[tuple[int, int | None]]) -> None:
    """The groups add up to the total, and the tightest of all is the tightest of the groups."""
    overview = Overview()
    for detail, hours in dead:
        start = None if hours is None else NOW + timedelta(hours=hours - 24)
        overview.add(Record("invalid", None, None, f"d{detail}", None, 1, 0, None, start, 2, 0), NOW)
    groups = list(overview.ranked())
    assert sum(group.count for group in groups) == overview.total.count == len(dead)
    assert sum(group.lost for group in groups) == overview.total.lost
    tightest = [group.tightest_left for group in groups if group.tightest_left is not None]
    assert overview.total.tightest_left == min(tightest, default=None)
    if tightest:
        assert groups[0].tightest_left == min(tightest)


def test_an_overview_stays_small() -> None:
    """A detail of its own for each dead letter does not cost memory without end."""
    overview = Overview()
    for number in range(3 * MOST_GROUPS):
        overview.add(Record("invalid", None, None, f"d{number}", None, 1, 0, None, None, 2, 0), NOW)
    assert len(overview.groups) == MOST_GROUPS + 1
    assert overview.total.count == 3 * MOST_GROUPS


PERSONAL = (
    "+33639981234",
    "Solène",
    "Quéméneur",
    "48.1113",
    "52803980d397bf1f",
    "solene@",
    "FG-456",
    "12-XYZ",
)


def test_a_masked_payload_holds_nothing_of_a_person() -> None:
    """Values that nobody listed as harmless are shapes, unknown keys are not named."""
    payload = {
        "operator_journey_id": "j-1",
        "start": {"datetime": "2026-03-02T06:10:00Z", "lat": 48.1113, "lon": -1.68},
        "driver": {
            "identity": {
                "phone": "+33639981234",
                "firstname": "Solène",
                "email": "solene@example.org",
                "identity_key": "52803980d397bf1ff1565c90ecdb7b31",
                "travel_pass": {"name": "navigo", "user_id": "12-XYZ"},
                "over_18": True,
            },
            "Quéméneur": ["FG-456-HJ", 7],
        },
    }
    shown = masked(payload)
    text = json.dumps(shown, ensure_ascii=False)
    assert not [value for value in PERSONAL if value in text]
    assert shown["operator_journey_id"] == "j-1"
    assert shown["start"]["datetime"] == "2026-03-02T06:10:00Z"
    assert shown["driver"]["identity"]["phone"] == "<text, 12 characters: +9>"
    assert shown["driver"]["identity"]["over_18"] is True
    assert shown["driver"]["<unknown key 2>"] == ["<text, 9 characters: a-9-a>", "<number>"]


@given(_JSON)
def test_masking_keeps_the_shape(value: Any) -> None:
    """Any JSON can be masked, and stays as deep and as wide."""

    def shape(each: Any) -> Any:
        match each:
            case dict():
                return [shape(inner) for inner in each.values()]
            case list():
                return [shape(inner) for inner in each]
            case _:
                return None

    assert shape(masked(value)) == shape(value)
