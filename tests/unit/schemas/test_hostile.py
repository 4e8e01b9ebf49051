"""Bodies that are no payload at all: an answer in bounded time, and nothing of them in it."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemas
from schemas import refusals
from tests.unit.schemas.payloads import FOLDER, SAMPLES, changed, judge_raw, strings, version_of

VERSIONS: list[schemas.Version] = ["v2", "v3"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
PLACES = [
    "journey_id",
    "operator_class",
    "driver",
    "driver.identity",
    "driver.identity.phone",
    "passenger.seats",
]

# What a verdict may say of any payload: codes, messages and fields.
FIXED = " ".join(
    [text for pair in refusals._WORDS.values() for text in pair]
    + ["unknown_key", "has a key that the Registry refuses"]
    + [path for version in VERSIONS for path in schemas.field_paths(version)]
)


def codes(version: schemas.Version, body: bytes) -> list[str]:
    """The codes of a refusal that concerns the whole body."""
    verdict = schemas.validate(version, body)
    assert isinstance(verdict, schemas.Refusal)
    assert {violation.path for violation in verdict.violations} == {""}
    return [violation.code for violation in verdict.violations]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"{", "not_json"),
        (b"{'a': 1}", "not_json"),
        (b'{"a": 01}', "not_json"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not_json"),
        (b'{"a": "\xff"}', "not_utf8"),
        (json.dumps({"a": 1}).encode("utf-16"), "not_utf8"),
        (b"42", "wrong_type"),
        (b"null", "wrong_type"),
        (b"[]", "wrong_type"),
        (b'"text"', "wrong_type"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "nested_too_deep"),
        (b"[" * 2_000_000, "too_complex"),
        (b"{}" + b" " * schemas.MAX_BODY_BYTES, "too_large"),
    ],
)
def test_what_is_no_payload_at_all(version: schemas.Version, body: bytes, code: str) -> None:
    """Each kind has its own code."""
    assert codes(version, body) == [code]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("version", VERSIONS)
def test_a_hostile_body_costs_little(version: schemas.Version) -> None:
    """A process that validates two megabytes of each kind of hostile body stays below 80 MB."""
    # VmHWM and not ru_maxrss, which a child inherits from the process that forked it.
    code = r"""
import re, sys
from pathlib import Path
import schemas
from tests.unit.schemas.payloads import hostile_bodies
for body in hostile_bodies():
    assert len(body) <= schemas.MAX_BODY_BYTES
    verdict = schemas.validate(sys.argv[1], body)
    assert 0 < len(verdict.violations) <= schemas.MAX_VIOLATIONS
print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, version],
        cwd=FOLDER.parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    assert int(done.stdout) < 80 * 1024


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "-Infinity", "[NaN]"])
def test_nan_is_not_json_even_where_anything_goes(raw: str) -> None:
    """Our parser would take it, ``JSON.parse`` would not."""
    assert judge_raw("v3-full", "incentive_counterparts", raw) == [("", "not_json")]
    assert judge_raw("v3-full", "driver.identity.identity_key", raw) == [("", "not_json")]


def test_a_name_with_nan_in_it_is_a_name() -> None:
    """The word is refused as a number only."""
    assert judge_raw("v3-full", "driver.identity.lastname", '"NaN, Infinity"') == []


@pytest.mark.parametrize(
    ("raw", "violations"),
    [
        (r'"\ud800"', []),
        (r'"\uDFFF x \\ud800 \ud83d\ude00"', []),
        (r'"' + r"\ud800" * 256 + '"', []),
        (r'"' + r"\ud800" * 257 + '"', [("operator_journey_id", "too_long")]),
        (r'"\ud800', [("", "not_json")]),
        (r'"\ud80"', [("", "not_json")]),
    ],
)
def test_a_lone_surrogate_is_a_character_as_for_json_parse(
    raw: str, violations: list[tuple[str, str]]
) -> None:
    """JavaScript has no objection to half a character, so it is no reason to refuse."""
    assert judge_raw("v2-full", "operator_journey_id", raw) == violations


@pytest.mark.parametrize("name", SAMPLES)
def test_a_byte_order_mark_is_dropped_once(name: str) -> None:
    """Node's server drops the first one; a second is not JSON."""
    body = json.dumps(SAMPLES[name]).encode()
    version = version_of(name)
    assert isinstance(schemas.validate(version, b"\xef\xbb\xbf" + body), schemas.Journey)
    assert codes(version, b"\xef\xbb\xbf\xef\xbb\xbf" + body) == ["not_json"]


@pytest.mark.parametrize("version", VERSIONS)
@given(body=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_body_raises(version: schemas.Version, body: bytes) -> None:
    """Whatever the bytes, there is a verdict, and it is a refusal."""
    assert isinstance(schemas.validate(version, body), schemas.Refusal)


@given(place=st.sampled_from(PLACES), value=JSON)
def test_no_value_raises_or_shows(place: str, value: Any) -> None:
    """Any value at any place has a verdict, and the verdict holds nothing of it."""
    marker = "Zq7" + "x" * 300
    payload = changed(
        "v2-full", place, {"value": value, marker: marker} if isinstance(value, dict) else value
    )
    verdict = schemas.validate("v2", json.dumps(payload).encode())
    if isinstance(verdict, schemas.Refusal):
        said = " ".join(f"{v.path} {v.code} {v.message}" for v in verdict.violations)
        assert "Zq7" not in said
        # Neither a chance "a" or "10" is a leak, nor "unkn", which is part of a code.
        texts = [text for text in strings(payload) if len(text) > 3 and text not in FIXED]
        assert not [text for text in texts if text in said]


def test_the_name_of_an_unknown_key_is_shown_only_when_the_interface_knows_the_word() -> None:
    """A key is the caller's data: a telephone as a key must not reach a log."""
    for key, shown in (
        ("+33698765432", False),
        ("Quemeneur", False),
        ("licence_plate", True),
        ("api_version", True),
    ):
        verdict = schemas.validate("v2", json.dumps(changed("v2-full", key, 1)).encode())
        assert isinstance(verdict, schemas.Refusal)
        assert (key in verdict.violations[0].message) is shown
        assert verdict.violations[0].path == ""
