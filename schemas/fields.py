r"""The field types that both API versions share: texts, numbers, SIRET, e-mail, incentives, payments.

1. Each type names the source of its rule; "the validator" is the one of the Registry's open-source
   server (ajv, JSON Schema), in its versions of July 2023 (v2) and August 2025 (v3).
2. Everything here is checked inside pydantic's compiled core: no Python runs for a field.
3. Patterns are written for the Rust and the ECMAScript engine alike: ``[0-9]`` and not ``\d``,
   which is any Unicode digit in Rust, and no case-insensitive flag, which folds beyond ASCII there.
"""

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import ConfigDict, FailFast, Field, GetPydanticSchema, StringConstraints, with_config
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypedDict

ROLES: Final = ("driver", "passenger")

# ``cache_strings``: the parser's string cache lives as long as the process, and values are people's data.
OBJECT = ConfigDict(extra="forbid", strict=True, cache_strings="keys", hide_input_in_errors=True)


def closed_object(**json_schema: Any) -> ConfigDict:
    """Return ``OBJECT`` for a type whose module checks rules across fields, with these in JSON Schema."""
    return ConfigDict(**OBJECT, json_schema_extra=json_schema)


def checked(core: CoreSchema, json_schema: JsonSchemaValue) -> GetPydanticSchema:
    """Return a check that pydantic's core runs, with the same rule in JSON Schema."""
    return GetPydanticSchema(lambda _source, _handler: core, lambda _schema, _handler: {**json_schema})


def whole(minimum: int, maximum: int) -> GetPydanticSchema:
    """Check an integer in a range, as JSON Schema means it: ``2.0`` is one, ``true`` and ``"2"`` are not.

    Source: the validator's ``type: integer``. JavaScript has only doubles, so a fraction that is lost
    in a double (``0.99999999999999999``) is no fraction; parsing to a float first gives the same answer.
    """
    number = core_schema.float_schema(strict=True, ge=minimum, le=maximum, allow_inf_nan=False)
    return checked(
        core_schema.chain_schema([number, core_schema.int_schema(strict=False)]),
        {"type": "integer", "minimum": minimum, "maximum": maximum},
    )


def degrees(limit: int) -> GetPydanticSchema:
    """Check a coordinate between ``-limit`` and ``limit`` that JavaScript prints without an exponent.

    Source: the validator's ``lat`` and ``lon`` test the printed number against digits and a dot, and
    JavaScript prints what is smaller than 0.000001 as ``1e-7``. Zero, also ``-0``, is printed ``0``.
    """
    number = core_schema.float_schema(strict=True, ge=-limit, le=limit, allow_inf_nan=False)
    printed_plainly = core_schema.union_schema(
        [
            core_schema.float_schema(ge=1e-6),
            core_schema.float_schema(le=-1e-6),
            core_schema.float_schema(ge=0, le=0),
        ],
        mode="left_to_right",
        custom_error_type="bad_format",
        custom_error_message="printed with an exponent",
    )
    bounds = [{"minimum": 1e-6}, {"maximum": -1e-6}, {"const": 0}]
    return checked(
        core_schema.chain_schema([number, printed_plainly]),
        {"type": "number", "minimum": -limit, "maximum": limit, "anyOf": bounds},
    )


Text = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""1 to 256 code points; spaces alone pass. Source: the validator's ``varchar``."""

LongText = Annotated[str, StringConstraints(min_length=1, max_length=512)]
"""1 to 512 code points. Source: the validator's ``longchar``, used for ``literal``."""

Email = Annotated[
    str,
    StringConstraints(
        min_length=5,
        max_length=256,
        pattern=(
            r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
            r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?$"
        ),
    ),
]
"""ASCII, at least one dot after the @, no quotes, no address literal. Source: the validator's
``email``: ajv-formats' expression, 5 to 256 code points."""

Siret = Annotated[str, StringConstraints(pattern=r"^[0-9]{14}$")]
"""14 ASCII digits, no check digit. Source: the validator's ``siret``."""

Insee = Annotated[str, StringConstraints(pattern=r"^[0-9][0-9AB][0-9]{3}$")]
"""A commune's code, in shape only (``2A`` and ``2B`` are Corsica). Source: the validator's ``insee``."""

Latitude = Annotated[float, degrees(90)]
Longitude = Annotated[float, degrees(180)]

OperatorClass = Literal["A", "B", "C"]

OperatorId = Annotated[int, whole(1, 2_147_483_647)]
"""Accepted at the root in every version; must be the token's own. Source: the validator's ``serial``."""

Index = Annotated[int, whole(0, 19)]
Seats = Annotated[int, whole(1, 8)]
Distance = Annotated[int, whole(1, 1_000_000)]
"""Metres. 0 is refused, against the specification. Source: the validator's ``exclusiveMinimum``."""
Duration = Annotated[int, whole(1, 86_400)]
"""Seconds, v2 only. Source: the validator."""
Money = Annotated[int, whole(0, 1_000_000)]
"""Revenue or contribution in cents; the maximum is the validator's and not documented."""
PaidAmount = Annotated[int, whole(0, 100_000)]
"""Cents, whole. The maximum is the validator's and not documented."""
IncentiveAmount = Annotated[float, Field(strict=True, ge=0, le=100_000, allow_inf_nan=False)]
"""Cents, possibly fractional in v2: the validator says ``number`` here and ``integer`` for payments."""


@with_config(OBJECT)
class Incentive(TypedDict):
    """An incentive: three properties, all required."""

    index: Index
    siret: Siret
    amount: IncentiveAmount


@with_config(OBJECT)
class Payment(TypedDict):
    """A payment: four properties, all required."""

    index: Index
    siret: Siret
    type: Text
    amount: PaidAmount


# ``FailFast``: a list of a million wrong items must not become a million errors.
Incentives = Annotated[list[Incentive], Field(max_length=20), FailFast()]
Payments = Annotated[list[Payment], Field(max_length=20), FailFast()]
"""At most 20 of each; none and repeated indexes pass. Source: the validator."""


@with_config(OBJECT)
class TravelPass(TypedDict):
    """A travel pass: ``navigo`` is the only name, both properties required."""

    name: Literal["navigo"]
    user_id: Text


@with_config(OBJECT)
class Person(TypedDict):  # without ``travel_pass``, whose length depends on the version
    # ``over_18`` is the only field of the whole payload that may be ``null``. Source: the validator's common
    # identity; ``driving_license`` is published for v3.3 and refused nevertheless.

    firstname: NotRequired[Text]
    lastname: NotRequired[Text]
    email: NotRequired[Email]
    company: NotRequired[Text]
    over_18: NotRequired[bool | None]
