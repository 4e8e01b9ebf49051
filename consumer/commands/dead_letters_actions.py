"""``dead-letters replay`` and ``discard``: options, what is asked, a sweep that signals can stop.

A first SIGINT or SIGTERM ends it after the current batch, a second one at once; either way nothing is lost.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from pathlib import Path
from typing import TextIO

from consumer.app import (
    RATE_LIMITER_BURST,
    build_mapping,
    build_registry_client,
    build_status_limiter,
    build_token_source,
    build_topology,
    payload_version,
)
from consumer.broker.connection import build_connections, is_amqp
from consumer.broker.virtual import transport_limits
from consumer.commands.cli import between, positive
from consumer.config import Settings
from consumer.core.clock import utc_now
from consumer.core.outcome import Reason
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
from consumer.deadletters.audit import DurableJsonlFile
from consumer.deadletters.queues import find_queues
from consumer.deadletters.selection import Selection
from consumer.deadletters.sweep import (
    MOST_BYTES,
    MOST_HELD,
    Act,
    DeadLetterMessage,
    QueueReaders,
    Sweep,
    Tally,
)
from consumer.deadletters.view import progress, show_tally
from consumer.errors import ConfigurationError, ConsumerError
from consumer.publishing.publish import Target, connect
from consumer.registry.submit import Submission

_STOPPED = 130
#: In the current directory, unless ``--audit`` names another one.
AUDIT_FILE = Path("dead-letters-audit.jsonl")
REFUSED_FOR_GOOD = "refused for good: the Registry would answer 409"
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
        "--unchanged",
        action="store_true",
        help="also those that only a change could help: invalid, refused for good",
    )
    replay.add_argument("--yes", action="store_true", help="do not ask, also without a filter")
    replay.add_argument(
        "--max-replays", type=positive, default=MOST_REPLAYS, metavar="N",
        help="leave out what was replayed so often already (default: %(default)s)",
    )  # fmt: skip
    add_common(replay)
    replay.set_defaults(action=_replay)

    discard = command("discard", "remove dead letters; needs a filter, a reason and a confirmation")
    discard.add_argument("--why", required=True, metavar="TEXT", help="the reason, for the audit trail")
    discard.add_argument("--archive", type=Path, metavar="FILE", help="append them to FILE first, in full")
    discard.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    add_common(discard)
    add_audit(discard)
    discard.set_defaults(action=_discard)


def add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only print what would be done")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="at most N, nearest deadline first among those held"
    )
    parser.add_argument("--rate", type=between(0.001, 1e6), metavar="N", help="at most N per second")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_audit(parser: argparse.ArgumentParser) -> None:
    """The option of where audit lines go; None is the output."""
    parser.add_argument(
        "--audit",
        type=lambda text: None if text == "-" else Path(text),
        default=AUDIT_FILE,
        metavar="FILE",
        help=f"append audit lines to FILE (default: {AUDIT_FILE}); -: print them",
    )


def open_audit(args: argparse.Namespace, *, fallback: TextIO | None = None) -> DurableJsonlFile:
    """The file of ``--audit``, or the output; a dry run has no audit lines and no file."""
    path = None if getattr(args, "dry_run", False) else args.audit
    hint = "; --audit names another file, or - to print the lines" if path is AUDIT_FILE else ""
    return DurableJsonlFile(path, fallback=fallback, hint=hint)


def queue_readers(args: argparse.Namespace, settings: Settings, selection: Selection) -> QueueReaders:
    """The dead-letter queues that ``selection`` is about."""
    if not is_amqp(settings.broker_urls[0]):
        warn(f"careful, if this is killed: {transport_limits(settings.broker_urls[0])}")
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
        warn(f"{queue!r} has another consumer, whose messages are not seen")
    return found.readers


def warn(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


# --- replay -----------------------------------------------------------------------------------


def _replay(args: argparse.Namespace, settings: Settings, selection: Selection) -> int:
    if selection.reasons == {Reason.INVALID} and not args.unchanged:
        text = "replaying invalid dead letters as they are cannot help: `edit` changes them"
        raise ConfigurationError([f"{text} (--unchanged replays them)"])
    now = utc_now()

    def skip(dead: DeadLetterMessage) -> str | None:
        if not args.unchanged and dead.record.is_refused_for_good:
            return f"{REFUSED_FOR_GOOD} (--unchanged includes them)"
        if not args.unchanged and dead.record.reason == Reason.INVALID:
            return "invalid: only a change can help (--unchanged includes them)"
        if dead.record.replays >= args.max_replays:
            return f"replayed {args.max_replays} times already (--max-replays)"
        return "too late (--lost includes them)" if not args.lost and dead.record.is_too_late(now) else None

    sweep = Sweep(queue_readers(args, settings, selection), selection, now=utc_now, skip=skip)
    if args.dry_run:
        return _dry_run(args, sweep)
    if not (selection or args.yes or _is_confirmed(args, sweep, "replayed, as no filter is given")):
        return 1
    if args.to == "queue":
        code = asyncio.run(run_sweep(args, sweep, "replaying", to_queue(settings)))
    else:
        batch = batch_size(settings.registry_rate_per_minute, settings.registry_concurrency)
        code = asyncio.run(run_sweep(args, sweep, "replaying", _to_registry(settings), batch))
    return code or (0 if sweep.tally.outcomes.keys() <= {REPLAYED, *IN_REGISTRY} else 1)


@asynccontextmanager
async def to_queue(settings: Settings) -> AsyncIterator[ReplayToQueue]:
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
            Submission(
                client=client,
                tokens=tokens,
                rate_limiter=limiter,
                status_limiter=build_status_limiter(settings),
                clock=time.monotonic,
                now=utc_now,
            ),
            limiter,
            version=payload_version(settings),
            mapping=build_mapping(settings),
            concurrency=settings.registry_concurrency,
            now=utc_now,
        )


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
        if not _is_confirmed(args, sweep, "removed"):
            return 1
        asked = True

    @asynccontextmanager
    async def discarder() -> AsyncIterator[Act]:
        to_archive = DurableJsonlFile(args.archive, private=True) if args.archive else nullcontext()
        with open_audit(args) as audit, to_archive as archive:
            yield Discard(why=args.why, audit=audit, archive=archive, now=utc_now)

    return asyncio.run(run_sweep(args, sweep, "discarding", discarder()))


def _is_confirmed(args: argparse.Namespace, sweep: Sweep, what: str) -> bool:
    """Ask on the terminal whether so many may be acted upon."""
    if not sys.stdin.isatty():
        raise ConfigurationError(["--yes is needed when standard input is not a terminal"])
    selected = asyncio.run(_count(sweep)).selected
    count = min(selected, args.limit or selected)
    print(f"{count} dead letters will be {what}. Type {count} to continue: ", end="", file=sys.stderr)  # noqa: T201
    sys.stderr.flush()
    if sys.stdin.readline().strip() == str(count):
        return True
    warn("nothing was done")
    return False


async def _count(sweep: Sweep) -> Tally:
    with progress("reading", None) as show:
        return await sweep.count(show)


# --- running a sweep --------------------------------------------------------------------------


async def run_sweep(
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
            warn("stopping after this batch; interrupt again to stop at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return signals


def _dry_run(args: argparse.Namespace, sweep: Sweep) -> int:
    asyncio.run(_count(sweep))
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
