"""What the service and the dead-letter tools need of the two edges; the edges implement it.

Everything is called on the event loop. A contract suite (``tests/integration/contract``) runs against every
implementation of ``Consumer`` and ``Publisher``.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from consumer.core.delivery import Delivery, Mode
from consumer.core.outgoing import Outgoing
from consumer.core.reply import Fault, Reply


class Consumer(Protocol):
    """Takes deliveries from our queue and acknowledges them."""

    @property
    def connected(self) -> bool:
        """Whether the queues are verified and can be read."""

    @property
    def subscribed(self) -> bool:
        """Whether the broker may send deliveries now."""

    def want(self, mode: Mode) -> None:
        """Take everything, one delivery to probe with, or nothing; also after each reconnection."""

    def is_current(self, delivery: Delivery) -> bool:
        """Whether ``delivery`` can still be acknowledged; else the broker delivers it again."""

    def acknowledge(self, delivery: Delivery) -> bool:
        """Acknowledge; False when ``delivery`` is no longer current."""

    async def run(self, on_delivery: Callable[[Delivery], None], on_lost: Callable[[], None]) -> None:
        """Stay connected until closed. ``on_lost`` is called after a connection was lost."""

    async def close(self) -> None:
        """Write the last acknowledgements and disconnect; the broker requeues the rest."""


class Publisher(Protocol):
    """Publishes persistent messages with confirms. ``delay_queues``: the broker has queues that wait."""

    delay_queues: bool

    @property
    def ready(self) -> bool:
        """Whether the broker takes publishes now."""

    @property
    def blocked(self) -> bool:
        """Whether the broker has stopped reading from publishers (memory or disk alarm)."""

    def start(self) -> None:
        """Start publishing."""

    async def watch(self) -> None:
        """Wait without limit; raises when what publishes has ended by itself."""

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[None]":
        """Publish; the future ends with the broker's confirm or with ``PublishError``."""

    def withdraw(self, future: "asyncio.Future[None]") -> None:
        """End ``future`` as out of date; its message is not published if it was not sent yet."""

    async def close(self) -> None:
        """Stop publishing; what is unconfirmed fails."""


class RegistryClient(Protocol):
    """Sends journeys to the Registry."""

    async def post_journey(self, body: bytes, token: str) -> Reply | Fault:
        """POST one journey; network trouble is a ``Fault``, not an exception."""

    async def get_journey(self, journey_id: str, token: str) -> Reply | Fault:
        """GET the status of one journey."""
