"""Reading dead letters: what is known of good ones, and that nothing about a bad one raises."""

import hashlib
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from consumer.core.delivery import Delivery
from consumer.deadletters.record import (
    FOREIGN_DETAIL,
    NO_DEADLINE,
    Record,
    fingerprint,
    payload_of,
    person_hashes,
    read,
)
from consumer.deadletters.view import MOST_GROUPS, Overview
from consumer.publishing import samples

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DEATH: dict[str, Any] = {
    "x-reason": "rejected",
    "x-detail": "not_json",
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
    assert (record.reason, record.detail, record.status) == ("rejected", "not_json", 422)
    assert (record.attempts, record.replays) == (3, 2)
    assert record.died == NOW - timedelta(hours=1)
    assert record.is_too_late(NOW) is False
    assert record.is_too_late(journey.start + timedelta(hours=24)) is True


def test_the_queue_says_the_reason() -> None:
    """Where it lies counts, also when it was moved there by hand: a filter by reason misses none."""
    assert read(Delivery(b"{}", headers=DEATH), "invalid").reason == "invalid"


def test_a_detail_that_is_not_ours_is_not_told() -> None:
    """An operator's own header of that name may hold anything, of any length."""
    for detail in ("Solène", "call 0639981234", "ok at +33639981234", "x" * 300, 7, ["a"]):
        record = read(Delivery(b"{}", headers={"x-detail": detail}), "invalid")
        assert record.detail == FOREIGN_DETAIL
    for detail in (
        "out_of_range at passenger.seats",
        "-32422 too_close_trips,distance_too_short",
        "http_503",
    ):
        assert read(Delivery(b"{}", headers={"x-detail": detail}), "invalid").detail == detail


def test_a_status_that_is_none_is_not_told() -> None:
    """A number of any size may stand in an operator's header of that name."""
    for status in (33612345678, 99, 600, -1, True, "401"):
        assert read(Delivery(b"{}", headers={"x-status": status}), "invalid").status is None


def test_a_date_of_death_before_the_first_day_of_utc() -> None:
    """A date that is none in UTC is not known; it ended every command once."""
    header = {"x-last-failure": "0001-01-01T00:00:00+14:00"}
    assert read(Delivery(b"{}", headers=header), "invalid").died is None


def test_each_version_calls_its_journey_by_its_own_name() -> None:
    """A stray id of the other version does not change whose dead letter it is."""
    ids = {"journey_id": "two", "operator_journey_id": "three"}
    v2 = json.dumps(ids | {"driver": {}}).encode()
    v3 = json.dumps(ids | {"start": {}}).encode()
    assert read(Delivery(v2), "invalid").journey_id == "two"
    assert read(Delivery(v3), "invalid").journey_id == "three"


@pytest.mark.parametrize("levels", [60, 70, 500, 100_000])
def test_what_is_nested_without_end_is_no_payload(levels: int) -> None:
    """JSON that cannot be printed, masked or compared; its bytes can be shown all the same."""
    body = b'{"journey_id": "j", "x": ' + b"[" * levels + b"]" * levels + b"}"
    assert (payload_of(Delivery(body)) is None) == (levels > 63)


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


@pytest.mark.parametrize(
    ("headers", "queue", "detail"),
    [
        (
            {"x-death": [{"reason": "delivery_limit"}, {"reason": "expired"}]},
            "delivery-limit",
            "delivery_limit",
        ),
        ({"x-death": [{"reason": "expired"}]}, "delivery-limit", "expired"),
        ({"x-death": [{"reason": "maxlen"}]}, "delivery-limit", "overflow"),
        ({"x-death": [{"reason": "rejected"}]}, "delivery-limit", "rejected"),
        ({"x-death": [{"reason": "+33612345678"}]}, "delivery-limit", None),
        ({"x-death": [{"reason": "expired"}]}, "exhausted", None),  # a delay queue's, on its way
        ({"x-death": [{"reason": "expired"}], "x-detail": "503"}, "delivery-limit", "503"),
        ({"x-death": "expired"}, "delivery-limit", None),
    ],
)
def test_the_detail_of_the_brokers_own_dead_letters_is_why_it_moved_them(
    headers: dict[str, object], queue: str, detail: str | None
) -> None:
    assert read(Delivery(b"{}", headers=headers), queue).detail == detail


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
_DATE = st.datetimes().map(lambda date: f"{date.isoformat()}+14:00") | st.datetimes()
_HEADER = (
    st.none() | st.text(max_size=5) | st.integers() | st.just([]) | st.just([{}]) | st.just({"a": 1}) | _DATE
)


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
    assert record.died is None or record.died.utcoffset() == timedelta(0)
    assert len(fingerprint(delivery)) == 24
    overview = Overview()
    overview.add(record, NOW)
    total = overview.total
    assert total.count == total.in_time + total.too_late + total.refused_for_good + total.unknown == 1


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(-48, 48) | st.none()), max_size=60))
def test_an_overview_counts_each_once(dead: list[tuple[int, int | None]]) -> None:
    """The groups add up to the total, and the shortest time left of all is the shortest of the groups."""
    overview = Overview()
    for detail, hours in dead:
        start = None if hours is None else NOW + timedelta(hours=hours - 24)
        overview.add(Record("invalid", None, None, f"d{detail}", None, 1, 0, None, start, 2), NOW)
    groups = list(overview.ranked())
    assert sum(group.count for group in groups) == overview.total.count == len(dead)
    assert sum(group.too_late for group in groups) == overview.total.too_late
    shortest = [group.shortest_left for group in groups if group.shortest_left is not None]
    assert overview.total.shortest_left == min(shortest, default=None)
    if shortest:
        assert groups[0].shortest_left == min(shortest)


def test_an_overview_stays_small() -> None:
    """A detail of its own for each dead letter does not cost memory without end."""
    overview = Overview()
    for number in range(3 * MOST_GROUPS):
        overview.add(Record("invalid", None, None, f"d{number}", None, 1, 0, None, None, 2), NOW)
    assert len(overview.groups) == MOST_GROUPS + 1
    assert overview.total.count == 3 * MOST_GROUPS


@pytest.mark.parametrize("labels", ["", " distance_too_short", " too_many_trips_by_day,too_close_trips"])
@pytest.mark.parametrize("hours_left", [-3, 3, None])
def test_what_violates_the_terms_is_refused_for_good(labels: str, hours_left: int | None) -> None:
    """The Registry has stored its id: time left saves nothing, so that it is neither savable nor urgent."""
    start = None if hours_left is None else NOW + timedelta(hours=hours_left - 24)
    record = Record("rejected", None, "j", f"-32422{labels}", 422, 1, 0, None, start, 2)
    assert record.is_refused_for_good
    assert record.as_json(NOW)["refused_for_good"] is True
    assert record.urgency == NO_DEADLINE
    overview = Overview()
    overview.add(record, NOW)
    counts = overview.as_json()["total"]
    assert (counts["savable"], counts["beyond_saving"], counts["refused_for_good"]) == (0, 0, 1)
    assert counts["deadline_unknown"] == 0
    assert counts["tightest_left_seconds"] is None


@pytest.mark.parametrize(
    ("reason", "detail"),
    [("rejected", "-32602 at driver"), ("rejected", None), ("invalid", "-32422"), ("rejected", "-324221")],
)
def test_any_other_refusal_can_be_posted_again(reason: str, detail: str | None) -> None:
    record = Record(reason, None, "j", detail, 400, 1, 0, None, NOW, 2)
    assert not record.is_refused_for_good
    assert record.urgency == NOW.timestamp() + 86_400


def test_what_the_registry_calls_expired_is_too_late_by_any_clock() -> None:
    record = Record("expired", None, "j", "-32422 expired", 422, 1, 0, None, NOW, 2)
    assert record.is_too_late(NOW) is True


# --- persons --------------------------------------------------------------------------------


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("role", ["driver", "passenger"])
@pytest.mark.parametrize("written", ["+33639981234", "0639981234", "06 39 98 12 34", "0033 6 39 98 12 34"])
def test_a_person_is_found_by_the_hash_of_the_phone_however_it_is_written(
    version: samples.Version, role: str, written: str
) -> None:
    payload = samples.journey(version, random.Random(1), NOW)
    assert sha256("+33639981234") not in set(person_hashes(payload))
    payload[role]["identity"]["phone"] = written
    assert sha256("+33639981234") in set(person_hashes(payload))


def test_a_person_is_found_by_user_id_and_identity_key_under_any_key() -> None:
    """Also in an operator's own event, and in a list."""
    payload = {"rider": [{"mobile": 33_612_345_678, "account": "user-7", "identity_key": "AB" * 32}]}
    hashes = set(person_hashes(payload))
    assert {sha256("user-7"), "ab" * 32, sha256("33612345678")} <= hashes
    assert sha256("user-8") not in hashes


@given(_JSON)
def test_looking_for_a_person_never_fails(payload: Any) -> None:
    assert all(isinstance(each, str) for each in person_hashes(payload))
