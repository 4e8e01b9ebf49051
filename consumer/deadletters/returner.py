"""Inside the service: unauthorized dead letters return by themselves, and the nearest deadline is known.

1. They return after a token was loaded and the Registry has accepted a submission; only what died before
   that token, the nearest deadline first, at a bounded rate. One is sent as a probe when nothing else comes.
2. They stay behind fresh journeys: while the service is paused none returns (but the probe, which may be
   what ends the pause), and while it is busy only those whose deadline is near. What was returned too
   often is left for a person.
3. Any number of replicas may do this at once: the broker gives each message to one of them.
4. Whatever fails here is logged and tried again later; it never ends the service.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from consumer.broker.tap import Tap
from consumer.deadletters.filters import Range, Selection
from consumer.deadletters.hand import Dead
from consumer.deadletters.record import NO_DEADLINE, Record, read
from consumer.deadletters.replay import Publisher, ToQueue
from consumer.deadletters.sweep import Sweep, Taps
from consumer.deadletters.underway import Acted, Result, in_thread
from consumer.delivery import Delivery
from consumer.errors import BrokerError
from consumer.metrics import Metrics
from consumer.outcome import Reason

log = logging.getLogger("journey_consumer.returner")

MOST_REPLAYS = 5
#: Held at once: less than at the command line, because the service's memory is not ours alone.
MOST_BYTES = 4 * 1024 * 1024
#: Journeys with less than this left do not wait behind fresh ones.
URGENT_SECONDS = 3 * 3600.0
_URGENT = Selection(left=Range(None, URGENT_SECONDS))
#: Rounds after a token was loaded, soon at first, then seldom: another replica may hold them all, and end.
ROUNDS, FIRST_ROUND_SECONDS, ROUND_SECONDS = 30, 1.0, 60.0
#: How long they are kept waiting in hand when the service becomes busy meanwhile, then given back: a
#: dead letter in hand is seen by nobody else.
BUSY_SECONDS = 5.0
MOST_LOOKED_AT = 1_000
_POLL_SECONDS = 0.2
_ACCEPTED_WITHIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the service tells of itself: ``paused`` by the gate, ``busy`` with fresh journeys."""

    paused: Callable[[], bool]
    busy: Callable[[], bool]
    successes: Callable[[], int]


class Returner:
    """``taps`` finds the dead-letter queues by reason; blocking, raises BrokerError. ``now`` is aware."""

    def __init__(
        self,
        *,
        taps: Callable[[Sequence[str]], Taps],
        publisher: Publisher,
        queue: str,
        metrics: Metrics,
        now: Callable[[], datetime],
        returning: bool,
        per_second: float,
        look_seconds: float,
        round_seconds: float = ROUND_SECONDS,
    ) -> None:
        self._taps = taps
        self._to_queue = ToQueue(publisher, queue)
        self._metrics = metrics
        self._now = now
        self._returning = returning
        self._per_second = per_second
        self._look_seconds = look_seconds
        self._round_seconds = round_seconds
        self._token_loaded_at = now()
        self._successes_before = 0
        self._token_changed = asyncio.Event()
        self._token_changed.set()  # the first token counts: it may be why the service was started again

    def token_changed(self) -> None:
        """A new token is in use."""
        self._token_loaded_at = self._now()
        self._token_changed.set()

    async def run(self, surroundings: Surroundings) -> None:
        """Do it until cancelled."""
        tasks = []
        if self._returning:
            tasks.append(self._return_for_ever(surroundings))
        if self._look_seconds:
            tasks.append(self._look_for_ever())
        await asyncio.gather(*tasks)
        await asyncio.Event().wait()  # nothing to do is no reason to end

    # --- returning ------------------------------------------------------------------------

    async def _return_for_ever(self, around: Surroundings) -> None:
        while True:
            await self._token_changed.wait()
            self._token_changed.clear()
            self._successes_before = around.successes()
            rounds, pause, told = 0, min(FIRST_ROUND_SECONDS, self._round_seconds), ""
            while rounds < ROUNDS:
                try:
                    await self._return(around)
                    # Behind an outage or fresh ones they wait for as long as it takes.
                    rounds += not (around.paused() or around.busy())
                    told = ""
                except BrokerError as error:
                    if str(error) != told:  # it may last: a queue that was deleted, a permission
                        told = str(error)
                        log.info("dead letters can not be returned now", extra={"reason": told})
                except Exception:
                    rounds += 1
                    log.exception("dead letters could not be returned; this is tried again")
                if self._token_changed.is_set():
                    break
                await _wait_for(self._token_changed, pause)
                pause = min(2 * pause, self._round_seconds)

    async def _return(self, around: Surroundings) -> None:
        """One round: probe unless the token is known to be good, then the rest."""
        if not self._is_accepted(around):
            if not around.busy():  # otherwise the fresh ones tell
                await self._sweep(around, Selection(), probing=True)
            before = self._now()
            while not self._is_accepted(around):
                waited = (self._now() - before).total_seconds()
                if waited > _ACCEPTED_WITHIN_SECONDS or self._token_changed.is_set():
                    return  # refused, or nothing to probe with: the next round asks again
                await asyncio.sleep(_POLL_SECONDS)
        if not around.paused():
            await self._sweep(around, _URGENT if around.busy() else Selection())

    def _is_accepted(self, around: Surroundings) -> bool:
        return around.successes() > self._successes_before

    async def _sweep(self, around: Surroundings, selection: Selection, *, probing: bool = False) -> None:
        until = self._token_loaded_at

        def skip(record: Record, _delivery: Delivery) -> str | None:
            if record.died is not None and record.died >= until:
                return "died with this token"
            if record.replays >= MOST_REPLAYS:
                return "returned too often"
            return "beyond saving" if record.is_lost(self._now()) else None

        async def act(batch: Sequence[Dead]) -> Acted:
            if not (probing or await self._may_go(batch, around)):
                return Acted([Result("waits", gone=False)] * len(batch), "the service is busy")
            return await self._to_queue(batch)

        taps = await in_thread(self._taps, [Reason.UNAUTHORIZED])
        sweep = Sweep(taps, selection, now=self._now, skip=skip, most_bytes=MOST_BYTES)
        tally = await sweep.run(act, limit=1 if probing else None, rate=self._per_second)
        if tally.selected or tally.skipped:
            log.info(
                "unauthorized dead letters returned",
                extra={"outcomes": dict(tally.outcomes), "skipped": dict(tally.skipped)},
            )

    async def _may_go(self, batch: Sequence[Dead], around: Surroundings) -> bool:
        """Wait for a good moment, within a bound; False when none came."""
        for _ in range(int(BUSY_SECONDS / _POLL_SECONDS)):
            left = min(dead.record.urgency for dead in batch) - self._now().timestamp()
            if not around.paused() and (left < URGENT_SECONDS or not around.busy()):
                return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    # --- looking --------------------------------------------------------------------------

    async def _look_for_ever(self) -> None:
        gauges = self._metrics.dead_letters_oldest_deadline
        while True:
            try:
                taps = await in_thread(self._taps, ())
                nearest = await in_thread(_nearest, taps, self._now().timestamp())
                for reason, urgency in nearest.items():
                    gauges[reason].set(0 if urgency is None or urgency == NO_DEADLINE else urgency)
            except BrokerError as error:
                log.info("dead letters can not be looked at now", extra={"reason": str(error)})
            except Exception:
                log.exception("dead letters could not be looked at; this is tried again")
            await asyncio.sleep(self._look_seconds)


def _nearest(taps: Mapping[str, Callable[[], Tap]], now: float) -> dict[str, float | None]:
    """The most urgent that can be saved of the first ``MOST_LOOKED_AT`` of each queue.

    One that is lost when none can be saved; None for an empty queue.
    """
    found: dict[str, float | None] = {}
    for reason, make in taps.items():
        tap = make()
        try:
            left, urgencies = min(tap.open(), MOST_LOOKED_AT), list[float]()
            while left > 0 and (batch := tap.take(left)):
                left -= len(batch)
                urgencies += (read(each, reason).urgency for each in batch)
            savable = [each for each in urgencies if each > now]
            found[reason] = min(savable or urgencies, default=None)
        finally:
            tap.close()
    return found


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
