"""What the Registry accepts: one pydantic model per API version, and one question to ask them.

    validate("v2", body) -> Journey | Refusal

1. Never refuses what the Registry's own validator accepts; what it knows beyond the models is in ``judge``
   (rules across fields), ``unreadable`` (what is JSON) and ``phone`` (numbering plans).
2. Takes the raw bytes and changes nothing: the body goes to the Registry as it came.
3. Imports pydantic and phonenumbers only; knows no clock, no queue, no HTTP.
"""

from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from schemas import v2, v3
from schemas.paths import paths_of
from schemas.unreadable import diagnose, has_only_json_numbers, is_too_complex, repaired
from schemas.verdict import MAX_VIOLATIONS, Journey, Refusal, Violation, ends_in_future
from schemas.violations import refusal, whole

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_VIOLATIONS",
    "Journey",
    "Refusal",
    "Version",
    "Violation",
    "ends_in_future",
    "field_paths",
    "json_schema",
    "validate",
]

Version = Literal["v2", "v3"]

MAX_BODY_BYTES = 2 * 1024 * 1024
"""The Registry's body limit ("2mb")."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def validate(version: Version, body: bytes) -> Journey | Refusal:
    """Judge a raw JSON payload by the rules of ``version``. Never raises, whatever the bytes.

    A refusal holds paths and codes, never a value. That a journey must not end in the future is
    not judged here: see ``ends_in_future``.
    """
    if len(body) > MAX_BODY_BYTES:
        return whole("too_large", "is larger than the 2 MB that the Registry takes")
    if is_too_complex(body):
        return whole("too_complex", "has more parts than any journey")
    verdict = _judge(version, body)
    if isinstance(verdict, str):
        mended = repaired(body)
        verdict = _judge(version, mended) if mended != body else verdict
    return diagnose(body, verdict) if isinstance(verdict, str) else verdict


def _judge(version: Version, body: bytes) -> Journey | Refusal | str:
    """The verdict, or the parser's message when it could not read the body."""
    verdict: Journey | Refusal
    try:
        if version == "v2":
            verdict = v2.judge(v2.ADAPTER.validate_json(body))
        else:
            verdict = v3.judge(v3.ADAPTER.validate_json(body))
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        return details[0]["msg"] if details[0]["type"] == "json_invalid" else refusal(details)
    # Where anything goes our parser takes NaN and Infinity for numbers; JSON.parse does not.
    if (b"NaN" in body or b"Infinity" in body) and not has_only_json_numbers(body):
        return whole("not_json", "is not JSON: NaN and Infinity are not numbers there")
    return verdict


def field_paths(version: Version) -> tuple[str, ...]:
    """Every field that a violation can name, dotted, sorted, without the indexes of lists.

    Containers too (``driver.identity``): a part may be missing as a whole.
    """
    return tuple(sorted(paths_of(v2.Payload if version == "v2" else v3.Payload)))


def json_schema(version: Version, *, ref_template: str = "#/$defs/{model}") -> dict[str, Any]:
    """The payload's JSON Schema (2020-12), generated from the model; its types stand under ``$defs``.

    ``ref_template`` is for those who move the ``$defs`` elsewhere.
    It can not say what a numbering plan says, nor that a start comes before an end; where the
    Registry lets nonsense through (``identity_key``) it says what a publisher should send.
    """
    adapter: TypeAdapter[Any] = v2.ADAPTER if version == "v2" else v3.ADAPTER
    return {
        "$schema": _DIALECT,
        **adapter.json_schema(ref_template=ref_template),
        "title": f"Journey, API {version}",
    }
