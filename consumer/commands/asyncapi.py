"""Print the AsyncAPI 3 document of the queue, for the teams that publish to it.

It describes the messages: the plain payload, or a CloudEvents 1.0 message in structured or binary
mode. The payload's schema is generated from the models.
"""

import argparse
import json
from typing import Any

import schemas
from consumer import __version__
from consumer.commands.schema import add_api_version, schema_version
from consumer.core.outcome import Reason
from consumer.service.outcome_events import CONTENT_TYPE, TYPE_PREFIX

_AMQP = "0.3.0"  # version of the AMQP 0-9-1 bindings
_CHANNEL = "journeysCompleted"
_EVENTS = "journeyOutcomes"
_SCHEMAS = "#/components/schemas/"
_ATTRIBUTES = {
    "specversion": {"const": "1.0"},
    "id": {"type": "string", "minLength": 1},
    "source": {"type": "string", "format": "uri-reference", "minLength": 1},
    "type": {"type": "string", "minLength": 1},
}
_OPTIONAL_ATTRIBUTES = {
    "subject": {"type": "string", "minLength": 1},
    "time": {"type": "string", "format": "date-time"},
    "datacontenttype": {"type": "string", "pattern": r"^application/json(?:;.*)?$"},
    "dataschema": {"type": "string", "format": "uri"},
}


def configure(parser: argparse.ArgumentParser) -> None:
    add_api_version(parser, default="v2")
    parser.add_argument(
        "--events-exchange",
        metavar="E",
        help="describe the outcome events too (EVENTS_EXCHANGE of the service)",
    )
    parser.add_argument("--queue", default="journeys.completed", help="(default: journeys.completed)")


def run(args: argparse.Namespace) -> int:
    described = document(args.queue, args.api_version)
    if args.events_exchange:
        add_events(described, args.events_exchange)
    print(json.dumps(described, indent=2, ensure_ascii=False))  # noqa: T201
    return 0


def document(queue: str, api_version: str) -> dict[str, Any]:
    """Return the document; every ``$ref`` in it refers to a part of it."""
    payload = schemas.json_schema(schema_version(api_version), ref_template=_SCHEMAS + "{model}")
    del payload["$schema"]  # AsyncAPI's own dialect is a superset of draft 7; the models use nothing newer
    types = payload.pop("$defs")
    messages = _messages()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Completed journeys",
            "version": __version__,
            "description": "Journeys to be registered at the Registre de preuve de covoiturage, "
            f"API {api_version}. What is published here is delivered to the Registry byte for byte.",
        },
        "defaultContentType": "application/json",
        "channels": {
            _CHANNEL: {
                "address": queue,
                "title": "Completed journeys",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {
                    "amqp": {
                        "is": "queue",
                        "queue": {"name": queue, "durable": True, "exclusive": False, "autoDelete": False},
                        "bindingVersion": _AMQP,
                    }
                },
            }
        },
        "operations": {
            "registerJourney": {
                "action": "receive",
                "summary": "Register the journey; a journey that cannot be registered is dead-lettered.",
                "channel": {"$ref": f"#/channels/{_CHANNEL}"},
                "messages": [{"$ref": f"#/channels/{_CHANNEL}/messages/{name}"} for name in messages],
                "bindings": {"amqp": {"ack": True, "bindingVersion": _AMQP}},
            }
        },
        "components": {
            "messages": messages,
            "schemas": {**types, "Journey": payload, "CloudEvent": _cloud_event()},
        },
    }


def add_events(whole: dict[str, Any], exchange: str) -> None:
    """Add what the service publishes to ``exchange`` when EVENTS_EXCHANGE is set."""
    outcomes = ["registered", "already_registered", *(reason.value for reason in Reason)]
    nullable = {"type": ["string", "null"]}
    count = {"type": "integer", "minimum": 0}
    whole["channels"][_EVENTS] = {
        "address": exchange,
        "title": "The final outcome of each journey; the routing key is the outcome",
        "messages": {"outcome": {"$ref": "#/components/messages/outcome"}},
        "bindings": {"amqp": {"is": "routingKey", "exchange": {"name": exchange}, "bindingVersion": _AMQP}},
    }
    whole["operations"]["publishOutcome"] = {
        "action": "send",
        "summary": "One event per final outcome. At most once: a crash right after settling loses it.",
        "channel": {"$ref": f"#/channels/{_EVENTS}"},
        "messages": [{"$ref": f"#/channels/{_EVENTS}/messages/outcome"}],
    }
    whole["components"]["messages"]["outcome"] = {
        "title": "A CloudEvents message in structured mode: ids and codes only",
        "contentType": CONTENT_TYPE,
        "payload": {"$ref": f"{_SCHEMAS}OutcomeEvent"},
    }
    data = {
        "outcome": {"enum": outcomes},
        "journey_id": nullable,
        "message_id": nullable,
        "attempts": count,
        "replays": count,
        "status": {"type": ["integer", "null"], "description": "the Registry's HTTP status"},
    }
    optional = {
        "created_at": {**nullable, "description": "the Registry's own date; registered only"},
        "detail": {"type": "string", "description": "code and field path; dead letters only"},
    }
    whole["components"]["schemas"]["OutcomeEvent"] = {
        "title": "The final outcome of one journey",
        "type": "object",
        "required": [*_ATTRIBUTES, "time", "data"],
        "properties": {
            **_ATTRIBUTES,
            **_OPTIONAL_ATTRIBUTES,
            "type": {"enum": [TYPE_PREFIX + outcome for outcome in outcomes]},
            "data": {"type": "object", "required": [*data], "properties": {**data, **optional}},
        },
    }


def _messages() -> dict[str, Any]:
    journey = {"$ref": f"{_SCHEMAS}Journey"}
    return {
        "plain": {
            "title": "The payload itself",
            "contentType": "application/json",
            "payload": journey,
        },
        "cloudEventStructured": {
            "title": "A CloudEvents message in structured mode: the payload is its data",
            "contentType": "application/cloudevents+json",
            "payload": {"$ref": f"{_SCHEMAS}CloudEvent"},
        },
        "cloudEventBinary": {
            "title": "A CloudEvents message in binary mode: the payload is the body",
            "description": "The attributes are headers; the prefix ce- is accepted as well as cloudEvents:.",
            "contentType": "application/json",
            "headers": {
                "type": "object",
                "required": [f"cloudEvents:{name}" for name in _ATTRIBUTES],
                "properties": {
                    f"cloudEvents:{name}": rule
                    for name, rule in (_ATTRIBUTES | _OPTIONAL_ATTRIBUTES).items()
                    if name != "datacontenttype"  # in binary mode it is the message's content type
                },
            },
            "payload": journey,
        },
    }


def _cloud_event() -> dict[str, Any]:
    return {
        "title": "CloudEvents 1.0",
        "type": "object",
        "required": [*_ATTRIBUTES, "data"],
        "properties": {**_ATTRIBUTES, **_OPTIONAL_ATTRIBUTES, "data": {"$ref": f"{_SCHEMAS}Journey"}},
    }
