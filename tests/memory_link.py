"""A broker in a dictionary: both sides of it as the service sees them, for tests on a travelling clock.

It keeps what the contract suite (tests/integration/contract) asks of every broker, and breaks on command.
As with AMQP, tags start anew on each connection: a late acknowledgement would hit another message. No thread,
no socket, no clock but the loop's.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from consumer.core.delivery import Delivery, Mode
from consumer.core.outgoing import Outgoing
from consumer.core.topology import Topology
from consumer.errors import PublishError, PublishFailure


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it lies in a queue."""

    body: bytes
    headers: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    exchange: str = ""
    routing_key: str = ""
    redelivered: bool = False


#: After which a publish that is never confirmed fails.
CONFIRM_TIMEOUT_SECONDS = 30.0


class MemoryLink:
    """Queues, subscription and publisher in one. ``publish_failures`` are the next publishes' failures."""

    delay_queues = True

    def __init__(self, *, topology: Topology, prefetch: int = 100) -> None:
        self._topology = topology
        self._prefetch = prefetch
        self._delays = {topology.delay_queue(s): s for s in topology.delays_seconds}
        self._dead = {reason: topology.dead_letter_queue(reason) for reason in topology.dead_letter_reasons}
        self.queues: dict[str, deque[Stored]] = defaultdict(deque)
        self.publish_failures: deque[str] = deque()
        self.confirm_after_seconds = 0.0
        self.full: set[str] = set()  # queues at their length limit,
        self.missing: set[str] = set()  # that do not exist,
        self.silent: set[str] = set()  # and that confirm nothing: without a quorum
        self.down = False  # no connection is possible
        self.blocked = False  # by a memory or disk alarm
        self._stopped: list[tuple[Outgoing, asyncio.Future[None]]] = []  # published since
        self.submitted: list[Outgoing] = []
        self.mistaken = 0  # acknowledgements of what another connection delivered
        self._unacked: dict[int, Stored] = {}
        self._subscription: set[int] = set()  # unacknowledged tags of the present one
        self._mode = Mode.NONE
        self._generation = self._tag = 0
        self._connected = False
        self._ended: asyncio.Event | None = None

    # --- the test's side ------------------------------------------------------------------

    def put(self, body: bytes, **more: Any) -> None:
        """Publish to our queue, as the operator does."""
        self.queues[self._topology.queue].append(Stored(body, routing_key=self._topology.queue, **more))
        self._pump()

    def lose(self) -> None:
        """The connection breaks: everything unacknowledged comes again. It is there again unless ``down``."""
        if self._connected:
            self._give_back()
            self._disconnect()
            self.reconnect()

    def reconnect(self) -> None:
        """Connect, if the service runs and the broker is not ``down``."""
        if self._ended is not None and not self._ended.is_set() and not self.down and not self._connected:
            self._connected = True
            self._pump()

    def delete(self) -> list[Stored]:
        """Our queue is deleted and declared again; returns what was in it, unacknowledged messages too."""
        waiting = self.queues[self._topology.queue]
        lost = [*self._unacked.values(), *waiting]
        waiting.clear()
        self._forget()
        if self._connected:
            self._disconnect()
            self.reconnect()
        return lost

    def unblock(self) -> None:
        """The alarm is over: what was published meanwhile arrives."""
        self.blocked = False
        stopped, self._stopped = self._stopped, []
        for outgoing, future in stopped:
            self._take(outgoing, future)

    # --- intake ---------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def subscribed(self) -> bool:
        return self._connected and self._mode is not Mode.NONE

    def want(self, mode: Mode) -> None:
        if mode is not self._mode:
            self._mode = mode
            self._subscription.clear()  # as with AMQP: each has a prefetch of its own
        self._pump()

    def is_current(self, delivery: Delivery) -> bool:
        return self._connected and delivery.generation == self._generation

    def acknowledge(self, delivery: Delivery) -> bool:
        if not self.is_current(delivery):
            return False
        self.mistaken += delivery.generation != self._generation
        self._unacked.pop(delivery.tag, None)
        self._subscription.discard(delivery.tag)
        self._pump()
        return True

    async def run(self, on_delivery: Callable[[Delivery], None], on_lost: Callable[[], None]) -> None:
        self._on_delivery, self._on_lost = on_delivery, on_lost
        self.start()
        self.reconnect()
        assert self._ended is not None
        await self._ended.wait()

    async def close(self) -> None:
        if self._connected:
            self._give_back()
            self._disconnect()
        self._stopped.clear()
        if self._ended is not None:
            self._ended.set()

    # --- publisher ------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Publishes are taken at any time but in an alarm."""
        return not self.blocked

    def start(self) -> None:
        if self._ended is None or self._ended.is_set():
            self._loop = asyncio.get_running_loop()
            self._ended = asyncio.Event()

    async def watch(self) -> None:
        await asyncio.Event().wait()

    def submit(self, outgoing: Outgoing) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self._loop.create_future()
        self.submitted.append(outgoing)
        if self._ended is not None and self._ended.is_set():
            future.set_exception(PublishError(PublishFailure.CLOSED))
            return future
        self._loop.call_later(self.confirm_after_seconds, self._take, outgoing, future)
        return future

    def withdraw(self, future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_exception(PublishError(PublishFailure.OUT_OF_DATE))

    def _take(self, outgoing: Outgoing, future: asyncio.Future[None]) -> None:
        if future.done():
            return
        if self.blocked:
            self._stopped.append((outgoing, future))
            return
        queue = self._dead.get(outgoing.routing_key) if outgoing.exchange else outgoing.routing_key
        known = queue == self._topology.queue or queue in self._delays or queue in self._dead.values()
        if self.publish_failures:
            future.set_exception(PublishError(PublishFailure(self.publish_failures.popleft())))
        elif queue in self.full:
            future.set_exception(PublishError(PublishFailure.NACKED))
        elif queue in self.silent:
            self._loop.call_later(CONFIRM_TIMEOUT_SECONDS, self._time_out, future)
        elif (
            queue in self.missing
            or queue is None
            or not known
            or outgoing.exchange not in ("", self._topology.dead_letter_exchange)
        ):
            future.set_exception(PublishError(PublishFailure.RETURNED))
        else:
            stored = Stored(
                outgoing.body, dict(outgoing.headers), dict(outgoing.properties), outgoing.exchange, queue
            )
            self.queues[queue].append(stored)
            if queue in self._delays:
                self._loop.call_later(self._delays[queue], self._expire, queue)
            self._pump()
            future.set_result(None)

    def _time_out(self, future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_exception(PublishError(PublishFailure.TIMEOUT))

    # --- how it works ---------------------------------------------------------------------

    def _disconnect(self) -> None:
        self._connected = False
        self._generation += 1
        self._on_lost()

    def _expire(self, queue: str) -> None:
        stored = self.queues[queue].popleft()
        self.queues[self._topology.queue].append(replace(stored, routing_key=self._topology.queue))
        self._pump()

    def _give_back(self) -> None:
        for stored in reversed(self._unacked.values()):
            self.queues[self._topology.queue].appendleft(replace(stored, redelivered=True))
        self._forget()

    def _forget(self) -> None:
        self._unacked.clear()
        self._subscription.clear()
        self._tag = 0

    def _pump(self) -> None:
        waiting = self.queues[self._topology.queue]
        while self._connected and waiting and self._has_room():
            stored = waiting.popleft()
            self._tag += 1
            self._unacked[self._tag] = stored
            self._subscription.add(self._tag)
            delivery = Delivery(
                body=stored.body,
                headers=dict(stored.headers),
                properties=dict(stored.properties),
                exchange=stored.exchange,
                routing_key=stored.routing_key,
                redelivered=stored.redelivered,
                received_at=self._loop.time(),
                tag=self._tag,
                generation=self._generation,
            )
            self._loop.call_soon(self._hand_over, delivery)

    def _has_room(self) -> bool:
        allowed = {Mode.FLOW: self._prefetch, Mode.PROBE: 1, Mode.NONE: 0}
        return len(self._subscription) < allowed[self._mode]

    def _hand_over(self, delivery: Delivery) -> None:
        if delivery.generation == self._generation:
            self._on_delivery(delivery)
