"""Validate payloads with the Registry's own rules; nothing is sent.

Reads JSON Lines, one payload per line (blank lines are skipped), from files or standard input.
Prints one JSON line for each: {"valid": true}, or {"valid": false, "errors": [...]}, where an error is
{"path": "driver.identity.phone", "code": "bad_format", "message": "..."}. No value of a payload is printed.
Exit code: 0 all are valid, 1 some are not, 2 wrong arguments or an unreadable file.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import schemas
from consumer.commands.cli import iso_datetime
from consumer.commands.schema import add_api_version, schema_version
from consumer.core.clock import utc_now
from consumer.errors import ConfigurationError

_LINE_BYTES = schemas.MAX_BODY_BYTES + len(b"\r\n")


def configure(parser: argparse.ArgumentParser) -> None:
    add_api_version(parser)
    now = "the current time (default: now); a journey must have ended by then"
    parser.add_argument("--now", type=iso_datetime, default=utc_now(), metavar="ISO-8601", help=now)
    parser.add_argument("files", nargs="*", metavar="FILE", help="JSON Lines; - or no file: standard input")


def run(args: argparse.Namespace) -> int:
    """Validate line by line; memory does not grow with the input."""
    version = schema_version(args.api_version)
    failed = 0
    for name in args.files or ["-"]:
        try:
            with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as stream:
                for body in _payloads(stream):
                    errors = _errors(version, body, args.now)
                    failed += bool(errors)
                    print(json.dumps({"valid": False, "errors": errors} if errors else {"valid": True}))  # noqa: T201
        except BrokenPipeError:
            raise  # standard output was closed: not an error of the file
        except OSError as error:
            raise ConfigurationError([f"cannot read {name}: {error.strerror}"]) from error
    return 1 if failed else 0


def _payloads(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines that are not blank; of a line over the Registry's limit only its beginning."""
    while line := stream.readline(_LINE_BYTES):
        rest = line
        while len(rest) == _LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(_LINE_BYTES)
        if rest is not line:
            yield line
        elif body := line.strip(b" \t\r\n"):
            yield body


def _errors(version: schemas.Version, body: bytes, now: datetime) -> list[dict[str, str]]:
    verdict = schemas.validate(version, body)
    if isinstance(verdict, schemas.Refusal):
        return [asdict(violation) for violation in verdict.violations]
    if schemas.ends_in_future(verdict, now):
        return [{"path": verdict.end_path, "code": "ends_in_future", "message": "is in the future"}]
    return []
