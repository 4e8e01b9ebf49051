"""Telephone numbers of both versions, and the expression that spares most of them the library."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.phone import Telephone, is_valid_phone
from tests.unit.schemas.payloads import changed, judge

KINDS = [Telephone("2023", 10), Telephone("2023", 8, "00"), Telephone("2025", 10), Telephone("2025", 8, "00")]


@pytest.mark.parametrize(
    ("text", "v2", "v3"),
    [
        ("+33698765432", True, True),
        ("0698765432", True, True),
        ("06 98 76 54 32", True, True),
        ("06.98.76.54.32", True, True),
        ("06-98-76-54-32", True, True),
        ("+33 (0)698765432", True, True),
        ("0033698765432", True, True),
        ("0033 698-76.54.32", True, True),
        ("+33\u00a0698765432", True, True),
        ("\uff10\uff16\uff19\uff18\uff17\uff16\uff15\uff14\uff13\uff12", True, True),
        ("+33698765432 ext 12", True, True),
        ("+33123456789", True, True),
        ("+33262123456", True, True),
        ("+33700123456", True, True),
        ("+33712345678", False, True),
        ("++33698765432", True, False),
        ("+33698765432\n", True, False),
        ("tel:+33698765432", True, False),
        ("\uff0b0698765432", False, True),
        ("06~98~76~54~32.", False, True),
        ("+262692123456", True, True),
        ("+262639123456", False, False),
        ("+590690123456", True, True),
        ("+594694201234", True, True),
        ("+687751234", True, True),
        ("+32470123456", True, True),
        ("+4915112345678", True, True),
        ("+97150123456", False, False),
        ("+999123456789", False, False),
        ("+33098765432", False, False),
        ("069876543x", False, False),
        ("06_98_76_54_32", False, False),
        ("not a number", False, False),
        ("", False, False),
    ],
)
def test_which_texts_are_telephones(text: str, v2: bool, v3: bool) -> None:  # noqa: FBT001
    """Each library's reading, new ranges and withdrawn ones, forms that only one of them takes."""
    assert (is_valid_phone(text, "2023"), is_valid_phone(text, "2025")) == (v2, v3)


@pytest.mark.parametrize("kind", KINDS, ids=["v2", "v2 truncated", "v3", "v3 truncated"])
@given(data=st.data())
def test_what_the_expression_accepts_is_valid(kind: Telephone, data: st.DataObject) -> None:
    """The expression agrees with the library on every text that it accepts."""
    text = data.draw(st.from_regex(kind.plain_french.replace("$", r"\Z")))
    assert is_valid_phone(text + kind.missing_digits, kind.rules)
    assert kind.minimum_length <= len(text) <= 20


@given(st.from_regex(r"\A(?:\+33|0)[0-9]{9}\Z"))
def test_no_other_french_mobile_is_valid_in_v2(text: str) -> None:
    """Mobiles in plain form are decided by the expression alone, so a newer plan cannot add any."""
    national = text.removeprefix("+33").removeprefix("0")
    if national[0] in "67":
        short = re.fullmatch(Telephone("2023", 10).plain_french, text) is not None
        assert is_valid_phone(text, "2023") == short


@given(st.text(max_size=22))
def test_no_text_is_too_strange(text: str) -> None:
    """Validation never raises."""
    assert is_valid_phone(text, "2023") in {True, False}
    assert is_valid_phone(text, "2025") in {True, False}


@pytest.mark.parametrize("name", ["v2-full", "v3-full"])
@pytest.mark.parametrize(
    ("trunc", "codes"),
    [("+336987654", []), ("06 98 76 54", []), ("+3369876543", ["bad_format"]), ("+336987", ["too_short"])],
)
def test_truncated_numbers(name: str, trunc: str, codes: list[str]) -> None:
    """A truncated number is validated with two zeros in place of the missing digits."""
    path = "driver.identity.phone_trunc"
    assert judge(name, changed(name, path, trunc)) == [(path, code) for code in codes]
