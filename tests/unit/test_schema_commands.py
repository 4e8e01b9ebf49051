"""The `schema` and `asyncapi` commands: documents that are what they claim to be."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from consumer.commands.cli import main
from tests.unit.schemas.payloads import SAMPLES, changed


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What a command prints, parsed."""
    assert main(list(arguments)) == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def references(value: object) -> Iterator[str]:
    """Every ``$ref`` in a document."""
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def resolve(document: dict[str, Any], reference: str) -> Any:
    """What a local reference points to; KeyError when nothing."""
    place: Any = document
    for part in reference.removeprefix("#/").split("/"):
        place = place[part.replace("~1", "/").replace("~0", "~")]
    return place


@pytest.mark.parametrize("name", SAMPLES)
def test_the_schema_accepts_the_samples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is valid JSON Schema 2020-12 and agrees with the models on our payloads."""
    document = printed(capsys, "schema", "--api-version", name[:2])
    assert document["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(document)
    assert list(Draft202012Validator(document).iter_errors(SAMPLES[name])) == []


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("v2-full", "extra", 1),
        ("v2-full", "driver.identity", {"operator_user_id": "u"}),
        ("v2-full", "driver.start", {"datetime": "2026-03-02T06:10:00Z", "lat": 1}),
        ("v2-full", "driver.start", {"datetime": "2026-03-02T06:10:00Z"}),
        ("v2-full", "driver.start.lat", 1e-7),
        ("v2-full", "driver.start.insee", "2C033"),
        ("v2-full", "driver.duration", 0),
        ("v2-full", "driver.start.datetime", "2026-02-30T06:10:00Z"),
        ("v3-full", "driver.identity.identity_key", "A" * 64),
        ("v3-full", "start.lat", 91),
        ("v3-full", "distance", 1.5),
        ("v3-full", "end.datetime", "2026-03-02T06:10:00"),
        ("v3-full", "driver.identity.over_18", "yes"),
        ("v3-full", "driver.identity.operator_user_id", "a\0"),
        ("v3-full", "driver.identity.travel_pass", {"name": "navigo", "user_id": "x" * 129}),
        ("v3-full", "incentives", [{"index": 0, "siret": "20003019500115", "amount": 0.5}]),
        ("v3-full", "licence_plate", "x" * 33),
    ],
)
def test_the_schema_refuses_what_the_models_refuse(
    name: str, path: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rules that JSON Schema can express are in it."""
    document = printed(capsys, "schema", "--api-version", name[:2])
    assert list(Draft202012Validator(document).iter_errors(changed(name, path, value)))


@pytest.mark.parametrize("version", ["v2", "v3", "v3.3"])
def test_the_asyncapi_document_has_what_version_3_requires(
    version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Required fields, known fields only, and the kinds of references that the specification wants."""
    document = printed(capsys, "asyncapi", "--api-version", version, "--queue", "trips.done")
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    assert document.keys() <= {
        "asyncapi",
        "id",
        "info",
        "defaultContentType",
        "channels",
        "operations",
        "components",
    }
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", key) for key in document["components"]["schemas"])
    (channel_id,) = document["channels"]
    channel = document["channels"][channel_id]
    assert channel.keys() <= {"address", "title", "messages", "bindings"}
    assert channel["address"] == "trips.done"
    binding = channel["bindings"]["amqp"]
    assert (binding["is"], binding["queue"]["name"]) == ("queue", "trips.done")
    (operation,) = document["operations"].values()
    assert operation["action"] == "receive"
    assert operation["channel"] == {"$ref": f"#/channels/{channel_id}"}
    assert operation["messages"] == [
        {"$ref": f"#/channels/{channel_id}/messages/{name}"} for name in channel["messages"]
    ]
    for message in document["components"]["messages"].values():
        assert {"contentType", "payload"} <= message.keys()
        assert message.keys() <= {"title", "description", "contentType", "headers", "payload"}
        assert message.get("headers", {"type": "object"})["type"] == "object"


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_every_reference_resolves(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing points outside the document, or at nothing."""
    document = printed(capsys, "asyncapi", "--api-version", version)
    found = set(references(document))
    assert len(found) > 10
    for reference in found:
        assert isinstance(resolve(document, reference), dict), reference


@pytest.mark.parametrize("name", SAMPLES)
def test_its_messages_describe_what_is_published(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The plain payload, the CloudEvent around it and the binary headers each fit their schema."""
    document = printed(capsys, "asyncapi", "--api-version", name[:2])

    def errors(schema: dict[str, Any], instance: object) -> list[Any]:
        return list(
            Draft202012Validator({**schema, "components": document["components"]}).iter_errors(instance)
        )

    messages = document["components"]["messages"]
    attributes = {"specversion": "1.0", "id": "1", "source": "/trips", "type": "journey.completed"}
    event = {**attributes, "datacontenttype": "application/json", "data": SAMPLES[name]}
    headers = {f"cloudEvents:{key}": value for key, value in attributes.items()}
    assert messages["cloudEventStructured"]["contentType"] == "application/cloudevents+json"
    assert errors(messages["plain"]["payload"], SAMPLES[name]) == []
    assert errors(messages["plain"]["payload"], event)
    assert errors(messages["cloudEventStructured"]["payload"], event) == []
    assert errors(messages["cloudEventStructured"]["payload"], {**event, "data": {}})
    assert errors(messages["cloudEventStructured"]["payload"], SAMPLES[name])
    assert errors(messages["cloudEventBinary"]["payload"], SAMPLES[name]) == []
    assert errors(messages["cloudEventBinary"]["headers"], headers) == []
    assert errors(messages["cloudEventBinary"]["headers"], {})
