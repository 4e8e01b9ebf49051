"""The progress of ``publish``: a bar on a terminal, a plain line now and then elsewhere.

Goes to standard error; standard output gets the result alone. Knows no broker.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as RichProgress

_PLAIN_INTERVAL_SECONDS = 5.0


class Progress:
    """Counts confirmed lines and shows them while used as a context manager; ends with a summary."""

    def __init__(self, *, target: str, total_bytes: int | None, total_lines: int | None) -> None:
        self._target = target
        self._by_bytes = total_lines is None
        self._lines = self._done = 0
        self._started = time.monotonic()
        console = Console(stderr=True)
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[lines]:,} confirmed [cyan]{task.fields[rate]:,.0f}/s"),
            console=console,
            transient=True,
            disable=not self._live,
        )
        total = total_bytes if self._by_bytes else total_lines
        self._task = self._bar.add_task("publishing", total=total, lines=0, rate=0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        self._bar.stop()
        if kind is None:
            seconds = time.monotonic() - self._started
            rate = f"in {seconds:.1f} s ({self._rate:,.0f}/s)"
            print(f"{self._lines} confirmed, published to {self._target} {rate}")  # noqa: T201

    @property
    def _rate(self) -> float:
        return self._lines / max(time.monotonic() - self._started, 0.001)

    def confirmed(self, size: int) -> None:
        """Count one more line of ``size`` bytes."""
        self._lines += 1
        self._done += size + 1 if self._by_bytes else 1

    async def watch(self, blocked: Callable[[], bool]) -> None:
        """Update what is shown until cancelled."""
        printed_at = self._started
        while True:
            alarm = blocked()
            self._bar.update(
                self._task,
                completed=self._done,
                lines=self._lines,
                rate=self._rate,
                description="[yellow]blocked by the broker (alarm)" if alarm else "publishing",
            )
            if not self._live and time.monotonic() - printed_at >= _PLAIN_INTERVAL_SECONDS:
                printed_at = time.monotonic()
                state = ", blocked by the broker (memory or disk alarm)" if alarm else ""
                print(f"{self._lines} confirmed{state}", file=sys.stderr)  # noqa: T201
            await asyncio.sleep(0.1)
