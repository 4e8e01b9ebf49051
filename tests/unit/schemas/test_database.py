"""What the Registry's validator accepts and its database refuses, in v3 and not in v2."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from schemas.database import LICENCE_PLATE, TRAVEL_PASS, USER_ID
from tests.unit.schemas.payloads import SAMPLES, changed, judge, judge_raw

V3 = "v3-full"
STORED = [
    "operator_journey_id",
    "operator_trip_id",
    "licence_plate",
    "driver.identity.operator_user_id",
    "driver.identity.travel_pass.user_id",
    "passenger.identity.operator_user_id",
    "passenger.identity.travel_pass.user_id",
    "passenger.payments.0.type",
]
NOT_STORED = [
    "incentive_counterparts",
    "driver.identity.firstname",
    "passenger.identity.lastname",
    "passenger.identity.company",
]
LIMITS = [
    ("licence_plate", LICENCE_PLATE),
    ("passenger.identity.travel_pass.user_id", TRAVEL_PASS),
    ("driver.identity.operator_user_id", USER_ID),
]
# Every kind of half a pair, also before and after whole ones, and NUL, as JSON writes them.
BAD_CHARACTERS = [
    r"\u0000",
    r"a\u0000b",
    r"\ud800",
    r"x\uDFFFx",
    r"\ud83d\ude00\ud83d",
    r"\ude00\ud83d",
    r"\\\ud800",
]
GOOD_CHARACTERS = [r"\\ud800", r"\ud83d\ude00", r"\\u0000", r"\u0001", r"\uffff", "\U0001f600"]


def payload() -> dict[str, Any]:
    """The sample, with a travel pass and a payment."""
    both = changed(V3, "driver.identity.travel_pass", {"name": "navigo", "user_id": "1"})
    both["passenger"]["identity"]["travel_pass"] = {"name": "navigo", "user_id": "2"}
    both["passenger"]["payments"] = [{"index": 0, "siret": "20003019500115", "type": "pass", "amount": 1}]
    return both


def judge_text(path: str, raw: str) -> list[tuple[str, str]]:
    """Violations of the payload with the JSON text ``raw`` at ``path``."""
    changing: Any = payload()
    *parents, last = path.split(".")
    place = changing
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    place[last] = "@raw@"
    verdict = schemas.validate("v3", json.dumps(changing).replace('"@raw@"', raw).encode())
    return [] if isinstance(verdict, schemas.Journey) else [(v.path, v.code) for v in verdict.violations]


def test_the_payload_is_accepted() -> None:
    """So that each refusal below is about the change."""
    assert judge(V3, payload()) == []


@pytest.mark.parametrize("path", STORED)
@pytest.mark.parametrize("text", BAD_CHARACTERS)
def test_a_stored_text_with_nul_or_half_a_surrogate_pair_is_refused(path: str, text: str) -> None:
    """PostgreSQL knows no NUL, and its jsonb no half of a pair."""
    assert judge_text(path, f'"{text}"') == [(path, "bad_character")]


@pytest.mark.parametrize("path", STORED)
@pytest.mark.parametrize("text", GOOD_CHARACTERS)
def test_a_stored_text_with_any_other_character_is_accepted(path: str, text: str) -> None:
    """Escaped backslashes, whole pairs and control characters are stored."""
    assert judge_text(path, f'"{text}"') == []


@pytest.mark.parametrize("path", NOT_STORED)
@pytest.mark.parametrize("text", BAD_CHARACTERS)
def test_what_is_not_stored_may_hold_any_character(path: str, text: str) -> None:
    """The validator accepts it and the database never sees it."""
    assert judge_text(path, f'"{text}"') == []


@pytest.mark.parametrize("raw", [r'{"\ud800": ["\u0000"]}', r'["\ude00"]'])
def test_incentive_counterparts_are_not_stored(raw: str) -> None:
    """Neither in keys nor in values does a character matter."""
    assert judge_text("incentive_counterparts", raw) == []


@pytest.mark.parametrize("text", BAD_CHARACTERS)
def test_v2_stores_its_payload_as_plain_text(text: str) -> None:
    """No rule of this file holds there."""
    assert judge_raw("v2-full", "operator_journey_id", f'"{text}"') == []
    repeated = [{"index": 0, "siret": "20003019500115", "amount": 0.5}] * 2
    assert judge("v2-full", changed("v2-full", "driver.incentives", repeated)) == []
    long = {"name": "navigo", "user_id": "x" * 256}
    assert judge("v2-full", changed("v2-full", "driver.identity.travel_pass", long)) == []


@pytest.mark.parametrize(("path", "limit"), LIMITS)
@pytest.mark.parametrize("character", ["x", "\u00e9", "\U0001f600"])
def test_a_length_is_counted_in_code_points(path: str, limit: int, character: str) -> None:
    """As many as the column holds pass, one more does not."""
    assert judge_text(path, json.dumps(character * limit)) == []
    code = "too_long" if limit == USER_ID else "too_long_to_store"  # the validator's own limit is 256
    assert judge_text(path, json.dumps(character * (limit + 1))) == [(path, code)]


@pytest.mark.parametrize(("path", "limit"), LIMITS)
def test_a_bracket_counts_as_four(path: str, limit: int) -> None:
    """js-xss writes ``&lt;`` and ``&gt;`` for brackets that are no tag."""
    quarter = limit // 4
    for bracket in "<>":
        assert judge_text(path, json.dumps(bracket * quarter)) == []
        assert judge_text(path, json.dumps("x" + bracket * quarter)) == [(path, "too_long_to_store")]
    assert judge_text(path, json.dumps(">" * quarter + "x")) == [(path, "too_long_to_store")]
    # The last bracket may begin a tag, which is dropped.
    assert judge_text(path, json.dumps("<" * quarter + "x")) == []


@pytest.mark.parametrize(("path", "limit"), LIMITS[:2])
def test_spaces_at_the_end_are_cut_off(path: str, limit: int) -> None:
    """PostgreSQL cuts spaces beyond a varchar's length, and no other white space."""
    assert judge_text(path, json.dumps("x" * limit + " " * 20)) == []
    assert judge_text(path, json.dumps("x" * limit + " " * 20 + "x")) == [(path, "too_long_to_store")]
    assert judge_text(path, json.dumps("x" * limit + " \t")) == [(path, "too_long_to_store")]


@given(
    st.text("x<>\"'!-/ \0", max_size=60),
    st.sampled_from(["<b>", "</script>", "<!-- -->", "<a b='>'>", '<i c="\0">', "<u"]),
)
def test_what_a_tag_may_hide_is_not_relied_upon(inside: str, tag: str) -> None:
    """A tag is dropped with all that is in it: NUL and length there are no reason to refuse."""
    text = f"{tag[:-1]}{inside.replace('<', '')}"
    assert judge_text("licence_plate", json.dumps(text)) == []


@given(st.lists(st.integers(0, 19), max_size=20))
def test_an_index_is_used_once(indexes: list[int]) -> None:
    """In any order; each repetition is named."""
    incentives = [{"index": index, "siret": "20003019500115", "amount": 1} for index in indexes]
    repeated = [
        (f"incentives.{place}.index", "repeated")
        for place, index in enumerate(indexes)
        if index in indexes[:place]
    ]
    assert judge(V3, changed(V3, "incentives", incentives)) == repeated


@pytest.mark.parametrize(
    ("raw", "codes"),
    [
        ("99.5", ["not_integer"]),
        ("1e-7", ["not_integer"]),
        ("0.5", ["not_integer"]),
        ("99.0", []),
        ("-0", []),
        ("1e2", []),
        ("0.99999999999999999", []),
        ("100000", []),
    ],
)
def test_an_amount_is_whole_as_a_double(raw: str, codes: list[str]) -> None:
    """JavaScript prints ``99.0`` as 99 for the database, and ``1e-7`` as it is."""
    path = "incentives.0.amount"
    assert [code for _, code in judge_raw(V3, path, raw)] == codes


@pytest.mark.parametrize("role", ["driver", "passenger"])
@pytest.mark.parametrize("key", [[], [[]], [{}], ["a"], ["a" * 64], [None], [1]])
def test_an_identity_key_that_is_a_list_beside_a_text_is_refused(role: str, key: object) -> None:
    """The two keys make one array for the database, whose parts have different dimensions."""
    path = f"{role}.identity.identity_key"
    assert judge(V3, changed(V3, path, key)) == [(path, "wrong_type")]


def test_two_lists_of_one_shape_are_an_array() -> None:
    """Not certain to fail, therefore not refused."""
    both = changed(V3, "driver.identity.identity_key", ["a"])
    both["passenger"]["identity"]["identity_key"] = ["b"]
    assert judge(V3, both) == []


def test_all_refusals_are_reported_with_words_for_a_person() -> None:
    """At most twenty, each with its path, and no value in it."""
    bad = payload()
    bad["incentives"] = [{"index": 0, "siret": "20003019500115", "amount": 1}] * 20
    bad["licence_plate"] = "Zq7\0" + "x" * 200
    verdict = schemas.validate("v3", json.dumps(bad).encode())
    assert isinstance(verdict, schemas.Refusal)
    assert len(verdict.violations) == schemas.MAX_VIOLATIONS
    assert [v.code for v in verdict.violations[:3]] == ["bad_character", "too_long_to_store", "repeated"]
    assert not any("Zq7" in v.message for v in verdict.violations)
    assert SAMPLES[V3]["licence_plate"] != bad["licence_plate"]
