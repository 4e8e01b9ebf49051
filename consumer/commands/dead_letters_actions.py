"""``dead-letters replay``, ``edit`` and ``discard``: options, what is asked, a sweep that signals can stop.

A first SIGINT or SIGTERM ends it after the current batch, a second one at once; either way nothing is lost.
"""

import argparse
import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from consumer.app import (
    RATE_LIMITER_BURST,
    build_mapping,
    build_registry_client,
    build_token_source,
    build_topology,
    payload_version,
)
from consumer.broker.connection import build_connections, is_amqp
from consumer.broker.virtual import transport_limits
from consumer.commands.cli import positive
from consumer.config import Settings
from consumer.core.clock import utc_now
from consumer.core.rate_limiter import RateLimiter
from consumer.deadletters.actions import (
    IN_REGISTRY,
    MOST_REPLAYS,
    REPLAYED,
    Discard,
    ReplayToQueue,
    SubmitToRegistry,
    batch_size,
)
from consumer.deadletters.audit import DurableJsonlFile, export_line
from consumer.deadletters.editing import CommandEditor, EditAndReplay, FileEditor, PayloadEditor
from consumer.deadletters.queues import find_queues
from consumer.deadletters.selection import Selection
from consumer.deadletters.sweep import (
    MOST_BYTES,
    MOST_HELD,
    Act,
    DeadLetterMessage,
    Nearest,
    QueueReaders,
    Sweep,
    read_queues,
)
from consumer.deadletters.view import printable, progress, show_tally
from consumer.errors import ConfigurationError, ConsumerError
from consumer.publishing.publish import Target, connect
from consumer.registry.submit import Submission

_STOPPED = 130
_EXPORT_BYTES = 1024 * 1024
_AT_ONCE = f"up to {MOST_HELD:,} dead letters or {MOST_BYTES >> 20} MiB at once"
ORDER = f"nearest deadline first among those held: {_AT_ONCE}"


def configure(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the commands; ``command`` makes a parser with the filters."""
    replay = command(
        "replay", f"replay dead letters, {ORDER}; each is removed after its publish is confirmed"
    )
    replay.add_argument(
        "--to",
        choices=["queue", "registry"],
        default="queue",
        help="to the main queue (default), or to the Registry",
    )
    replay.add_argument("--lost", action="store_true", help="also those that are too late")
    replay.add_argument(
        "--max-replays", type=positive, default=MOST_REPLAYS, metavar="N",
        help="leave out what was replayed so often already (default: %(default)s)",
    )  # fmt: skip
    _add_common(replay)
    replay.set_defaults(action=_replay)

    edit = command("edit", "edit payloads and replay them; opens $EDITOR unless one of these is given")
    way = edit.add_mutually_exclusive_group()
    way.add_argument("--out", type=Path, metavar="FILE", help="write them to FILE and change nothing")
    way.add_argument("--apply", type=Path, metavar="FILE", help="replay what was edited in FILE")
    way.add_argument("--pipe", metavar="CMD", help="edit by a shell command: JSON Lines in, JSON Lines out")
    _add_common(edit)
    add_audit(edit)
    edit.set_defaults(action=_edit)

    discard = command("discard", "remove dead letters; needs a filter, a reason and a confirmation")
    discard.add_argument("--why", required=True, metavar="TEXT", help="the reason, for the audit trail")
    discard.add_argument("--archive", type=Path, metavar="FILE", help="append them to FILE first, in full")
    discard.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    _add_common(discard)
    add_audit(discard)
    discard.set_defaults(action=_discard)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="at most N, nearest deadline first among those held"
    )
    parser.add_argument("--rate", type=_positive_rate, metavar="N", help="at most N per second")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_audit(parser: argparse.ArgumentParser) -> None:
    """The option of where audit lines go."""
    parser.add_argument("--audit", type=Path, metavar="FILE", help="append audit lines to FILE")


def _positive_rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.001 <= value <= 1_000_000:  # noqa: PLR2004 also refuses nan
        raise argparse.ArgumentTypeError("must be from 0.001 to 1000000")
    return value


def queue_readers(args: argparse.Namespace, settings: Settings, selection: Selection) -> QueueReaders:
    """The dead-letter queues that ``selection`` is about."""
    if not is_amqp(settings.broker_urls[0]):
        _warn(f"careful, if this is killed: {transport_limits(settings.broker_urls[0])}")
    topology = build_topology(settings)
    found = find_queues(
        lambda: build_connections(settings),
        settings.broker_urls[0],
        topology,
        selection.reasons,
        unverified=settings.dead_letters_unverified,
        force=args.force,
    )
    if found.unsafe:
        raise found.unsafe[0]
    for reason in found.shared:
        queue = topology.dead_letter_queue(reason)
        _warn(f"{queue!r} has another consumer, whose messages are not seen")
    return found.readers


def _warn(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


# --- replay -----------------------------------------------------------------------------------


def _replay(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    now = utc_now()

    def skip(dead: DeadLetterMessage) -> str | None:
        if dead.record.replays >= args.max_replays:
            return f"replayed {args.max_replays} times already (--max-replays)"
        return "too late (--lost includes them)" if not args.lost and dead.record.is_too_late(now) else None

    sweep = Sweep(queue_readers(args, settings, selection), selection, now=utc_now, skip=skip)
    if args.dry_run:
        return _dry_run(args, sweep)
    if args.to == "queue":
        code = asyncio.run(_run(args, sweep, "replaying", _to_queue(settings)))
    else:
        batch = batch_size(settings.registry_rate_per_minute, settings.registry_concurrency)
        code = asyncio.run(_run(args, sweep, "replaying", _to_registry(settings), batch))
    return code or (0 if sweep.tally.outcomes.keys() <= {REPLAYED, *IN_REGISTRY} else 1)


@asynccontextmanager
async def _to_queue(settings: Settings) -> AsyncIterator[ReplayToQueue]:
    publisher = await connect(settings, Target("", settings.broker_queue))
    try:
        patience = settings.broker_confirm_timeout_seconds
        yield ReplayToQueue(publisher, settings.broker_queue, patience_seconds=patience)
    finally:
        await publisher.close()


@asynccontextmanager
async def _to_registry(settings: Settings) -> AsyncIterator[Act]:
    limiter = RateLimiter(settings.registry_rate_per_minute, RATE_LIMITER_BURST)
    async with (
        aclosing(build_registry_client(settings)) as client,
        aclosing(build_token_source(settings, client)) as tokens,
    ):
        yield SubmitToRegistry(
            Submission(client=client, tokens=tokens, rate_limiter=limiter, clock=time.monotonic, now=utc_now),
            limiter,
            version=payload_version(settings),
            mapping=build_mapping(settings),
            concurrency=settings.registry_concurrency,
            now=utc_now,
        )


# --- edit -------------------------------------------------------------------------------------


def _edit(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    if args.out is not None:
        count = asyncio.run(_export(args, settings, selection, args.out))
        text = f"{count} dead letters written to {args.out}; they are still in their queues"
        print(json.dumps({"written": count, "file": str(args.out)}) if args.json else text)  # noqa: T201
        return 0
    if args.pipe is not None:
        sweep = Sweep(queue_readers(args, settings, selection), selection, now=utc_now)
        return _apply(args, settings, sweep, CommandEditor(args.pipe, utc_now))
    if args.apply is not None:
        return _apply_file(args, settings, selection, args.apply)
    return _with_editor(args, settings, selection)


def _with_editor(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    """Open an editor; the file is kept, and named, unless everything that was edited in it was sent."""
    folder = Path(tempfile.mkdtemp(prefix="dead-letters-"))  # readable by its owner alone
    file = folder / "dead-letters.jsonl"
    kept = False
    try:
        if asyncio.run(_export(args, settings, selection, file)):
            kept = True
            _open_editor(file)
        code = _apply_file(args, settings, selection, file)
        kept = kept and bool(code or args.dry_run)
        return code
    finally:
        if kept:
            _warn(f"what was not sent is still in {file}, and in its queue")
        else:
            shutil.rmtree(folder)  # with the backup that some editors leave


def _open_editor(file: Path) -> None:
    """Return when the editor has exited. Raises ConsumerError when it failed."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        code = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode  # noqa: S603 the user's own
    except (OSError, ValueError) as error:  # ValueError: a quote that is never closed
        raise ConsumerError(f"cannot start the editor {editor!r}; nothing was sent: {error}") from None
    if code:
        raise ConsumerError(f"the editor exited with {code}; nothing was sent")


async def _export(args: argparse.Namespace, settings: Settings, selection: Selection, path: Path) -> int:
    """Write what is selected to a new file, the ``--limit`` with the nearest deadline; returns how many."""
    now, readers = utc_now(), queue_readers(args, settings, selection)
    count, size, written, lines = 0, 0, set[str](), list[dict[str, Any]]()
    with DurableJsonlFile(path, fresh=True, private=True) as file:

        def add(dead: DeadLetterMessage) -> None:
            nonlocal count, size
            count += 1
            if dead.key in written:
                return  # a copy of the same message: one line edits both
            written.add(dead.key)
            lines.append(export_line(dead, now))
            size += dead.record.size
            if size >= _EXPORT_BYTES:
                file.write(lines)
                lines.clear()
                size = 0

        nearest = Nearest(args.limit or 0)
        take = nearest.add if args.limit else add

        def see(dead: DeadLetterMessage) -> None:
            if selection.matches(dead.record, now):
                take(dead)

        await read_queues(readers, see)
        if args.limit:
            for dead in nearest.entries():
                add(dead)
            if count < min(args.limit, nearest.matching):
                _warn(f"only {count} are written, which are 64 MiB: for more use a filter, or no --limit")
        file.write(lines)
    return count


def _apply_file(args: argparse.Namespace, settings: Settings, selection: Selection, path: Path) -> int:
    try:
        file = FileEditor(path)
    except OSError as error:
        raise ConfigurationError([f"{path} cannot be read: {error.strerror}"]) from None
    missing = set(file.keys)

    def skip(dead: DeadLetterMessage) -> str | None:
        missing.discard(dead.key)
        return None if dead.key in file.keys else "not in the file"

    sweep = Sweep(queue_readers(args, settings, selection), selection, now=utc_now, skip=skip)
    code = _apply(args, settings, sweep, file)
    if missing and sweep.tally.read == sweep.tally.waiting:  # not when a limit or a signal ended it before
        _warn(f"{len(missing)} lines of {path} match no dead letter in the queues")
    return code


def _apply(args: argparse.Namespace, settings: Settings, sweep: Sweep, editor: PayloadEditor) -> int:
    version = payload_version(settings)

    @asynccontextmanager
    async def edited() -> AsyncIterator[Act]:
        with DurableJsonlFile(args.audit, fallback=sys.stderr) as audit:
            async with _to_queue(settings) as replay:
                act = EditAndReplay(
                    editor, replay, version=version, audit=audit, now=utc_now, dry_run=args.dry_run
                )
                yield act
        for refusal in act.refusals:
            _warn(printable(f"still invalid as {version}: {refusal}"))

    code = asyncio.run(_run(args, sweep, "editing", edited()))
    refused = sweep.tally.outcomes["still invalid"] + sweep.tally.outcomes["about another journey"]
    return code or (1 if refused else 0)


# --- discard ----------------------------------------------------------------------------------


def _discard(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    if not selection:
        raise ConfigurationError(["discard needs a filter, so that it never removes everything by mistake"])
    if not args.why.strip():
        raise ConfigurationError(["--why must not be empty"])
    counted, asked = set[str](), False

    def skip(dead: DeadLetterMessage) -> str | None:
        """Leave out what was not in the queues when the question was asked."""
        if asked and dead.key not in counted:
            return "came after the question"
        if not args.yes:
            counted.add(dead.key)
        return None

    sweep = Sweep(queue_readers(args, settings, selection), selection, now=utc_now, skip=skip)
    if args.dry_run:
        return _dry_run(args, sweep)
    if not args.yes:
        selected = asyncio.run(sweep.count()).selected
        asked = True
        if not _is_confirmed(min(selected, args.limit or selected)):
            _warn("nothing was discarded")
            return 1

    @asynccontextmanager
    async def discarder() -> AsyncIterator[Act]:
        to_archive = DurableJsonlFile(args.archive, private=True) if args.archive else nullcontext()
        with DurableJsonlFile(args.audit) as audit, to_archive as archive:
            yield Discard(why=args.why, audit=audit, archive=archive, now=utc_now)

    return asyncio.run(_run(args, sweep, "discarding", discarder()))


def _is_confirmed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise ConfigurationError(["--yes is needed when standard input is not a terminal"])
    print(f"{count} dead letters will be removed. Type {count} to continue: ", end="", file=sys.stderr)  # noqa: T201
    sys.stderr.flush()
    return sys.stdin.readline().strip() == str(count)


# --- running a sweep --------------------------------------------------------------------------


async def _run(
    args: argparse.Namespace,
    sweep: Sweep,
    verb: str,
    action: AbstractAsyncContextManager[Act],
    batch: int | None = None,
) -> int:
    """Run the sweep with a progress bar; print its result, also when it ends with an error."""
    started, failure, signals = time.monotonic(), None, _stop_on_signals(sweep)
    try:
        async with action as act:
            with progress(verb, args.limit) as show:
                await sweep.run(act, limit=args.limit, rate=args.rate, batch=batch, show=show)
    except asyncio.CancelledError:
        if not signals:
            raise
    except ConsumerError as error:
        failure, sweep.tally.trouble = error, str(error)
    if failure is None or sweep.tally.acted or args.json:
        _print_result(args, sweep, time.monotonic() - started)
    if failure is not None:
        raise failure
    if sweep.tally.trouble is not None:
        raise ConsumerError(sweep.tally.trouble)
    if signals:
        return _STOPPED
    return 1 if sweep.tally.missed else 0


def _stop_on_signals(sweep: Sweep) -> list[int]:
    """Let SIGINT and SIGTERM end the sweep, the first one after its batch, another one at once.

    Returns the signals that were received so far. The handlers are removed when the loop is closed.
    """
    signals: list[int] = []
    task = asyncio.current_task()

    def on_signal(number: int) -> None:
        signals.append(number)
        sweep.stop()
        if len(signals) > 1 and task is not None:
            task.cancel()
        else:
            _warn("stopping after this batch; interrupt again to stop at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return signals


def _dry_run(args: argparse.Namespace, sweep: Sweep) -> int:
    asyncio.run(sweep.count())
    _print_result(args, sweep, None)
    return 0


def _print_result(args: argparse.Namespace, sweep: Sweep, seconds: float | None) -> None:
    tally = sweep.tally
    # Audit lines without a file of their own have standard output for themselves.
    audited = hasattr(args, "why") and args.audit is None and not args.dry_run
    file = sys.stderr if audited else sys.stdout
    if args.json:
        result = {
            "waiting": tally.waiting,
            "selected": tally.selected,
            "skipped": dict(tally.skipped),
            "outcomes": dict(tally.outcomes),
            "missed": tally.missed,
            "dry_run": args.dry_run,
            "trouble": tally.trouble,
        }
        print(json.dumps(result), file=file)
        return
    print(show_tally(tally, dry_run=seconds is None), file=file)
    if seconds is not None and tally.acted:
        print(f"in {seconds:.1f} s ({tally.acted / max(seconds, 0.001):,.0f}/s)", file=file)
