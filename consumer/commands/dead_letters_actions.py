"""The subcommands of ``dead-letters`` that change something: ``replay``, ``edit`` and ``discard``.

Wires the parts together; how all of them run is in ``dead_letters_run``.
"""

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
from typing import Any, Literal, cast

from consumer.assembly import PACER_BURST, registry_of, tokens_of
from consumer.commands.dead_letters_run import act_on, add_audit, add_common, dry_run, positive, taps, utc_now
from consumer.config import Settings
from consumer.deadletters.direct import ToRegistry
from consumer.deadletters.discard import Discard
from consumer.deadletters.edit import MendedFile, Mender, Pipe, ToEdited
from consumer.deadletters.filters import Selection
from consumer.deadletters.journal import LineFile, export_line
from consumer.deadletters.record import Record, fingerprint
from consumer.deadletters.replay import ToQueue
from consumer.deadletters.sweep import Act, Skip, Sweep, look
from consumer.delivery import Delivery
from consumer.errors import ConfigurationError, ConsumerError
from consumer.pacing import Pacer
from consumer.publishing import Target, connect

MOST_REPLAYS = 5
_EXPORT_BYTES = 1024 * 1024
_Version = Literal["v2", "v3"]


def configure(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the three; ``command`` makes a parser with the filters."""
    again = command("replay", "send them again, the nearest deadline first; each is confirmed, then removed")
    again.add_argument(
        "--to", choices=["queue", "registry"], default="queue", help="the main queue, or straight"
    )
    again.add_argument("--lost", action="store_true", help="also those beyond saving")
    again.add_argument(
        "--max-replays", type=positive, default=MOST_REPLAYS, metavar="N",
        help="leave out what was replayed so often already (default: %(default)s)",
    )  # fmt: skip
    add_common(again)
    again.set_defaults(action=_replay)

    edit = command("edit", "mend them and send them again; opens $EDITOR unless one of these is given")
    way = edit.add_mutually_exclusive_group()
    way.add_argument("--out", type=Path, metavar="FILE", help="write them to FILE and change nothing")
    way.add_argument("--apply", type=Path, metavar="FILE", help="send what was mended in FILE")
    way.add_argument("--pipe", metavar="CMD", help="mend by a shell command: JSON Lines in, JSON Lines out")
    add_common(edit)
    add_audit(edit)
    edit.set_defaults(action=_edit)

    discard = command("discard", "give them up for good; needs a filter, a reason and a confirmation")
    discard.add_argument("--why", required=True, metavar="TEXT", help="the reason, for the audit trail")
    discard.add_argument("--archive", type=Path, metavar="FILE", help="append them to FILE first, in full")
    discard.add_argument("--yes", action="store_true", help="do not ask")
    add_common(discard)
    add_audit(discard)
    discard.set_defaults(action=_discard)


# --- replay ---------------------------------------------------------------------------------


def _replay(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    now = utc_now()

    def skip(record: Record, _delivery: Delivery) -> str | None:
        if record.replays >= args.max_replays:
            return f"replayed {args.max_replays} times already (--max-replays)"
        return "beyond saving (--lost sends them too)" if not args.lost and record.is_lost(now) else None

    sweep = Sweep(taps(args, settings, selection), selection, now=utc_now, skip=skip)
    if args.dry_run:
        return dry_run(args, sweep)
    return asyncio.run(act_on(args, sweep, "replaying", lambda: _replayer(args, settings)))


@asynccontextmanager
async def _replayer(args: argparse.Namespace, settings: Settings) -> AsyncIterator[Act]:
    if args.to == "queue":
        publisher = await connect(settings, Target("", settings.broker_queue))
        try:
            yield ToQueue(publisher, settings.broker_queue)
        finally:
            await publisher.close()
        return
    registry = registry_of(settings)
    tokens = tokens_of(settings, registry)
    try:
        yield ToRegistry(
            registry=registry,
            tokens=tokens,
            pacer=Pacer(settings.registry_rate_per_minute, PACER_BURST),
            version=_version(settings),
            concurrency=settings.registry_concurrency,
            utc_now=utc_now,
        )
    finally:
        await tokens.aclose()
        await registry.aclose()


def _version(settings: Settings) -> _Version:
    return cast("_Version", settings.registry_api_version[:2])


# --- edit -----------------------------------------------------------------------------------


def _edit(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    if args.out is not None:
        count = asyncio.run(_export(args, settings, selection, args.out))
        told = f"{count} dead letters written to {args.out}; they are still in their queues"
        print(json.dumps({"written": count, "file": str(args.out)}) if args.json else told)  # noqa: T201
        return 0
    if args.pipe is not None:
        return _mend(args, settings, selection, Pipe(args.pipe, utc_now), None)
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
    """Write what is selected to a new file, at most ``--limit``; returns how many."""
    now, count, size = utc_now(), 0, 0
    with LineFile(path, fresh=True) as file:
        lines: list[dict[str, Any]] = []

        def see(record: Record, delivery: Delivery) -> None:
            nonlocal count, size
            if selection.matches(record, now) and (args.limit is None or count < args.limit):
                count, size = count + 1, size + record.size
                lines.append(export_line(record, delivery, now))
                if size >= _EXPORT_BYTES:
                    file.write(lines)
                    lines.clear()
                    size = 0

        await look(taps(args, settings, selection), see)
        file.write(lines)
    return count


def _apply(args: argparse.Namespace, settings: Settings, selection: Selection, path: Path) -> int:
    try:
        file = MendedFile(path)
    except OSError as error:
        raise ConfigurationError([f"{path} can not be read: {error.strerror}"]) from None
    keys = file.keys
    return _mend(
        args, settings, selection, file, lambda _r, d: None if fingerprint(d) in keys else "not in the file"
    )


def _mend(
    args: argparse.Namespace, settings: Settings, selection: Selection, mend: Mender, skip: Skip | None
) -> int:
    skipping: dict[str, Any] = {} if skip is None else {"skip": skip}
    sweep = Sweep(taps(args, settings, selection), selection, now=utc_now, **skipping)

    @asynccontextmanager
    async def editor() -> AsyncIterator[Act]:
        publisher = await connect(settings, Target("", settings.broker_queue))
        try:
            with LineFile(args.audit, fallback=sys.stderr) as audit:
                act = ToEdited(
                    mend,
                    publisher=publisher,
                    queue=settings.broker_queue,
                    version=_version(settings),
                    audit=audit,
                    now=utc_now,
                    dry_run=args.dry_run,
                )
                yield act
            for refusal in act.refusals:
                print(f"still invalid as {_version(settings)}: {refusal}", file=sys.stderr)  # noqa: T201
        finally:
            await publisher.close()

    code = asyncio.run(act_on(args, sweep, "editing", editor))
    refused = sweep.tally.outcomes["still invalid"] + sweep.tally.outcomes["about another journey"]
    return code or (1 if refused else 0)


# --- discard --------------------------------------------------------------------------------


def _discard(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    problems = []
    if not selection:
        problems.append("discard needs a filter, so that it is never everything by mistake")
    if not args.why.strip():
        problems.append("--why must say something")
    if problems:
        raise ConfigurationError(problems)
    agreed = _Agreed()
    skipping: dict[str, Any] = {} if args.yes else {"skip": agreed.skip}
    sweep = Sweep(taps(args, settings, selection), selection, now=utc_now, **skipping)
    if args.dry_run:
        return dry_run(args, sweep)
    if not args.yes:
        asyncio.run(sweep.survey())
        agreed.asked = True
        count = min(sweep.tally.selected, args.limit or sweep.tally.selected)
        if not _is_confirmed(count):
            print("nothing was discarded", file=sys.stderr)  # noqa: T201
            return 1

    @asynccontextmanager
    async def discarder() -> AsyncIterator[Act]:
        with LineFile(args.audit) as audit:
            if args.archive is None:
                yield Discard(why=args.why, audit=audit, archive=None, now=utc_now)
                return
            with LineFile(args.archive) as archive:
                yield Discard(why=args.why, audit=audit, archive=archive, now=utc_now)

    return asyncio.run(act_on(args, sweep, "discarding", discarder))


class _Agreed:
    """What is there when the person is asked; of what comes later nobody has said that it may go."""

    def __init__(self) -> None:
        self.asked = False
        self._there: set[str] = set()

    def skip(self, _record: Record, delivery: Delivery) -> str | None:
        """Why to leave one out."""
        key = fingerprint(delivery)
        if self.asked and key not in self._there:
            return "came after the question"
        self._there.add(key)
        return None


def _is_confirmed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise ConfigurationError(["--yes is needed where nobody can be asked"])
    print(f"{count} dead letters will be given up for good. Type {count} to go on: ", end="", file=sys.stderr)  # noqa: T201
    sys.stderr.flush()
    return sys.stdin.readline().strip() == str(count)
