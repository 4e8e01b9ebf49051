"""One AMQP channel of the intake: its prefetch, its subscription, its outstanding tags."""

from collections.abc import Callable
from enum import Enum
from typing import Any

from consumer.broker.acks import AckLedger


class Mode(Enum):
    """How much to take from the queue."""

    NONE = "none"
    PROBE = "probe"
    FLOW = "flow"


class Subscription:
    """One AMQP channel with its prefetch, its subscription and its outstanding tags."""

    def __init__(self, number: int, channel: Any, queue: str) -> None:
        self.number = number
        self.channel = channel
        self.queue = queue
        self.ledger = AckLedger()
        self.consumer_tag = f"journey-consumer.{number}"
        self.subscribed = False

    def start(self, callback: Callable[[Any], None], on_cancel: Callable[[str], None]) -> None:
        """Ask the broker to deliver, without waiting for its answer."""
        if not self.subscribed:
            self.subscribed = True
            self.channel.basic_consume(
                self.queue,
                consumer_tag=self.consumer_tag,
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
            self.channel.basic_cancel(self.consumer_tag, nowait=True)

    def write_acks(self, *, everything: bool = False) -> None:
        """Acknowledge what is settled."""
        for tag, multiple in self.ledger.collect(everything=everything):
            self.channel.basic_ack(tag, multiple=multiple)
