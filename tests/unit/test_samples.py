"""The invented journeys are accepted, recent, and about no real person."""

import json
import random
import re
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

import schemas
from consumer.publishing import samples

NOW = datetime(2026, 11, 23, 16, 0, tzinfo=UTC)
Version = Literal["v2", "v3"]


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_every_journey_is_valid_recent_and_long_enough(version: Version) -> None:
    """Two hundred journeys pass validation, ended before now and within the terms of use."""
    rng = random.Random(7)
    ids = set()
    for _ in range(200):
        payload = samples.journey(version, rng, NOW)
        journey = schemas.validate(version, samples.encode(payload))
        assert isinstance(journey, schemas.Journey), journey
        assert journey.journey_id == samples.journey_id(payload)
        assert NOW - timedelta(hours=12) < journey.start < journey.end < NOW
        assert payload.get("distance", payload["driver"].get("distance")) > 2_000
        ids.add(journey.journey_id)
    assert len(ids) == 200


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("mistake", samples.MISTAKES)
def test_every_mistake_is_refused(version: Version, mistake: object) -> None:
    """Each kind of mistake turns a valid journey into one that validation refuses."""
    assert callable(mistake)
    body = mistake(samples.journey(version, random.Random(7), NOW))
    assert isinstance(schemas.validate(version, body), schemas.Refusal)


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_phones_are_those_reserved_for_fiction(version: Version) -> None:
    """No sample holds a phone number that could be in use."""
    rng = random.Random(7)
    text = json.dumps([samples.journey(version, rng, NOW) for _ in range(50)])
    phones = re.findall(r"\+33\d+", text)
    assert len(phones) == 100
    assert all(re.fullmatch(r"\+33(63998|19900|26191|35301|46571|53649)\d{4}", phone) for phone in phones)
