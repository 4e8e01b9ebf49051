"""The life of the process: start, take deliveries, pause, drain, stop.

1. Each delivery is one task: handle, then settle. An unexpected exception in it is a bug of ours;
   the journey is then delayed and counted like any other failure, never lost.
2. How much is taken from the queue follows from the gate: everything, one to probe with, nothing.
3. SIGTERM drains: nothing new, what waits is released, what is being sent is finished and settled
   within the drain timeout; what could not finish goes back to the broker unacknowledged.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from consumer.core.delivery import Delivery, Mode
from consumer.core.headers import tracking_headers
from consumer.core.outcome import PauseCause, Unavailable
from consumer.logs import SettlementLog
from consumer.metrics import Metrics
from consumer.registry.tokens import TokenSource
from consumer.service.admission import Admission
from consumer.service.auto_replay import AutoReplayer, ServiceState
from consumer.service.handler import Handler
from consumer.service.health import Health
from consumer.service.result import HandlingResult
from consumer.service.settlement import Settler

log = logging.getLogger("journey_consumer.service")

TICK_SECONDS = 0.2
EXIT_SECOND_SIGNAL = 1


class Consumer(Protocol):
    """The consuming side, as the life of the process sees it."""

    @property
    def connected(self) -> bool:
        """Whether the queues are verified and can be read."""

    @property
    def subscribed(self) -> bool:
        """Whether the broker may send deliveries now."""

    def want(self, mode: Mode) -> None:
        """Take all, one, or nothing."""

    async def run(self, on_delivery: Callable[[Delivery], None], on_lost: Callable[[], None]) -> None:
        """Stay connected until closed."""

    async def close(self) -> None:
        """Write the last acknowledgements and disconnect."""


class Publisher(Protocol):
    """The publishing side, as the life of the process sees it."""

    @property
    def ready(self) -> bool:
        """Whether the broker takes publishes now."""

    def start(self) -> None:
        """Start publishing."""

    async def close(self) -> None:
        """Stop publishing."""


class Service:
    """Runs until ``stop`` is called or a signal comes. ``close_registry`` ends the HTTP client.

    ``background`` are publishers that only have to live as long. ``returner`` looks after dead letters;
    from ``busy_from`` deliveries on they wait behind fresh ones.
    """

    def __init__(
        self,
        *,
        consumer: Consumer,
        publisher: Publisher,
        handler: Handler,
        settler: Settler,
        admission: Admission,
        health: Health,
        metrics: Metrics,
        settlement_log: SettlementLog,
        tokens: TokenSource,
        close_registry: Callable[[], Awaitable[None]],
        drain_timeout_seconds: float,
        auto_replayer: AutoReplayer | None = None,
        busy_from: int = 1,
        background: Sequence[Publisher] = (),
    ) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._handler = handler
        self._settler = settler
        self._admission = admission
        self._health = health
        self._metrics = metrics
        self._log = settlement_log
        self._tokens = tokens
        self._close_registry = close_registry
        self._drain_timeout = drain_timeout_seconds
        self._auto_replayer = auto_replayer
        self._background = background
        self._surroundings = ServiceState(
            paused=lambda: admission.pausing is not None or self._stopping.is_set(),
            busy=lambda: len(self._tasks) >= busy_from,
            successes=lambda: settler.successes,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        admission.listen(self.apply_mode)

    # --- called by the intake ----------------------------------------------------------

    def deliver(self, delivery: Delivery) -> None:
        """A delivery has come: give it a task of its own."""
        metrics = self._metrics
        metrics.deliveries.inc()
        if delivery.redelivered:
            metrics.redelivered.inc()
        metrics.last_delivery.set(time.time())
        if self._stopping.is_set():
            return  # unacknowledged: it goes back when the channel closes
        task = self._loop.create_task(self._process(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def lost(self) -> None:
        """The consuming connection is gone: its deliveries will come again."""
        self._settler.forget_unconfirmed()
        self._admission.notifier.notify_all()

    async def _process(self, delivery: Delivery) -> None:
        try:
            fate = await self._handler.handle(delivery)
        except Exception as error:
            log.exception("a delivery could not be handled; it is delayed")
            fate = self._fate_of_bug(delivery, error)
        try:
            await self._settler.settle(delivery, fate)
        except Exception:
            # Nothing is lost: unacknowledged it comes again, and its delivery count bounds how often.
            log.exception("a delivery could not be settled; it stays with the broker")

    def _fate_of_bug(self, delivery: Delivery, error: Exception) -> HandlingResult:
        """An attempt like any other: bounded, then dead-lettered as exhausted."""
        outcome = Unavailable(f"internal error {type(error).__name__}")
        return self._handler.give_up_visit(tracking_headers(delivery), outcome)

    # --- life --------------------------------------------------------------------------

    def stop(self) -> None:
        """Drain and end. A second call changes nothing."""
        self._stopping.set()

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT drain; a second one ends the process at once. Works as PID 1."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            log.warning("second signal: ending at once", extra={"signal": number.name})
            self._log.flush()
            os._exit(EXIT_SECOND_SIGNAL)
        log.info("draining", extra={"signal": number.name})
        self.stop()

    async def run(self) -> None:
        """Serve until stopped, then drain."""
        self._loop = asyncio.get_running_loop()
        self._publisher.start()
        for publisher in self._background:
            publisher.start()
        background = [
            self._loop.create_task(self._consumer.run(self.deliver, self.lost), name="intake"),
            self._loop.create_task(self._watch_token(), name="token"),
            self._loop.create_task(self._tick(), name="tick"),
        ]
        if self._auto_replayer is not None:
            returning = self._auto_replayer.run(self._surroundings)
            background.append(self._loop.create_task(returning, name="returner"))
        stopping = self._loop.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([stopping, *background], return_when=asyncio.FIRST_COMPLETED)
            await self._drain()
        finally:
            for task in (stopping, *background):
                task.cancel()
            await asyncio.gather(stopping, *background, return_exceptions=True)
            self._log.flush()
        for task in done - {stopping}:
            task.result()  # a background task never ends by itself: its exception stops the process

    async def _drain(self) -> None:
        self._stopping.set()
        self._health.not_ready("draining")
        self._handler.draining = True
        self._settler.begin_drain()
        self._consumer.want(Mode.NONE)
        self._admission.notifier.notify_all()
        started = time.monotonic()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=self._drain_timeout)
        unfinished = len(self._tasks)
        for task in set(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for publisher in (self._publisher, *self._background):
            await publisher.close()
        await self._consumer.close()
        await self._tokens.aclose()
        await self._close_registry()
        log.info(
            "drained",
            extra={"seconds": round(time.monotonic() - started, 3), "unfinished": unfinished},
        )

    async def _watch_token(self) -> None:
        """A new token ends the pauses that an old one can have caused: probe at once."""

        def changed() -> None:
            self._admission.probe_now(*causes)
            if self._auto_replayer is not None:
                self._auto_replayer.token_changed()

        causes = (PauseCause.UNAUTHORIZED, PauseCause.FORBIDDEN, PauseCause.MISCONFIGURED)
        await self._tokens.watch(changed)
        await asyncio.Event().wait()  # a token that never changes is not watched

    async def _tick(self) -> None:
        """Five times a second: the heartbeat, the mode, the gauges, the log's buffer."""
        while True:
            self._health.beat()
            self.apply_mode()
            self._look()
            self._log.flush()
            await asyncio.sleep(TICK_SECONDS)

    def apply_mode(self) -> None:
        """Take from the queue what the gate allows."""
        if self._stopping.is_set():
            mode = Mode.NONE
        elif self._admission.pausing is None:
            mode = Mode.FLOW
        else:
            mode = Mode.NONE if self._tasks else Mode.PROBE
        self._consumer.want(mode)

    def _look(self) -> None:
        metrics, consumer = self._metrics, self._consumer
        metrics.in_flight.set(len(self._tasks))
        oldest = self._handler.oldest_pending_start
        metrics.oldest_pending_start.set(oldest.timestamp() if oldest is not None else 0)
        metrics.loop_heartbeat.set(time.time())
        metrics.held.set(self._handler.waiting)
        metrics.paused["throttled"].set(self._admission.throttled)
        metrics.paused["publisher"].set(bool(self._settler.publishing) and not self._publisher.ready)
        token = self._tokens.held
        if token is not None:
            metrics.token_loaded.set(token.loaded_at)
            metrics.token_expiry.set(token.expires_at or 0)
        if self._stopping.is_set():
            return
        pausing = self._admission.pausing
        if not consumer.connected:
            self._health.not_ready("not connected to the broker")
        elif not consumer.subscribed and pausing is None:
            self._health.not_ready("not subscribed")
        else:
            self._health.ready()
