"""The life of the process: start, take deliveries, pause, drain, stop.

1. Each delivery is one task: read, handle, settle. An unexpected exception in it is a bug; the
   journey is then delayed and counted like any other failure, never lost.
2. How much is taken from the queue follows from the pauses: everything, one to probe with, nothing.
3. SIGTERM drains: nothing new, what waits is released, what is being submitted is finished and settled
   within the drain timeout; what could not finish goes back to the broker unacknowledged.
4. A background task that ends was needed: the service is not ready at once, drains, and ends with an error.
   Nothing that is stuck or fails while it is closed keeps the process.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from consumer.core.delivery import Delivery, Mode
from consumer.core.outcome import Acknowledge, DeadLetter, Delay, Disposition, PauseCause
from consumer.core.protocols import Consumer, Publisher
from consumer.logs import Output
from consumer.metrics import Metrics
from consumer.registry.tokens import TokenSource
from consumer.service.admission import Admission
from consumer.service.auto_replay import AutoReplayer, ServiceState
from consumer.service.handler import Handler
from consumer.service.health import Health
from consumer.service.inflight import Entry, InFlight
from consumer.service.settlement import Settler

log = logging.getLogger("journey_consumer.service")

TICK_SECONDS, CLOSE_SECONDS = 0.2, 3.0
#: Of a second signal: the exit code, and how long the last log lines may take.
EXIT_SECOND_SIGNAL, SECOND_SIGNAL_SECONDS = 1, 0.5
#: The pauses that an old token can have caused.
TOKEN_CAUSES = (PauseCause.UNAUTHORIZED, PauseCause.FORBIDDEN, PauseCause.MISCONFIGURED)


class Service:
    """Runs until ``stop`` is called or a signal comes. ``close_registry`` ends the HTTP client.

    ``background`` are publishers that only have to live as long. ``auto_replayer`` looks after dead letters;
    with half of ``prefetch`` in flight they wait behind fresh ones. ``clock`` is monotonic seconds.
    """

    def __init__(
        self,
        *,
        consumer: Consumer,
        publisher: Publisher,
        in_flight: InFlight,
        handler: Handler,
        settler: Settler,
        admission: Admission,
        health: Health,
        metrics: Metrics,
        output: Output,
        tokens: TokenSource,
        auto_replayer: AutoReplayer,
        close_registry: Callable[[], Awaitable[None]],
        drain_timeout_seconds: float,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        prefetch: int,
        background: Sequence[Publisher] = (),
    ) -> None:
        self._consumer = consumer
        self._publisher = publisher
        self._in_flight = in_flight
        self._handler = handler
        self._settler = settler
        self._admission = admission
        self._health = health
        self._metrics = metrics
        self._output = output
        self._lost_log_lines = 0
        self._tokens = tokens
        self._auto_replayer = auto_replayer
        self._close_registry = close_registry
        self._drain_timeout = drain_timeout_seconds
        self._clock = clock
        self._now = now
        self._prefetch = prefetch
        self._unconfirmed = 0  # deliveries without a confirm when a probe was taken last
        self._background = background
        self._successes = 0
        self._stopping = asyncio.Event()

    # --- a delivery, from its arrival to its settlement ---------------------------------

    def _deliver(self, delivery: Delivery) -> None:
        """Give a delivery that has arrived an entry and a task of its own."""
        metrics = self._metrics
        metrics.deliveries.inc()
        if delivery.redelivered:
            metrics.redelivered.inc()
        metrics.last_delivery.set(self._now().timestamp())
        if self._stopping.is_set():
            return  # unacknowledged: it goes back when the channel closes
        entry = self._in_flight.open(delivery)
        entry.task = self._loop.create_task(self._process(entry))
        entry.task.add_done_callback(lambda _task: self._in_flight.close(entry))

    async def _process(self, entry: Entry) -> None:
        try:
            self._in_flight.read(entry)
            result = await self._handler.handle(entry)
        except Exception as error:
            log.exception("a delivery could not be handled; it is delayed")
            result = self._handler.failed(entry, error)
        if self._admission.pausing is not None and not self._admission.probe_due:
            # The next one could not probe: it would lose its place in the queue.
            self._consumer.want(Mode.NONE)
        settled: Disposition | None = None
        try:
            settled = await self._settler.settle(entry, result)
            self._successes += isinstance(settled, Acknowledge)
            if settled is not None and entry.tracking.replays:
                self._auto_replayer.settled(settled)
        except Exception:
            # Nothing is lost: unacknowledged it comes again, and its delivery count bounds how often.
            log.exception("a delivery could not be settled; it stays with the broker")
        if not isinstance(settled, Acknowledge | DeadLetter):
            wait = settled.seconds if isinstance(settled, Delay) else 0.0
            self._in_flight.sent_back(entry, self._clock() + wait)

    def _lose(self) -> None:
        """The consuming connection was lost: its deliveries will come again."""
        self._settler.withdraw(self._in_flight)
        self._admission.notifier.notify_all()

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
            self._output.flush(SECOND_SIGNAL_SECONDS)
            os._exit(EXIT_SECOND_SIGNAL)
        log.info("draining", extra={"signal": number.name})
        self.stop()

    async def run(self) -> None:
        """Serve until stopped, then drain."""
        self._loop = asyncio.get_running_loop()
        state = ServiceState(
            paused=lambda: self._admission.pausing is not None or self._stopping.is_set(),
            busy=lambda: len(self._in_flight) >= self._prefetch / 2,
            successes=lambda: self._successes,
            refused=lambda: self._admission.token_refused,
            recoveries=lambda: self._admission.recoveries,
            connected=lambda: self._consumer.connected,
        )
        publishers = (self._publisher, *self._background)
        for publisher in publishers:
            publisher.start()
        background = [
            *(self._loop.create_task(each.watch(), name="publisher") for each in publishers),
            self._loop.create_task(self._consumer.run(self._deliver, self._lose), name="consumer"),
            self._loop.create_task(self._watch_token(), name="token"),
            self._loop.create_task(self._tick(), name="tick"),
            self._loop.create_task(self._auto_replayer.run(state), name="auto-replay"),
        ]
        stopping = self._loop.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([stopping, *background], return_when=asyncio.FIRST_COMPLETED)
            ended = [task for task in background if task in done]
            for task in ended:
                error = None if task.cancelled() else task.exception()
                log.error("a background task has ended", extra={"task": task.get_name()}, exc_info=error)
            await self._drain(f"the task {ended[0].get_name()} has ended" if ended else "draining")
        finally:
            await _cancel([stopping, *background])
        for task in ended:
            error = None if task.cancelled() else task.exception()
            raise error or RuntimeError(f"the task {task.get_name()} has ended")

    async def _drain(self, why: str) -> None:
        self._stopping.set()
        self._health.not_ready(why)
        self._consumer.want(Mode.NONE)
        self._handler.begin_drain()
        self._settler.begin_drain()
        started = self._clock()
        tasks = [entry.task for entry in self._in_flight if entry.task is not None]
        unfinished: set[asyncio.Task[None]] = set()
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=self._drain_timeout)
        await _cancel(unfinished)
        await self._close(*(publisher.close() for publisher in (self._publisher, *self._background)))
        await self._close(self._consumer.close())  # after the confirms: it writes the last acknowledgements
        await self._close(self._tokens.aclose(), self._close_registry())
        log.info(
            "drained",
            extra={"seconds": round(self._clock() - started, 3), "unfinished": len(unfinished)},
        )

    async def _close(self, *closing: Awaitable[None]) -> None:
        """Wait for these at most ``CLOSE_SECONDS``; what fails or is stuck must not keep the process."""
        for closed in await asyncio.gather(
            *(asyncio.wait_for(each, CLOSE_SECONDS) for each in closing), return_exceptions=True
        ):
            if isinstance(closed, Exception):
                log.error("a part of the service could not be closed", exc_info=closed)

    async def _watch_token(self) -> None:
        """A new token ends the pauses that an old one can have caused: probe at once."""

        def changed() -> None:
            self._admission.probe_now(*TOKEN_CAUSES)
            self._auto_replayer.token_changed()

        await self._tokens.watch(changed)
        await asyncio.Event().wait()  # a token that never changes is not watched

    async def _tick(self) -> None:
        """Five times a second, and when a pause begins or ends: heartbeat, mode, gauges."""
        while True:
            self._health.beat()
            self._apply_mode()
            self._update_gauges()
            self._update_readiness()
            self._admission.remind()
            await self._admission.pause_changed.wait(TICK_SECONDS)

    def _apply_mode(self) -> None:
        """Take from the queue what the pauses allow."""
        if self._stopping.is_set():
            mode = Mode.NONE
        elif self._admission.pausing is None:
            mode = Mode.FLOW
        elif self._in_flight.handling or not self._admission.probe_due:
            mode = Mode.NONE  # those that are here probe first
        else:
            # One that waits for its confirm holds the place of the probe: give the place up, take the next.
            unconfirmed = self._in_flight.publishing
            blocked = self._unconfirmed < unconfirmed or unconfirmed >= self._prefetch
            mode = Mode.NONE if blocked else Mode.PROBE
            self._unconfirmed = unconfirmed
        self._consumer.want(mode)

    def _update_gauges(self) -> None:
        metrics, in_flight = self._metrics, self._in_flight
        metrics.in_flight.set(len(in_flight))
        metrics.held.set(in_flight.waiting)
        room = len(in_flight) < self._prefetch / 2 and self._consumer.subscribed
        in_flight.forget_delivered(self._clock(), room=room and self._admission.pausing is None)
        oldest = in_flight.oldest_start
        metrics.oldest_pending_start.set(oldest.timestamp() if oldest is not None else 0)
        metrics.loop_heartbeat.set(self._now().timestamp())
        metrics.paused["throttled"].set(self._admission.throttled)
        metrics.paused["publisher"].set(bool(in_flight.publishing) and not self._publisher.ready)
        lost = self._output.lost_lines
        metrics.log_lines_lost.inc(lost - self._lost_log_lines)
        self._lost_log_lines = lost
        token = self._tokens.held
        if token is not None:
            metrics.token_loaded.set(token.loaded_at)
            metrics.token_expiry.set(token.expires_at or 0)

    def _update_readiness(self) -> None:
        if self._stopping.is_set():
            return
        if not self._consumer.connected:
            self._health.not_ready("not connected to the broker")
        elif not self._consumer.subscribed and self._admission.pausing is None:
            self._health.not_ready("not subscribed")
        else:
            self._health.ready(paused=self._admission.pausing)


async def _cancel(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel these, and wait for their end, at most ``CLOSE_SECONDS``."""
    if tasks := list(tasks):
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
