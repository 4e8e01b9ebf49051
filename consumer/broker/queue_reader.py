"""Reads any queue without acknowledging, a batch at a time: for dead letters, not for the service.

1. Blocking: called from threads only, one at a time.
2. What was read and not acknowledged goes back to its queue when the reader is closed.
3. A reader gives at most as many messages as there were when it was opened, so that messages that
   come back to the queue meanwhile are not read again.
4. A batch is also bounded in bytes: payloads too large for the Registry are dead letters, too.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from amqp import spec

from consumer.broker.acks import AckLedger
from consumer.broker.causes import why
from consumer.broker.connection import (
    ANSWER_SECONDS,
    ConnectionFactory,
    build_delivery,
    close_connection,
)
from consumer.broker.frames import read_all
from consumer.broker.inspect import queue_facts
from consumer.core.delivery import Delivery
from consumer.errors import BrokerError

log = logging.getLogger("journey_consumer.broker")

#: No delivery for this long: another consumer has taken the rest.
IDLE_SECONDS = 2.0
#: A quorum queue takes back the messages of a closed channel with a delay; after longer than this,
#: another consumer has them.
GIVEN_BACK_SECONDS = 5.0
_POLL_SECONDS = 0.02
#: Longest wait for the broker to take acknowledgements, or for the next delivery before its answer.
COMMIT_SECONDS = 20.0
#: A batch ends with the message that exceeds this.
BATCH_BYTES = 8 * 1024 * 1024
#: Most messages that one channel holds.
WINDOW = 4_000
_FRAMES_AT_ONCE = 200


class QueueReader(Protocol):
    """Reads one queue."""

    def open(self, at_least: int = 0) -> int:
        """Connect; returns the number of messages. Waits up to GIVEN_BACK_SECONDS for ``at_least``.

        Raises BrokerError.
        """

    def read(self, most: int) -> list[Delivery]:
        """Read up to ``most`` messages or ``BATCH_BYTES``; empty at the end. Raises BrokerError."""

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Remove these from the queue; only ``finish`` confirms it. Raises BrokerError."""

    def finish(self) -> None:
        """Wait until the broker has removed what was acknowledged; ends reading.

        Raises BrokerError: then some or all of it may still be in the queue.
        """

    def keep_alive(self) -> None:
        """Answer the broker's heartbeats; to be called every few seconds between other calls."""

    def close(self) -> None:
        """Give back what is not acknowledged, and disconnect."""


class AmqpQueueReader:
    """Consumes by prefetch, and can hold a whole queue unacknowledged without its bodies.

    What is held is spread over channels with one consumer each: a quorum queue gives one consumer at most
    65,535 messages, and RabbitMQ searches for each acknowledged message from the front of its channel's
    list. Closing channel after channel gives everything back in its old order (seen with 3.10), each message
    with one more delivery counted.
    """

    def __init__(self, connections: ConnectionFactory, queue: str) -> None:
        self._connections = connections
        self._queue = queue
        self._left = 0
        self._channels: list[PrefetchChannel] = []
        self._read: deque[Delivery] = deque()
        self._read_bytes = 0
        self._closing = False
        self._connection: Any = None

    def open(self, at_least: int = 0) -> int:
        wait_until = time.monotonic() + GIVEN_BACK_SECONDS
        with self._errors("cannot be read"):
            self._connection = self._connections.connect("dead letters")
            while (waiting := self._waiting()) < at_least and time.monotonic() < wait_until:
                time.sleep(_POLL_SECONDS)
        self._left = waiting
        return waiting

    def read(self, most: int) -> list[Delivery]:
        wanted = min(most, self._left)
        with self._errors("could not be read to its end"):
            self._receive(wanted)
            self._connection.heartbeat_tick()
        batch = list[Delivery]()
        size = 0
        while self._read and len(batch) < wanted and size < BATCH_BYTES:
            batch.append(self._read.popleft())
            size += len(batch[-1].body)
        self._read_bytes -= size
        self._left -= len(batch)
        return batch

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        with self._errors("did not take an acknowledgement"):
            for delivery in deliveries:
                self._channels[delivery.channel].settle(delivery.tag)
            for channel in self._channels:
                channel.write_acks()
            self._await_commits()

    def finish(self) -> None:
        self._closing, self._read_bytes = True, 0  # later deliveries are not wanted
        self._read.clear()
        with self._errors("did not confirm the removal: some messages may still be in it"):
            self._await_commits()

    def keep_alive(self) -> None:
        with self._errors("is no longer connected"):
            if self._read_bytes < BATCH_BYTES:
                read_all(self._connection, at_most=_FRAMES_AT_ONCE)
            else:
                self._connection.bytes_recv += 1  # the broker's heartbeats may be there, unread
            self._connection.heartbeat_tick()

    def close(self) -> None:
        if self._connection is None:
            return
        self._closing = True
        graceful = False
        try:
            with self._connection.within(ANSWER_SECONDS):
                for each in self._channels:  # so that none receives what another one gives back
                    each.channel.basic_cancel(each.tag)
                for each in self._channels:
                    each.channel.close()
            graceful = True
        except ConnectionFactory.ERRORS as error:  # the broker takes back what was not acknowledged
            log.debug("closing a queue reader failed", extra={"reason": type(error).__name__})
        finally:
            close_connection(self._connection, graceful=graceful)
            self._connection = None

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Raise any error of the connection as BrokerError: the queue, ``what`` and the reason."""
        try:
            yield
        except ConnectionFactory.ERRORS as error:
            raise BrokerError(f"the queue {self._queue!r} {what}: {why(error)}") from error

    def _receive(self, wanted: int) -> None:
        """Wait for ``wanted`` messages or ``BATCH_BYTES``, or until none arrives for IDLE_SECONDS."""
        idle_at = time.monotonic() + IDLE_SECONDS
        while (
            len(self._read) < wanted
            and self._read_bytes < BATCH_BYTES
            and (left := idle_at - time.monotonic()) > 0
        ):
            before = len(self._read)
            if all(channel.held >= WINDOW for channel in self._channels):
                number = len(self._channels)
                self._channels.append(
                    PrefetchChannel(self._connection, number, self._queue, self._on_message)
                )
            try:
                self._connection.drain_events(timeout=left)
            except TimeoutError:
                return
            if len(self._read) > before:
                idle_at = time.monotonic() + IDLE_SECONDS

    def _await_commits(self) -> None:
        """Wait until the commits are answered, but receive no more than a batch meanwhile.

        The answer comes behind all deliveries that are on their way: perhaps thousands of large ones.
        """
        held, wait_until = -1, 0.0
        while any(channel.unanswered for channel in self._channels) and self._read_bytes < BATCH_BYTES:
            if (now_held := sum(channel.held for channel in self._channels)) != held:
                held, wait_until = now_held, time.monotonic() + COMMIT_SECONDS
            self._connection.drain_events(timeout=max(0.01, wait_until - time.monotonic()))
            if time.monotonic() > wait_until:  # heartbeats alone are no answer
                raise TimeoutError

    def _waiting(self) -> int:
        facts = queue_facts(self._connection, self._queue)
        if facts is None:
            raise BrokerError(f"the queue {self._queue!r} does not exist")
        return facts.messages

    def _on_message(self, message: Any, number: int) -> None:
        if not self._closing:
            self._read.append(build_delivery(message, channel=number))
            self._read_bytes += len(self._read[-1].body)


class PrefetchChannel:
    """One channel with one consumer, and what it has not acknowledged.

    In transaction mode: a quorum queue then takes all acknowledgements of a commit as one command. It takes
    hundreds of single ones in portions, and drops the rest when the channel closes.
    """

    def __init__(
        self, connection: Any, number: int, queue: str, on_message: Callable[[Any, int], None]
    ) -> None:
        self.ledger = AckLedger()
        self.held = self.unanswered = 0  # messages, commits
        self.tag = f"dead-letters.{number:06d}"
        self._number = number
        self._on_message = on_message
        self.channel = connection.channel()
        self.channel.on_commit_ok = self._on_commit_ok
        self.channel.tx_select()
        self.channel.basic_qos(0, WINDOW, a_global=False)
        self.channel.basic_consume(queue, self.tag, callback=self._receive, on_cancel=_on_cancel)

    def settle(self, tag: int) -> None:
        self.ledger.settle(tag)
        self.held -= 1

    def write_acks(self) -> None:
        """Acknowledge and commit what was settled, without waiting for the answer."""
        if not self.ledger.pending:
            return
        for tag, multiple in self.ledger.collect(everything=True):
            self.channel.basic_ack(tag, multiple=multiple)
        self.channel.send_method(spec.Tx.Commit)
        self.unanswered += 1

    def _on_commit_ok(self) -> None:
        self.unanswered -= 1

    def _receive(self, message: Any) -> None:
        self.held += 1
        self.ledger.delivered(message.delivery_info["delivery_tag"])
        if size := self.channel.connection.unread_body_bytes:  # never settled, so never acknowledged
            log.warning("a message is too large to be read: it stays in its queue", extra={"bytes": size})
        else:
            self._on_message(message, self._number)


def _on_cancel(_consumer_tag: str) -> None:
    raise ConnectionAbortedError("consumer cancelled by the broker")
