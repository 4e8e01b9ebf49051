"""Invented journeys that look like real ones, and invalid payloads.

For the demo, ``publish --generate``, the tests and the benchmark. Every phone number is from the ranges that
ARCEP reserves for fiction: no sample is about a real person. Pure: the clock and the random generator are
arguments.
"""

import json
import math
import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

Version = Literal["v2", "v3"]
_Town = tuple[str, float, float]
_Stop = tuple[_Town, datetime]

_DEGREE_KM = 111.2
_ROADS_ARE_LONGER = 1.3
_KM_PER_HOUR = 72.0
_CENTS_PER_KM = 8
#: INSEE code, latitude, longitude.
_TOWNS = (
    ("44109", 47.2184, -1.5536),  # Nantes
    ("35238", 48.1173, -1.6778),  # Rennes
    ("49007", 47.4784, -0.5632),  # Angers
    ("72181", 48.0061, 0.1996),  # Le Mans
    ("69123", 45.7640, 4.8357),  # Lyon
    ("38185", 45.1885, 5.7245),  # Grenoble
    ("42218", 45.4397, 4.3872),  # Saint-Étienne
    ("59350", 50.6292, 3.0573),  # Lille
    ("62041", 50.2910, 2.7775),  # Arras
)
_NEARBY_KM = 160.0
#: ARCEP's ranges for fiction. The mobile one is unknown to the numbering plan that v2's validator uses.
_FICTIONAL = {
    "v2": ("+3319900", "+3326191", "+3335301", "+3346571", "+3353649"),
    "v3": ("+3363998",),
}


def journey(version: Version, rng: random.Random, now: datetime) -> dict[str, Any]:
    """A journey between two towns that ended some minutes to some hours before ``now`` (aware)."""
    departure = rng.choice(_TOWNS)
    arrival = rng.choice([town for town in _TOWNS if 0 < _kilometres(departure, town) < _NEARBY_KM])
    kilometres = _kilometres(departure, arrival) * _ROADS_ARE_LONGER
    ended = now - timedelta(seconds=rng.triangular(60, 6 * 3600, 600))
    started = ended - timedelta(hours=kilometres / _KM_PER_HOUR)
    price = round(kilometres * _CENTS_PER_KM)
    build = _v2 if version == "v2" else _v3
    return build(rng, (departure, started), (arrival, ended), round(kilometres * 1000), price)


def encode(payload: dict[str, Any]) -> bytes:
    """The payload as one line of JSON, the way a publisher would send it."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def invalid(version: Version, rng: random.Random, now: datetime) -> bytes:
    """A payload with a common mistake; validation refuses all of them."""
    return rng.choice(MISTAKES)(journey(version, rng, now))


def journey_id(payload: dict[str, Any]) -> str:
    """The id under which the Registry knows this journey."""
    return str(payload.get("journey_id") or payload["operator_journey_id"])


def _v2(rng: random.Random, start: _Stop, end: _Stop, metres: int, price: int) -> dict[str, Any]:
    def traveller(role: str) -> dict[str, Any]:
        return {
            "identity": {"phone": _phone("v2", rng), "over_18": True},
            "start": {**_position(rng, start), "insee": start[0][0]},
            "end": {**_position(rng, end), "insee": end[0][0]},
            "distance": metres,
            "duration": round((end[1] - start[1]).total_seconds()),
            "incentives": [],
            **({"revenue": price} if role == "driver" else {"contribution": price, "seats": 1}),
        }

    return {
        "journey_id": _uuid(rng),
        "operator_journey_id": _uuid(rng),
        "operator_class": "C",
        "driver": traveller("driver"),
        "passenger": traveller("passenger"),
    }


def _v3(rng: random.Random, start: _Stop, end: _Stop, metres: int, price: int) -> dict[str, Any]:
    return {
        "operator_journey_id": _uuid(rng),
        "operator_trip_id": _uuid(rng),
        "operator_class": "C",
        "start": _position(rng, start),
        "end": _position(rng, end),
        "distance": metres,
        "incentives": [],
        "driver": {"identity": _identity(rng), "revenue": price},
        "passenger": {"identity": _identity(rng), "contribution": price, "seats": 1},
    }


def _identity(rng: random.Random) -> dict[str, Any]:
    key = rng.randbytes(32).hex()
    return {"operator_user_id": _uuid(rng), "identity_key": key, "phone": _phone("v3", rng), "over_18": True}


def _position(rng: random.Random, stop: _Stop) -> dict[str, Any]:
    (_, latitude, longitude), moment = stop
    return {
        "datetime": moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "lat": round(latitude + rng.uniform(-0.02, 0.02), 5),
        "lon": round(longitude + rng.uniform(-0.02, 0.02), 5),
    }


def _phone(version: Version, rng: random.Random) -> str:
    return f"{rng.choice(_FICTIONAL[version])}{rng.randrange(10_000):04d}"


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _kilometres(one: _Town, other: _Town) -> float:
    (_, lat1, lon1), (_, lat2, lon2) = one, other
    shrink = math.cos(math.radians((lat1 + lat2) / 2))
    return _DEGREE_KM * math.hypot(lat2 - lat1, (lon2 - lon1) * shrink)


MISTAKES: tuple[Callable[[dict[str, Any]], bytes], ...] = (
    lambda payload: encode({key: value for key, value in payload.items() if key != "passenger"}),
    lambda payload: encode(payload)[:200],
    lambda payload: encode(payload | {"operator_class": "D"}),
    lambda payload: encode(payload | {"driver": payload["driver"] | {"identity": {"phone": "+33 6 39 98"}}}),
    lambda payload: encode(payload | {"driver": payload["driver"] | {"revenue": "1250"}}),
    lambda payload: encode(payload | {"passenger": payload["passenger"] | {"seats": 9}}),
)
