"""What may be shown of a dead letter, and that nothing of a person is in it."""

import ast
import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from consumer.core import policy
from consumer.core.reply import FaultKind
from consumer.core.topology import Topology
from consumer.deadletters.editing import changes, note_of
from consumer.deadletters.masking import is_detail, masked, masked_content_type, masked_headers
from consumer.registry import classify as rules
from consumer.registry import jsonrpc
from consumer.registry.client import FAULTS
from consumer.registry.jsonrpc import HTTP_ERRORS
from schemas import field_paths, refusals
from tests.pages import ROOT

NAMES = Topology(queue="journeys", exchange="rides", routing_key="ride.ended").names
_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("journey_id", "start", "driver", "amount", "x")), inner, max_size=4
        )
    ),
    max_leaves=12,
)
PERSONAL = (
    "+33639981234",
    "Solène",
    "Quéméneur",
    "48.1113",
    "52803980d397bf1f",
    "solene@",
    "FG-456",
    "12-XYZ",
)


def test_a_masked_payload_holds_nothing_of_a_person() -> None:
    """Values that are not listed as harmless are shapes, unknown keys are not named."""
    payload = {
        "operator_journey_id": "j-1",
        "start": {"datetime": "2026-03-02T06:10:00Z", "lat": 48.1113, "lon": -1.68},
        "driver": {
            "identity": {
                "phone": "+33639981234",
                "firstname": "Solène",
                "email": "solene@example.org",
                "identity_key": "52803980d397bf1ff1565c90ecdb7b31",
                "travel_pass": {"name": "navigo", "user_id": "12-XYZ"},
                "over_18": True,
            },
            "Quéméneur": ["FG-456-HJ", 7],
        },
    }
    shown = masked(payload)
    text = json.dumps(shown, ensure_ascii=False)
    assert not [value for value in PERSONAL if value in text]
    assert shown["operator_journey_id"] == "j-1"
    assert shown["start"]["datetime"] == "2026-03-02T06:10:00Z"
    assert shown["driver"]["identity"]["phone"] == "<text, 12 characters: +9>"
    assert shown["driver"]["identity"]["over_18"] is True
    assert shown["driver"]["<unknown key 2>"] == ["<text, 9 characters: a-9-a>", "<number>"]


@given(_JSON)
def test_masking_keeps_the_shape(value: Any) -> None:
    """Any JSON can be masked, and stays as deep and as wide."""

    def shape(each: Any) -> Any:
        match each:
            case dict():
                return [shape(inner) for inner in each.values()]
            case list():
                return [shape(inner) for inner in each]
            case _:
                return None

    assert shape(masked(value)) == shape(value)


KEYS = sorted({part for version in ("v2", "v3") for path in field_paths(version) for part in path.split(".")})
#: Ids are the operator's own, and shown.
IDS = {"journey_id", "operator_journey_id", "operator_trip_id"}


@given(st.sampled_from([key for key in KEYS if key not in IDS]), st.sampled_from(PERSONAL), st.booleans())
def test_a_person_under_a_known_key_is_masked(key: str, value: str, inside: bool) -> None:  # noqa: FBT001
    """A refused payload may hold anything anywhere: what is not of the key's own sort is a shape."""
    held: Any = [value, {key: value}] if inside else value
    assert value not in json.dumps(masked({key: held}), ensure_ascii=False)


@given(st.sampled_from([key for key in KEYS if key not in IDS]), st.integers(100_000_000, 10**15))
def test_a_telephone_number_as_a_number_is_masked(key: str, number: int) -> None:
    """No amount is that large."""
    for value in (number, float(number)):
        assert str(number)[:6] not in json.dumps(masked({key: value, "identity": [value]}))


def test_what_explains_a_refusal_is_shown() -> None:
    """Amounts out of range, dates, classes and codes stand as they are."""
    harmless = {
        "operator_class": "Z",
        "distance": 0,
        "revenue": 1_000_001,
        "incentives": [{"index": -1, "siret": "12345678901234", "amount": 0.5}],
        "payments": [{"type": "incentive"}],
        "start": {"datetime": "2026-03-02 06:10:00+0100"},
        "driver": None,
    }
    assert masked(harmless) == harmless


#: Ours and the broker's, each with a value as it would be.
HEADERS: dict[str, Any] = {
    "x-reason": "delivery-limit",
    "x-detail": "out_of_range at passenger.seats",
    "x-status": 422,
    "x-attempts": 3,
    "x-visits": 1,
    "x-replays": 0,
    "x-first-failure": "2026-11-23T11:00:00.000Z",
    "x-last-failure": "2026-11-23T11:00:00Z",
    "x-consumer-version": "0.1.0",
    "x-original-exchange": "rides",
    "x-original-routing-key": "ride.ended",
    "x-original-expiration": "60000",
    "x-edited": "passenger.seats, driver.(unknown key), incentives.0.amount, (more)",
    "x-delivery-count": 7,
    "x-first-death-queue": "journeys",
    "x-first-death-reason": "delivery_limit",
    "x-unreadable-properties": True,
}
STRANGE = (
    "0612345678",
    "1.2.Jean-Dupont",
    "martin",
    "+33639981234",
    "Solène",
    639981234,
    ["Solène"],
    {"Solène": 1},
    b"Sol",
    4.8,
    None,
    "48.1113",
)


def test_our_own_headers_and_the_brokers_are_shown() -> None:
    """As they are, dates as text; of a death its queue, reason, count and time."""
    time = datetime(2026, 11, 23, 11)  # noqa: DTZ001 as AMQP gives it
    death = {"queue": "journeys", "reason": "expired", "count": 2, "time": time, "routing-keys": ["Solène"]}
    shown = masked_headers({**HEADERS, "x-death": [death, "Solène"]}, NAMES)
    told = {"queue": "journeys", "reason": "expired", "count": 2, "time": "2026-11-23T11:00:00+00:00"}
    assert shown == {**HEADERS, "x-death": [told, "<text, 6 characters: a>"]}
    assert list(shown) == sorted(shown)


@given(
    st.dictionaries(
        st.sampled_from(
            (*HEADERS, "x-death", "x-phone", "X-Reason", "x-original-cc", "Solène", "+33639981234")
        ),
        st.sampled_from(STRANGE),
        min_size=1,
    )
)
def test_what_is_not_like_ours_is_masked(headers: dict[str, Any]) -> None:
    """Under a name of ours too, and a name that is not ours is not told either."""
    shown = masked_headers(headers, NAMES)
    assert len(shown) == len(headers)
    text = json.dumps(shown, ensure_ascii=False)
    assert not [
        person for person in ("39981234", "612345", "Dupont", "martin", "Solène", "48.1113") if person in text
    ]


@given(_JSON, _JSON)
def test_the_note_of_an_edit_can_be_shown(before: Any, after: Any) -> None:
    """Whatever was changed, its paths are of known words, and not cut in the middle."""
    note = note_of(changes(before, after))
    assert len(note) < 220
    if note:
        assert masked_headers({"x-edited": note}, ()) == {"x-edited": note}


def test_a_long_note_ends_between_two_paths() -> None:
    """A hundred changes are told by the first few."""
    note = note_of(f"incentives.{number}.amount" for number in range(100))
    assert note.endswith(".amount, (more)")
    assert len(note) < 220
    assert masked_headers({"x-edited": note}, ()) == {"x-edited": note}


def test_details_are_told_from_anything_else() -> None:
    """A code, terms, a path of known words; no other words, no numbers of a person."""
    for detail in (
        "401",
        "-32501",
        "token_refused",
        "cloudevent_bad_base64",
        "SyntaxError",
        "-32422 expired",
        "JWSSignatureVerificationFailed",
        "read (ReadError)",
        "timeout (ReadTimeout)",
    ):
        assert is_detail(detail)
    for other in (
        "",
        "Solène",
        "solene quemeneur",
        "ok at solene",
        "ok at driver.0639981234",
        "id39981234",
        "1\n",
        "read (Solene)",
        "JWSolene",
    ):
        assert not is_detail(other)


_OUTCOMES = {
    *(
        "Unreadable",
        "Invalid",
        "Misconfigured",
        "Unauthorized",
        "Unavailable",
        "Rejected",
        "Forbidden",
        "Expired",
    ),
    *("DeadLetter", "Violation", "whole"),
}


def _codes_in(source: str) -> Iterator[str]:
    """Every code that is given to an outcome, a violation or a disposition as a literal."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _OUTCOMES:
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value


def test_every_code_of_ours_is_told() -> None:
    """Those that stand in the source, in whichever module; otherwise our own details were masked."""
    codes = {
        code
        for folder in ("consumer", "schemas")
        for path in (ROOT / folder).rglob("*.py")
        if not {"sandbox", "demo"} & set(path.parts)
        for code in _codes_in(path.read_text("utf-8"))
        if re.fullmatch(r"[a-z0-9_]+", code)
    }
    assert {"not_json", "cloudevent_bad_base64", "start_after_end", "no_result"} <= codes
    codes |= set(jsonrpc._DATABASE_REFUSALS.values()) | {"value_refused"}
    codes |= {f"{kind} ({cls.__name__})" for cls, kind in FAULTS.items()}
    codes |= (
        {code for code, _ in refusals._WORDS.values()}
        | set(FaultKind)
        | {policy.IN_THE_FUTURE, "http_503", "foreign_406", "proxy (502)"}
    )
    codes |= (
        set(rules._BY_DATA) | {str(code) for code in rules._BY_CODE} | {str(code) for code in HTTP_ERRORS}
    )
    assert [code for code in sorted(codes) if not is_detail(code)] == []
    paths = {path for version in ("v2", "v3") for path in field_paths(version)}
    assert [path for path in sorted(paths) if not is_detail(f"missing at {path}")] == []


def test_a_content_type_is_shown_when_it_is_one() -> None:
    """Anything may stand in that property."""
    for content_type in ("application/json", "application/cloudevents+json; charset=UTF-8"):
        assert masked_content_type(content_type) == content_type
    assert masked_content_type("Solène") == "<text, 6 characters: a>"
