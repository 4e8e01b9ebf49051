"""Dead letters back to the main queue: published with a confirm first, then acknowledged.

1. Whatever interrupts it, nothing is lost: until its copy is confirmed a dead letter is not
   acknowledged. What was confirmed and not acknowledged is sent twice, which the Registry answers 409.
2. The copy has the original body, properties and headers; what told of its death is taken off, and
   ``x-replays`` counts one more.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from consumer.broker.tap import PREFETCH, Tap
from consumer.delivery import Delivery
from consumer.errors import PublishError
from consumer.history import history, replay_headers
from consumer.messages import Outgoing, copy_of


class Publisher(Protocol):
    """What replaying needs of the publishing side."""

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[None]":
        """Publish; the future ends with the broker's confirm or with ``PublishError``."""


@dataclass(frozen=True, slots=True)
class Moved:
    """How many dead letters waited at the start, and how many of them were moved."""

    waiting: int
    moved: int


async def replay(
    tap: Tap,
    publisher: Publisher,
    queue: str,
    *,
    limit: int | None = None,
    on_moved: Callable[[int], None] = lambda _count: None,
) -> Moved:
    """Move up to ``limit`` messages of ``tap``, oldest first, to ``queue``; opens and closes the tap.

    ``on_moved`` hears of each batch. Raises BrokerError or PublishError; what had been moved by then
    stays moved, everything else stays where it was.
    """
    moved = 0
    try:
        waiting = await asyncio.to_thread(tap.open)
        wanted = waiting if limit is None else min(limit, waiting)
        while moved < wanted:
            batch = await asyncio.to_thread(tap.take, min(wanted - moved, PREFETCH))
            if not batch:
                break
            confirms = [publisher.submit(_again(delivery, queue)) for delivery in batch]
            results = await asyncio.gather(*confirms, return_exceptions=True)
            confirmed = [d for d, result in zip(batch, results, strict=True) if result is None]
            await asyncio.to_thread(tap.acknowledge, confirmed)
            moved += len(confirmed)
            on_moved(len(confirmed))
            if len(confirmed) < len(batch):
                failure = next(result for result in results if result is not None)
                raise PublishError(
                    f"{len(batch) - len(confirmed)} dead letters stay where they are: "
                    f"publishing them failed ({failure}); {moved} were moved"
                )
    finally:
        await asyncio.to_thread(tap.close)
    return Moved(waiting, moved)


def _again(delivery: Delivery, queue: str) -> Outgoing:
    headers = replay_headers(delivery, history(delivery))
    return copy_of(delivery, exchange="", routing_key=queue, headers=headers)
