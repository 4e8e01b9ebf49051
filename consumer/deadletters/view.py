"""Terminal output: the summary's groups, tables, one dead letter in full, the progress of a sweep.

Tables go to standard output, progress to standard error; with colours on a terminal, plain elsewhere.
Text from a message is made ``printable`` first: it could hold control sequences. Memory of the summary
grows with the number of different groups, which is bounded, and not with that of dead letters.
"""

import json
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from consumer.deadletters.record import NO_DEADLINE, Record
from consumer.deadletters.sweep import DeadLetterMessage, Tally

_PLAIN_INTERVAL_SECONDS = 5.0
#: A pipe has no width: what is read by programs is neither folded nor left out.
_WIDTH_OF_A_PIPE = 10_000
_SHOWN_EVERY = 100
_BETWEEN_COLUMNS = 3
_URGENT_SECONDS, _SOON_SECONDS = 2 * 3600.0, 6 * 3600.0


def stdout_console() -> Console:
    """As wide as the terminal; in a pipe wide enough for everything."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_A_PIPE)


def span(seconds: float) -> str:
    """A time in its two largest units: ``3 h 05 min`` or ``-20 min``."""
    sign, left = ("-" if seconds < 0 else ""), int(abs(seconds))
    days, hours, minutes = left // 86_400, left // 3_600 % 24, left // 60 % 60
    if days:
        return f"{sign}{days} d {hours:02d} h"
    if hours:
        return f"{sign}{hours} h {minutes:02d} min"
    return f"{sign}{minutes} min" if minutes else f"{sign}{left} s"


def printable(text: str) -> str:
    """``text`` with each unprintable character replaced."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style)


def left_text(seconds: float | None, *, refused_for_good: bool = False) -> Text:
    if refused_for_good:
        return Text("refused", "dim red")
    if seconds is None:
        return Text("?", "dim")
    if seconds <= 0:
        return Text("passed", "dim red")
    style = "bold red" if seconds < _URGENT_SECONDS else "yellow" if seconds < _SOON_SECONDS else "green"
    return Text(span(seconds), style)


# --- summary ----------------------------------------------------------------------------------

MOST_GROUPS = 500


@dataclass(slots=True)
class Group:
    """Dead letters of one reason, detail and status. Times are seconds; None when none is known."""

    reason: str
    detail: str | None = None
    status: int | None = None
    count: int = 0
    in_time: int = 0
    too_late: int = 0
    refused_for_good: int = 0
    shortest_left: float | None = None
    youngest_age: float | None = None
    oldest_age: float | None = None

    @property
    def unknown(self) -> int:
        """How many have no readable start."""
        return self.count - self.in_time - self.too_late - self.refused_for_good

    def add(self, record: Record, now: datetime) -> None:
        self.count += 1
        left, age = record.left(now), record.age(now)
        if record.is_refused_for_good:
            self.refused_for_good += 1
        elif record.is_too_late(now):
            self.too_late += 1
        elif left is not None:
            self.in_time += 1
            self.shortest_left = left if self.shortest_left is None else min(left, self.shortest_left)
        if age is not None:
            self.youngest_age = age if self.youngest_age is None else min(age, self.youngest_age)
            self.oldest_age = age if self.oldest_age is None else max(age, self.oldest_age)

    def counts(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "savable": self.in_time,
            "beyond_saving": self.too_late,
            "refused_for_good": self.refused_for_good,
            "deadline_unknown": self.unknown,
            "tightest_left_seconds": _rounded(self.shortest_left),
            "youngest_age_seconds": _rounded(self.youngest_age),
            "oldest_age_seconds": _rounded(self.oldest_age),
        }


@dataclass(slots=True)
class Overview:
    groups: dict[tuple[str, str | None, int | None], Group] = field(default_factory=dict)
    total: Group = field(default_factory=lambda: Group("total"))

    def add(self, record: Record, now: datetime) -> None:
        key = (record.reason, record.detail, record.status)
        if key not in self.groups and len(self.groups) >= MOST_GROUPS:
            key = (record.reason, "(other details)", None)
        group = self.groups.setdefault(key, Group(*key))
        group.add(record, now)
        self.total.add(record, now)

    def ranked(self) -> Iterable[Group]:
        """Those that can be registered first, by the time left; then the largest."""

        def rank(group: Group) -> tuple[Any, ...]:
            left = NO_DEADLINE if group.shortest_left is None else group.shortest_left
            return (left, -group.count, group.reason, group.detail or "", group.status or 0)

        return sorted(self.groups.values(), key=rank)

    def as_json(self) -> dict[str, Any]:
        groups = [
            {"reason": group.reason, "detail": group.detail, "status": group.status, **group.counts()}
            for group in self.ranked()
        ]
        return {"total": self.total.counts(), "groups": groups}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


class _Table:
    """Rows of which nothing is cut or folded: on a narrow terminal whole columns are left out.

    ``optional`` are those that may be, the most important one first.
    """

    def __init__(self, *columns: str, numbers: Collection[str], optional: Sequence[str]) -> None:
        self._columns = columns
        self._numbers = numbers
        self._optional = optional
        self._rows: list[tuple[Text, ...]] = []

    def add(self, *cells: Text | str) -> None:
        self._rows.append(tuple(cell if isinstance(cell, Text) else _text(cell) for cell in cells))

    def print(self, console: Console) -> None:
        """Print what fits, and the names of the columns that do not."""
        widths = {
            name: max([cell_len(name), *(row[index].cell_len for row in self._rows)]) + _BETWEEN_COLUMNS
            for index, name in enumerate(self._columns)
        }
        room = console.width - sum(widths[name] for name in self._columns if name not in self._optional)
        left_out = set(self._optional)
        for name in self._optional:
            if widths[name] <= room:
                room -= widths[name]
                left_out.remove(name)
        shown = [name for name in self._columns if name not in left_out]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in shown:
            table.add_column(name, justify="right" if name in self._numbers else "left", no_wrap=True)
        for row in self._rows:
            table.add_row(*(row[self._columns.index(name)] for name in shown))
        width = console.width
        console.width = max(width, width - room)  # else what is left would be cut
        console.print(table)
        console.width = width
        if left_out:
            names = ", ".join(name for name in self._columns if name in left_out)
            console.print(f"(a wider terminal, or --json, has more: {names})", style="dim", soft_wrap=True)


def show_overview(console: Console, overview: Overview, queue: str) -> None:
    total = overview.total
    if not total.count:
        console.print(f"No dead letters of {queue!r}.", markup=False, soft_wrap=True)
        return
    refused = bool(total.refused_for_good)  # few operators ever have any
    counts = ("count", "can be registered", "too late", *["refused"] * refused, "unknown")
    table = _Table(
        "reason", "detail", "status", *counts, "time left", "died",
        numbers={"status", *counts, "time left", "died"},
        optional=("detail", "too late", *["refused"] * refused, "status", "unknown", "died"),
    )  # fmt: skip
    for group in overview.ranked():
        table.add(
            group.reason,
            group.detail or "-",
            str(group.status or "-"),
            f"{group.count:,}",
            *(
                f"{number:,}" if number else Text("-", "dim")
                for number in (
                    group.in_time,
                    group.too_late,
                    *[group.refused_for_good] * refused,
                    group.unknown,
                )
            ),
            left_text(group.shortest_left) if group.in_time else Text("-", "dim"),
            _ages(group.youngest_age, group.oldest_age),
        )
    table.print(console)
    good = f"{total.refused_for_good:,} are refused for good, " if refused else ""
    console.print(
        f"{total.count:,} dead letters of {queue!r}: {total.in_time:,} can be registered, "
        f"{total.too_late:,} are too late, {good}{total.unknown:,} have no readable start.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if total.shortest_left is not None:
        console.print(Text.assemble("The nearest deadline is in ", left_text(total.shortest_left), "."))


def _ages(youngest: float | None, oldest: float | None) -> str:
    if youngest is None or oldest is None:
        return "?"
    one, other = span(youngest), span(oldest)
    return f"{one} ago" if one == other else f"{one} to {other} ago"


def show_records(console: Console, records: Sequence[Record], now: datetime) -> None:
    """One line for each; ids are never cut."""
    table = _Table(
        "journey id", "message id", "reason", "detail", "status", "died", "time left", "replays",
        numbers={"status", "died", "time left", "replays"},
        optional=("time left", "reason", "detail", "status", "message id", "replays", "died"),
    )  # fmt: skip
    for record in records:
        age, same = record.age(now), record.message_id == record.journey_id
        table.add(
            record.journey_id or "?",
            Text("the same", "dim") if same else record.message_id or "-",
            record.reason,
            record.detail or "-",
            str(record.status or "-"),
            _ages(age, age),
            left_text(record.left(now), refused_for_good=record.is_refused_for_good),
            str(record.replays or "-"),
        )
    table.print(console)


def show_one(console: Console, shown: dict[str, Any]) -> None:
    """One dead letter in full: its record and headers, then the payload."""
    body = shown.pop("payload")
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in shown.items():
        if name != "headers":
            table.add_row(Text(name, "bold"), _text("-" if value is None else str(value)))
    for name, value in shown["headers"].items():
        table.add_row(_text(name, "dim"), _text(str(value), "dim"))
    console.print(table)
    for line in json.dumps(body, indent=2, ensure_ascii=False).split("\n"):
        console.print(_text(line))


def show_tally(tally: Tally, *, dry_run: bool = False) -> str:
    """The result of a sweep."""
    if tally.reading:
        return f"stopped after reading {tally.read:,} of {tally.waiting:,} dead letters; nothing was done"
    counts = dict(sorted(tally.outcomes.items()))
    counts |= {f"skipped: {name}": count for name, count in sorted(tally.skipped.items())}
    counts["no longer in the queue (taken by another consumer)"] = tally.taken
    counts["left in the queue: died after this command began"] = tally.died_since
    counts["selected, nothing done" if dry_run else "not processed"] = tally.selected - tally.acted
    width = max(len(f"{count:,}") for count in counts.values())
    lines = [f"{tally.waiting:,} dead letters, {tally.selected + tally.skipped.total():,} selected"]
    lines += [f"  {count:>{width},}  {name}" for name, count in counts.items() if count > 0]
    return "\n".join(lines)


@contextmanager
def progress(verb: str, limit: int | None) -> Iterator[Callable[[Tally], None]]:
    """Yields a function that shows a tally: a bar on a terminal, a line every few seconds elsewhere."""
    console = Console(stderr=True)
    fancy = console.is_terminal and not console.is_dumb_terminal
    columns = TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[count]}")
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not fancy)
    task = bar.add_task("reading", total=None, count="0")
    printed_at = started = time.monotonic()
    acting = False

    def show(tally: Tally) -> None:
        nonlocal acting, printed_at, started
        now = time.monotonic()
        done, count, doing, total = tally.read, f"{tally.read:,}", "reading", None
        if not tally.reading:
            total = tally.to_act if limit is None else min(tally.to_act, limit)
            done, count, doing = tally.acted, f"{tally.acted:,} of {total:,}", verb
            if not acting:
                acting, started = True, now
                bar.reset(task, description=verb)
        count = f"{count}, {done / max(now - started, 0.001):,.0f}/s"
        bar.update(task, completed=done, total=total, count=count)
        if not fancy and now - printed_at >= _PLAIN_INTERVAL_SECONDS:
            printed_at = now
            print(f"{doing}: {count}", file=sys.stderr)  # noqa: T201

    with bar:
        yield show


@contextmanager
def reading(see: Callable[[DeadLetterMessage], None]) -> Iterator[Callable[[DeadLetterMessage], None]]:
    """Yields ``see`` with a view of how many it has seen."""
    tally = Tally()
    with progress("reading", None) as show:

        def counted(dead: DeadLetterMessage) -> None:
            see(dead)
            tally.read += 1
            if tally.read % _SHOWN_EVERY == 0:
                show(tally)

        yield counted
