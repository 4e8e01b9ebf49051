"""What happens in the demo, in which order, and when it goes on: a literal list of acts.

An act lasts at least its seconds and until what it waits for is so; what does not become so in time is
a failure of the demo. Knows the stage's levers, and of the view only that it can be told things.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from consumer.demo.account import Account, account
from consumer.demo.stage import Now, Stage
from consumer.demo.view import Scene, View
from consumer.logs import LOGGER

TRAFFIC_SECONDS = 0.04
VIEW_SECONDS = 0.1
RATE_SAMPLES, RATE_SECONDS = 28, 0.5
PATIENCE_SECONDS = 30.0


async def _revoke(stage: Stage) -> str:
    stage.revoke_token()
    return "the Registry revokes the token"


async def _rotate(stage: Stage) -> str:
    stage.rotate_token()
    return "a new token is written to the token file"


async def _replay(stage: Stage) -> str:
    count = await stage.replay("unauthorized")
    return f"dead-letters replay: {count} unauthorized journeys go back to the queue"


async def _stop(stage: Stage) -> str:
    await stage.stop_registry()
    return "the Registry goes down"


async def _start(stage: Stage) -> str:
    await stage.start_registry()
    return "the Registry is back"


@dataclass(frozen=True, slots=True)
class Act:
    """``rate`` is messages a second, of which the shares ``invalid`` and ``again`` are not new journeys."""

    title: str
    words: str
    seconds: float
    rate: float
    invalid: float = 0.0
    again: float = 0.0
    begin: Callable[[Stage], Awaitable[str]] | None = None
    until: Callable[[Stage], bool] = lambda _stage: True
    awaited: str = ""


def _flows(stage: Stage) -> bool:
    now = stage.now()
    return now.paused is None and now.waiting == 0


ACTS = (
    Act(
        "Journeys flow",
        "Messages are taken from the queue, validated, sent to the Registry, acknowledged when it has them.",
        10,
        35,
    ),
    Act(
        "Some payloads are invalid",
        "They are never sent: each goes to the dead-letter queue `invalid`, with the field that is wrong.",
        6,
        35,
        invalid=0.25,
    ),
    Act(
        "Some journeys come twice",
        "The Registry answers 409 to what it already has. That is a success: the message is acknowledged.",
        6,
        35,
        again=0.35,
    ),
    Act(
        "The token is revoked",
        "Refused journeys go to the dead-letter queue `unauthorized`. After 10 in a row consumption pauses: "
        "the backlog waits in the queue, where it is safe.",
        7,
        25,
        begin=_revoke,
        until=lambda stage: stage.now().paused == "unauthorized",
        awaited="consumption pauses",
    ),
    Act(
        "A new token arrives",
        "The service sees that the token file has changed, tries it with one journey, and catches up.",
        4,
        12,
        begin=_rotate,
        until=_flows,
        awaited="consumption resumes and the backlog is gone",
    ),
    Act(
        "The refused journeys are sent again",
        "A replay moves dead letters back to the queue: each is published, confirmed, and only then removed.",
        4,
        12,
        begin=_replay,
        until=lambda stage: _flows(stage) and stage.now().dead["unauthorized"] == 0,
        awaited="the replayed journeys are registered",
    ),
    Act(
        "The Registry goes down",
        "A few quick retries, then consumption pauses for everybody. Waiting costs no journey an attempt.",
        8,
        25,
        begin=_stop,
        until=lambda stage: stage.now().paused == "unavailable",
        awaited="consumption pauses",
    ),
    Act(
        "The Registry comes back",
        "One journey probes, then the others follow. What was cut off in the middle is sent again, safely.",
        5,
        12,
        begin=_start,
        until=_flows,
        awaited="consumption resumes and the backlog is gone",
    ),
    Act(
        "The queue runs empty",
        "Nothing more is published. When everything is settled, the books are compared.",
        2,
        0,
        until=lambda stage: stage.is_settled(),
        awaited="every journey is settled",
    ),
)


class _Listener(logging.Handler):
    """Hears the service's own words on pauses and tokens."""

    def __init__(self, on_event: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._on_event = on_event

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        cause = getattr(record, "cause", None)
        if cause is not None:
            self._on_event(f"service: {text} ({cause})")
        elif text.startswith("token loaded") or record.levelno >= logging.WARNING:
            self._on_event(f"service: {text}")


@dataclass(slots=True)
class _Traffic:
    """Publishes at the rate of the act, evenly; the mix is dealt out, not drawn."""

    stage: Stage
    due: float = 0.0
    shares: dict[str, float] = field(default_factory=lambda: {"invalid": 0.0, "again": 0.0})

    async def publish(self, act: Act, seconds: float) -> None:
        self.due += act.rate * seconds
        while self.due >= 1.0:
            self.due -= 1.0
            if self._deal("invalid", act.invalid):
                await self.stage.publish_invalid()
            elif self._deal("again", act.again):
                await self.stage.publish_again()
            else:
                await self.stage.publish_valid()

    def _deal(self, kind: str, share: float) -> bool:
        self.shares[kind] += share
        if self.shares[kind] < 1.0:
            return False
        self.shares[kind] -= 1.0
        return True


class Demo:
    """Plays the acts on a stage and shows them. ``speed`` shortens the acts and raises the rates."""

    def __init__(
        self, stage: Stage, view: View, *, speed: float = 1.0, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._stage = stage
        self._view = view
        self._speed = speed
        self._patience = patience_seconds
        self._started = time.monotonic()
        self._act = 0
        self._over = False
        self._events: list[tuple[float, str]] = []
        self._rates: deque[float] = deque([0.0] * RATE_SAMPLES, maxlen=RATE_SAMPLES)
        self._problems: list[str] = []

    async def run(self) -> Account:
        """Play everything; returns the account, with what went wrong on the way among its problems."""
        listener = _Listener(self._note)
        logger = logging.getLogger(LOGGER)
        before = logger.level, logger.propagate
        logger.addHandler(listener)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        self._started = time.monotonic()
        self._note("the service takes journeys from the queue")
        helpers = [asyncio.create_task(work()) for work in (self._show, self._measure, self._publish)]
        try:
            for number, act in enumerate(ACTS):
                self._act = number
                await self._play(act)
                for helper in helpers:
                    if helper.done():
                        helper.result()
            self._over = True
            await helpers[-1]  # what it is publishing must be in the books
            self._view.show(self._scene())
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            logger.removeHandler(listener)
            logger.setLevel(before[0])
            logger.propagate = before[1]
        result = account(await self._stage.finish())
        return replace(result, problems=(*self._problems, *result.problems))

    async def _play(self, act: Act) -> None:
        self._view.act(self._scene())
        if act.begin is not None:
            self._note(await act.begin(self._stage))
        started = time.monotonic()
        await asyncio.sleep(act.seconds / self._speed)
        while not act.until(self._stage):
            if self._stage.service_ended() or time.monotonic() - started > self._patience:
                self._problems.append(f"in the act '{act.title}' it did not come to pass: {act.awaited}")
                return
            await asyncio.sleep(TRAFFIC_SECONDS)

    # --- beside the acts ----------------------------------------------------------------

    async def _publish(self) -> None:
        traffic, last = _Traffic(self._stage), time.monotonic()
        while not self._over:
            await asyncio.sleep(TRAFFIC_SECONDS)
            now = time.monotonic()
            await traffic.publish(ACTS[self._act], (now - last) * self._speed)
            last = now

    async def _measure(self) -> None:
        last, done = time.monotonic(), self._stage.now().done
        while True:
            await asyncio.sleep(RATE_SECONDS)
            now, count = time.monotonic(), self._stage.now().done
            self._rates.append((count - done) / (now - last))
            last, done = now, count

    async def _show(self) -> None:
        while True:
            self._view.show(self._scene())
            await asyncio.sleep(VIEW_SECONDS)

    def _note(self, text: str) -> None:
        elapsed = time.monotonic() - self._started
        self._events.append((elapsed, text))
        self._view.event(elapsed, text)

    def _scene(self) -> Scene:
        act = ACTS[self._act]
        now: Now = self._stage.now()
        return Scene(
            number=self._act + 1,
            of=len(ACTS),
            title=act.title,
            words=act.words,
            elapsed=time.monotonic() - self._started,
            now=now,
            rates=tuple(self._rates),
            events=tuple(self._events),
        )
