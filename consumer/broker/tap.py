"""Taking messages out of any queue by hand, a batch at a time: for dead letters, not for the service.

1. Blocking: called from threads only, one at a time.
2. What is taken and not acknowledged goes back to its queue when the tap is closed.
3. A tap gives at most as many messages as there were when it was opened, so that what comes back
   to the queue meanwhile is not taken again.
"""

import time
from typing import Any, Protocol

import kombu

from consumer.broker.dial import Dialer
from consumer.broker.survey import queue_facts, why
from consumer.broker.virtual import RawMessage, delivery_of, transport_options
from consumer.delivery import Delivery
from consumer.errors import BrokerError

#: Nothing more is coming: somebody else takes from the queue too.
IDLE_SECONDS = 2.0
PREFETCH = 500


class Tap(Protocol):
    """A queue to take from."""

    def open(self) -> int:
        """Connect; returns how many messages wait. Raises BrokerError."""

    def take(self, most: int) -> list[Delivery]:
        """Take up to ``most`` messages, none when none is left. Raises BrokerError."""

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Remove these from the queue for good. Raises BrokerError."""

    def close(self) -> None:
        """Give back what is not acknowledged, and disconnect."""


class AmqpTap:
    """Consumes with a prefetch: a quorum queue then takes a whole batch of acknowledgements at once.

    (Each ``basic.get`` is a consumer of its own there, and acknowledgements of many consumers can be
    lost when the channel closes.)
    """

    def __init__(self, dialer: Dialer, queue: str) -> None:
        self._dialer = dialer
        self._queue = queue
        self._left = self._given = 0
        self._taken: list[Delivery] = []
        self._connection: Any = None

    def open(self) -> int:
        """Connect; returns how many messages wait."""
        try:
            self._connection = self._dialer.dial("dead letters")
            facts = queue_facts(self._connection, self._queue)
            if facts is None:
                raise BrokerError(f"the queue {self._queue!r} does not exist")
            self._channel = self._connection.channel()
            self._channel.basic_qos(0, PREFETCH, a_global=False)
            self._left = facts.messages
            self._channel.basic_consume(self._queue, callback=self._on_message)
        except Dialer.ERRORS as error:
            raise BrokerError(f"the queue {self._queue!r} can not be read: {why(error)}") from error
        return facts.messages

    def take(self, most: int) -> list[Delivery]:
        """Take up to ``most`` messages (at most ``PREFETCH`` may be unacknowledged)."""
        wanted = min(most, self._left, PREFETCH)
        idle_at = time.monotonic() + IDLE_SECONDS
        try:
            while len(self._taken) < wanted and (left := idle_at - time.monotonic()) > 0:
                before = len(self._taken)
                try:
                    self._connection.drain_events(timeout=left)
                except TimeoutError:
                    break
                if len(self._taken) > before:
                    idle_at = time.monotonic() + IDLE_SECONDS
        except Dialer.ERRORS as error:
            raise BrokerError(f"reading the queue {self._queue!r} ended: {why(error)}") from error
        batch, self._taken = self._taken[:wanted], self._taken[wanted:]
        self._left -= len(batch)
        self._given += len(batch)
        return batch

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Remove these, in one frame when they are all that was given out, and wait until it is heard."""
        if not deliveries:
            return
        try:
            if len(deliveries) == self._given:
                self._channel.basic_ack(deliveries[-1].tag, multiple=True)
            else:
                for delivery in deliveries:
                    self._channel.basic_ack(delivery.tag)
            self._given -= len(deliveries)
            # An answer to this means that the broker has read the acknowledgements.
            self._channel.basic_qos(0, PREFETCH, a_global=False)
        except Dialer.ERRORS as error:
            raise BrokerError(f"acknowledging to {self._queue!r} failed: {why(error)}") from error

    def close(self) -> None:
        """Give back what is not acknowledged, and disconnect."""
        if self._connection is None:
            return
        try:
            self._connection.close()
        except Dialer.ERRORS:
            return  # it is gone already, and the broker has taken back what was not acknowledged
        finally:
            self._connection.collect()

    def _on_message(self, message: Any) -> None:
        info, properties = message.delivery_info, dict(message.properties)
        body = message.body or b""
        self._taken.append(
            Delivery(
                body=body.encode() if isinstance(body, str) else bytes(body),
                headers=properties.pop("application_headers", None) or {},
                properties=properties,
                exchange=info["exchange"],
                routing_key=info["routing_key"],
                redelivered=bool(info["redelivered"]),
                received_at=time.monotonic(),
                tag=info["delivery_tag"],
            )
        )


class VirtualTap:
    """The same for kombu's transports without AMQP."""

    def __init__(self, url: str, queue: str) -> None:
        self._url = url
        self._queue = queue
        self._left = 0
        self._link: Any = None

    def open(self) -> int:
        """Connect; returns how many messages wait."""
        try:
            self._link = kombu.Connection(self._url, transport_options=transport_options(self._url))
            self._channel = self._link.channel()
            self._channel.Message = RawMessage
            self._channel.do_restore = False  # kombu would print what it cannot give back
            self._left = self.waiting()
        except Exception as error:  # each transport raises its own library's errors
            raise BrokerError(f"the queue {self._queue!r} can not be read: {type(error).__name__}") from error
        return self._left

    def waiting(self) -> int:
        """How many messages wait now; the tap must be open."""
        return int(self._channel.queue_declare(self._queue, passive=True).message_count)

    def take_all(self) -> list[Delivery]:
        """Take what waits now, whenever it came."""
        self._left = self.waiting()
        return self.take(self._left)

    def take(self, most: int) -> list[Delivery]:
        """Take up to ``most`` messages."""
        batch: list[Delivery] = []
        while len(batch) < min(most, self._left):
            message = self._channel.basic_get(self._queue)
            if message is None:
                break
            batch.append(delivery_of(message))
        self._left -= len(batch)
        return batch

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Remove these for good."""
        for delivery in deliveries:
            self._channel.basic_ack(delivery.tag)

    def close(self) -> None:
        """Give back what is not acknowledged, and disconnect."""
        if self._link is not None:
            self._channel.qos.restore_unacked()
            self._channel.close()
            self._link.release()
