r"""What the Registry's database refuses of a v3 payload that its validator accepts: answered 500, for ever.

1. A rule is here only if the refusal is certain. Sources: the columns of ``carpool_v2.carpools``,
   ``operator_incentives`` and ``requests`` in the Registry's public repository (August 2025), its
   ``CarpoolRepository`` and ``CarpoolLookupRepository``, and the answers of that server.
2. Only what is stored can be refused: names, e-mail, company and ``incentive_counterparts`` are not.
3. A text is judged as it is stored: the validator has filtered it with js-xss.
4. Nothing here holds for v2: its last server stored the payload as plain text (type ``json``).
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from schemas.fields import ROLES
from schemas.verdict import Violation

# PostgreSQL refuses U+0000 in any text; its jsonb, in which the server keeps what it stores, also half of
# a surrogate pair.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_TAG_MAY_END = re.compile("[>\"']|!--")

LICENCE_PLATE = 32
TRAVEL_PASS = 128
USER_ID = 256
"""Longest texts of the columns (``varchar``), in code points."""


def unstorable(payload: Any) -> Iterator[Violation]:
    """Find what the database refuses in a v3 payload that the models accept."""
    for path, text, limit in _stored_texts(payload):
        if _UNSTORABLE.search(text) is None and (limit is None or len(text) * 4 <= limit):
            continue  # nearly all: a character is stored as at most four, ``&lt;``
        remains = _sanitized(text)
        if _UNSTORABLE.search(remains):
            yield Violation(path, "bad_character", "has a character that the Registry cannot store")
        # Spaces beyond the end of a varchar are cut off without an error.
        if limit is not None and len(remains.rstrip(" ")) > limit:
            message = (
                f"must have at most {limit} characters when < and > count as four, as the Registry stores it"
            )
            yield Violation(path, "too_long_to_store", message)
    yield from _repeated_indexes(payload["incentives"])
    # Both keys are compared with ANY(ARRAY[driver, passenger]): a list beside no list makes no array.
    lists = [isinstance(payload[role]["identity"]["identity_key"], list) for role in ROLES]
    if lists[0] != lists[1]:
        path = f"{ROLES[lists.index(True)]}.identity.identity_key"
        yield Violation(path, "wrong_type", "must be a string")


def _stored_texts(payload: Any) -> Iterator[tuple[str, str, int | None]]:
    yield "operator_journey_id", payload["operator_journey_id"], None
    yield "operator_trip_id", payload["operator_trip_id"], None
    if "licence_plate" in payload:
        yield "licence_plate", payload["licence_plate"], LICENCE_PLATE
    for role in ROLES:
        identity = payload[role]["identity"]
        yield f"{role}.identity.operator_user_id", identity["operator_user_id"], USER_ID
        if "travel_pass" in identity:
            yield f"{role}.identity.travel_pass.user_id", identity["travel_pass"]["user_id"], TRAVEL_PASS
    for index, payment in enumerate(payload["passenger"].get("payments", ())):
        yield f"passenger.payments.{index}.type", payment["type"], None


def _repeated_indexes(incentives: Sequence[Any]) -> Iterator[Violation]:
    """The index of ``operator_incentives`` is unique for each carpool."""
    seen: set[int] = set()
    for place, incentive in enumerate(incentives):
        if incentive["index"] in seen:
            yield Violation(f"incentives.{place}.index", "repeated", "repeats the index of another incentive")
        seen.add(incentive["index"])


def _sanitized(text: str) -> str:
    """Return what js-xss leaves at least of a text: tags are dropped, other brackets escaped.

    A tag begins at ``<`` and ends at ``>`` or with the text; another ``<`` makes the first one plain. Quotes
    and comments make it harder to say where it ends: then nothing after the first ``<`` is relied upon.
    """
    before, bracket, after = text.partition("<")
    if bracket and not _TAG_MAY_END.search(after):
        before = text if after.endswith("<") or not after else text.rpartition("<")[0]
    return before.replace("<", "&lt;").replace(">", "&gt;")
