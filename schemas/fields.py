r"""The field types that both API versions share: texts, numbers, SIRET, e-mail, money tables.

1. Each type says where its rule comes from; "the validator" is the one of the Registry's open-source
   server (ajv, JSON Schema), read and run for its July 2023 (v2) and August 2025 (v3) versions.
2. Everything here is checked inside pydantic's compiled core: no Python runs for a field.
3. Patterns are written for the Rust and the ECMAScript engine alike: ``[0-9]`` and not ``\d``,
   which is any Unicode digit in Rust, and no case-insensitive flag, which folds beyond ASCII there.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, FailFast, Field, GetJsonSchemaHandler, StringConstraints, with_config
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypedDict

# ``cache_strings``: the parser's string cache lives as long as the process, and values are people's data.
OBJECT = ConfigDict(extra="forbid", strict=True, cache_strings="keys", hide_input_in_errors=True)


def closed_object(**json_schema: Any) -> ConfigDict:
    """``OBJECT`` for a type whose module checks rules across fields; ``json_schema`` says them."""
    return ConfigDict(**OBJECT, json_schema_extra=json_schema)


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer in a range, as JSON Schema means it: ``2.0`` is one, ``true`` and ``"2"`` are not.

    Source: the validator's ``type: integer``. JavaScript has only doubles, so a fraction that is lost
    in a double (``0.99999999999999999``) is no fraction; parsing to a float first gives the same answer.
    """

    minimum: int
    maximum: int

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """A double in range, then a double without a fraction."""
        return core_schema.chain_schema(
            [
                core_schema.float_schema(strict=True, ge=self.minimum, le=self.maximum, allow_inf_nan=False),
                core_schema.int_schema(strict=False),
            ]
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The same rule in JSON Schema's words."""
        return {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, slots=True)
class Degrees:
    """A coordinate between ``-limit`` and ``limit`` that JavaScript prints without an exponent.

    Source: the validator's ``lat`` and ``lon`` test the printed number against digits and a dot, and
    JavaScript prints what is smaller than 0.000001 as ``1e-7``. Zero, also ``-0``, is printed ``0``.
    """

    limit: int

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """A double in range, then: at least 0.000001, or at most -0.000001, or zero."""
        return core_schema.chain_schema(
            [
                core_schema.float_schema(strict=True, ge=-self.limit, le=self.limit, allow_inf_nan=False),
                core_schema.union_schema(
                    [
                        core_schema.float_schema(ge=1e-6),
                        core_schema.float_schema(le=-1e-6),
                        core_schema.float_schema(ge=0, le=0),
                    ],
                    mode="left_to_right",
                    custom_error_type="bad_format",
                    custom_error_message="printed with an exponent",
                ),
            ]
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """The same rule in JSON Schema's words."""
        return {
            "type": "number",
            "minimum": -self.limit,
            "maximum": self.limit,
            "anyOf": [{"minimum": 1e-6}, {"maximum": -1e-6}, {"const": 0}],
        }


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

Latitude = Annotated[float, Degrees(90)]
Longitude = Annotated[float, Degrees(180)]

OperatorClass = Literal["A", "B", "C"]

OperatorId = Annotated[int, Whole(1, 2_147_483_647)]
"""Accepted at the root in every version; must be the token's own. Source: the validator's ``serial``."""

Index = Annotated[int, Whole(0, 19)]
Seats = Annotated[int, Whole(1, 8)]
Distance = Annotated[int, Whole(1, 1_000_000)]
"""Metres. 0 is refused whatever the specification says. Source: the validator's ``exclusiveMinimum``."""
Duration = Annotated[int, Whole(1, 86_400)]
"""Seconds, v2 only. Source: the validator."""
Money = Annotated[int, Whole(0, 1_000_000)]
"""Revenue or contribution in cents; the maximum is the validator's, no document names it."""
PaidAmount = Annotated[int, Whole(0, 100_000)]
"""Cents, whole. The maximum is the validator's, no document names it."""
IncentiveAmount = Annotated[float, Field(strict=True, ge=0, le=100_000, allow_inf_nan=False)]
"""Cents, perhaps fractional: the validator says ``number`` here and ``integer`` for payments."""


@with_config(OBJECT)
class Incentive(TypedDict):
    """Source: the validator's incentive (three properties, all required)."""

    index: Index
    siret: Siret
    amount: IncentiveAmount


@with_config(OBJECT)
class Payment(TypedDict):
    """Source: the validator's payment (four properties, all required)."""

    index: Index
    siret: Siret
    type: Text
    amount: PaidAmount


# ``FailFast``: a list of a million wrong items must not become a million errors.
Incentives = Annotated[list[Incentive], Field(max_length=20), FailFast()]
"""At most 20; none and repeated indexes pass. Source: the validator."""

Payments = Annotated[list[Payment], Field(max_length=20), FailFast()]
"""At most 20. Source: the validator."""


@with_config(OBJECT)
class TravelPass(TypedDict):
    """Source: the validator's travel pass: ``navigo`` is the only name, both keys required."""

    name: Literal["navigo"]
    user_id: Text


@with_config(OBJECT)
class Person(TypedDict):
    """What both versions accept of an identity, apart from the telephone and the key.

    ``over_18`` is the only field of the whole payload that may be ``null``. Source: the validator's
    common identity; ``driving_license`` is published for v3.3 and refused all the same.
    """

    firstname: NotRequired[Text]
    lastname: NotRequired[Text]
    email: NotRequired[Email]
    company: NotRequired[Text]
    over_18: NotRequired[bool | None]
    travel_pass: NotRequired[TravelPass]
