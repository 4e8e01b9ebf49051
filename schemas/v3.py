"""The payload of ``POST /v3.x/journeys``, as the Registry's server of August 2025 validates it.

1. The types check single fields; ``judge`` adds the rules across fields and those of ``database``. Docstrings
   of types are published as descriptions in the JSON Schema.
2. The source of every type is that server's JSON Schema for v3, and ``CreateJourneyAction``. Where the
   published OpenAPI files (3.0 to 3.3) differ, the server is followed.
3. Nothing here reads a clock: a journey may end in the future.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import FailFast, Field, TypeAdapter, with_config
from pydantic_core import core_schema
from typing_extensions import TypedDict

from schemas import database, fields
from schemas.dates import DateTimeV3, instant
from schemas.phone import PhoneTruncV3, PhoneV3
from schemas.verdict import MAX_VIOLATIONS, Journey, Refusal, Violation

_DIGEST = r"^[a-f0-9]{64}$"


def _stored(limit: int | None = None) -> Any:
    """Add a rule of the database to a text's JSON Schema; ``database`` checks it."""
    longest = {} if limit is None else {"maxLength": limit}
    return Field(json_schema_extra={**longest, "pattern": r"^[^\u0000]*$"})


StoredText = Annotated[fields.Text, _stored()]

# 64 lower-case hexadecimal digits, or anything that is not a string. Source: the validator gives
# ``identity_key`` a pattern but no type, so that a number, an object or ``null`` is accepted, and stored.
# We refuse nothing that the Registry accepts; the JSON Schema says what a publisher should send.
_DIGEST_OR_NO_STRING = fields.checked(
    core_schema.union_schema(
        [
            core_schema.str_schema(strict=True, pattern=_DIGEST),  # first: the usual case
            core_schema.float_schema(strict=True),
            core_schema.bool_schema(strict=True),
            core_schema.none_schema(),
            core_schema.list_schema(),
            core_schema.dict_schema(),
        ],
        mode="left_to_right",
        custom_error_type="bad_format",
        custom_error_message="not a digest",
    ),
    {
        "type": "string",
        "pattern": _DIGEST,
        "description": "sha256 of {phone in E.164}-{LAST NAME}, in lower-case hexadecimal.",
    },
)


@with_config(fields.OBJECT)
class Incentive(TypedDict):
    """An incentive: three properties, all required; each with an index of its own."""

    index: fields.Index
    siret: fields.Siret
    amount: fields.PaidAmount
    # The validator accepts fractions; the column ``operator_incentives.amount`` is an integer.


@with_config(fields.OBJECT)
class TravelPass(TypedDict):
    """A travel pass: ``navigo`` is the only name, both properties required."""

    name: Literal["navigo"]
    user_id: Annotated[fields.Text, _stored(database.TRAVEL_PASS)]


@with_config(fields.closed_object(anyOf=[{"required": ["phone"]}, {"required": ["phone_trunc"]}]))
class Identity(fields.Person):
    """A person: the operator's id, the digest, and ``phone`` or ``phone_trunc``."""

    operator_user_id: StoredText
    travel_pass: NotRequired[TravelPass]
    identity_key: Annotated[Any, _DIGEST_OR_NO_STRING]
    phone: NotRequired[PhoneV3]
    phone_trunc: NotRequired[PhoneTruncV3]


@with_config(fields.OBJECT)
class Position(TypedDict):
    """Date and place: exactly these three fields."""

    datetime: DateTimeV3
    lat: fields.Latitude
    lon: fields.Longitude


@with_config(fields.OBJECT)
class Driver(TypedDict):
    """The driver, with the revenue."""

    identity: Identity
    revenue: fields.Money


@with_config(fields.OBJECT)
class Passenger(TypedDict):
    """The passenger, with the contribution, optionally payments and the seats taken."""

    identity: Identity
    contribution: fields.Money
    payments: NotRequired[fields.Payments]
    seats: NotRequired[fields.Seats]


@with_config(fields.OBJECT)
class Payload(TypedDict):
    """A v3 journey. ``incentive_counterparts`` may be anything: the Registry's schema for it is empty."""

    operator_journey_id: StoredText
    operator_trip_id: StoredText
    operator_class: fields.OperatorClass
    incentives: Annotated[list[Incentive], Field(max_length=20), FailFast()]
    start: Position
    end: Position
    distance: fields.Distance
    driver: Driver
    passenger: Passenger
    licence_plate: NotRequired[Annotated[fields.Text, _stored(database.LICENCE_PLATE)]]
    incentive_counterparts: NotRequired[Any]
    operator_id: NotRequired[fields.OperatorId]


ADAPTER = TypeAdapter(Payload)


def judge(payload: Payload) -> Journey | Refusal:
    violations = [
        Violation(f"{role}.identity", "missing", "needs phone or phone_trunc")  # CreateJourneyAction
        for role in fields.ROLES
        if "phone" not in payload[role]["identity"] and "phone_trunc" not in payload[role]["identity"]
    ]
    start, end = instant(payload["start"]["datetime"]), instant(payload["end"]["datetime"])
    if start > end:
        violations.append(Violation("start.datetime", "start_after_end", "is after end.datetime"))
    violations.extend(database.unstorable(payload))
    if violations:
        return Refusal(tuple(violations[:MAX_VIOLATIONS]))
    return Journey(payload["operator_journey_id"], start, end)
