"""Dead letters back to the main queue: published with a confirm first, then acknowledged.

1. Whatever interrupts it, nothing is lost: until its copy is confirmed a dead letter is not
   acknowledged. What was confirmed and not acknowledged is sent twice, which the Registry answers 409.
2. The copy has the original body, properties and headers; what told of its death is taken off, and
   ``x-replays`` counts one more.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from consumer.core.delivery import Delivery
from consumer.core.headers import replay_headers, tracking_headers
from consumer.core.outgoing import Outgoing, bare, copy_of
from consumer.deadletters.hand import DeadLetterMessage
from consumer.deadletters.underway import BatchResult, Result
from consumer.errors import PublishError, PublishFailure

REPLAYED = "replayed"
STAYED = "not confirmed"
_LOOK_SECONDS = 0.5


class Publisher(Protocol):
    """What replaying needs of the publishing side."""

    @property
    def blocked(self) -> bool:
        """Whether the broker takes nothing at the moment."""

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[None]":
        """Publish; the future ends with the broker's confirm or with ``PublishError``."""


class ReplayToQueue:
    """The action of a sweep that sends dead letters to ``queue``.

    ``patience_seconds`` is how long a broker that blocks publishers is waited for; None: as long as it takes.
    """

    def __init__(
        self,
        publisher: Publisher,
        queue: str,
        *,
        patience_seconds: float | None = None,
        on_replayed: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._publisher = publisher
        self._queue = queue
        self._patience = patience_seconds
        self._on_replayed = on_replayed

    async def __call__(self, batch: Sequence[DeadLetterMessage]) -> BatchResult:
        """Publish all of them, many in flight; what is not confirmed stays."""
        messages = [again(dead.delivery, self._queue) for dead in batch]
        failures = await confirmed(self._publisher, messages, self._patience)
        results = [
            Result(STAYED, gone=False) if failure else Result(REPLAYED, gone=True) for failure in failures
        ]
        self._on_replayed(sum(result.gone for result in results))
        return BatchResult(results, trouble_of(failures))


async def confirmed(
    publisher: Publisher, messages: Sequence[Outgoing], patience_seconds: float | None = None
) -> list[str | None]:
    """Publish; returns for each message why it was not confirmed, or None.

    One whose headers no frame holds any more, with those that we add, goes without what is too much.
    """
    failures = await _each_confirmed(publisher, messages, patience_seconds)
    again_bare = [index for index, failure in enumerate(failures) if failure == PublishFailure.UNENCODABLE]
    second = await _each_confirmed(publisher, [bare(messages[i]) for i in again_bare], patience_seconds)
    for index, failure in zip(again_bare, second, strict=True):
        failures[index] = failure
    return failures


async def _each_confirmed(
    publisher: Publisher, messages: Sequence[Outgoing], patience_seconds: float | None
) -> list[str | None]:
    futures = [publisher.submit(message) for message in messages]
    if patience_seconds is not None:
        await _while_it_takes_any(publisher, futures, patience_seconds)
    failures: list[str | None] = []
    for result in await asyncio.gather(*futures, return_exceptions=True):
        if isinstance(result, asyncio.CancelledError):
            failures.append("the broker takes nothing at the moment: a memory or disk alarm")
        elif result is not None and not isinstance(result, PublishError):
            raise result
        else:
            failures.append(None if result is None else str(result))
    return failures


async def _while_it_takes_any(
    publisher: Publisher, futures: Sequence["asyncio.Future[None]"], patience_seconds: float
) -> None:
    """Wait for them; give up what is left when the broker has taken nothing for so long."""
    pending, free_at = set(futures), time.monotonic()
    try:
        while pending:
            pending = (await asyncio.wait(pending, timeout=_LOOK_SECONDS))[1]
            now = time.monotonic()
            free_at = free_at if publisher.blocked else now
            if now - free_at >= patience_seconds:
                return
    finally:
        for future in futures:
            # What was not sent yet never is; what was may be confirmed unheard.
            if not future.cancel() and not future.cancelled():
                future.exception()  # looked at, also when we are the ones who were cancelled


def trouble_of(failures: Sequence[str | None]) -> str | None:
    """Why to go no further after these, in words; None when all were confirmed."""
    failed = [failure for failure in failures if failure is not None]
    if not failed:
        return None
    return f"{len(failed)} dead letters stay where they are: publishing them failed ({failed[0]})"


def again(delivery: Delivery, queue: str) -> Outgoing:
    """The message to publish so that ``delivery`` begins a new life in ``queue``."""
    headers = replay_headers(delivery, tracking_headers(delivery))
    return copy_of(delivery, exchange="", routing_key=queue, headers=headers)
