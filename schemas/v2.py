"""The payload of ``POST /v2/journeys``, as the Registry's last server with v2 (July 2023) validates it.

1. The types check single fields; ``judge`` adds the rules across fields. Docstrings of types are published
   as descriptions in the JSON Schema.
2. The source of every type is that server's JSON Schema for v2, and ``CreateJourneyAction``. Where the
   published OpenAPI file differs, the server is followed.
3. Nothing here reads a clock: a journey may end in the future.
"""

from typing import NotRequired

from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from schemas import fields
from schemas.dates import DateTimeV2, instant, wall_clock
from schemas.phone import PhoneTruncV2, PhoneV2
from schemas.verdict import Journey, Refusal, Violation

_TOGETHER = {"lat": "lon", "lon": "lat", "literal": "country", "country": "literal"}


@with_config(
    fields.closed_object(anyOf=[{"required": ["phone"]}, {"required": ["operator_user_id", "phone_trunc"]}])
)
class Identity(fields.Person):
    """A person: ``phone``, or ``phone_trunc`` with ``operator_user_id``."""

    phone: NotRequired[PhoneV2]
    phone_trunc: NotRequired[PhoneTruncV2]
    operator_user_id: NotRequired[fields.Text]
    travel_pass: NotRequired[fields.TravelPass]


# "if" and "then", because draft 7 (AsyncAPI) and 2020-12 name the shorter keyword differently.
_PAIRS = [{"if": {"required": [field]}, "then": {"required": [other]}} for field, other in _TOGETHER.items()]


@with_config(fields.closed_object(minProperties=2, allOf=_PAIRS))
class Position(TypedDict):
    """Date and place: coordinates, an INSEE code, or a literal with its country."""

    datetime: DateTimeV2
    lat: NotRequired[fields.Latitude]
    lon: NotRequired[fields.Longitude]
    insee: NotRequired[fields.Insee]
    country: NotRequired[fields.Text]
    literal: NotRequired[fields.LongText]


class _Traveller(TypedDict):
    identity: Identity
    start: Position
    end: Position
    incentives: fields.Incentives
    payments: NotRequired[fields.Payments]
    distance: NotRequired[fields.Distance]
    duration: NotRequired[fields.Duration]


@with_config(fields.OBJECT)
class Driver(_Traveller):
    """The driver, with the revenue."""

    revenue: fields.Money


@with_config(fields.OBJECT)
class Passenger(_Traveller):
    """The passenger, with the contribution and optionally the seats taken."""

    contribution: fields.Money
    seats: NotRequired[fields.Seats]


@with_config(fields.OBJECT)
class Payload(TypedDict):
    """A v2 journey: one driver, one passenger, each with their own times and places."""

    journey_id: fields.Text
    operator_class: fields.OperatorClass
    driver: Driver
    passenger: Passenger
    operator_journey_id: NotRequired[fields.Text]
    operator_id: NotRequired[fields.OperatorId]


ADAPTER = TypeAdapter(Payload)


def judge(payload: Payload) -> Journey | Refusal:
    violations: list[Violation] = []
    instants = []
    for role in fields.ROLES:
        person = payload[role]
        identity, start, end = person["identity"], person["start"], person["end"]
        if "phone" not in identity and not ("phone_trunc" in identity and "operator_user_id" in identity):
            violations.append(
                Violation(f"{role}.identity", "missing", "needs phone, or phone_trunc and operator_user_id")
            )
        for name, position in (("start", start), ("end", end)):
            violations.extend(_incomplete(f"{role}.{name}", position))
        started, ended = instant(start["datetime"]), instant(end["datetime"])
        if wall_clock(start["datetime"]) >= wall_clock(end["datetime"]):
            violations.append(
                Violation(
                    f"{role}.start.datetime",
                    "not_before_end",
                    "must be before end.datetime, compared as text: date and time without the zone",
                )
            )
        elif started > ended:
            violations.append(Violation(f"{role}.start.datetime", "start_after_end", "is after end.datetime"))
        instants.append((started, ended))
    if violations:
        return Refusal(tuple(violations))
    (driver_start, driver_end), (passenger_start, passenger_end) = instants
    return Journey(
        payload["journey_id"],
        min(driver_start, passenger_start),
        max(driver_end, passenger_end),
        "driver.end.datetime" if driver_end >= passenger_end else "passenger.end.datetime",
    )


def _incomplete(path: str, position: Position) -> list[Violation]:
    """Find a position with its date only, or with half of a pair."""
    if len(position) == 1:
        return [Violation(path, "missing", "needs lat and lon, insee, or literal and country")]
    return [
        Violation(f"{path}.{other}", "missing", f"is required with {field}")
        for field, other in _TOGETHER.items()
        if field in position and other not in position
    ]
