"""The queues and exchanges of one consumer, as plain data. No broker is touched here.

    <queue>                        the queue to consume (an existing one is used as it is)
    <queue>.dead-letter            direct exchange, routing key = reason
    <queue>.dead-letter.<reason>   one queue per reason
    <queue>.retry.<n>s             delay queues: expire back into <queue>

Every queue is durable, of type quorum, and dead-letters at least once, so that neither a
broker restart nor a full disk on one node loses a journey.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from consumer.core.outcome import Reason

#: Reason of what the broker itself dead-letters: deliveries that killed the process too often.
DELIVERY_LIMIT = "delivery-limit"

#: Reading a quorum queue without consuming counts as a delivery. RabbitMQ 4 drops after 20 unless
#: told otherwise; 3.10 knows no "unlimited", so an unreachable number serves both.
UNREACHABLE_DELIVERY_LIMIT = 1_000_000_000

#: An argument or a property of a queue: text, number, flag; None when it is not set.
Value = str | int | None
#: Stands for a value that the broker did not name.
UNKNOWN = "?"
STREAM = "stream"


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


# --- queues that are not as we declare them ---------------------------------------------

_NOT_SURELY = "the broker may lose what exceeds the delivery limit"
_LOST = {
    "durable": "the queue does not survive a restart of the broker",
    "auto_delete": "the queue is deleted with its last consumer",
    "x-delivery-limit": "a message that kills the process is delivered more or less often than configured",
    "x-dead-letter-exchange": "what exceeds the delivery limit is not kept by the broker as a dead letter",
    "x-dead-letter-routing-key": "what exceeds the delivery limit may not reach our dead-letter queue",
    "x-dead-letter-strategy": _NOT_SURELY,
    "x-overflow": _NOT_SURELY,
    "x-single-active-consumer": "one replica receives everything, the others nothing",
}
#: What matters on a quorum queue only: its broker-side dead-letter route, and what matters if it has one.
_ROUTE = {"x-dead-letter-routing-key", "x-dead-letter-strategy", "x-overflow"}
_QUORUM_ONLY = {"x-delivery-limit", "x-dead-letter-exchange", *_ROUTE}


def refusal(found: Mapping[str, Value]) -> str | None:
    """Why our main queue must not be consumed; ``found`` are its differences from ``Topology.main``."""
    if found.get("x-queue-type") == STREAM:
        return "is a stream, from which messages would be skipped: consume a quorum queue instead"
    if "auto_delete" in found:
        return "is auto-delete: it would be deleted, with its messages, at each pause and restart"
    return None


def losses(spec: QueueSpec, found: Mapping[str, Value]) -> list[str]:
    """What the differences ``found`` of an existing queue take from our promises; a sentence for each."""
    actual: dict[str, Value] = {**spec.arguments, **found}
    kind, exchange = actual.get("x-queue-type"), actual.get("x-dead-letter-exchange")
    route = "dropped" if exchange is None else f"moved to the exchange {exchange!r}"
    lost = []
    for name, value in found.items():
        if name == "x-queue-type":
            lost.append(
                "it is a stream, from which nothing is ever removed"
                if value == STREAM
                else "it is no quorum queue: messages live on one node, and one that kills the process "
                "is delivered again without end"
            )
        elif name in {"x-max-length", "x-max-length-bytes"} and value is not None:
            drops = UNKNOWN in found.values() or actual.get("x-overflow") in {None, "drop-head"}
            what = f"the oldest messages are {route}" if drops else "publishes are refused"
            lost.append(f"it is bounded ({name[2:]} {value}), beyond which {what}")
        elif name == "x-message-ttl" and name in spec.arguments:
            lost.append(
                "messages never return from it"
                if value is None
                else "messages expire at other times: journeys may be dropped or delivered again early"
            )
        elif name == "x-message-ttl":
            lost.append(f"messages that wait longer than {_seconds(value)} are {route}")
        elif name == "x-expires":
            lost.append(
                f"it is deleted, with its messages, {_seconds(value)} after its last consumer, as in a pause"
            )
        elif name in _QUORUM_ONLY and (kind != "quorum" or (name in _ROUTE and exchange is None)):
            continue
        elif name == "x-dead-letter-exchange" and value is not None:
            lost.append(f"what exceeds the delivery limit is {route}, not to our dead-letter queue")
        elif name in _LOST:
            lost.append(_LOST[name])
    return list(dict.fromkeys(lost)) or ["it is used as it is"]


def _seconds(milliseconds: Value) -> str:
    return f"{milliseconds / 1000:g} s" if isinstance(milliseconds, int) else "its limit"
