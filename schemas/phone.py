"""Telephone numbers as each version of the Registry validates them, whole or without their last two digits.

1. v2 (July 2023) validates with google-libphonenumber, which reads a number without a country code as
   French and searches for the number inside the text.
2. v3 (August 2025) validates with libphonenumber-js and its small metadata: a numbering plan's general
   pattern is enough where one country owns the calling code, and the whole text must be a number.
3. Numbering plans change: ours are newer than the Registry's. Where that could refuse what the Registry
   accepts we are lenient: ranges withdrawn in France since 2023, and foreign numbers of the right shape.
4. French numbers in E.164 or national form are matched by one expression inside pydantic's core;
   all others by ``phonenumbers``, which loads a country's plan on first use. Nothing is cached.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import phonenumbers
from phonenumbers import NumberParseException, PhoneMetadata
from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

_RULES = Literal["2023", "2025"]

_FRANCE, _REUNION_AND_MAYOTTE = 33, 262
# Calling codes where the type decides, not the general pattern; in 2025 the one that countries share.
_EXACT = {
    "2023": frozenset({_FRANCE, _REUNION_AND_MAYOTTE, 508, 590, 594, 596, 681, 687, 689}),
    "2025": frozenset({_REUNION_AND_MAYOTTE}),
}
# Ranges that were French in 2023 (overseas landlines and the first 070 mobiles) and have left the plan since.
_FRENCH_IN_2023 = re.compile(r"(?:262|59[04]|700)[0-9]{6}")

# The two forms that need no library: "+33" or "0", then the national number.
_PLAIN_FRENCH = {
    "2023": (r"(?:6(?:[0-24-8][0-9]|3[0-8]|9[589])|7(?:00|[3-9][0-9]))", 6),
    "2025": (r"[1-9]", 8),
}

_DIGITS = "0-9\uff10-\uff19\u0660-\u0669\u06f0-\u06f9"
_PUNCTUATION = (
    "\\-\u2010-\u2015\u2212\u30fc\uff0d\uff0f/\uff0e. \u00a0\u00ad\u200b\u2060\u3000"
    "()\uff08\uff09\uff3b\uff3d\\[\\]~\u2053\u223c\uff5e"
)
# An extension's label, loosely: ``phonenumbers`` decides afterwards whether it is one.
_LABEL = (
    "e?xt(?:ensi(?:o\u0301?|\u00f3))?n?|\uff45?\uff58\uff54\uff4e?|\u0434\u043e\u0431|anexo|int|ext="
    "|[x\uff58#\uff03~\uff5e]"
)
_WHOLLY_A_NUMBER = re.compile(
    f"[+\uff0b]?(?:[{_PUNCTUATION}]*[{_DIGITS}]){{3,}}[{_PUNCTUATION}{_DIGITS}]*"
    f"(?:[ \u00a0\t,;]*(?:{_LABEL})?[:.\uff0e]?[ \u00a0\t,\\-]*[{_DIGITS}]{{1,20}}#?)?",
    re.IGNORECASE,
)


def is_valid_phone(text: str, rules: _RULES) -> bool:
    """Return whether the Registry of that year accepts ``text`` as a telephone number. Never raises."""
    if rules == "2025":
        if not _WHOLLY_A_NUMBER.fullmatch(text):
            return False
        text = text.removeprefix("\uff0b")  # a full-width plus is ignored there
        if not text[-1].isdigit():  # and a tilde is an extension only when digits end the text
            text = text.replace("~", " ")
    try:
        number = phonenumbers.parse(text, None if text.startswith("+") else "FR")
    except NumberParseException:
        return False
    if phonenumbers.is_valid_number(number):
        return True
    calling_code = number.country_code or 0
    national = phonenumbers.national_significant_number(number)
    if rules == "2023" and calling_code == _FRANCE:
        return _FRENCH_IN_2023.fullmatch(national) is not None
    return calling_code not in _EXACT[rules] and _fits_a_plan(calling_code, national)


def e164(text: str) -> str | None:
    """Return a telephone number in E.164, French when it has no country code; None when it is no number."""
    try:
        number = phonenumbers.parse(text, None if text.startswith("+") else "FR")
    except NumberParseException:
        return None
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


def _fits_a_plan(calling_code: int, national: str) -> bool:
    """Return whether a country with this calling code could have such a number, of any type."""
    for region in phonenumbers.region_codes_for_country_code(calling_code):
        plan = PhoneMetadata.metadata_for_region_or_calling_code(calling_code, region)
        pattern = plan and plan.general_desc and plan.general_desc.national_number_pattern
        if pattern and re.fullmatch(pattern, national):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Telephone:
    """A telephone number; ``missing_digits`` completes a truncated one before it is validated.

    Source: the validator's ``phone`` (10 to 20 raw characters) and ``phonetrunc`` (8 to 20, valid
    when followed by ``00``).
    """

    rules: _RULES
    minimum_length: int
    missing_digits: str = ""

    @property
    def plain_french(self) -> str:
        """The expression of French numbers that are valid without the library."""
        prefix, digits = _PLAIN_FRENCH[self.rules]
        return f"^(?:\\+33|0){prefix}[0-9]{{{digits - len(self.missing_digits)}}}$"

    def _check(self, text: str) -> str:
        if is_valid_phone(text + self.missing_digits, self.rules):
            return text
        raise ValueError

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.chain_schema(
            [
                core_schema.str_schema(strict=True, min_length=self.minimum_length, max_length=20),
                core_schema.union_schema(
                    [
                        core_schema.str_schema(pattern=self.plain_french),
                        core_schema.no_info_plain_validator_function(self._check),
                    ],
                    mode="left_to_right",
                    custom_error_type="bad_format",
                    custom_error_message="not a telephone number",
                ),
            ]
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        cut = " without its last two digits" if self.missing_digits else ""
        return {
            "type": "string",
            "minLength": self.minimum_length,
            "maxLength": 20,
            "description": f"A valid telephone number{cut}, E.164 or French national form.",
        }


PhoneV2 = Annotated[str, Telephone("2023", 10)]
PhoneTruncV2 = Annotated[str, Telephone("2023", 8, "00")]
PhoneV3 = Annotated[str, Telephone("2025", 10)]
PhoneTruncV3 = Annotated[str, Telephone("2025", 8, "00")]
