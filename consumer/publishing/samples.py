"""Invented journeys that look like real ones, and some that nobody would accept.

For trying things out: the demo, ``publish --generate``, the tests and the benchmark. Every phone number
is from the ranges that ARCEP reserves for fiction, so that no sample is ever about anybody. Pure: the
clock and the random generator are arguments.
"""

import hashlib
import json
import math
import random
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

Version = Literal["v2", "v3"]

_EARTH_KM = 6371.0
_ROADS_ARE_LONGER = 1.3
_KM_PER_HOUR = 72.0
_CENTS_PER_KM = 8
#: Name, INSEE code, latitude, longitude.
_TOWNS = (
    ("Nantes", "44109", 47.2184, -1.5536),
    ("Rennes", "35238", 48.1173, -1.6778),
    ("Angers", "49007", 47.4784, -0.5632),
    ("Le Mans", "72181", 48.0061, 0.1996),
    ("Tours", "37261", 47.3941, 0.6848),
    ("Lyon", "69123", 45.7640, 4.8357),
    ("Grenoble", "38185", 45.1885, 5.7245),
    ("Saint-Étienne", "42218", 45.4397, 4.3872),
    ("Chambéry", "73065", 45.5646, 5.9178),
    ("Valence", "26362", 44.9334, 4.8924),
    ("Toulouse", "31555", 43.6047, 1.4442),
    ("Montauban", "82121", 44.0176, 1.3550),
    ("Albi", "81004", 43.9291, 2.1480),
    ("Lille", "59350", 50.6292, 3.0573),
    ("Arras", "62041", 50.2910, 2.7775),
)
_NEARBY_KM = 160.0
#: ARCEP's ranges for fiction. The mobile one is unknown to the numbering plan that v2's validator uses.
_FICTIONAL = {
    "v2": ("+3319900", "+3326191", "+3335301", "+3346571", "+3353649"),
    "v3": ("+3363998",),
}
_LAST_NAMES = ("MARTIN", "BERNARD", "DUBOIS", "LE GALL", "PETIT", "D HERBLAY", "MOREAU", "LEFEBVRE")


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
    """A payload with one of the mistakes that really happen; every one of them is refused."""
    payload = journey(version, rng, now)
    return rng.choice(MISTAKES)(payload)


def journey_id(payload: dict[str, Any]) -> str:
    """The id under which the Registry knows this journey."""
    return str(payload.get("journey_id") or payload["operator_journey_id"])


# --- the two versions -------------------------------------------------------------------

_Stop = tuple[tuple[str, str, float, float], datetime]


def _v2(rng: random.Random, start: _Stop, end: _Stop, metres: int, price: int) -> dict[str, Any]:
    def traveller(role: str) -> dict[str, Any]:
        return {
            "identity": {"phone": _phone("v2", rng), "over_18": True},
            "start": {**_position(rng, start), "insee": start[0][1]},
            "end": {**_position(rng, end), "insee": end[0][1]},
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
    phone = _phone("v3", rng)
    key = hashlib.sha256(f"{phone}-{rng.choice(_LAST_NAMES)}".encode()).hexdigest()
    return {"operator_user_id": _uuid(rng), "identity_key": key, "phone": phone, "over_18": True}


def _position(rng: random.Random, stop: _Stop) -> dict[str, Any]:
    (_, _, latitude, longitude), moment = stop
    return {
        "datetime": moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "lat": round(latitude + rng.uniform(-0.02, 0.02), 5),
        "lon": round(longitude + rng.uniform(-0.02, 0.02), 5),
    }


def _phone(version: Version, rng: random.Random) -> str:
    return f"{rng.choice(_FICTIONAL[version])}{rng.randrange(10_000):04d}"


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _kilometres(one: tuple[str, str, float, float], other: tuple[str, str, float, float]) -> float:
    lat1, lon1, lat2, lon2 = map(math.radians, (one[2], one[3], other[2], other[3]))
    half = math.sin((lat2 - lat1) / 2) ** 2 + (
        math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    )
    return 2 * _EARTH_KM * math.asin(math.sqrt(half))


# --- mistakes ---------------------------------------------------------------------------


def _without_passenger(payload: dict[str, Any]) -> bytes:
    return encode({k: v for k, v in payload.items() if k != "passenger"})


def _unknown_class(payload: dict[str, Any]) -> bytes:
    return encode({**payload, "operator_class": "D"})


def _phone_too_short(payload: dict[str, Any]) -> bytes:
    payload["driver"]["identity"]["phone"] = "+33 6 39 98"
    return encode(payload)


def _too_many_seats(payload: dict[str, Any]) -> bytes:
    payload["passenger"]["seats"] = 9
    return encode(payload)


def _text_for_a_number(payload: dict[str, Any]) -> bytes:
    payload["driver"]["revenue"] = str(payload["driver"]["revenue"])
    return encode(payload)


def _cut_off(payload: dict[str, Any]) -> bytes:
    whole = encode(payload)
    return whole[: len(whole) // 2]


MISTAKES: tuple[Callable[[dict[str, Any]], bytes], ...] = (
    _without_passenger,
    _unknown_class,
    _phone_too_short,
    _too_many_seats,
    _text_for_a_number,
    _cut_off,
)
