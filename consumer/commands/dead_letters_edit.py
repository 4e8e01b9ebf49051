"""``dead-letters edit``: by an editor, a file or a command; the edited copies are replayed.

No file with personal data stays behind but those that the operator named, and what was edited and not sent.
"""

import argparse
import asyncio
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from consumer.app import payload_version
from consumer.commands.dead_letters_actions import (
    REFUSED_FOR_GOOD,
    add_audit,
    add_common,
    open_audit,
    queue_readers,
    run_sweep,
    to_queue,
    warn,
)
from consumer.config import Settings
from consumer.core.clock import utc_now
from consumer.deadletters.audit import DurableJsonlFile, export_line
from consumer.deadletters.editing import CommandEditor, EditAndReplay, FileEditor, PayloadEditor
from consumer.deadletters.selection import Selection
from consumer.deadletters.sweep import Act, DeadLetterMessage, Nearest, Sweep, read_queues
from consumer.deadletters.view import printable, reading
from consumer.errors import ConfigurationError, ConsumerError

_EXPORT_BYTES = 1024 * 1024
_SIGNALLED = 128  # shells add the number of the signal to it


def configure(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the command; ``command`` makes a parser with the filters."""
    edit = command("edit", "edit payloads and replay them; opens $EDITOR unless one of these is given")
    edit.set_defaults(reads={"REGISTRY_API_VERSION"})
    way = edit.add_mutually_exclusive_group()
    way.add_argument("--out", type=Path, metavar="FILE", help="write them to FILE and change nothing")
    way.add_argument("--apply", type=Path, metavar="FILE", help="replay what was edited in FILE")
    way.add_argument("--pipe", metavar="CMD", help="edit by a shell command: JSON Lines in, JSON Lines out")
    add_common(edit)
    add_audit(edit)
    edit.set_defaults(action=_edit)


def _edit(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    if args.out is not None:
        count = asyncio.run(_export(args, settings, selection, args.out))
        text = f"{count} dead letters written to {args.out}; they are still in their queues"
        print(json.dumps({"written": count, "file": str(args.out)}) if args.json else text)  # noqa: T201
        return 0
    if args.pipe is not None:
        readers = queue_readers(args, settings, selection)
        sweep = Sweep(readers, selection, now=utc_now, skip=_skip_refused)
        return _apply(args, settings, sweep, CommandEditor(args.pipe, utc_now))
    if args.apply is not None:
        return _apply_file(args, settings, selection, args.apply)
    return _with_editor(args, settings, selection)


def _skip_refused(dead: DeadLetterMessage) -> str | None:
    return REFUSED_FOR_GOOD if dead.record.is_refused_for_good else None


def _with_editor(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    """Open an editor; the file is kept, and named, when it was edited and not all of it was sent."""
    editor = _editor()
    folder = Path(tempfile.mkdtemp(prefix="dead-letters-"))  # readable by its owner alone
    file, exported, sent = folder / "dead-letters.jsonl", b"", False
    try:
        with _ending_on_signals():
            if asyncio.run(_export(args, settings, selection, file)):
                exported = _digest(file)
                _open_editor(editor, file)
            code = _apply_file(args, settings, selection, file)
            sent = not (code or args.dry_run)
        return code
    finally:
        if exported and not sent and _digest(file) not in {exported, b""}:
            warn(f"what was edited and not sent is in {file}, with personal data: remove it when it is done")
        else:
            shutil.rmtree(folder)  # with the backup that some editors leave


def _digest(file: Path) -> bytes:
    """Of the content; empty when there is no such file."""
    return hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b""


def _editor() -> list[str]:
    """The command of the editor. Raises ConfigurationError when there is none, or no terminal for it."""
    other = "; --out and --apply, or --pipe, do without"
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigurationError([f"an editor needs a terminal{other}"])
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        words = shlex.split(named)
    except ValueError:  # a quote that is never closed
        words = []
    if not words or shutil.which(words[0]) is None:
        raise ConfigurationError(
            [f"there is no editor {named!r}: set EDITOR to one that is installed{other}"]
        )
    return words


def _open_editor(editor: Sequence[str], file: Path) -> None:
    """Return when the editor has exited. Raises ConsumerError when it failed."""
    try:
        code = subprocess.run([*editor, str(file)], check=False).returncode  # noqa: S603 the user's own
    except OSError as error:
        raise ConsumerError(f"the editor cannot be started; nothing was sent: {error.strerror}") from None
    if code:
        raise ConsumerError(f"the editor exited with {code}; nothing was sent")


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Let a signal that ends this process remove the file first. Ctrl-C is the editor's."""

    def end(number: int, _frame: object) -> None:
        sys.exit(_SIGNALLED + number)

    handlers: dict[signal.Signals, Any] = {
        signal.SIGTERM: end,
        signal.SIGHUP: end,
        signal.SIGINT: lambda _number, _frame: None,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _export(args: argparse.Namespace, settings: Settings, selection: Selection, path: Path) -> int:
    """Write what is selected to a new file, the ``--limit`` with the nearest deadline; returns how many."""
    now, readers, refused = utc_now(), queue_readers(args, settings, selection), 0
    with DurableJsonlFile(path, fresh=True, private=True) as file:
        export, nearest = _Export(file, now), Nearest(args.limit or 0)
        take = nearest.add if args.limit else export.add

        def see(dead: DeadLetterMessage) -> None:
            nonlocal refused
            if dead.matches(selection, now):
                if dead.record.is_refused_for_good:
                    refused += 1
                else:
                    take(dead)

        with reading(see) as watched:
            await read_queues(readers, watched)
        for dead in nearest.entries():
            export.add(dead)
        export.flush()
    if refused:
        warn(f"{refused} are left out: {REFUSED_FOR_GOOD}")
    if args.limit and export.count < min(args.limit, nearest.matching):
        warn(f"only {export.count} are written, which are 64 MiB: for more use a filter, or no --limit")
    return export.count


class _Export:
    """Writes the lines to edit in portions. Copies of a message are one line, which edits all of them."""

    def __init__(self, file: DurableJsonlFile, now: datetime) -> None:
        self._file = file
        self._now = now
        self._keys = set[str]()
        self._lines = list[dict[str, Any]]()
        self._size = self.count = 0

    def add(self, dead: DeadLetterMessage) -> None:
        self.count += 1
        if dead.key in self._keys:
            return
        self._keys.add(dead.key)
        self._lines.append(export_line(dead, self._now))
        self._size += dead.record.size
        if self._size >= _EXPORT_BYTES:
            self.flush()

    def flush(self) -> None:
        self._file.write(self._lines)
        self._lines.clear()
        self._size = 0


def _apply_file(args: argparse.Namespace, settings: Settings, selection: Selection, path: Path) -> int:
    try:
        file = FileEditor(path)
    except OSError as error:
        raise ConfigurationError([f"{path} cannot be read: {error.strerror}"]) from None
    missing = set(file.keys)

    def skip(dead: DeadLetterMessage) -> str | None:
        missing.discard(dead.key)
        return _skip_refused(dead) if dead.key in file.keys else "not in the file"

    sweep = Sweep(queue_readers(args, settings, selection), selection, now=utc_now, skip=skip)
    code = _apply(args, settings, sweep, file)
    if missing and sweep.tally.read == sweep.tally.waiting:  # not when a limit or a signal ended it before
        warn(f"{len(missing)} lines of {path} match no dead letter in the queues")
    return code


def _apply(args: argparse.Namespace, settings: Settings, sweep: Sweep, editor: PayloadEditor) -> int:
    version = payload_version(settings)

    @asynccontextmanager
    async def edited() -> AsyncIterator[Act]:
        with open_audit(args, fallback=sys.stderr) as audit:
            async with to_queue(settings) as replay:
                act = EditAndReplay(
                    editor, replay, version=version, audit=audit, now=utc_now, dry_run=args.dry_run
                )
                yield act
        for refusal in act.refusals:
            warn(printable(f"still invalid as {version}: {refusal}"))

    code = asyncio.run(run_sweep(args, sweep, "editing", edited()))
    refused = sweep.tally.outcomes["still invalid"] + sweep.tally.outcomes["about another journey"]
    return code or (1 if refused else 0)
