"""What a sweep waits for: the batch that is being acted upon, the pace, a thread at the broker.

1. Whatever is waited for, the heartbeats of what is held are answered meanwhile.
2. A thread can not be interrupted: whoever is cancelled waits for its end first, so that two never use one
   connection, and none opens one that nobody will close.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from consumer.broker.queue_reader import QueueReader
from consumer.deadletters.hand import DeadLetterMessage

BATCH = 1_000
KEEP_ALIVE_SECONDS = 5.0

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one dead letter: a word for the summary, and whether it leaves its queue."""

    outcome: str
    gone: bool


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The results of a batch, in its order; ``trouble`` is why the sweep should end now."""

    results: Sequence[Result]
    trouble: str | None = None


Act = Callable[[Sequence[DeadLetterMessage]], Awaitable[BatchResult]]


class InFlightBatch:
    """The one batch that is being acted upon."""

    def __init__(self, taps: Sequence[QueueReader]) -> None:
        self._taps = taps
        self._batch: Sequence[DeadLetterMessage] = ()
        self._acting: asyncio.Future[BatchResult] | None = None

    def begin(self, batch: Sequence[DeadLetterMessage], act: Act) -> None:
        """Start acting on ``batch``."""
        self._batch, self._acting = batch, asyncio.ensure_future(act(batch))

    async def end(self) -> tuple[Sequence[DeadLetterMessage], BatchResult]:
        """Wait for the batch; an empty one when none is under way."""
        batch, acting = self._batch, self._acting
        self._batch, self._acting = (), None
        return (batch, await alive(acting, self._taps)) if acting is not None else ((), BatchResult(()))

    async def cancel(self) -> None:
        """Give up on the batch, if one is still under way."""
        if self._acting is not None:
            self._acting.cancel()
            await asyncio.gather(self._acting, return_exceptions=True)


class Pace:
    """At most ``rate`` a second, in batches that last a fifth of a second, of ``most`` at most."""

    def __init__(self, rate: float | None, most: int | None = None) -> None:
        self._rate = rate
        self._due = 0.0
        most = BATCH if most is None else most
        self.batch = most if rate is None else max(1, min(most, int(rate / 5)))

    async def wait(self, count: int) -> None:
        """Until ``count`` more may go."""
        if self._rate is None:
            return
        now = time.monotonic()
        await asyncio.sleep(max(0.0, self._due - now))
        self._due = max(self._due, now) + count / self._rate


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do blocking ``work`` in a thread. Cancelled, it ends when the thread has ended."""
    thread = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.gather(thread, return_exceptions=True)
        raise


async def alive(work: Awaitable[T], taps: Sequence[QueueReader]) -> T:
    """Wait for ``work``, and answer the heartbeats of what is held meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=KEEP_ALIVE_SECONDS))[0]:
            for tap in taps:
                await in_thread(tap.keep_alive)
    except BaseException:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise
    return task.result()
