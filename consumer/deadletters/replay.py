"""Dead letters back to the main queue: published with a confirm first, then acknowledged.

1. Whatever interrupts it, nothing is lost: until its copy is confirmed a dead letter is not
   acknowledged. What was confirmed and not acknowledged is sent twice, which the Registry answers 409.
2. The copy has the original body, properties and headers; what told of its death is taken off, and
   ``x-replays`` counts one more.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from consumer.deadletters.hand import Dead
from consumer.deadletters.underway import Acted, Result
from consumer.delivery import Delivery
from consumer.errors import PublishError
from consumer.history import history, replay_headers
from consumer.messages import UNENCODABLE, Outgoing, bare, copy_of

REPLAYED = "replayed"
STAYED = "not confirmed"


class Publisher(Protocol):
    """What replaying needs of the publishing side."""

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[None]":
        """Publish; the future ends with the broker's confirm or with ``PublishError``."""


class ToQueue:
    """The action of a sweep that sends dead letters to ``queue``."""

    def __init__(
        self, publisher: Publisher, queue: str, *, on_replayed: Callable[[int], None] = lambda _count: None
    ) -> None:
        self._publisher = publisher
        self._queue = queue
        self._on_replayed = on_replayed

    async def __call__(self, batch: Sequence[Dead]) -> Acted:
        """Publish all of them, many in flight; what is not confirmed stays."""
        failures = await confirmed(self._publisher, [again(dead.delivery, self._queue) for dead in batch])
        results = [
            Result(STAYED, gone=False) if failure else Result(REPLAYED, gone=True) for failure in failures
        ]
        self._on_replayed(sum(result.gone for result in results))
        return Acted(results, trouble_of(failures))


async def confirmed(publisher: Publisher, messages: Sequence[Outgoing]) -> list[str | None]:
    """Publish; returns for each message why it was not confirmed, or None.

    One whose headers no frame holds any more, with those that we add, goes without what is too much.
    """
    failures = await _each_confirmed(publisher, messages)
    again_bare = [index for index, failure in enumerate(failures) if failure == UNENCODABLE]
    second = await _each_confirmed(publisher, [bare(messages[index]) for index in again_bare])
    for index, failure in zip(again_bare, second, strict=True):
        failures[index] = failure
    return failures


async def _each_confirmed(publisher: Publisher, messages: Sequence[Outgoing]) -> list[str | None]:
    results = await asyncio.gather(*map(publisher.submit, messages), return_exceptions=True)
    failures: list[str | None] = []
    for result in results:
        if result is not None and not isinstance(result, PublishError):
            raise result
        failures.append(None if result is None else str(result))
    return failures


def trouble_of(failures: Sequence[str | None]) -> str | None:
    """Why to go no further after these, in words; None when all were confirmed."""
    failed = [failure for failure in failures if failure is not None]
    if not failed:
        return None
    return f"{len(failed)} dead letters stay where they are: publishing them failed ({failed[0]})"


def again(delivery: Delivery, queue: str) -> Outgoing:
    """The message to publish so that ``delivery`` begins a new life in ``queue``."""
    headers = replay_headers(delivery, history(delivery))
    return copy_of(delivery, exchange="", routing_key=queue, headers=headers)
