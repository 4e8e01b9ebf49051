"""The payload of ``POST /v3.x/journeys``, as the Registry's server of August 2025 validates it.

1. The types say everything about single fields; ``judge`` adds what concerns several of them.
2. Source of every type here: that server's JSON Schema for v3, and ``CreateJourneyAction``. Where the
   published OpenAPI files (3.0 to 3.3) differ, the server is followed.
3. Nothing here knows the time: a journey may end in the future.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import GetJsonSchemaHandler, TypeAdapter, with_config
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypedDict

from schemas import fields
from schemas.dates import DateTimeV3, instant
from schemas.phone import PhoneTruncV3, PhoneV3
from schemas.verdict import Journey, Refusal, Violation

_Role: TypeAlias = Literal["driver", "passenger"]
_ROLES: tuple[_Role, ...] = ("driver", "passenger")
_DIGEST = r"^[a-f0-9]{64}$"


@dataclass(frozen=True, slots=True)
class Digest:
    """64 lower-case hexadecimal digits, or anything that is not a string.

    Source: the validator gives ``identity_key`` a pattern but no type, so that a number, a list or
    ``null`` slips through. We refuse nothing that the Registry accepts.
    """

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """The digest first, because it is what everybody sends."""
        return core_schema.union_schema(
            [
                core_schema.str_schema(strict=True, pattern=_DIGEST),
                core_schema.float_schema(strict=True),
                core_schema.bool_schema(strict=True),
                core_schema.none_schema(),
                core_schema.list_schema(),
                core_schema.dict_schema(),
            ],
            mode="left_to_right",
            custom_error_type="bad_format",
            custom_error_message="not a digest",
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """What a publisher should send."""
        return {
            "type": "string",
            "pattern": _DIGEST,
            "description": "sha256 of {phone in E.164}-{LAST NAME}, in lower-case hexadecimal.",
        }


@with_config(fields.closed_object(anyOf=[{"required": ["phone"]}, {"required": ["phone_trunc"]}]))
class Identity(fields.Person):
    """Who: the operator's id and the digest, and ``phone`` or ``phone_trunc``.

    The last is not in the validator's schema but in ``CreateJourneyAction``.
    """

    operator_user_id: fields.Text
    identity_key: Annotated[Any, Digest()]
    phone: NotRequired[PhoneV3]
    phone_trunc: NotRequired[PhoneTruncV3]


@with_config(fields.OBJECT)
class Position(TypedDict):
    """When and where: exactly these three (``minProperties`` 3, no others)."""

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
    """The passenger, with the contribution, perhaps payments and the seats taken."""

    identity: Identity
    contribution: fields.Money
    payments: NotRequired[fields.Payments]
    seats: NotRequired[fields.Seats]


@with_config(fields.OBJECT)
class Payload(TypedDict):
    """A v3 journey. ``incentive_counterparts`` may be anything: the validator's schema for it is empty."""

    operator_journey_id: fields.Text
    operator_trip_id: fields.Text
    operator_class: fields.OperatorClass
    incentives: fields.Incentives
    start: Position
    end: Position
    distance: fields.Distance
    driver: Driver
    passenger: Passenger
    licence_plate: NotRequired[fields.Text]
    incentive_counterparts: NotRequired[Any]
    operator_id: NotRequired[fields.OperatorId]


ADAPTER = TypeAdapter(Payload)


def judge(payload: Payload) -> Journey | Refusal:
    """Apply the rules across fields to a payload whose fields are all right."""
    violations = [
        Violation(f"{role}.identity", "missing", "needs phone or phone_trunc")
        for role in _ROLES
        if "phone" not in payload[role]["identity"] and "phone_trunc" not in payload[role]["identity"]
    ]
    start, end = instant(payload["start"]["datetime"]), instant(payload["end"]["datetime"])
    if start > end:
        violations.append(Violation("start.datetime", "start_after_end", "is after end.datetime"))
    if violations:
        return Refusal(tuple(violations))
    return Journey(payload["operator_journey_id"], start, end)
