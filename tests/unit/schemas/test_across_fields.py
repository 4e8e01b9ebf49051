"""Rules that concern several fields, and what the verdict says of the journey."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

import schemas
from tests.unit.schemas.payloads import DROP, SAMPLES, changed, judge, judge_raw, version_of


@pytest.mark.parametrize(
    ("identity", "violations"),
    [
        ({"phone": "0698765432"}, []),
        ({"phone_trunc": "+336987654", "operator_user_id": "u"}, []),
        ({"phone_trunc": "+336987654"}, [("driver.identity", "missing")]),
        ({"operator_user_id": "u"}, [("driver.identity", "missing")]),
        ({}, [("driver.identity", "missing")]),
        ({"phone": "0698765432", "identity_key": "0" * 64}, [("driver.identity", "unknown_key")]),
    ],
)
def test_who_in_v2(identity: dict[str, Any], violations: list[tuple[str, str]]) -> None:
    """A telephone, or a truncated one with the operator's id."""
    assert judge("v2-full", changed("v2-full", "driver.identity", identity)) == violations


@pytest.mark.parametrize(
    ("missing", "violations"),
    [
        (["phone_trunc"], []),
        (["phone"], []),
        (["phone", "phone_trunc"], [("driver.identity", "missing")]),
        (["identity_key"], [("driver.identity.identity_key", "missing")]),
        (["operator_user_id"], [("driver.identity.operator_user_id", "missing")]),
    ],
)
def test_who_in_v3(missing: list[str], violations: list[tuple[str, str]]) -> None:
    """The operator's id, the digest, and a telephone of either kind."""
    identity = {k: v for k, v in SAMPLES["v3-full"]["driver"]["identity"].items() if k not in missing}
    assert judge("v3-full", changed("v3-full", "driver.identity", identity)) == violations


@pytest.mark.parametrize(
    ("raw", "accepted"),
    [
        ('"' + "0123456789abcdef" * 4 + '"', True),
        ('"' + "A" * 64 + '"', False),
        ('"' + "a" * 63 + '"', False),
        ('""', False),
        *((raw, True) for raw in ("1", "1e400", "12345678901234567890123", "null", "true", '{"a": 1}')),
    ],
)
def test_an_identity_key_that_is_no_string_slips_through(raw: str, accepted: bool) -> None:  # noqa: FBT001
    """As at the Registry: its pattern applies to strings only, and its database stores them as text."""
    path = "driver.identity.identity_key"
    assert judge_raw("v3-full", path, raw) == ([] if accepted else [(path, "bad_format")])


@pytest.mark.parametrize("raw", ["1", "null", '"x"', "[]", '{"driver": [1, {"a": 1e5}]}'])
def test_incentive_counterparts_may_be_anything(raw: str) -> None:
    """v3 takes whatever stands there."""
    assert judge_raw("v3-full", "incentive_counterparts", raw) == []


@pytest.mark.parametrize(
    ("place", "violations"),
    [
        ({"insee": "35238"}, []),
        ({"lat": 48, "lon": 2}, []),
        ({"literal": "x" * 512, "country": "F"}, []),
        ({}, [("", "missing")]),
        ({"lat": 48}, [(".lon", "missing")]),
        ({"lon": 2, "insee": "35238"}, [(".lat", "missing")]),
        ({"literal": "Gare"}, [(".country", "missing")]),
        ({"country": "France", "lat": 48}, [(".lon", "missing"), (".literal", "missing")]),
        ({"insee": "2C033"}, [(".insee", "bad_format")]),
        ({"insee": "35238", "literal": "x" * 513, "country": "F"}, [(".literal", "too_long")]),
    ],
)
def test_where_in_v2(place: dict[str, Any], violations: list[tuple[str, str]]) -> None:
    """A point, a commune or an address, and no half of a pair."""
    position = {"datetime": "2026-03-02T07:00:00+01:00", **place}
    expected = [(f"driver.start{path}", code) for path, code in violations]
    assert judge("v2-full", changed("v2-full", "driver.start", position)) == expected


@pytest.mark.parametrize("key", ["datetime", "lat", "lon"])
def test_where_in_v3(key: str) -> None:
    """Date, latitude and longitude, all three."""
    assert judge("v3-full", changed("v3-full", f"end.{key}", DROP)) == [(f"end.{key}", "missing")]


@pytest.mark.parametrize(
    ("start", "end", "v2", "v3"),
    [
        ("2026-03-02T06:00:00Z", "2026-03-02T06:00:01Z", [], []),
        ("2026-03-02T06:00:00Z", "2026-03-02T06:00:00Z", ["not_before_end"], []),
        ("2026-03-02T06:00:00.000Z", "2026-03-02T06:00:00Z", ["not_before_end"], []),
        ("2026-03-02T06:00:00Z", "2026-03-02T06:00:00.000Z", [], []),
        ("2026-03-02T06:00:00.5Z", "2026-03-02T06:00:00.123Z", ["not_before_end"], ["start_after_end"]),
        ("2026-03-02T06:00:00.1239Z", "2026-03-02T06:00:00.1231Z", ["not_before_end"], []),
        ("2026-03-02T08:00:00+02:00", "2026-03-02T07:00:00Z", ["not_before_end"], []),
        ("2026-03-02T06:00:00Z", "2026-03-02T06:30:00+02:00", ["start_after_end"], ["start_after_end"]),
        ("2026-03-02T06:01:00Z", "2026-03-02T06:00:00Z", ["not_before_end"], ["start_after_end"]),
    ],
)
def test_a_journey_starts_before_it_ends(start: str, end: str, v2: list[str], v3: list[str]) -> None:
    """v2 compares the wall clocks as text and then the instants, v3 the instants only."""
    second = changed("v2-full", "driver.start.datetime", start)
    second["driver"]["end"]["datetime"] = end
    assert judge("v2-full", second) == [("driver.start.datetime", code) for code in v2]
    third = changed("v3-full", "start.datetime", start)
    third["end"]["datetime"] = end
    assert judge("v3-full", third) == [("start.datetime", code) for code in v3]


def test_a_v2_journey_spans_both_persons() -> None:
    """The earliest start and the latest end, in UTC, with the field that the end comes from."""
    journey = schemas.validate("v2", json.dumps(SAMPLES["v2-full"]).encode())
    assert journey == schemas.Journey(
        "sample-v2-full",
        datetime(2026, 3, 2, 6, 10, tzinfo=UTC),
        datetime(2026, 3, 2, 6, 55, tzinfo=UTC),
        "driver.end.datetime",
    )
    later = changed("v2-full", "passenger.end.datetime", "2026-03-02T06:56:00.0009Z")
    later["passenger"]["start"]["datetime"] = "2026-03-02T06:00:00Z"
    journey = schemas.validate("v2", json.dumps(later).encode())
    assert isinstance(journey, schemas.Journey)
    assert (journey.start.hour, journey.start.minute, journey.end.minute) == (6, 0, 56)
    assert journey.end.microsecond == 0
    assert journey.end_path == "passenger.end.datetime"


@pytest.mark.parametrize("name", SAMPLES)
def test_whether_a_journey_is_over_is_another_question(name: str) -> None:
    """Validation knows no time; ``ends_in_future`` is asked with one, and now itself is not the future."""
    journey = schemas.validate(version_of(name), json.dumps(SAMPLES[name]).encode())
    assert isinstance(journey, schemas.Journey)
    assert journey.end.tzinfo is UTC
    assert not schemas.ends_in_future(journey, journey.end)
    assert schemas.ends_in_future(journey, journey.start.replace(year=2025))
