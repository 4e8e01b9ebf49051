"""What the Registry accepts: one pydantic model per API version, and one function to validate a body.

    validate("v2", body) -> Journey | Refusal

1. It never refuses what the Registry accepts: its own validator, and for v3 its database. Beyond the models:
   ``judge`` (rules across fields), ``database``, ``refusals`` (what is JSON) and ``phone`` (numbering plans).
2. It takes the raw bytes and changes nothing: the body is sent to the Registry as it was received.
3. It imports pydantic and phonenumbers only; it knows no clock, no queue, no HTTP.
"""

import json
from typing import Any, Literal

from pydantic import ValidationError

from schemas import v2, v3
from schemas.refusals import diagnose, has_only_json_numbers, is_too_complex, paths, refusal, repaired, whole
from schemas.verdict import MAX_VIOLATIONS, Journey, Refusal, Violation, ends_in_future

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_VIOLATIONS",
    "Journey",
    "Refusal",
    "Version",
    "Violation",
    "ends_in_future",
    "field_paths",
    "is_too_complex",
    "json_schema",
    "validate",
]

Version = Literal["v2", "v3"]

MAX_BODY_BYTES = 2 * 1024 * 1024
"""The Registry's body limit ("2mb")."""

_RULES = {"v2": v2, "v3": v3}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def validate(version: Version, body: bytes) -> Journey | Refusal:
    """Validate a raw JSON payload by the rules of ``version``. Never raises, whatever the bytes.

    A refusal holds paths and codes, never a value. Whether a journey ends in the future is
    not checked here: see ``ends_in_future``.
    """
    if len(body) > MAX_BODY_BYTES:
        return whole("too_large", "is larger than the 2 MB that the Registry accepts")
    if is_too_complex(body):
        return whole("too_complex", "has more parts than a journey can have")
    verdict = _judge(version, body)
    if isinstance(verdict, str):
        readable = repaired(body)
        verdict = _judge(version, readable) if readable != body else verdict
        if isinstance(verdict, Journey):
            # Judged again with its lone surrogates: our parser takes none, the Registry's database not all.
            verdict = _RULES[version].judge(json.loads(body.decode("utf-8-sig")))
    return diagnose(body, verdict) if isinstance(verdict, str) else verdict


def _judge(version: Version, body: bytes) -> Journey | Refusal | str:
    """Return the verdict, or the parser's message when it could not read the body."""
    rules = _RULES[version]
    try:
        verdict: Journey | Refusal = rules.judge(rules.ADAPTER.validate_json(body))
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        return details[0]["msg"] if details[0]["type"] == "json_invalid" else refusal(details)
    # In a field of any type our parser accepts NaN and Infinity as numbers; JSON.parse does not.
    if (b"NaN" in body or b"Infinity" in body) and not has_only_json_numbers(body):
        return whole("not_json", "is not JSON: NaN and Infinity are not JSON numbers")
    return verdict


def field_paths(version: Version) -> tuple[str, ...]:
    """Return every field that a violation can name, dotted, sorted, without the indexes of lists.

    Containers are included (``driver.identity``): a part may be missing as a whole.
    """
    return tuple(sorted(paths(_RULES[version].Payload)))


def json_schema(version: Version, *, ref_template: str = "#/$defs/{model}") -> dict[str, Any]:
    """Return the payload's JSON Schema (2020-12), generated from the model; its types are in ``$defs``.

    ``ref_template`` is for callers that move the ``$defs`` elsewhere. The schema cannot express numbering
    plans, nor that a start comes before an end; where the Registry accepts nonsense (``identity_key``) it
    says what a publisher should send.
    """
    schema = _RULES[version].ADAPTER.json_schema(ref_template=ref_template)
    return {"$schema": _DIALECT, **schema, "title": f"Journey, API {version}"}
