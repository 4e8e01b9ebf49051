"""The publishes that the broker has not confirmed yet, by delivery tag. Pure.

1. Tags count up from 1 on each channel; the broker acknowledges one tag, or all up to one.
2. An unroutable message is returned first and acknowledged next; that is a failure.
3. Each request is given back exactly once, with its failure or None.
"""

import asyncio
from dataclasses import dataclass
from itertools import takewhile

from consumer.core.outgoing import Outgoing
from consumer.errors import PublishError, PublishFailure


@dataclass(slots=True)
class Request:
    """A submitted publish; ``sent_at`` is monotonic seconds."""

    outgoing: Outgoing
    future: asyncio.Future[None]
    sent_at: float = 0.0
    returned: bool = False


Result = tuple[Request, PublishFailure | None]


class Unconfirmed:
    """The unconfirmed publishes of one channel, in the order of their tags."""

    def __init__(self) -> None:
        self._requests: dict[int, Request] = {}
        self._next_tag = 1

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def oldest_sent_at(self) -> float:
        """When the oldest unconfirmed publish was sent; raises StopIteration when there is none."""
        return next(iter(self._requests.values())).sent_at

    def sent(self, request: Request) -> int:
        """Note that ``request`` is sent next; returns its tag."""
        tag = self._next_tag
        self._requests[tag] = request
        self._next_tag = tag + 1
        return tag

    def unsent(self, tag: int) -> None:
        """The latest request was not sent after all: its tag is used for the next."""
        del self._requests[tag]
        self._next_tag = tag

    def answered(self, tag: int, refused: PublishFailure | None = None, *, multiple: bool) -> list[Result]:
        """The broker has confirmed these, or has ``refused`` them; those that were returned have failed."""
        if multiple:
            tags = list(takewhile(lambda known: known <= tag, self._requests))  # in ascending order
        else:
            tags = [tag] if tag in self._requests else []
        requests = [self._requests.pop(known) for known in tags]
        return [(r, refused or (PublishFailure.RETURNED if r.returned else None)) for r in requests]

    def returned(self, exchange: str, routing_key: str, body: bytes) -> None:
        """Mark an unroutable message; its acknowledgement follows.

        A return names no tag. The first publish with the same exchange, routing key and body is
        taken: if it is another one, it is unroutable too.
        """
        place = (exchange, routing_key, body)
        for request in self._requests.values():
            outgoing = request.outgoing
            if not request.returned and (outgoing.exchange, outgoing.routing_key, outgoing.body) == place:
                request.returned = True
                return

    def clear(self) -> list[Request]:
        """The channel was closed: return what was unconfirmed, and start again at tag 1."""
        requests = list(self._requests.values())
        self._requests.clear()
        self._next_tag = 1
        return requests


def resolve(future: asyncio.Future[None], failure: PublishFailure | None) -> None:
    """End the future of a publish, unless it has ended."""
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(PublishError(failure))
