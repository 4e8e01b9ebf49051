"""The fields by name: all that the models have, and so every path that a violation has."""

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest

import schemas
from tests.unit.schemas.payloads import SAMPLES, changed, judge, version_of


def _properties(schema: dict[str, Any], defs: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The same from the JSON Schema, which pydantic generates without our help."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    if "items" in schema:
        yield from _properties(schema["items"], defs, prefix)
    for name, inner in schema.get("properties", {}).items():
        yield f"{prefix}{name}"
        yield from _properties(inner, defs, f"{prefix}{name}.")


@pytest.mark.parametrize("version", get_args(schemas.Version))
def test_the_fields_are_those_of_the_json_schema(version: schemas.Version) -> None:
    """None is forgotten, none invented; sorted and each once."""
    found = schemas.field_paths(version)
    schema = schemas.json_schema(version)
    assert list(found) == sorted(_properties(schema, schema["$defs"]))
    assert {"driver.identity.phone", "passenger.contribution"} <= set(found)


def _places(value: object, path: str = "") -> Iterator[str]:
    """The dotted path of everything in a payload."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield f"{path}{key}"
        yield from _places(inner, f"{path}{key}.")


@pytest.mark.parametrize("name", SAMPLES)
def test_every_violation_is_at_a_field(name: str) -> None:
    """Whatever is wrong at whichever place: without indexes its path is one of the set."""
    known = set(schemas.field_paths(version_of(name)))
    wrong = [
        path
        for place in _places(SAMPLES[name])
        for path, _ in judge(name, changed(name, place, {"unknown": [None]}))
    ]
    assert len(wrong) > 20
    assert {re.sub(r"\.\d+", "", path) for path in wrong} <= known
