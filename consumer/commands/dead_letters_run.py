"""What the subcommands of ``dead-letters`` share: options, the queues, a sweep that can be stopped.

A first SIGINT or SIGTERM ends it after the batch under way, a second one at once; either way nothing is lost.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TextIO, cast

from consumer.app import build_topology
from consumer.broker.connection import build_connections, is_amqp
from consumer.broker.virtual import transport_limits
from consumer.config import Settings
from consumer.deadletters.selection import Selection
from consumer.deadletters.sources import build_queue_readers
from consumer.deadletters.sweep import QueueReaders, Sweep
from consumer.deadletters.underway import Act
from consumer.deadletters.view import Meter, show_tally
from consumer.errors import ConsumerError

_STOPPED = 130


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options of all that change something."""
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--limit", type=positive, metavar="N", help="at most so many")
    parser.add_argument("--rate", type=positive_rate, metavar="N", help="at most so many a second")
    parser.add_argument("--json", action="store_true", help="the result for machines")


def add_audit(parser: argparse.ArgumentParser) -> None:
    """The option of where audit lines go."""
    parser.add_argument("--audit", type=Path, metavar="FILE", help="append audit lines to FILE")


def positive(text: str) -> int:
    """A whole number from 1 on, as argparse wants it."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def positive_rate(text: str) -> float:
    """A number above 0, as argparse wants it."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.001 <= value <= 1_000_000:  # noqa: PLR2004 also refuses nan
        raise argparse.ArgumentTypeError("must be from 0.001 to 1000000")
    return value


def taps(args: argparse.Namespace, settings: Settings, selection: Selection) -> QueueReaders:
    """The dead-letter queues that ``selection`` is about."""
    if not is_amqp(settings.broker_urls[0]):
        print(f"careful, if this is killed: {transport_limits(settings.broker_urls[0])}", file=sys.stderr)  # noqa: T201
    return build_queue_readers(
        lambda: build_connections(settings),
        settings.broker_urls[0],
        build_topology(settings),
        selection.reasons,
        unverified=settings.dead_letters_unverified,
        leave_out=lambda _unsafe: False,
        on_shared=_tell_shared,
        force=args.force,
    )


def _tell_shared(queue: str) -> None:
    print(f"{queue!r} is being read by somebody else: what they hold is not seen here", file=sys.stderr)  # noqa: T201


def version_of(settings: Settings) -> Literal["v2", "v3"]:
    """Which rules payloads are judged by."""
    return cast('Literal["v2", "v3"]', settings.registry_api_version[:2])


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


async def act_on(
    args: argparse.Namespace,
    sweep: Sweep,
    verb: str,
    actor: Callable[[], AbstractAsyncContextManager[Act]],
    *,
    batch: int | None = None,
) -> int:
    """Run the sweep with a progress bar, stoppable; say how it went, also when it ends with an error."""
    started, failure = time.monotonic(), None
    with _stoppable(sweep) as signals:
        try:
            async with actor() as act:
                with Meter(verb, args.limit) as meter:
                    await sweep.run(act, limit=args.limit, rate=args.rate, batch=batch, show=meter.show)
        except asyncio.CancelledError:
            if not signals:
                raise
        except ConsumerError as error:
            failure, sweep.tally.trouble = error, str(error)
    if failure is None or sweep.tally.acted or args.json:
        _tell(args, sweep, time.monotonic() - started)
    if failure is not None:
        raise failure
    if sweep.tally.trouble is not None:
        raise ConsumerError(sweep.tally.trouble)
    if signals:
        return _STOPPED
    return 1 if sweep.tally.missed else 0


@contextmanager
def _stoppable(sweep: Sweep) -> Iterator[list[int]]:
    """Let SIGINT and SIGTERM end the sweep, the first one after its batch, another one at once.

    Gives the signals that came.
    """
    signals: list[int] = []
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def on_signal(number: int) -> None:
        signals.append(number)
        sweep.stop()
        if len(signals) > 1 and task is not None:
            task.cancel()
        else:
            print("ending after this batch; once more to end at once", file=sys.stderr)  # noqa: T201

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield signals
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def dry_run(args: argparse.Namespace, sweep: Sweep) -> int:
    """Say what would be done, after a look."""
    asyncio.run(sweep.survey())
    _tell(args, sweep, None)
    return 0


def _tell(args: argparse.Namespace, sweep: Sweep, seconds: float | None) -> None:
    tally = sweep.tally
    if args.json:
        told = {
            "waiting": tally.waiting,
            "selected": tally.selected,
            "skipped": dict(tally.skipped),
            "outcomes": dict(tally.outcomes),
            "missed": tally.missed,
            "dry_run": args.dry_run,
            "trouble": tally.trouble,
        }
        print(json.dumps(told), file=_result_stream(args))
        return
    print(show_tally(tally, dry_run=seconds is None), file=_result_stream(args))
    if seconds is not None and tally.acted:
        rate = tally.acted / max(seconds, 0.001)
        print(f"in {seconds:.1f} s ({rate:,.0f}/s)", file=_result_stream(args))


def _result_stream(args: argparse.Namespace) -> TextIO:
    """Audit lines without a file of their own have standard output for themselves."""
    audited = hasattr(args, "why") and args.audit is None and not args.dry_run
    return sys.stderr if audited else sys.stdout
