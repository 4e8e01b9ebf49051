"""What ``publish`` shows: a progress bar on a terminal, a plain line now and then elsewhere.

Goes to standard error, so that standard output holds the result alone. Knows no broker.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

_PLAIN_INTERVAL_SECONDS = 5.0
_WATCH_SECONDS = 0.5


class _Rate(ProgressColumn):
    """Lines a second since the start."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        return Text(f"{task.fields['lines'] / elapsed if elapsed else 0:,.0f}/s", style="cyan")


class Progress:
    """Counts confirmed lines and shows them while used as a context manager; ends with a summary."""

    def __init__(self, *, target: str, total_bytes: int | None, total_lines: int | None) -> None:
        self._target = target
        self._by_bytes = total_lines is None
        self._lines = self._done = 0
        self._told_at = self._started = time.monotonic()
        self._console = Console(stderr=True)
        self._fancy = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[lines]:,} confirmed"),
            _Rate(),
            console=self._console,
            transient=True,
            disable=not self._fancy,
        )
        total = total_bytes if self._by_bytes else total_lines
        self._task = self._bar.add_task("publishing", total=total, lines=0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if error is None:
            seconds = max(time.monotonic() - self._started, 0.001)
            print(  # noqa: T201
                f"{self._lines} confirmed, published to {self._target} "
                f"in {seconds:.1f} s ({self._lines / seconds:,.0f}/s)"
            )

    def confirmed(self, size: int) -> None:
        """One more line of ``size`` bytes is confirmed."""
        self._lines += 1
        self._done += size + 1 if self._by_bytes else 1

    async def watch(self, blocked: Callable[[], bool]) -> None:
        """Bring what is shown up to date until cancelled."""
        while True:
            waiting = blocked()
            self._bar.update(
                self._task,
                completed=self._done,
                lines=self._lines,
                description="[yellow]the broker takes nothing (alarm)" if waiting else "publishing",
            )
            now = time.monotonic()
            if not self._fancy and now - self._told_at >= _PLAIN_INTERVAL_SECONDS:
                self._told_at = now
                state = ", the broker takes nothing at the moment (memory or disk alarm)" if waiting else ""
                print(f"{self._lines} confirmed{state}", file=sys.stderr)  # noqa: T201
            await asyncio.sleep(_WATCH_SECONDS if not self._fancy else 0.1)
