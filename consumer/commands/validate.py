"""Validate payloads with the Registry's own rules; nothing is sent.

With --mapping the payload that the mapping makes of each event is validated.
Reads JSON Lines (blank lines are skipped), a JSON document or an array, from files or standard input.
Prints one JSON line for each: {"valid": true}, or {"valid": false, "line": 3, "errors": [...]}, where
an error is {"path": "driver.identity.phone", "code": "bad_format", "message": "..."}. No value of a payload
is printed without --show.
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
from typing import Any, BinaryIO

import schemas
from consumer.commands.cli import iso_datetime
from consumer.commands.schema import add_api_version, schema_version
from consumer.core.clock import utc_now
from consumer.core.mapping import load as load_mapping
from consumer.errors import ConfigurationError
from consumer.publishing.documents import Documents

_LINE_BYTES = schemas.MAX_BODY_BYTES + len(b"\r\n")


def configure(parser: argparse.ArgumentParser) -> None:
    add_api_version(parser)
    now = "the current time (default: now); a journey must have ended by then"
    parser.add_argument("--now", type=iso_datetime, default=utc_now(), metavar="ISO-8601", help=now)
    parser.add_argument(
        "--mapping", type=Path, metavar="FILE", help="make payloads of events first (see EVENT_MAPPING_FILE)"
    )
    parser.add_argument("--show", action="store_true", help="with --mapping: print each payload, unmasked")
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="JSON Lines, a document or an array; - or no file: standard input",
    )


def run(args: argparse.Namespace) -> int:
    """Validate line by line; memory does not grow with the input."""
    version = schema_version(args.api_version)
    if args.show and args.mapping is None:
        raise ConfigurationError(["--show needs --mapping"])
    mapping = None if args.mapping is None else load_mapping(args.mapping, version)
    failed = 0
    for name in args.files or ["-"]:
        try:
            with nullcontext(sys.stdin.buffer) if name == "-" else Path(name).open("rb") as stream:
                for number, body in _payloads(stream):
                    payload = body if mapping is None else mapping.apply(body)
                    errors = _errors(version, payload, args.now)
                    failed += bool(errors)
                    line: dict[str, Any] = {"valid": not errors}
                    if errors:
                        line |= {"line": number, "errors": errors}
                    if args.show and isinstance(payload, bytes):
                        line["payload"] = json.loads(payload)
                    print(json.dumps(line))  # noqa: T201
        except BrokenPipeError:
            raise  # standard output was closed: not an error of the file
        except OSError as error:
            raise ConfigurationError([f"cannot read {name}: {error.strerror}"]) from error
    return 1 if failed else 0


def _payloads(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield each payload with its number; of a line over the Registry's limit only its beginning."""
    documents = Documents()
    while line := stream.readline(_LINE_BYTES):
        rest = line
        while len(rest) == _LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(_LINE_BYTES)
        yield from documents.feed(line if rest is not line else line.strip(b" \t\r\n"))
    yield from documents.end()


def _errors(version: schemas.Version, body: bytes | str, now: datetime) -> list[dict[str, str]]:
    """``body`` is text when the mapping made no payload: the reason."""
    if isinstance(body, str):
        code, _, path = body.partition(" at ")
        return [{"path": path, "code": code, "message": "cannot be made of this event"}]
    verdict = schemas.validate(version, body)
    if isinstance(verdict, schemas.Refusal):
        return [asdict(violation) for violation in verdict.violations]
    if schemas.ends_in_future(verdict, now):
        return [{"path": verdict.end_path, "code": "ends_in_future", "message": "is in the future"}]
    return []
