"""An event loop on which waiting takes no time: when nothing can run, its clock jumps to the next timer.

For tests of waits, retries and pauses with one process and no sockets: hours pass in milliseconds, in the
order in which they would pass. Events of a thread or a socket are seen only when they are there at a
select.
"""

import asyncio
import functools
import selectors
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from tests.clock import START

#: What one turn of the loop takes at least.
_STEP_SECONDS = 1e-8
_STUCK = "every task waits, and no timer is due"


class _Jumping(selectors.SelectSelector):
    """Selects without waiting; ``asked`` is the timeout that was requested."""

    asked: float | None = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        self.asked = 0.0 if events else timeout
        return events


class TravellingLoop(asyncio.SelectorEventLoop):
    """``time`` is monotonic seconds from 1000; ``now`` the wall clock that goes with it."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        self._travelled = 1000.0
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the loop's own time."""
        return self._travelled

    def now(self) -> datetime:
        """Return the wall time, UTC."""
        return START + timedelta(seconds=self._travelled - 1000.0)

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc] - asyncio's own step, the same in every version
        if self._jumping.asked is None:
            raise RuntimeError(_STUCK)
        # A timer may fire early by the clock's resolution: without a step its owner would wait for the rest,
        # again and again, at the same moment.
        self._travelled += max(self._jumping.asked, _STEP_SECONDS)
        self._jumping.asked = 0.0


def travelling(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an asynchronous test on a ``TravellingLoop``."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=TravellingLoop) as runner:
            runner.run(_awaited(test, *args, **kwargs))

    return run


async def _awaited(test: Callable[..., Awaitable[None]], *args: Any, **kwargs: Any) -> None:
    await test(*args, **kwargs)


def loop() -> TravellingLoop:
    """The loop of the running test."""
    running = asyncio.get_running_loop()
    assert isinstance(running, TravellingLoop)
    return running
