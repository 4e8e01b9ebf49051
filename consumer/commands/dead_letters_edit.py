"""``dead-letters edit``: the three ways to mend; how it runs is in ``dead_letters_run``."""

import argparse
import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from consumer.commands.dead_letters_run import act_on, add_audit, add_common, taps, utc_now, version_of
from consumer.config import Settings
from consumer.core.delivery import Delivery
from consumer.deadletters.audit import DurableJsonlFile, export_line
from consumer.deadletters.edit import EditAndReplay
from consumer.deadletters.mend import CommandEditor, FileEditor, PayloadEditor
from consumer.deadletters.order import nearest
from consumer.deadletters.record import Record, fingerprint
from consumer.deadletters.selection import Selection
from consumer.deadletters.sweep import Skip, Sweep, look
from consumer.deadletters.underway import Act
from consumer.deadletters.view import printable
from consumer.errors import ConfigurationError, ConsumerError
from consumer.publishing.publish import Target, connect

_EXPORT_BYTES = 1024 * 1024


def configure(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add it; ``command`` makes a parser with the filters."""
    edit = command("edit", "mend them and send them again; opens $EDITOR unless one of these is given")
    way = edit.add_mutually_exclusive_group()
    way.add_argument("--out", type=Path, metavar="FILE", help="write them to FILE and change nothing")
    way.add_argument("--apply", type=Path, metavar="FILE", help="send what was mended in FILE")
    way.add_argument("--pipe", metavar="CMD", help="mend by a shell command: JSON Lines in, JSON Lines out")
    add_common(edit)
    add_audit(edit)
    edit.set_defaults(action=_edit)


def _edit(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    if args.out is not None:
        count = asyncio.run(_export(args, settings, selection, args.out))
        told = f"{count} dead letters written to {args.out}; they are still in their queues"
        print(json.dumps({"written": count, "file": str(args.out)}) if args.json else told)  # noqa: T201
        return 0
    if args.pipe is not None:
        return _mend(args, settings, selection, CommandEditor(args.pipe, utc_now), None)
    if args.apply is not None:
        return _apply(args, settings, selection, args.apply)
    return _with_editor(args, settings, selection)


def _with_editor(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    """Let a person mend them; the file is kept, and named, unless all that was done in it was sent."""
    folder = Path(tempfile.mkdtemp(prefix="dead-letters-"))  # readable by its owner alone
    file = folder / "dead-letters.jsonl"
    kept = False
    try:
        if asyncio.run(_export(args, settings, selection, file)):
            kept = True
            _open_editor(file)
        code = _apply(args, settings, selection, file)
        kept = kept and bool(code or args.dry_run)
        return code
    finally:
        if kept:
            print(f"what was not sent is still in {file}, and in its queue", file=sys.stderr)  # noqa: T201
        else:
            shutil.rmtree(folder)  # with the backup that some editors leave


def _open_editor(file: Path) -> None:
    """Return when the person has closed it. Raises ConsumerError when it failed."""
    wanted = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        code = subprocess.run([*shlex.split(wanted), str(file)], check=False).returncode  # noqa: S603 the person's own
    except (OSError, ValueError) as error:  # ValueError: a quote that is never closed
        raise ConsumerError(f"the editor {wanted!r} can not be started; nothing was sent: {error}") from None
    if code:
        raise ConsumerError(f"the editor ended with {code}; nothing was sent")


async def _export(args: argparse.Namespace, settings: Settings, selection: Selection, path: Path) -> int:
    """Write what is selected to a new file, the ``--limit`` most urgent; returns how many."""
    now, count, size, written = utc_now(), 0, 0, set[str]()
    queues = taps(args, settings, selection)
    expected = [] if args.limit is None else await Sweep(queues, selection, now=lambda: now).survey()
    is_one = nearest(expected, args.limit or 0)
    with DurableJsonlFile(path, fresh=True, private=True) as file:
        lines: list[dict[str, Any]] = []

        def see(record: Record, delivery: Delivery) -> None:
            nonlocal count, size
            if selection.matches(record, now) and (args.limit is None or is_one(record.urgency)):
                count += 1
                line = export_line(record, delivery, now)
                if line["key"] in written:
                    return  # its twin: one line mends both
                written.add(line["key"])
                lines.append(line)
                size += record.size
                if size >= _EXPORT_BYTES:
                    file.write(lines)
                    lines.clear()
                    size = 0

        await look(queues, see)
        file.write(lines)
    return count


def _apply(args: argparse.Namespace, settings: Settings, selection: Selection, path: Path) -> int:
    try:
        file = FileEditor(path)
    except OSError as error:
        raise ConfigurationError([f"{path} can not be read: {error.strerror}"]) from None
    missing = set(file.keys)

    def skip(_record: Record, delivery: Delivery) -> str | None:
        key = fingerprint(delivery)
        missing.discard(key)
        return None if key in file.keys else "not in the file"

    code = _mend(args, settings, selection, file, skip)
    if missing:
        print(f"{len(missing)} lines of {path} are about no dead letter that is there", file=sys.stderr)  # noqa: T201
    return code


def _mend(
    args: argparse.Namespace, settings: Settings, selection: Selection, mend: PayloadEditor, skip: Skip | None
) -> int:
    skipping: dict[str, Any] = {} if skip is None else {"skip": skip}
    sweep = Sweep(taps(args, settings, selection), selection, now=utc_now, **skipping)

    @asynccontextmanager
    async def editor() -> AsyncIterator[Act]:
        publisher = await connect(settings, Target("", settings.broker_queue))
        try:
            with DurableJsonlFile(args.audit, fallback=sys.stderr) as audit:
                act = EditAndReplay(
                    mend,
                    publisher=publisher,
                    queue=settings.broker_queue,
                    version=version_of(settings),
                    audit=audit,
                    now=utc_now,
                    dry_run=args.dry_run,
                    patience_seconds=settings.broker_confirm_timeout_seconds,
                )
                yield act
            for refusal in act.refusals:
                told = printable(f"still invalid as {version_of(settings)}: {refusal}")
                print(told, file=sys.stderr)  # noqa: T201
        finally:
            await publisher.close()

    code = asyncio.run(act_on(args, sweep, "editing", editor))
    refused = sweep.tally.outcomes["still invalid"] + sweep.tally.outcomes["about another journey"]
    return code or (1 if refused else 0)
