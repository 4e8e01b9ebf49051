"""One AMQP channel of the intake: its prefetch, its subscription, its outstanding tags."""

import itertools
from collections.abc import Callable
from typing import Any

from consumer.broker.acks import AckLedger


class Subscription:
    """One AMQP channel with its prefetch, its subscription and its outstanding tags."""

    def __init__(self, number: int, channel: Any, queue: str) -> None:
        self.number = number
        self.channel = channel
        self.queue = queue
        self.ledger = AckLedger()
        self.subscribed = False
        self._tags = (f"journey-consumer.{number}.{turn}" for turn in itertools.count(1))
        self._tag = self._last_tag = ""

    def start(self, callback: Callable[[Any], None], on_cancel: Callable[[str], None]) -> None:
        """Ask the broker to deliver, without waiting for its answer."""
        if not self.subscribed:
            self.subscribed = True
            # A tag of its own for each turn: RabbitMQ 3.10 ends the channel when a quorum queue's
            # consumer comes back under a tag that still has unacknowledged deliveries.
            self.channel.callbacks.pop(self._last_tag, None)
            self._last_tag, self._tag = self._tag, next(self._tags)
            self.channel.basic_consume(
                self.queue,
                consumer_tag=self._tag,
                nowait=True,
                callback=callback,
                on_cancel=on_cancel,
            )

    def cancel(self) -> None:
        """Ask the broker to send nothing more. What is outstanding stays ours to settle."""
        if self.subscribed:
            self.subscribed = False
            # Deliveries already on their way still reach the callback, which stays registered:
            # py-amqp requeues a delivery without callback, and that burns its delivery count.
            self.channel.basic_cancel(self._tag, nowait=True)

    def write_acks(self, *, everything: bool = False) -> None:
        """Acknowledge what is settled."""
        for tag, multiple in self.ledger.collect(everything=everything):
            self.channel.basic_ack(tag, multiple=multiple)
