"""What happens in the demo, in which order: a literal list of acts.

An act lasts its seconds at least, and until its condition holds; a condition that does not hold in time is
a problem of the account. Knows the stage; what it shows goes to a function as a ``Scene``.
"""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from consumer.demo.account import Account, account
from consumer.demo.stage import Kind, Now, Stage
from consumer.logs import LOGGER

TICK_SECONDS = 0.1
RATE_SAMPLES, RATE_SECONDS = 28, 0.5
PATIENCE_SECONDS = 30.0

Condition = Callable[[Stage], bool]


@dataclass(frozen=True, slots=True)
class Act:
    """``rates`` are messages a second; ``until`` is a condition, in words and as a function.

    ``begin`` is an event and the function that causes it; its result replaces ``{}``.
    """

    title: str
    seconds: float
    text: str
    rates: Mapping[Kind, float]
    begin: tuple[str, Callable[[Stage], Awaitable[object]]] | None = None
    until: tuple[str, Condition] = ("", lambda _stage: True)


def _pauses(cause: str) -> tuple[str, Condition]:
    return "consumption pauses", lambda stage: stage.now().paused == cause


def _flows(stage: Stage) -> bool:
    now = stage.now()
    return now.paused is None and now.waiting == 0


_RESUMES = ("consumption resumes and the queue is empty", _flows)


ACTS = (
    Act(
        "Journeys flow",
        10,
        "Messages are taken from the queue, validated, sent to the Registry, acknowledged when it has them.",
        {"valid": 35},
    ),
    Act(
        "Some payloads are invalid",
        6,
        "They are never sent: each goes to the dead-letter queue `invalid`, with the wrong field's name.",
        {"valid": 26, "invalid": 9},
    ),
    Act(
        "Some journeys come twice",
        6,
        "The Registry answers 409 to a journey that it has. That is a success: the message is acknowledged.",
        {"valid": 23, "again": 12},
    ),
    Act(
        "The token is revoked",
        7,
        "Refused journeys go to the dead-letter queue `unauthorized`. After 10 in a row consumption pauses: "
        "the other messages wait in the queue.",
        {"valid": 25},
        ("the Registry revokes the token", Stage.revoke_token),
        _pauses("unauthorized"),
    ),
    Act(
        "A new token arrives",
        4,
        "The service sees that the token file has changed, tries it with one journey, and catches up.",
        {"valid": 12},
        ("a new token is written to the token file", Stage.rotate_token),
        _RESUMES,
    ),
    Act(
        "The refused journeys are replayed",
        4,
        "A replay moves dead letters back to the queue: each is published, confirmed, and only then removed.",
        {"valid": 12},
        ("dead-letters replay: {} unauthorized journeys go back to the queue", Stage.replay_unauthorized),
        (
            "the replayed journeys are registered",
            lambda stage: _flows(stage) and stage.now().dead["unauthorized"] == 0,
        ),
    ),
    Act(
        "The Registry goes down",
        8,
        "A few quick retries, then consumption pauses. Waiting costs no journey an attempt.",
        {"valid": 25},
        ("the Registry goes down", lambda stage: stage.registry.stop()),
        _pauses("unavailable"),
    ),
    Act(
        "The Registry comes back",
        5,
        "One journey probes, then the others follow. Requests that were cut off are sent again, safely.",
        {"valid": 12},
        ("the Registry is back", lambda stage: stage.registry.start()),
        _RESUMES,
    ),
    Act(
        "The queue runs empty",
        2,
        "Nothing more is published. When every message is settled, both sides are compared.",
        {},
        until=("every message is settled", Stage.is_settled),
    ),
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What there is to show at one moment.

    ``act`` is an index of ``ACTS``; ``rates`` are registrations a second, oldest first.
    """

    act: int
    elapsed: float
    now: Now
    rates: tuple[float, ...]
    events: tuple[tuple[float, str], ...]

    @property
    def rate(self) -> float:
        """Registrations a second, over the last two seconds."""
        last = self.rates[-4:]
        return sum(last) / len(last)


class _Listener(logging.Handler):
    def __init__(self, on_event: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._on_event = on_event

    def emit(self, record: logging.LogRecord) -> None:
        text, cause = record.getMessage(), getattr(record, "cause", None)
        if cause is not None:
            self._on_event(f"service: {text} ({cause})")
        elif text.startswith("token loaded") or record.levelno >= logging.WARNING:
            self._on_event(f"service: {text}")


class Demo:
    """Plays the acts on a stage and shows them. The stage's speed shortens the acts and raises the rates."""

    def __init__(self, stage: Stage, show: Callable[[Scene], None]) -> None:
        self.events: list[tuple[float, str]] = []
        self._stage, self._show = stage, show
        self._started = self._published_at = self._measured_at = time.monotonic()
        self._measured = 0
        self._due: defaultdict[Kind, float] = defaultdict(float)
        self._rates = deque([0.0] * RATE_SAMPLES, maxlen=RATE_SAMPLES)

    async def run(self) -> Account:
        """Play everything; an act that failed is among the problems of the account."""
        logger, listener = logging.getLogger(LOGGER), _Listener(self._note)
        level = logger.level
        logger.addHandler(listener)
        logger.setLevel(logging.INFO)
        self._note("the service takes journeys from the queue")
        try:
            failed = [act for number, act in enumerate(ACTS) if not await self._play(number, act)]
        finally:
            logger.removeHandler(listener)
            logger.setLevel(level)
        result = account(await self._stage.finish())
        problems = [f"act '{act.title}' timed out waiting until {act.until[0]}" for act in failed]
        return replace(result, problems=(*problems, *result.problems))

    async def _play(self, number: int, act: Act) -> bool:
        """Play one act; False when its condition does not hold in time."""
        self._show(self._scene(number))
        if act.begin is not None:
            event, begin = act.begin
            self._note(event.format(await begin(self._stage)))
        started, seconds = time.monotonic(), act.seconds / self._stage.speed
        _, condition = act.until
        while (elapsed := time.monotonic() - started) < seconds or not condition(self._stage):
            if self._stage.service.done() or elapsed > max(seconds, PATIENCE_SECONDS):
                return False
            await asyncio.sleep(TICK_SECONDS)
            await self._publish(act)
            self._show(self._scene(number))
        return True

    async def _publish(self, act: Act) -> None:
        now = time.monotonic()
        seconds, self._published_at = now - self._published_at, now
        for kind, rate in act.rates.items():
            self._due[kind] += rate * seconds * self._stage.speed
            while self._due[kind] >= 1:
                self._due[kind] -= 1
                await self._stage.publish(kind)

    def _scene(self, number: int) -> Scene:
        moment, now = time.monotonic(), self._stage.now()
        if (seconds := moment - self._measured_at) >= RATE_SECONDS:
            registered = now.registered + now.already_registered
            self._rates.append((registered - self._measured) / seconds)
            self._measured_at, self._measured = moment, registered
        return Scene(number, moment - self._started, now, tuple(self._rates), tuple(self.events))

    def _note(self, text: str) -> None:
        self.events.append((time.monotonic() - self._started, text))
