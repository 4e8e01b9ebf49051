"""Print the JSON Schema (2020-12) of a payload, generated from the models that the service validates with."""

import argparse
import json
from typing import cast

import schemas


def configure(parser: argparse.ArgumentParser) -> None:
    add_api_version(parser)


def run(args: argparse.Namespace) -> int:
    print(json.dumps(schemas.json_schema(schema_version(args.api_version)), indent=2, ensure_ascii=False))  # noqa: T201
    return 0


def add_api_version(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "--api-version",
        choices=["v2", "v3", "v3.2", "v3.3"],
        default=default,
        required=default is None,
        help=default and f"(default: {default})",
    )


def schema_version(api_version: str) -> schemas.Version:
    """Return the version of the schema: the same for all of v3."""
    return cast("schemas.Version", api_version.partition(".")[0])
