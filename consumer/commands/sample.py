"""Print invented journeys that have just ended, one JSON line each: what a publisher sends.

Phone numbers are from the ranges that are reserved for fiction.
"""

import argparse
import random
import sys

from consumer.commands.cli import positive
from consumer.commands.schema import add_api_version, schema_version
from consumer.core.clock import utc_now
from consumer.publishing import samples


def configure(parser: argparse.ArgumentParser) -> None:
    add_api_version(parser, default="v3.3")
    parser.add_argument("--count", type=positive, default=1, metavar="N", help="(default: 1)")


def run(args: argparse.Namespace) -> int:
    version, rng = schema_version(args.api_version), random.SystemRandom()
    for _ in range(args.count):
        sys.stdout.buffer.write(samples.encode(samples.journey(version, rng, utc_now())) + b"\n")
    return 0
