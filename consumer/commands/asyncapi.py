"""Print the AsyncAPI 3 document of the queue, for the teams that publish to it.

It describes the messages: the plain payload, or a CloudEvents 1.0 message in structured or binary
mode. The payload's schema is generated from the models; the rest is in asyncapi.json.
"""

import argparse
import json
import re
from importlib import resources
from typing import Any

import schemas
from consumer import __version__
from consumer.commands.schema import add_api_version, schema_version
from consumer.core.outcome import Reason
from consumer.service.outcome_events import TYPE_PREFIX

_PLACEHOLDER = re.compile(r'"\{(\w+)\}"')


def configure(parser: argparse.ArgumentParser) -> None:
    add_api_version(parser, default="v2")
    parser.add_argument(
        "--events-exchange",
        metavar="E",
        help="describe the outcome events too (EVENTS_EXCHANGE of the service)",
    )
    parser.add_argument("--queue", default="journeys.completed", help="(default: journeys.completed)")


def run(args: argparse.Namespace) -> int:
    described = document(args.queue, args.api_version, args.events_exchange)
    print(json.dumps(described, indent=2, ensure_ascii=False))  # noqa: T201
    return 0


def document(queue: str, api_version: str, events_exchange: str | None = None) -> dict[str, Any]:
    """Return the document; every ``$ref`` in it refers to a part of it."""
    outcomes = ["registered", "already_registered", *(reason.value for reason in Reason)]
    values = {
        "version": __version__,
        "description": "Journeys to be registered at the Registre de preuve de covoiturage, "
        f"API {api_version}. What is published here is delivered to the Registry byte for byte.",
        "queue": queue,
        "exchange": events_exchange,
        "outcomes": outcomes,
        "types": [TYPE_PREFIX + outcome for outcome in outcomes],
    }
    template = resources.files(__package__).joinpath("asyncapi.json").read_text("utf-8")
    whole: dict[str, Any] = json.loads(_PLACEHOLDER.sub(lambda found: json.dumps(values[found[1]]), template))
    parts = whole["components"]
    if not events_exchange:
        del whole["channels"]["journeyOutcomes"], whole["operations"]["publishOutcome"]
        del parts["messages"]["outcome"], parts["schemas"]["OutcomeEvent"]
    payload = schemas.json_schema(schema_version(api_version), ref_template="#/components/schemas/{model}")
    del payload["$schema"]  # AsyncAPI's own dialect is a superset of draft 7; the models use nothing newer
    parts["schemas"] = {**payload.pop("$defs"), "Journey": payload, **parts["schemas"]}
    return whole
