"""Print the JSON Schema (2020-12) of a payload, generated from the models that the service validates with."""

import argparse
import json
from typing import cast

import schemas


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--api-version", choices=["v2", "v3", "v3.2", "v3.3"], required=True)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    version = cast("schemas.Version", args.api_version.partition(".")[0])
    print(json.dumps(schemas.json_schema(version), indent=2, ensure_ascii=False))  # noqa: T201
    return 0
