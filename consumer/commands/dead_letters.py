"""Inspect, replay, edit and discard dead letters.

`summary`, `list` and `show` change nothing. `replay` sends a selection again, nearest deadline first among
those held (up to 10,000 dead letters or 16 MiB at once); `edit` changes payloads first; `discard` removes a
selection, with a reason and an audit line. Every filter may be given several times (alternatives); different
filters must all match. Settings: BROKER_URL, BROKER_QUEUE, BROKER_CA_FILE and, for `edit` and
`replay --to registry`, REGISTRY_..., as for `run`.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from consumer.app import build_topology
from consumer.commands import dead_letters_actions, dead_letters_edit
from consumer.commands.cli import load_settings, positive
from consumer.commands.dead_letters_actions import add_audit, open_audit, queue_readers
from consumer.config import REGISTRY, TOPOLOGY, Settings
from consumer.core.clock import utc_now
from consumer.core.delivery import Delivery
from consumer.core.topology import Topology
from consumer.deadletters.audit import audit_line, body_of
from consumer.deadletters.masking import masked, masked_content_type, masked_headers
from consumer.deadletters.record import LONGEST_ID, payload_of
from consumer.deadletters.selection import Range, Selection, hash_of, range_of, status_of
from consumer.deadletters.sweep import DeadLetterMessage, Nearest, read_queues
from consumer.deadletters.view import (
    Overview,
    reading,
    show_one,
    show_overview,
    show_records,
    span,
    stdout_console,
)
from consumer.errors import ConfigurationError, ConsumerError

LISTED = 50
_NOT_SHOWN = Delivery(b"")
_READS = TOPOLOGY | {"DEAD_LETTERS_UNVERIFIED"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    summary = _command(commands, "summary", "group by reason, detail and status: count, age, time left")
    summary.add_argument("--json", action="store_true", help="print JSON")
    summary.set_defaults(action=_summary)

    listing = _command(commands, "list", "print one line for each, nearest deadline first")
    listing.add_argument("--limit", type=positive, default=LISTED, metavar="N", help="(default: %(default)s)")
    listing.add_argument("--json", action="store_true", help="JSON Lines with the payload, masked")
    listing.add_argument("--reveal", action="store_true", help="with --json: unmasked; writes an audit line")
    add_audit(listing)
    listing.set_defaults(action=_list)

    show = _command(commands, "show", "print one in full, personal data masked", filters=False)
    show.add_argument("id", metavar="ID", help="journey id, message id or key")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.add_argument("--reveal", action="store_true", help="unmasked; writes an audit line")
    add_audit(show)
    show.set_defaults(action=_show)

    for each in (dead_letters_actions, dead_letters_edit):
        each.configure(lambda name, text: _command(commands, name, text))


def _command(commands: Any, name: str, text: str, *, filters: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument(
        "--force", action="store_true", help="also read queues whose delivery limit could drop messages"
    )
    group = parser.add_argument_group("filters")
    reasons = Topology(queue="").dead_letter_reasons
    group.add_argument(
        "--reason", action="append", default=[], type=_reason, metavar="R", help=", ".join(reasons)
    )
    parser.set_defaults(detail=[], status=[], journey=[], message=[], person=[], age=Range(), left=Range())
    parser.set_defaults(reads=frozenset(), to=None)
    if filters:
        for option, metavar, meaning, more in _FILTERS:
            group.add_argument(option, metavar=metavar, help=meaning, **more)
    return parser


def _reason(text: str) -> str:
    reasons = Topology(queue="").dead_letter_reasons
    if text not in reasons:
        more = "; a status is --status" if text.isdigit() else ""
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(reasons)}{more}")
    return text


def _argument(read: Any) -> Any:
    def checked(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


_SEVERAL: dict[str, Any] = {"action": "append"}
_RANGE: dict[str, Any] = {"type": _argument(range_of)}
_FILTERS = (
    ("--detail", "D", "code and field path; * and ? match any", _SEVERAL),
    ("--status", "N", "the Registry's HTTP status, or none", {**_SEVERAL, "type": _argument(status_of)}),
    ("--journey", "ID", "journey id", _SEVERAL),
    ("--message", "ID", "message id", _SEVERAL),
    (
        "--person",
        "HASH",
        "SHA-256 of a phone in E.164 or of a user id",
        {**_SEVERAL, "type": _argument(hash_of)},
    ),
    ("--age", "RANGE", "time since death: 2h.. or ..30m or 1h..2h", _RANGE),
    ("--left", "RANGE", "time left: ..3h is urgent, 0.. is in time, ..0 is too late", _RANGE),
)


def run(args: argparse.Namespace) -> int:
    reads = _READS | (
        REGISTRY if getattr(args, "to", None) == "registry" else frozenset(getattr(args, "reads", ()))
    )
    settings = load_settings(os.environ, reads)
    selection = Selection(
        reasons=frozenset(args.reason),
        details=tuple(args.detail),
        statuses=frozenset(args.status),
        journey_ids=frozenset(each[:LONGEST_ID] for each in args.journey),
        message_ids=frozenset(each[:LONGEST_ID] for each in args.message),
        age=args.age,
        left=args.left,
        persons=frozenset(args.person),
    )
    return int(args.action(args, settings, selection))


def _read(
    args: argparse.Namespace,
    settings: Settings,
    selection: Selection,
    see: Callable[[DeadLetterMessage], None],
) -> None:
    with reading(see) as watched:
        asyncio.run(read_queues(queue_readers(args, settings, selection), watched))


def _summary(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    overview, now = Overview(), utc_now()

    def see(dead: DeadLetterMessage) -> None:
        if dead.matches(selection, now):
            overview.add(dead.record, now)

    _read(args, settings, selection, see)
    if args.json:
        print(json.dumps({"queue": settings.broker_queue, **overview.as_json()}, indent=2))  # noqa: T201
    else:
        show_overview(stdout_console(), overview, settings.broker_queue)
    return 0


def _list(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    if args.reveal and not args.json:
        raise ConfigurationError(["--reveal needs --json: the table shows no payload"])
    now, nearest = utc_now(), Nearest(args.limit)

    def see(dead: DeadLetterMessage) -> None:
        if dead.matches(selection, now):
            nearest.add(dead if args.json else replace(dead, delivery=_NOT_SHOWN))

    _read(args, settings, selection, see)
    if args.json:
        entries = nearest.entries()
        if args.reveal:
            _log_reveal(args, entries, now)
        for dead in entries:
            print(json.dumps(_shown(dead, now, settings, reveal=args.reveal)))  # noqa: T201
    else:
        show_records(stdout_console(), [dead.record for dead in nearest.entries()], now)
    more = f"; --limit {nearest.matching} shows all" if nearest.matching > args.limit else ""
    text = f"{len(nearest)} of {nearest.matching} dead letters{more}"
    if len(nearest) < min(nearest.matching, args.limit):
        text += "; the others exceed 64 MiB: use a filter, or edit --out"
    if not args.json:
        print(text)  # noqa: T201
    elif len(nearest) < nearest.matching:
        print(text, file=sys.stderr)  # noqa: T201
    return 0


def _show(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    now, found, wanted = utc_now(), list[DeadLetterMessage](), args.id[:LONGEST_ID]

    def see(dead: DeadLetterMessage) -> None:
        if wanted in (dead.record.journey_id, dead.record.message_id, dead.key):
            found.append(dead)

    _read(args, settings, selection, see)
    if not found:
        raise ConsumerError("no dead letter has this journey id, message id or key")
    if args.reveal:
        _log_reveal(args, found, now)
    console = stdout_console()
    for dead in found:
        shown = _shown(dead, now, settings, reveal=args.reveal)
        if args.json:
            print(json.dumps(shown, indent=2))  # noqa: T201
        else:
            left = shown.pop("left_seconds")
            shown["time left"] = None if left is None else span(left)
            show_one(console, shown)
    return 0


def _shown(dead: DeadLetterMessage, now: datetime, settings: Settings, *, reveal: bool) -> dict[str, Any]:
    delivery, payload = dead.delivery, payload_of(dead.delivery)
    if payload is None:
        body: Any = body_of(delivery) if reveal else f"<not JSON, {dead.record.size} bytes>"
    else:
        body = payload if reveal else masked(payload)
    content_type = delivery.content_type
    if reveal:
        headers = {name: str(value) for name, value in sorted(delivery.headers.items())}
    else:
        headers = masked_headers(delivery.headers, build_topology(settings).names)
        content_type = None if content_type is None else masked_content_type(content_type)
    return {
        "key": dead.key,
        **dead.record.as_json(now),
        "content_type": content_type,
        "headers": headers,
        "payload": body,
    }


def _log_reveal(args: argparse.Namespace, found: Iterable[DeadLetterMessage], now: datetime) -> None:
    """Written before anything is shown."""
    with open_audit(args, fallback=sys.stderr) as audit:
        audit.write(audit_line("revealed", dead, now) for dead in found)
