"""Taking messages by hand from the queues of kombu's transports without AMQP: as ``tap``, one at a time."""

from typing import Any

import kombu

from consumer.broker.queue_reader import BATCH_BYTES
from consumer.broker.virtual import RawMessage, delivery_of, transport_options
from consumer.core.delivery import Delivery
from consumer.errors import BrokerError


class VirtualQueueReader:
    """What is not acknowledged goes back when it is closed."""

    def __init__(self, url: str, queue: str) -> None:
        self._url = url
        self._queue = queue
        self._left = 0
        self._link: Any = None

    def open(self, at_least: int = 0) -> int:  # noqa: ARG002 these give back at once
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
        taken = list[Delivery]()
        while batch := self.take(self._left):
            taken += batch
        return taken

    def take(self, most: int) -> list[Delivery]:
        """Take up to ``most`` messages or ``BATCH_BYTES``."""
        batch: list[Delivery] = []
        size = 0
        while len(batch) < min(most, self._left) and size < BATCH_BYTES:
            message = self._channel.basic_get(self._queue)
            if message is None:
                break
            batch.append(delivery_of(message))
            size += len(batch[-1].body)
        self._left -= len(batch)
        return batch

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Remove these for good."""
        for delivery in deliveries:
            self._channel.basic_ack(delivery.tag)

    def finish(self) -> None:
        """Nothing is on its way here."""

    def keep_alive(self) -> None:
        """These transports have no heartbeats that we would have to answer."""

    def close(self) -> None:
        """Give back what is not acknowledged, and disconnect."""
        if self._link is not None:
            self._channel.qos.restore_unacked()
            self._channel.close()
            self._link.release()
