"""Single fields: what passes, what does not, and the code that says why."""

import pytest

from tests.unit.schemas.payloads import DROP, SAMPLES, changed, judge, judge_raw, objects

TEXTS = ("", "x" * 257)
FULL = ("v2-full", "v3-full")


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_is_accepted(name: str) -> None:
    """The samples are valid, so that a change to one is what a refusal is about."""
    assert judge(name, SAMPLES[name]) == []


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("operator_class", "D", "not_allowed_value"),
        ("operator_class", "a", "not_allowed_value"),
        ("operator_id", 0, "out_of_range"),
        ("operator_id", 2**31, "out_of_range"),
        ("operator_journey_id", "", "too_short"),
        ("operator_journey_id", "x" * 257, "too_long"),
        ("operator_journey_id", None, "wrong_type"),
        ("driver", [], "wrong_type"),
        ("driver.revenue", -1, "out_of_range"),
        ("driver.revenue", 1_000_001, "out_of_range"),
        ("driver.revenue", "450", "wrong_type"),
        ("driver.revenue", True, "wrong_type"),
        ("driver.revenue", 1.5, "not_integer"),
        ("driver.revenue", 999_999.9999, "not_integer"),
        ("passenger.seats", 0, "out_of_range"),
        ("passenger.seats", 9, "out_of_range"),
        ("passenger.contribution", DROP, "missing"),
        ("passenger.payments", {}, "wrong_type"),
        ("passenger.payments.0.amount", 0.5, "not_integer"),
        ("passenger.payments.0.amount", 100_001, "out_of_range"),
        ("passenger.payments.0.index", 20, "out_of_range"),
        ("passenger.payments.0.siret", "5520813176652", "bad_format"),
        ("passenger.payments.0.siret", "5520813176652\uff12", "bad_format"),
        ("passenger.payments.0.type", DROP, "missing"),
        ("driver.identity.email", "a@b", "too_short"),
        ("driver.identity.email", "solene@localhost", "bad_format"),
        ("driver.identity.email", "solène@conducteurs.example", "bad_format"),
        ("driver.identity.email", "a" * 250 + "@b.fr.fr", "too_long"),
        ("driver.identity.email", "\u017folene@conducteurs.example", "bad_format"),
        ("driver.identity.email", "solene@conducteurs.example\n", "bad_format"),
        ("driver.identity.over_18", "yes", "wrong_type"),
        ("driver.identity.over_18", 1, "wrong_type"),
        ("driver.identity.firstname", None, "wrong_type"),
        ("driver.identity.travel_pass.name", "pastel", "not_allowed_value"),
        ("driver.identity.travel_pass.user_id", DROP, "missing"),
        ("driver.identity.phone", "+33698", "too_short"),
        ("driver.identity.phone", "+33698765432 9876543210", "too_long"),
        ("driver.identity.phone", "+336987654321", "bad_format"),
        ("driver.identity.phone_trunc", "+336987654x", "bad_format"),
        ("driver.identity.driving_license", "051227308989", "unknown_key"),
    ],
)
@pytest.mark.parametrize("name", FULL)
def test_a_wrong_field_is_refused_with_its_path(name: str, path: str, value: object, code: str) -> None:
    """The only violation names the field (the parent of an unknown key) and the rule."""
    where = path.rpartition(".")[0] if code == "unknown_key" else path
    assert judge(name, changed(name, path, value)) == [(where, code)]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("operator_journey_id", " "),
        ("operator_journey_id", "\U0001f600" * 256),
        ("driver.identity.company", "\u0000"),
        ("driver.identity.email", "a@b.c"),
        ("driver.identity.email", "A+tag@127.0.0.1"),
        ("driver.identity.over_18", False),
        ("driver.revenue", 1_000_000),
        ("passenger.payments.0.siret", "00000000000000"),
        ("passenger.payments", []),
        ("passenger.seats", 8),
        ("operator_id", DROP),
        ("driver.identity.over_18", DROP),
    ],
)
@pytest.mark.parametrize("name", FULL)
def test_an_unusual_field_is_accepted(name: str, path: str, value: object) -> None:
    """What the Registry lets through is not refused, however odd."""
    assert judge(name, changed(name, path, value)) == []


@pytest.mark.parametrize(
    ("raw", "codes"),
    [
        ("2.0", []),
        ("1e0", []),
        ("0.2E1", []),
        ("0.99999999999999999", []),
        ("1.0000001", ["not_integer"]),
        ("1e400", ["out_of_range"]),
        ("12345678901234567890123", ["out_of_range"]),
        ("-0", ["out_of_range"]),
        ("NaN", ["out_of_range"]),
        ('"2"', ["wrong_type"]),
        ("null", ["wrong_type"]),
    ],
)
@pytest.mark.parametrize("name", FULL)
def test_an_integer_is_what_a_double_can_tell(name: str, raw: str, codes: list[str]) -> None:
    """Integers are validated as JavaScript reads them, in any notation."""
    assert [code for _, code in judge_raw(name, "passenger.seats", raw)] == codes


@pytest.mark.parametrize(
    ("raw", "codes"),
    [
        ("90", []),
        ("-90.0", []),
        ("0", []),
        ("-0.0", []),
        ("0.000001", []),
        ("-1e-6", []),
        ("9.99e-7", ["bad_format"]),
        ("-1e-7", ["bad_format"]),
        ("90.0000001", ["out_of_range"]),
        ("1e400", ["out_of_range"]),
        ('"48.1"', ["wrong_type"]),
        ("true", ["wrong_type"]),
    ],
)
@pytest.mark.parametrize(("name", "path"), [("v2-full", "driver.start.lat"), ("v3-full", "start.lat")])
def test_a_coordinate_is_printed_without_exponent(name: str, path: str, raw: str, codes: list[str]) -> None:
    """Latitudes lie in range and are not so small that JavaScript prints them as 1e-7."""
    assert judge_raw(name, path, raw) == [(path, code) for code in codes]


@pytest.mark.parametrize(("name", "path"), [("v2-full", "driver.incentives"), ("v3-full", "incentives")])
def test_incentives(name: str, path: str) -> None:
    """Twenty at most; whole amounts in v3, also fractional ones in v2; nothing else in them."""
    many = [{"index": index, "siret": "20003019500115", "amount": 25} for index in range(20)]
    one = many[0]
    assert judge(name, changed(name, path, many)) == []
    assert judge(name, changed(name, path, [*many, one])) == [(path, "too_many")]
    fraction = [] if name == "v2-full" else [(f"{path}.0.amount", "not_integer")]
    assert judge(name, changed(name, path, [{**one, "amount": 0.25}])) == fraction
    assert judge(name, changed(name, path, [{**one, "amount": 100_001}])) == [
        (f"{path}.0.amount", "out_of_range")
    ]
    assert judge(name, changed(name, path, [one, {}]))[0] == (f"{path}.1.index", "missing")
    assert judge(name, changed(name, path, DROP)) == [(path, "missing")]


@pytest.mark.parametrize("name", SAMPLES)
def test_an_unknown_key_is_refused_at_every_level(name: str) -> None:
    """No object takes a key more, whatever its name, and the path is its parent's."""
    for parent in objects(SAMPLES[name]):
        for key in ("extra", "", "constructor", "__proto__", "api_version"):
            path = f"{parent}.{key}" if parent else key
            assert judge(name, changed(name, path, 1)) == [(parent, "unknown_key")], path


@pytest.mark.parametrize("name", SAMPLES)
def test_of_a_key_that_stands_twice_the_last_counts(name: str) -> None:
    """Duplicate keys are read like ``JSON.parse`` reads them."""
    assert judge_raw(name, "operator_class", '"Z", "operator_class": "A"') == []
    assert judge_raw(name, "operator_class", '"A", "operator_class": "Z"') == [
        ("operator_class", "not_allowed_value")
    ]
