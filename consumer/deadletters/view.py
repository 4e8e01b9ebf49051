"""What a person sees of dead letters: tables, one of them in full, how far a sweep is. Decides nothing.

Tables go to standard output, progress to standard error. On a terminal with colours, elsewhere plain.
Whatever a message holds is made ``printable`` first: it could steer the terminal.
"""

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from consumer.deadletters.overview import Overview
from consumer.deadletters.record import Record
from consumer.deadletters.sweep import Tally

_PLAIN_INTERVAL_SECONDS = 5.0
_WIDTH_OF_A_PIPE = 160
_URGENT_SECONDS, _SOON_SECONDS = 2 * 3600.0, 6 * 3600.0


def stdout_console() -> Console:
    """Where tables go: as wide as the terminal, wide enough for ids in a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_A_PIPE)


def span(seconds: float | None) -> str:
    """A time in its two largest units: ``3 h 05 min``; negative as ``-20 min``."""
    if seconds is None:
        return "?"
    sign, left = ("-" if seconds < 0 else ""), int(abs(seconds))
    days, hours, minutes = left // 86_400, left // 3_600 % 24, left // 60 % 60
    if days:
        return f"{sign}{days} d {hours:02d} h"
    if hours:
        return f"{sign}{hours} h {minutes:02d} min"
    return f"{sign}{minutes} min" if minutes else f"{sign}{left} s"


def printable(text: str) -> str:
    """``text`` with a replacement character for each that is no letter, number, sign or space."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style)


def left_text(seconds: float | None) -> Text:
    """The time left, in the colour of its urgency."""
    if seconds is None:
        return Text("?", "dim")
    if seconds <= 0:
        return Text("passed", "dim red")
    style = "bold red" if seconds < _URGENT_SECONDS else "yellow" if seconds < _SOON_SECONDS else "green"
    return Text(span(seconds), style)


def show_overview(console: Console, overview: Overview, queue: str) -> None:
    """The groups, and how many of all can be saved."""
    total = overview.total
    if not total.count:
        console.print(f"No dead letters of {queue!r}.", markup=False)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("reason", no_wrap=True)
    table.add_column("detail", overflow="fold")
    table.add_column("status", justify="right")
    for name in ("count", "savable", "lost", "unknown"):
        table.add_column(name, justify="right")
    table.add_column("tightest left", justify="right", no_wrap=True)
    table.add_column("died", justify="right", no_wrap=True)
    for group in overview.ranked():
        table.add_row(
            _text(group.reason),
            _text(group.detail or "-"),
            str(group.status or "-"),
            f"{group.count:,}",
            *(
                f"{number:,}" if number else Text("-", "dim")
                for number in (group.savable, group.lost, group.unknown)
            ),
            left_text(group.tightest_left) if group.savable else Text("-", "dim"),
            _ages(group.youngest_age, group.oldest_age),
        )
    console.print(table)
    console.print(
        f"{total.count:,} dead letters of {queue!r}: {total.savable:,} can still be registered, "
        f"{total.lost:,} are beyond saving, {total.unknown:,} do not tell when they started.",
        markup=False,
        highlight=False,
    )
    if total.tightest_left is not None:
        console.print(Text.assemble("The tightest has ", left_text(total.tightest_left), " left."))


def _ages(youngest: float | None, oldest: float | None) -> str:
    if youngest is None or oldest is None:
        return "?"
    one, other = span(youngest), span(oldest)
    return f"{one} ago" if one == other else f"{one} to {other} ago"


def show_records(console: Console, records: Sequence[Record], now: datetime) -> None:
    """One line for each dead letter; ids are never cut."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("journey id", "message id"):
        table.add_column(name, overflow="fold", min_width=8)
    table.add_column("reason", no_wrap=True)
    table.add_column("detail", overflow="fold")
    table.add_column("status", justify="right")
    table.add_column("died", justify="right", no_wrap=True)
    table.add_column("left", justify="right", no_wrap=True)
    table.add_column("replays", justify="right")
    for record in records:
        left = None if record.deadline is None else record.urgency - now.timestamp()
        died = None if record.died is None else (now - record.died).total_seconds()
        same = record.message_id == record.journey_id
        table.add_row(
            _text(record.journey_id or "?"),
            _text("the same" if same else record.message_id or "-", "dim" if same else ""),
            _text(record.reason),
            _text(record.detail or "-"),
            str(record.status or "-"),
            "?" if died is None else f"{span(died)} ago",
            left_text(left),
            str(record.replays or "-"),
        )
    console.print(table)


def show_one(console: Console, told: dict[str, Any]) -> None:
    """One dead letter in full: its record and headers, then the payload."""
    body = told.pop("payload")
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in told.items():
        if name != "headers":
            table.add_row(Text(name, "bold"), _text("-" if value is None else str(value)))
    for name, value in told["headers"].items():
        table.add_row(_text(name, "dim"), _text(str(value), "dim"))
    console.print(table)
    for line in json.dumps(body, indent=2, ensure_ascii=False).split("\n"):
        console.print(_text(line))


def show_tally(tally: Tally, *, dry_run: bool = False) -> str:
    """The end of a sweep: what became of how many."""
    if tally.looking:
        return f"stopped after a look at {tally.waiting:,} dead letters; nothing was done"
    counts = (*tally.outcomes.values(), *tally.skipped.values(), tally.selected - tally.acted)
    width = max(len(f"{count:,}") for count in counts)
    lines = [f"  {count:>{width},}  {name}" for name, count in sorted(tally.outcomes.items())]
    lines += [f"  {count:>{width},}  skipped: {name}" for name, count in sorted(tally.skipped.items())]
    left = tally.selected - tally.acted - tally.missed
    if tally.missed:
        lines.append(f"  {tally.missed:>{width},}  gone when their turn came: somebody else has them")
    if left > 0:
        lines.append(f"  {left:>{width},}  {'selected, nothing done' if dry_run else 'not come to'}")
    return "\n".join(
        [f"{tally.waiting:,} dead letters, {tally.selected + tally.skipped.total():,} selected", *lines]
    )


class _Rate(ProgressColumn):
    """Dead letters a second since the look, or the action, began."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        return Text(f"{task.completed / elapsed if elapsed else 0:,.0f}/s", style="cyan")


class Meter:
    """Shows a tally while used as a context manager: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, verb: str, limit: int | None) -> None:
        self._verb = verb
        self._limit = limit
        self._console = Console(stderr=True)
        self._fancy = self._console.is_terminal and not self._console.is_dumb_terminal
        self._told_at = self._started = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[count]}"),
            _Rate(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._fancy,
        )
        self._task = self._bar.add_task("looking", total=None, count="0")
        self._acting = False

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, tally: Tally) -> None:
        """Bring what is shown up to date."""
        now = time.monotonic()
        if tally.looking:
            done, count, verb = tally.waiting, f"{tally.waiting:,}", "looking"
        else:
            total = tally.selected if self._limit is None else min(tally.selected, self._limit)
            done, count, verb = tally.acted, f"{tally.acted:,} of {total:,}", self._verb
            if not self._acting:
                self._acting, self._started = True, now
                self._bar.reset(self._task, total=total, description=verb)
        self._bar.update(self._task, completed=done, count=count)
        if not self._fancy and now - self._told_at >= _PLAIN_INTERVAL_SECONDS:
            self._told_at = now
            print(f"{verb}: {count}, {done / max(now - self._started, 0.001):,.0f}/s", file=sys.stderr)  # noqa: T201
