"""What the demo shows: a live screen on a terminal, plain lines elsewhere. Decides nothing.

The screen fits 80 columns by 24 lines and uses more when there is more. Plain lines are acts, events, and
the numbers now and then.
"""

from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from consumer.core.clock import utc_now
from consumer.demo.account import Account
from consumer.demo.script import ACTS, Scene
from consumer.demo.stage import Now

DEADLINE_SECONDS = 24 * 3600.0
PLAIN_INTERVAL_SECONDS = 5.0
_TEXT_HEIGHT, _NUMBERS_HEIGHT = 4, 9
_LABEL_WIDTH, _BAR_WIDTH = 10, 14
_FULL_WAITING, _FULL_IN_FLIGHT = 200, 32
_SPARKS, _ASCII_SPARKS = "▁▂▃▄▅▆▇█", "_.:-=+*#"
_MOST_PROBLEMS = 20


class View:
    """Updates the live screen, or prints lines when ``live`` is None."""

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console = console
        self._live = live
        self._act = -1
        self._printed_events = 0
        self._numbers_at = 0.0

    def show(self, scene: Scene) -> None:
        """Show one moment: at the beginning of each act, and several times a second."""
        if self._live is not None:
            self._live.update(screen(self._console, scene), refresh=True)
            return
        begins = scene.act != self._act
        if (begins and self._act >= 0) or scene.elapsed - self._numbers_at >= PLAIN_INTERVAL_SECONDS:
            self._numbers_at = scene.elapsed
            self._line(_numbers(scene))
        if begins:
            self._act = scene.act
            act = ACTS[scene.act]
            self._line(f"\n[{scene.act + 1}/{len(ACTS)}] {act.title}\n      {act.text}")
        for elapsed, text in scene.events[self._printed_events :]:
            self._line(f"{clock(elapsed):>5} {text}")
        self._printed_events = len(scene.events)

    def _line(self, text: str) -> None:
        self._console.out(text, highlight=False)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def hours(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes // 60} h {minutes % 60:02d}" if minutes >= 60 else f"{minutes} min"  # noqa: PLR2004


def _numbers(scene: Scene) -> str:
    now = scene.now
    dead = ", ".join(f"{reason} {count}" for reason, count in _shown_dead(now))
    return (
        f"{clock(scene.elapsed):>5} published {now.published}, registered {now.registered}, "
        f"already registered {now.already_registered}, {dead}, waiting {now.waiting}, "
        f"in flight {now.in_flight}, {scene.rate:.0f}/s"
    )


def _shown_dead(now: Now) -> Iterator[tuple[str, int]]:
    """The reasons of the script always, the others when they occur."""
    for reason, count in now.dead.items():
        if count or reason in {"invalid", "unauthorized"}:
            yield reason, count


def screen(console: Console, scene: Scene) -> Group:
    """The whole screen; the list of events is as tall as its content, or as the rows that are left."""
    act = ACTS[scene.act]
    header = Table.grid(Column(), Column(justify="right"), expand=True)
    header.add_row(
        "[bold] journey-consumer demo: real service, embedded broker and Registry",
        f"[dim]{scene.act + 1}/{len(ACTS)}  {clock(scene.elapsed)} ",
    )
    sparks = _ASCII_SPARKS if console.options.ascii_only else _SPARKS
    numbers = Table.grid(Column(ratio=1), Column(ratio=1), expand=True)
    numbers.add_row(
        _panel(_counts(scene.now), "journeys", _NUMBERS_HEIGHT),
        _panel(_state(scene, sparks), "now (deadline: 24 h of age)", _NUMBERS_HEIGHT),
    )
    newest_first = [
        Text.assemble((f"{clock(elapsed)} ", "dim"), text, no_wrap=True, overflow="ellipsis")
        for elapsed, text in reversed(scene.events)
    ]
    rows_left = max(3, console.height - 1 - _TEXT_HEIGHT - _NUMBERS_HEIGHT)
    return Group(
        header,
        Panel(act.text, title=f"[bold]{act.title}", title_align="left", height=_TEXT_HEIGHT),
        numbers,
        _panel(Group(*newest_first), "events", min(len(newest_first) + 2, rows_left)),
    )


def _panel(content: Table | Group, title: str, height: int) -> Panel:
    return Panel(content, title=title, title_align="left", border_style="blue", height=height)


def _counts(now: Now) -> Table:
    grid = Table.grid(Column(), Column(justify="right"), expand=True, padding=(0, 1))
    grid.add_row("published", f"{now.published:,}")
    grid.add_row("[green]registered", f"[green]{now.registered:,}")
    grid.add_row("[green]already registered", f"[green]{now.already_registered:,}")
    for reason, count in _shown_dead(now):
        style = "yellow" if count else "dim"
        grid.add_row(f"[{style}]dead letters: {reason}", f"[{style}]{count:,}")
    grid.add_row("[cyan]replayed" if now.replayed else "[dim]replayed", f"{now.replayed:,}")
    return grid


def _state(scene: Scene, sparks: str) -> Group:
    now = scene.now
    padding = (0, 1, 0, 0)
    texts = Table.grid(Column(width=_LABEL_WIDTH), Column(no_wrap=True), padding=padding)
    texts.add_row("consuming", "[green]yes" if now.paused is None else f"[bold yellow]paused: {now.paused}")
    texts.add_row("Registry", "[green]up" if now.registry_up else "[bold red]down")
    value, bar = Column(no_wrap=True, justify="right", ratio=1), Column(no_wrap=True, width=_BAR_WIDTH)
    bars = Table.grid(Column(width=_LABEL_WIDTH), value, bar, expand=True, padding=padding)
    bars.add_row("waiting", f"{now.waiting:,}", _bar(now.waiting / _FULL_WAITING, "yellow"))
    bars.add_row("in flight", f"{now.in_flight:,}", _bar(now.in_flight / _FULL_IN_FLIGHT, "cyan"))
    bars.add_row("rate", f"{scene.rate:,.0f}/s", _sparkline(scene.rates, sparks))
    oldest = None if now.oldest_start is None else (utc_now() - now.oldest_start).total_seconds()
    for name, age in (("mean age", now.mean_age_seconds), ("oldest age", oldest)):
        share = (age or 0.0) / DEADLINE_SECONDS
        style = "green" if share < 0.5 else "yellow" if share < 0.8 else "bold red"  # noqa: PLR2004
        bars.add_row(name, "-" if age is None else hours(age), _bar(share, style))
    return Group(texts, bars)


def _bar(share: float, style: str) -> ProgressBar:
    return ProgressBar(1.0, min(share, 1.0), width=_BAR_WIDTH, complete_style=style, finished_style=style)


def _sparkline(rates: tuple[float, ...], sparks: str) -> Text:
    shown = rates[-_BAR_WIDTH:]
    full = max(*shown, 1.0)
    return Text("".join(sparks[round(rate / full * (len(sparks) - 1))] for rate in shown), "cyan")


def print_events(console: Console, events: Iterable[tuple[float, str]]) -> None:
    for elapsed, text in events:
        console.print(Text.assemble((f"{clock(elapsed):>5} ", "dim"), text))


def print_account(console: Console, account: Account) -> None:
    table = Table(Column("The account", no_wrap=True), box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("found", justify="right")
    table.add_column("counted", justify="right")
    table.add_column(style="dim")
    for row in account.rows:
        counted = "" if row.counted is None else f"{row.counted:,}"
        table.add_row(row.name, f"{row.found:,}", counted, row.note)
    table.add_section()
    table.add_row("accounted for", f"{account.found:,}", f"{account.counted:,}", "", style="bold")
    table.add_row("published", f"{account.published:,}", f"{account.published:,}", "", style="bold")
    console.print()
    console.print(table)
    console.print("found: in the queues and in the Registry's memory; counted: by the service", style="dim")
    if account.balances:
        verdict = "[bold green]The account balances:[/] nothing lost, nothing counted twice, on both sides."
    else:
        verdict = "[bold red]The account does not balance:[/]"
    console.print(verdict)
    for problem in account.problems[:_MOST_PROBLEMS]:
        console.print(f"  - {problem}", highlight=False, markup=False)
    if len(account.problems) > _MOST_PROBLEMS:
        console.print(f"  and {len(account.problems) - _MOST_PROBLEMS} more")
