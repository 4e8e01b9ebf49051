"""What the demo shows: a live screen on a terminal, plain lines elsewhere. Decides nothing.

``RichView`` fits 80 columns by 24 lines and uses more when there is more; ``PlainView`` writes what
happens as it happens, and the numbers now and then.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from consumer.demo.account import Account
from consumer.demo.stage import Now

DEADLINE_SECONDS = 24 * 3600.0
PLAIN_INTERVAL_SECONDS = 5.0
_LABEL_WIDTH, _BAR_WIDTH = 10, 14
_FULL_WAITING, _FULL_IN_FLIGHT = 200, 32
_SPARKS, _ASCII_SPARKS = "▁▂▃▄▅▆▇█", "_.:-=+*#"


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything there is to show at one moment; ``rates`` are registrations a second, oldest first."""

    number: int
    of: int
    title: str
    words: str
    elapsed: float
    now: Now
    rates: tuple[float, ...]
    events: tuple[tuple[float, str], ...]

    @property
    def rate(self) -> float:
        """Registrations a second, over the last two seconds."""
        last = self.rates[-4:]
        return sum(last) / len(last)


class View(Protocol):
    """Who is told; a context manager around the demo."""

    def act(self, scene: Scene) -> None:
        """A new act begins."""

    def event(self, elapsed: float, text: str) -> None:
        """Something happened."""

    def show(self, scene: Scene) -> None:
        """How it looks now; several times a second."""

    def summary(self, account: Account) -> None:
        """The books, at the end."""


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def hours(seconds: float) -> str:
    """Hours and minutes."""
    minutes = int(seconds) // 60
    return f"{minutes // 60} h {minutes % 60:02d}" if minutes >= 60 else f"{minutes} min"  # noqa: PLR2004


class PlainView:
    """Lines, for pipes, logs and terminals that can do no more."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def act(self, scene: Scene) -> None:
        """The numbers so far, the title and the words."""
        if scene.number > 1:
            self._numbers(scene)
        self._line(f"\n[{scene.number}/{scene.of}] {scene.title}")
        self._line(f"      {scene.words}")

    def event(self, elapsed: float, text: str) -> None:
        """A line."""
        self._line(f"{clock(elapsed):>5} {text}")

    def show(self, scene: Scene) -> None:
        """The numbers, every few seconds."""
        if scene.elapsed - self._told_at < PLAIN_INTERVAL_SECONDS:
            return
        self._numbers(scene)

    def _numbers(self, scene: Scene) -> None:
        self._told_at = scene.elapsed
        now = scene.now
        dead = ", ".join(f"{reason} {count}" for reason, count in _shown_dead(now))
        self._line(
            f"{clock(scene.elapsed):>5} published {now.published}, registered {now.registered}, "
            f"already registered {now.already_registered}, {dead}, waiting {now.waiting}, "
            f"in flight {now.in_flight}, {scene.rate:.0f}/s"
        )

    def summary(self, account: Account) -> None:
        """The books."""
        print_summary(self._console, account)

    def _line(self, text: str) -> None:
        self._console.out(text, highlight=False)


class RichView:
    """A screen of its own while it lasts; what happened and the books stay on the terminal afterwards."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False)
        self._sparks = _ASCII_SPARKS if console.options.ascii_only else _SPARKS
        self._events: list[tuple[float, str]] = []

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def act(self, scene: Scene) -> None:
        """The title is on the screen."""
        self.show(scene)

    def event(self, elapsed: float, text: str) -> None:
        """Kept for the end; meanwhile it is on the screen."""
        self._events.append((elapsed, text))

    def show(self, scene: Scene) -> None:
        """Draw the screen."""
        self._live.update(self.screen(scene), refresh=True)

    def summary(self, account: Account) -> None:
        """What happened, and the books."""
        for elapsed, text in self._events:
            self._console.print(Text.assemble((f"{clock(elapsed):>5} ", "dim"), text))
        print_summary(self._console, account)

    def screen(self, scene: Scene) -> RenderableType:
        """The whole screen."""
        layout = Layout()
        layout.split_column(
            Layout(_header(scene), size=1),
            Layout(Panel(scene.words, title=f"[bold]{scene.title}", title_align="left"), size=4),
            Layout(name="numbers", size=9),
            Layout(_events(scene), minimum_size=3),
        )
        layout["numbers"].split_row(
            Layout(Panel(_counts(scene.now), title="journeys", title_align="left", border_style="blue")),
            Layout(
                Panel(
                    _state(scene, self._sparks),
                    title="now (deadline: 24 h of age)",
                    title_align="left",
                    border_style="blue",
                )
            ),
        )
        return layout


def _header(scene: Scene) -> Table:
    grid = Table.grid(expand=True)
    grid.add_column()
    grid.add_column(justify="right")
    grid.add_row(
        Text(" journey-consumer demo: real service, embedded broker and Registry", "bold"),
        Text(f"{scene.number}/{scene.of}  {clock(scene.elapsed)} ", "dim"),
    )
    return grid


def _counts(now: Now) -> Table:
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column()
    grid.add_column(justify="right")
    grid.add_row("published", f"{now.published:,}")
    grid.add_row("[green]registered", f"[green]{now.registered:,}")
    grid.add_row("[green]already registered", f"[green]{now.already_registered:,}")
    for reason, count in _shown_dead(now):
        style = "yellow" if count else "dim"
        grid.add_row(f"[{style}]dead letters: {reason}", f"[{style}]{count:,}")
    grid.add_row("[cyan]replayed" if now.replayed else "[dim]replayed", f"{now.replayed:,}")
    return grid


def _shown_dead(now: Now) -> Iterator[tuple[str, int]]:
    """The reasons of the script always, the others when they occur."""
    for reason, count in now.dead.items():
        if count or reason in {"invalid", "unauthorized"}:
            yield reason, count


def _state(scene: Scene, sparks: str) -> Group:
    now = scene.now
    words = Table.grid(padding=(0, 1, 0, 0))
    words.add_column(width=_LABEL_WIDTH)
    words.add_column(no_wrap=True)
    words.add_row("consuming", "[green]yes" if now.paused is None else f"[bold yellow]paused: {now.paused}")
    words.add_row("Registry", "[green]up" if now.registry_up else "[bold red]down")
    bars = Table.grid(expand=True, padding=(0, 1, 0, 0))
    bars.add_column(width=_LABEL_WIDTH)
    bars.add_column(no_wrap=True, justify="right", ratio=1)
    bars.add_column(no_wrap=True, width=_BAR_WIDTH)
    bars.add_row("waiting", f"{now.waiting:,}", _bar(now.waiting, _FULL_WAITING, "yellow"))
    bars.add_row("in flight", f"{now.in_flight:,}", _bar(now.in_flight, _FULL_IN_FLIGHT, "cyan"))
    bars.add_row("rate", f"{scene.rate:,.0f}/s", _sparkline(scene.rates, sparks))
    oldest = None if now.oldest_start is None else (datetime.now(UTC) - now.oldest_start).total_seconds()
    for label, age in (("mean age", now.mean_age_seconds), ("oldest age", oldest)):
        bars.add_row(label, "-" if age is None else hours(age), _age_bar(age))
    return Group(words, bars)


def _bar(value: float, full: float, style: str) -> ProgressBar:
    return ProgressBar(
        total=full, completed=min(value, full), width=_BAR_WIDTH, complete_style=style, finished_style=style
    )


def _age_bar(seconds: float | None) -> ProgressBar:
    share = (seconds or 0.0) / DEADLINE_SECONDS
    style = "green" if share < 0.5 else "yellow" if share < 0.8 else "bold red"  # noqa: PLR2004
    return _bar(share, 1.0, style)


def _sparkline(rates: tuple[float, ...], sparks: str) -> Text:
    shown = rates[-_BAR_WIDTH:]
    full = max(*shown, 1.0)
    return Text("".join(sparks[round(rate / full * (len(sparks) - 1))] for rate in shown), "cyan")


def _events(scene: Scene) -> Panel:
    newest_first = [
        Text.assemble((f"{clock(elapsed)} ", "dim"), text, no_wrap=True, overflow="ellipsis")
        for elapsed, text in reversed(scene.events)
    ]
    return Panel(Group(*newest_first), title="what happened", title_align="left", border_style="blue")


def print_summary(console: Console, account: Account) -> None:
    """Print the books of both sides, and whether they agree."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("The account", no_wrap=True)
    table.add_column("found", justify="right")
    table.add_column("counted", justify="right")
    table.add_column("", style="dim")
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
        console.print(
            "[bold green]The account balances:[/] nothing lost, nothing counted twice, on both sides."
        )
        return
    console.print("[bold red]The account does not balance:[/]")
    for problem in account.problems[:20]:
        console.print(f"  - {problem}", highlight=False, markup=False)
    if len(account.problems) > 20:  # noqa: PLR2004
        console.print(f"  and {len(account.problems) - 20} more")
