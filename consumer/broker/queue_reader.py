"""Taking messages out of any queue by hand, a batch at a time: for dead letters, not for the service.

1. Blocking: called from threads only, one at a time.
2. What is taken and not acknowledged goes back to its queue when the tap is closed.
3. A tap gives at most as many messages as there were when it was opened, so that what comes back
   to the queue meanwhile is not taken again.
4. A batch is bounded in bytes as well: what is too large for the Registry is a dead letter, too.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from amqp import spec

from consumer.broker.acks import AckLedger
from consumer.broker.connection import CLOSE_TIMEOUT_SECONDS, ConnectionFactory, bounded, close_connection
from consumer.broker.inspect import queue_facts, why
from consumer.core.delivery import Delivery
from consumer.errors import BrokerError

log = logging.getLogger("journey_consumer.tap")

#: Nothing more is coming: somebody else takes from the queue too.
IDLE_SECONDS = 2.0
#: A quorum queue takes back what a closed channel held on its own time; longer than that, and
#: somebody else has it.
GIVEN_BACK_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 0.02
#: An answer of the broker, or the next delivery before it, takes no longer.
ANSWER_SECONDS = 30.0
#: A batch ends with the message that exceeds this.
BATCH_BYTES = 8 * 1024 * 1024
#: Most that one lane holds.
WINDOW = 4_000
_FRAMES_AT_ONCE = 200


class QueueReader(Protocol):
    """A queue to take from."""

    def open(self, at_least: int = 0) -> int:
        """Connect; returns how many messages wait, after a moment's patience for ``at_least``.

        Raises BrokerError.
        """

    def take(self, most: int) -> list[Delivery]:
        """Take up to ``most`` messages or ``BATCH_BYTES``, none when none is left. Raises BrokerError."""

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Remove these from the queue; ``finish`` tells whether it was heard. Raises BrokerError."""

    def finish(self) -> None:
        """Wait until the broker has removed what was acknowledged; nothing can be taken any more.

        Raises BrokerError: then some, or all, of it may be in the queue again.
        """

    def keep_alive(self) -> None:
        """Answer the broker's heartbeats; to be called every few seconds while nothing else is."""

    def close(self) -> None:
        """Give back what is not acknowledged, and disconnect."""


class AmqpQueueReader:
    """Consumes by prefetch, and can hold a whole queue unacknowledged without its bodies.

    What is held is spread over lanes, channels with one consumer each: a quorum queue gives one consumer at
    most 65,535 messages, and RabbitMQ looks for each acknowledged message from the front of its channel's
    list. Closing lane after lane gives everything back in its old order (seen with 3.10), each with one
    more delivery counted.
    """

    def __init__(self, connections: ConnectionFactory, queue: str) -> None:
        self._connections = connections
        self._queue = queue
        self._left = 0
        self._lanes: list[PrefetchChannel] = []
        self._taken: deque[Delivery] = deque()
        self._taken_bytes = 0
        self._closing = False
        self._connection: Any = None
        self._sock: Any = None

    def open(self, at_least: int = 0) -> int:
        """Connect; returns how many messages wait, after a moment's patience for ``at_least``."""
        patient_until = time.monotonic() + GIVEN_BACK_SECONDS
        try:
            self._connection = self._connections.connect_to_broker("dead letters")
            # Every answer is waited for with a bound: a broker may be there, and say nothing any more.
            self._sock = self._connection.sock
            self._sock.settimeout(ANSWER_SECONDS)
            while (waiting := self._waiting()) < at_least and time.monotonic() < patient_until:
                time.sleep(_LOOK_AGAIN_SECONDS)
        except ConnectionFactory.ERRORS as error:
            raise BrokerError(f"the queue {self._queue!r} can not be read: {why(error)}") from error
        self._left = waiting
        return waiting

    def take(self, most: int) -> list[Delivery]:
        """Take up to ``most`` messages or ``BATCH_BYTES``."""
        wanted = min(most, self._left)
        idle_at = time.monotonic() + IDLE_SECONDS
        try:
            while (
                len(self._taken) < wanted
                and self._taken_bytes < BATCH_BYTES
                and (left := idle_at - time.monotonic()) > 0
            ):
                before = len(self._taken)
                if all(lane.held >= WINDOW for lane in self._lanes):
                    self._lanes.append(
                        PrefetchChannel(self._connection, len(self._lanes), self._queue, self._on_message)
                    )
                try:
                    self._connection.drain_events(timeout=left)
                except TimeoutError:
                    break
                if len(self._taken) > before:
                    idle_at = time.monotonic() + IDLE_SECONDS
            self._connection.heartbeat_tick()
        except ConnectionFactory.ERRORS as error:
            raise BrokerError(f"reading the queue {self._queue!r} ended: {why(error)}") from error
        batch = list[Delivery]()
        size = 0
        while self._taken and len(batch) < wanted and size < BATCH_BYTES:
            batch.append(self._taken.popleft())
            size += len(batch[-1].body)
        self._taken_bytes -= size
        self._left -= len(batch)
        return batch

    def acknowledge(self, deliveries: list[Delivery]) -> None:
        """Remove these from the queue."""
        try:
            for delivery in deliveries:
                self._lanes[delivery.channel].settle(delivery.tag)
            for lane in self._lanes:
                lane.write_acks()
            self._await_commits()
        except ConnectionFactory.ERRORS as error:
            raise BrokerError(f"acknowledging to {self._queue!r} failed: {why(error)}") from error

    def finish(self) -> None:
        """Wait until the broker has removed what was acknowledged; nothing can be taken any more."""
        self._closing, self._taken_bytes = True, 0  # what is still on its way is not wanted
        self._taken.clear()
        try:
            self._await_commits()
        except ConnectionFactory.ERRORS as error:
            raise BrokerError(
                f"the end of {self._queue!r} was not heard: some of it may be there again: {why(error)}"
            ) from error

    def keep_alive(self) -> None:
        """Answer the broker's heartbeats; to be called every few seconds while nothing else is."""
        try:
            try:
                for _ in range(_FRAMES_AT_ONCE):
                    self._connection.drain_events(timeout=0)
            except TimeoutError:
                pass  # nothing more to read
            self._connection.heartbeat_tick()
        except ConnectionFactory.ERRORS as error:
            raise BrokerError(f"the connection to {self._queue!r} was lost: {why(error)}") from error

    def close(self) -> None:
        """Give back what is not acknowledged, in its order, and disconnect."""
        if self._connection is None:
            return
        self._closing = True
        graceful = False
        try:
            self._sock.settimeout(CLOSE_TIMEOUT_SECONDS)
            for lane in self._lanes:  # none may be given what another one gives back
                lane.channel.basic_cancel(lane.tag)
            for lane in self._lanes:
                lane.channel.close()
            graceful = True
        except (
            ConnectionFactory.ERRORS
        ) as error:  # gone already: the broker has taken back what was not acknowledged
            log.debug("a tap could not be closed in order", extra={"reason": type(error).__name__})
        finally:
            close_connection(self._connection, graceful=graceful)
            self._connection = None

    def _await_commits(self) -> None:
        """Wait until the commits are answered, but take no more than a batch in meanwhile.

        The answer comes behind all deliveries that are on their way: thousands of large ones, perhaps.
        """
        held, patient_until = -1, 0.0
        while any(lane.unanswered for lane in self._lanes) and self._taken_bytes < BATCH_BYTES:
            if (now_held := sum(lane.held for lane in self._lanes)) != held:
                held, patient_until = now_held, time.monotonic() + ANSWER_SECONDS
            self._connection.drain_events(timeout=max(0.01, patient_until - time.monotonic()))
            if time.monotonic() > patient_until:  # heartbeats alone are no answer
                raise TimeoutError

    def _waiting(self) -> int:
        facts = queue_facts(self._connection, self._queue)
        if facts is None:
            raise BrokerError(f"the queue {self._queue!r} does not exist")
        return facts.messages

    def _on_message(self, message: Any, number: int) -> None:
        if self._closing:
            return
        info, properties = message.delivery_info, dict(message.properties)
        body = message.body or b""
        body = body.encode() if isinstance(body, str) else bytes(body)
        self._taken_bytes += len(body)
        self._taken.append(
            Delivery(
                body=body,
                headers=bounded(properties.pop("application_headers", None)),
                properties=properties,
                exchange=info["exchange"],
                routing_key=info["routing_key"],
                redelivered=bool(info["redelivered"]),
                received_at=time.monotonic(),
                tag=info["delivery_tag"],
                channel=number,
            )
        )


class PrefetchChannel:
    """One channel with one consumer, and what it has not acknowledged.

    In transaction mode, because a quorum queue then takes all acknowledgements of a commit as one command.
    Hundreds of single ones it takes in portions, and drops the rest when the channel closes.
    """

    def __init__(
        self, connection: Any, number: int, queue: str, on_message: Callable[[Any, int], None]
    ) -> None:
        self.ledger = AckLedger()
        self.held = 0
        self.tag = f"dead-letters.{number:06d}"
        self._number = number
        self._on_message = on_message
        self.unanswered = 0
        self.channel = connection.channel()
        self.channel.on_commit_ok = self._on_commit_ok
        self.channel.tx_select()
        self.channel.basic_qos(0, WINDOW, a_global=False)
        self.channel.basic_consume(queue, self.tag, callback=self._receive, on_cancel=_on_cancel)

    def settle(self, tag: int) -> None:
        """The message ``tag`` may be removed."""
        self.ledger.settle(tag)
        self.held -= 1

    def write_acks(self) -> None:
        """Remove what may be."""
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
        self._on_message(message, self._number)


def _on_cancel(_consumer_tag: str) -> None:
    raise ConnectionAbortedError("consumer cancelled by the broker")
