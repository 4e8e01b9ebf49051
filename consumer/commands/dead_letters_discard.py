"""``dead-letters discard``: what is asked before anything goes; how it runs is in ``dead_letters_run``."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from consumer.commands.dead_letters_run import act_on, add_audit, add_common, dry_run, taps, utc_now
from consumer.config import Settings
from consumer.core.delivery import Delivery
from consumer.deadletters.audit import DurableJsonlFile
from consumer.deadletters.discard import Discard
from consumer.deadletters.record import Record, fingerprint
from consumer.deadletters.selection import Selection
from consumer.deadletters.sweep import Sweep
from consumer.deadletters.underway import Act
from consumer.errors import ConfigurationError


def configure(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add it; ``command`` makes a parser with the filters."""
    discard = command("discard", "give them up for good; needs a filter, a reason and a confirmation")
    discard.add_argument("--why", required=True, metavar="TEXT", help="the reason, for the audit trail")
    discard.add_argument("--archive", type=Path, metavar="FILE", help="append them to FILE first, in full")
    discard.add_argument("--yes", action="store_true", help="do not ask")
    add_common(discard)
    add_audit(discard)
    discard.set_defaults(action=_discard)


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
        with DurableJsonlFile(args.audit) as audit:
            if args.archive is None:
                yield Discard(why=args.why, audit=audit, archive=None, now=utc_now)
                return
            with DurableJsonlFile(args.archive, private=True) as archive:
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
