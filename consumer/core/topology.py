"""The queues and exchanges of one consumer, as plain data. No broker is touched here.

    <queue>                        the queue to consume (an existing one is used as it is)
    <queue>.dead-letter            direct exchange, routing key = reason
    <queue>.dead-letter.<reason>   one queue per reason
    <queue>.retry.<n>s             delay queues: expire back into <queue>

Every queue is durable, of type quorum, and dead-letters at least once, so that neither a
broker restart nor a full disk on one node loses a journey.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from consumer.core.outcome import Reason

#: Reason of what the broker itself dead-letters: deliveries that killed the process too often.
DELIVERY_LIMIT = "delivery-limit"

#: Reading a quorum queue without consuming counts as a delivery. RabbitMQ 4 drops after 20 unless
#: told otherwise; 3.10 knows no "unlimited", so an unreachable number serves both.
UNREACHABLE_DELIVERY_LIMIT = 1_000_000_000


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue to declare when it is missing; ``bindings`` are (exchange, routing key)."""

    name: str
    arguments: dict[str, Any]
    bindings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Topology:
    """Names and arguments derived from the settings.

    ``exchange`` and ``routing_key`` bind our queue to the operator's exchange, which is never
    declared by us. ``delays_seconds`` is ascending.
    """

    queue: str
    exchange: str | None = None
    routing_key: str = ""
    delays_seconds: tuple[int, ...] = (60, 300, 900, 3600)
    delivery_limit: int = 20
    dead_letter_reasons: tuple[str, ...] = field(default=(*Reason, DELIVERY_LIMIT))

    @property
    def dead_letter_exchange(self) -> str:
        """The direct exchange that routes a dead letter by its reason."""
        return f"{self.queue}.dead-letter"

    def dead_letter_queue(self, reason: str) -> str:
        """The queue that keeps the dead letters of one reason."""
        return f"{self.queue}.dead-letter.{reason}"

    def delay_queue(self, seconds: int) -> str:
        """The queue in which a message waits ``seconds`` before it is moved to the main queue."""
        return f"{self.queue}.retry.{seconds}s"

    @property
    def names(self) -> frozenset[str]:
        """Of all queues, exchanges and routing keys that the settings name."""
        queues = (
            *map(self.dead_letter_queue, self.dead_letter_reasons),
            *map(self.delay_queue, self.delays_seconds),
        )
        ours = {self.queue, self.dead_letter_exchange, self.exchange or "", self.routing_key}
        return frozenset({*ours, *queues, *self.dead_letter_reasons} - {""})

    @property
    def main(self) -> QueueSpec:
        """Our own queue. Its broker-side dead-letter route is the net under a crash loop."""
        return QueueSpec(
            self.queue,
            {
                "x-queue-type": "quorum",
                "x-delivery-limit": self.delivery_limit,
                "x-dead-letter-exchange": self.dead_letter_exchange,
                "x-dead-letter-routing-key": DELIVERY_LIMIT,
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",  # the strategy above is refused without it
            },
            ((self.exchange, self.routing_key),) if self.exchange else (),
        )

    def support(self) -> Iterator[QueueSpec]:
        """The dead-letter and delay queues."""
        for reason in self.dead_letter_reasons:
            yield QueueSpec(
                self.dead_letter_queue(reason),
                {"x-queue-type": "quorum", "x-delivery-limit": UNREACHABLE_DELIVERY_LIMIT},
                ((self.dead_letter_exchange, reason),),
            )
        for seconds in self.delays_seconds:
            yield QueueSpec(
                self.delay_queue(seconds),
                {
                    "x-queue-type": "quorum",
                    "x-message-ttl": seconds * 1000,
                    "x-dead-letter-exchange": "",
                    "x-dead-letter-routing-key": self.queue,
                    "x-dead-letter-strategy": "at-least-once",
                    "x-overflow": "reject-publish",
                },
            )
