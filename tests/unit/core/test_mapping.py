"""Event mappings: what they make, what they cannot make, and what is wrong with a file."""

import hashlib
import json
import random
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import schemas
from consumer.core.delivery import Delivery
from consumer.core.mapping import SHIPPED, EventMapping, _Functions, load
from consumer.core.outcome import Invalid
from consumer.core.parse import Ready, parse
from consumer.errors import ConfigurationError
from consumer.publishing import samples

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
EVENT: dict[str, Any] = {
    "ride": {
        "id": "ride-1",
        "trip": "trip-1",
        "departure": {"at": 1764057600, "position": [48.1173, -1.6778]},
        "arrival": {"at": "2025-11-25T09:45:00+01:00", "position": [47.2184, -1.5536]},
        "kilometres": 108.4,
        "bonuses": [{"payer": "12345678901234", "euros": "1.50"}, {"payer": "12345678901234", "euros": 2}],
    },
    "driver": {
        "account": "d-1",
        "mobile": "06 39 98 00 01",
        "family_name": "D'Hérug-de l\u2019Hérault",
        "earned": 8.5,
    },
    "rider": {
        "account": "p-1",
        "mobile": "+33639980002",
        "family_name": "Œuf",
        "paid": "8.50",
        "adult": True,
    },
}


def mapped(tmp_path: Path, field: Any, event: Any, path: str = "operator_trip_id") -> Any:
    """What one field of a mapping makes of an event."""
    tree = field
    for step in reversed(path.split(".")):
        tree = {step: tree}
    file = tmp_path / "mapping.yaml"
    file.write_text(yaml.safe_dump(tree))
    made = load(file, "v3").apply(json.dumps(event).encode())
    return made if isinstance(made, str) else json.loads(made)


def example() -> EventMapping:
    return load(Path("example"), "v3")


def test_the_example_makes_a_valid_journey() -> None:
    """Every function has its place in it."""
    ready = parse(Delivery(json.dumps(EVENT).encode()), "v3", example())
    assert isinstance(ready, Ready), ready
    payload = json.loads(ready.body)
    assert payload["start"] == {"datetime": "2025-11-25T08:00:00Z", "lat": 48.1173, "lon": -1.6778}
    assert payload["end"]["datetime"] == "2025-11-25T08:45:00Z"
    assert payload["distance"] == 108_400
    assert payload["incentives"] == [
        {"siret": "12345678901234", "amount": 150, "index": 0},
        {"siret": "12345678901234", "amount": 200, "index": 1},
    ]
    driver = payload["driver"]
    digest = hashlib.sha256(b"+33639980001-D HERUG DE L HERAULT").hexdigest()
    assert driver == {
        "revenue": 850,
        "identity": {"operator_user_id": "d-1", "identity_key": digest, "phone": "+33639980001"},
    }
    assert payload["passenger"]["identity"]["over_18"] is True


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("driver", "mobile"), "no phone", "driver.identity.identity_key"),
        (("driver", "mobile"), None, "driver.identity.identity_key"),
        (("driver", "family_name"), "Ивано́в", "driver.identity.identity_key"),
        (("driver", "earned"), "8.505", "driver.revenue"),
        (("driver", "earned"), "NaN", "driver.revenue"),
        (("driver", "earned"), {"euros": 8}, "driver.revenue"),
        (("ride", "departure", "at"), "2025-11-25T09:00:00", "start.datetime"),
        (("ride", "departure", "at"), "yesterday", "start.datetime"),
        (("ride", "departure", "at"), 1e300, "start.datetime"),
        (("ride", "departure", "position"), [], "start.lat"),
        (("ride", "id"), None, "operator_journey_id"),
        (("ride", "kilometres"), None, "distance"),
        (("rider",), None, "passenger"),
    ],
)
def test_what_cannot_be_made_is_named_by_its_field(path: tuple[str, ...], value: Any, field: str) -> None:
    """The reason of the dead letter; no value of the event is in it."""
    event = json.loads(json.dumps(EVENT))
    node = event
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    assert parse(Delivery(json.dumps(event).encode()), "v3", example()) == Invalid(f"mapping at {field}")


def test_a_value_that_the_registry_refuses_keeps_its_own_code() -> None:
    """The mapping made it; validation refuses it."""
    event = {**EVENT, "ride": {**EVENT["ride"], "kilometres": 2_000}}
    assert parse(Delivery(json.dumps(event).encode()), "v3", example()) == Invalid("out_of_range at distance")


def test_v2_becomes_v3() -> None:
    """Times and places of the passenger, incentives of both, one index."""
    payload = samples.journey("v2", random.Random(1), NOW)
    for number, role in enumerate(("driver", "passenger")):
        payload[role]["identity"] |= {
            "operator_user_id": f"u-{number}",
            "lastname": "Martin",
            "phone": "+33639980001",
        }
        payload[role]["incentives"] = [{"index": 0, "siret": "12345678901234", "amount": 100 + number}]
    ready = parse(Delivery(samples.encode(payload)), "v3", load(Path("v2-to-v3.3"), "v3"))
    assert isinstance(ready, Ready), ready
    made = json.loads(ready.body)
    assert made["operator_journey_id"] == payload["journey_id"]
    assert made["operator_trip_id"] == payload["operator_journey_id"]
    assert [(each["index"], each["amount"]) for each in made["incentives"]] == [(0, 100), (1, 101)]
    assert made["start"]["lat"] == payload["passenger"]["start"]["lat"]


@pytest.mark.parametrize("missing", ["lastname", "operator_user_id", "phone"])
def test_what_v2_does_not_have_is_named(missing: str) -> None:
    """The head of the file says what must be added to the event."""
    payload = samples.journey("v2", random.Random(1), NOW)
    identity = {"operator_user_id": "u", "lastname": "Martin", "phone": "+33639980001"}
    payload["driver"]["identity"] = dict(identity)
    payload["passenger"]["identity"] = {key: value for key, value in identity.items() if key != missing}
    field = "operator_user_id" if missing == "operator_user_id" else "identity_key"
    result = parse(Delivery(samples.encode(payload)), "v3", load(Path("v2-to-v3.3"), "v3"))
    assert result == Invalid(f"mapping at passenger.identity.{field}")


@pytest.mark.parametrize(
    ("expression", "given_value", "expected"),
    [
        ("utc(x)", 1764057600123, "2025-11-25T08:00:00Z"),
        ("utc(x)", "1764057600", "2025-11-25T08:00:00Z"),
        ("utc(x)", "2025-11-25t08:00:00z", "2025-11-25T08:00:00Z"),
        ("upper_ascii(x)", "Çelik-Ağa  d\u2019Àrc", "CELIK AGA D ARC"),
        ("phone_trunc(x)", "06 39 98 00 01", "+336399800"),
        ("e164(x)", "0033639980001", "+33639980001"),
        ("e164(x)", "+32 470 12 34 56", "+32470123456"),
        ("x", None, None),
        ({"const": "C"}, 1, None),
    ],
)
def test_each_function(tmp_path: Path, expression: Any, given_value: Any, expected: Any) -> None:
    """Null gives nothing; a payload of constants alone is none."""
    assert mapped(tmp_path, expression, {"x": given_value}).get("operator_trip_id") == expected


def test_the_specifications_own_identity_key(tmp_path: Path) -> None:
    """+33701020304 and d'Hérug-de l'Hérault (specification of v3.3)."""
    event = {"phone": "07 01 02 03 04", "name": "d'Hérug-de l'Hérault"}
    made = mapped(tmp_path, "identity_key(phone, name)", event)["operator_trip_id"]
    assert made == hashlib.sha256(b"+33701020304-D HERUG DE L HERAULT").hexdigest()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("operator_trip_id: a..b", "operator_trip_id: 'a..b' is not a JMESPath expression"),
        ("operator_trip_id: shell(a)", "operator_trip_id: there is no function 'shell'"),
        ("operator_trip_id: 'items[].{x: cent(y)}'", "operator_trip_id: there is no function 'cent'"),
        ("driver: {identity: {name: a}}", "driver.identity.name: the version has no such field"),
        ("journey_id: a", "journey_id: the version has no such field"),
        ("operator_trip_id: 5", "operator_trip_id: must be an expression"),
        ("[a]", "must give expressions for fields"),
        ("a: [", "is not YAML"),
        ("a: !!python/object/apply:os.system [id]", "is not YAML"),
    ],
)
def test_a_mistake_of_the_file_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    """Found when it is loaded, not at the first journey."""
    file = tmp_path / "mapping.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as found:
        load(file, "v3")
    assert sentence in str(found.value.problems)


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path / "none.yaml", "v3")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.fixed_dictionaries({}, optional={"ride": _JSON, "driver": _JSON, "rider": _JSON}))
def test_any_event_gives_a_payload_or_a_reason(event: Any) -> None:
    """Never an exception, and never a value of the event in the reason."""
    result = parse(Delivery(json.dumps(event).encode("utf-8", "surrogatepass")), "v3", example())
    assert isinstance(result, Ready) or result.detail.partition(" at ")[0] in {
        "mapping", "not_json", "missing", "wrong_type", "not_utf8", "bad_format", "too_long", "out_of_range",
    }  # fmt: skip


@given(st.binary(max_size=200))
def test_any_bytes_give_a_reason(body: bytes) -> None:
    assert isinstance(parse(Delivery(body), "v3", example()), Invalid)


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_mapping_loads_by_its_name(file: Path) -> None:
    assert load(Path(file.stem), "v3")


def test_the_page_for_publishers_is_true() -> None:
    """Its payload is valid, its digest that of its command, its functions those that exist."""
    page = (Path(__file__).parents[3] / "docs" / "publishing.md").read_text()
    (payload,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    assert isinstance(schemas.validate("v3", payload.encode()), schemas.Journey)
    assert "+33701020304-D HERUG DE L HERAULT" in page
    assert hashlib.sha256(b"+33639980001-MARTIN").hexdigest() in payload
    functions = {name.removeprefix("_func_") for name in vars(_Functions) if name.startswith("_func_")}
    rows = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    assert functions <= set(re.findall(r"`(\w+)\(", " ".join(rows)))
    assert {f"`{file.stem}`" for file in SHIPPED.glob("*.yaml")} <= set(rows)
