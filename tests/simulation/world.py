"""One simulated day of the service: the whole program between an in-memory broker and a simulated Registry.

A seed draws the journeys and the faults (``faults``); time is virtual. These hold for every seed, or
``ViolationError`` is raised with the trace:

1. Nothing is lost: a journey is registered, in one dead-letter queue, or in a queue of ours. Only what lay in
   a queue that was deleted is excepted.
2. Nothing is registered and dead-lettered, or dead-lettered for two reasons, unless its delivery was lost
   between the confirm and the acknowledgement, or while a dead letter was unconfirmed.
3. No good journey is dead-lettered for an outage, a gateway or a queue. A refused token costs
   ``AUTH_PAUSE_AFTER`` good ones at most, and one for each start of the process.
4. A good journey is registered within 15 minutes of the moment from which the Registry takes it, plus 7.5 s
   for each bad journey; where less than one in ten seconds comes, it may have failed alone before another
   showed the outage: the longest delay queue, an hour, comes on top. Full, missing and silent dead-letter
   queues, slow and lost answers and a fifth of failing ones excuse nothing.
5. A bad journey ends before its deadline, with the reason of its kind.
6. In an outage the Registry is asked ``OUTAGE_REQUESTS`` times until it is known (at each start anew), then
   ``OUTAGE_REQUESTS_A_MINUTE``; and not at all as long as it asked to wait.
"""

import asyncio
import io
import json
import random
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from unittest import mock

import httpx
from prometheus_client import CollectorRegistry

from consumer.app import Assembled, BrokerLink, assemble, build_topology
from consumer.config import Settings
from consumer.logs import Output
from consumer.metrics import Metrics
from consumer.publishing import samples
from consumer.service import lifecycle
from consumer.service.inflight import Entry, State
from tests.corridor import SETTINGS, refused, registered
from tests.memory_link import MemoryLink
from tests.simulation.account import AUTH_PAUSE_AFTER, ViolationError, bound_seconds, check
from tests.simulation.faults import (
    OUTAGES,
    PARTIAL,
    PATIENT,
    POISON,
    QUEUES,
    TOKEN,
    Answer,
    Fault,
    draw,
    terms,
)
from tests.travel import TravellingLoop, loop

#: The service looks around this often; five times a second would be most of the work.
TICK_SECONDS, DAY_TICK_SECONDS = 5.0, 30.0
#: Requests that had permission when the Registry asked to wait may still go.
WAIT_SLACK_SECONDS = 30.0
LONGEST_WAIT_SECONDS = 3600.0
PREFETCH, CONCURRENCY = 16, 8
#: In a pause nothing waits in the process for so long; it looks five times as often in reality.
LONGEST_HOLD_SECONDS, MOST_HELD = 20.0, 2  # but for a probe that was asked to wait
#: So many good journeys after the faults it is known which ones are bad.
KNOWN_AFTER = 8
WINDOW = timedelta(hours=24)

CHANGED = {
    "broker_prefetch": PREFETCH,
    "registry_concurrency": CONCURRENCY,
    "auth_pause_after": AUTH_PAUSE_AFTER,
}
#: Of the corridor's settings; all others are the defaults.
KEPT = (
    "registry_url",
    "registry_api_version",
    "registry_token",
    "registry_rate_per_minute",
    "broker_url",
    "broker_queue",
)


@dataclass(slots=True)
class Journey:
    """One journey of the simulation. Times are seconds of the virtual clock."""

    id: str
    published_at: float
    start: datetime
    poison: str | None
    registered_at: float | None = None
    deleted: bool = False  # with the queue that it lay in
    doubled: bool = False  # its delivery was lost after its copy was stored

    @property
    def deadline(self) -> datetime:
        return self.start + WINDOW


class World:
    """Everything around the service. ``trace`` holds what happened, a line each."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._rng = random.Random(seed)
        self.plan = draw(self._rng)
        self.trace: list[str] = []
        self.settings = Settings(**{name: SETTINGS[name] for name in KEPT}, **CHANGED)
        self.topology = build_topology(self.settings)
        self.link = MemoryLink(topology=self.topology, prefetch=PREFETCH)
        self.link.confirm_after_seconds = self.plan.confirm_seconds
        self.journeys: dict[str, Journey] = {}
        self.requests: list[float] = []
        self.excused: list[tuple[float, float]] = []  # while good journeys cannot be registered
        self.outages: list[tuple[float, float]] = []  # those of the Registry and the way to it
        self.found: list[str] = []  # violations that showed on the way
        self.asked: Counter[str] = Counter()  # each journey, in the day after all faults
        self.paused = False  # ever
        self.most_asked = 0
        self.latest = 0.0  # how late a good journey was at most
        self._active: list[Fault] = []
        self._expired: set[str] = set()
        self._wait_until = self._wait_from = 0.0  # as the Registry asked this process
        self._restarting = asyncio.Lock()
        self.started_at: list[float] = []  # each process
        self._now0 = loop().time()

    def note(self, text: str) -> None:
        self.trace.append(f"{loop().time() - self._now0:10.2f}  {text}")

    # --- the Registry ---------------------------------------------------------------------

    async def _routed(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return await self._status(request.url.path.rpartition("/")[2])
        return await self._answer(request)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        rng, asked_at, process = self._rng, loop().time(), len(self.started_at)
        self.requests.append(asked_at)
        if self._wait_from + WAIT_SLACK_SECONDS < asked_at < self._wait_until:
            self.found.append(f"asked {self._wait_until - asked_at:.0f} s before the Registry allowed it")
        partial = [fault.kind for fault in self._active if fault.kind in PARTIAL]
        await asyncio.sleep(rng.uniform(0.005, 8.0 if "slow answers" in partial else 0.05))
        journey = self.journeys[json.loads(request.content)["operator_journey_id"]]
        self.asked[journey.id] += 1
        if outages := [fault.kind for fault in self._active if fault.kind in OUTAGES | TOKEN]:
            kind = rng.choice(outages)
            response = await self._given((OUTAGES | TOKEN)[kind])
            if kind.startswith("throttled") and process == len(self.started_at):
                seconds = min(float(response.headers.get("retry-after", 60.0)), LONGEST_WAIT_SECONDS)
                self._wait_from, self._wait_until = (
                    loop().time(),
                    max(self._wait_until, loop().time() + seconds),
                )
                self.excused.append((self._wait_from, self._wait_until))
            return response
        if "some answers fail" in partial and rng.random() < 0.2:
            return await self._given(OUTAGES[rng.choice(["gateway 502", "cut connections", "maintenance"])])
        if journey.poison is not None:
            return await self._given(POISON[journey.poison][0])
        if journey.registered_at is not None or journey.id in self._expired:
            return refused(409, -32509)  # the id of a journey that it refused is stored, too
        if loop().now() > journey.deadline:
            self._expired.add(journey.id)
        else:
            journey.registered_at = loop().time()
        if "lost answers" in partial and rng.random() < 0.5:
            raise httpx.ReadError("simulated")
        return terms("expired") if journey.registered_at is None else registered()

    async def _status(self, journey_id: str) -> httpx.Response:
        """What the status route says, which has a limit of its own and fails with everything else."""
        if outages := [fault.kind for fault in self._active if fault.kind in OUTAGES | TOKEN]:
            return await self._given((OUTAGES | TOKEN)[outages[0]])
        journey = self.journeys[journey_id]
        if journey.id in self._expired:
            body = {"status": "terms_violation_error", "terms_violation_details": ["expired"]}
            return httpx.Response(200, json=body)
        if journey.registered_at is not None:
            return httpx.Response(200, json={"status": "pending"})
        return refused(404, -32504)

    async def _given(self, answer: Answer) -> httpx.Response:
        if answer is None:
            await asyncio.sleep(1e4)  # the client gives up before
            raise httpx.ReadTimeout("simulated")
        return answer()

    # --- the service ----------------------------------------------------------------------

    def _assemble(self) -> Assembled:
        return assemble(
            self.settings,
            Metrics(CollectorRegistry()),
            Output(io.BytesIO()),
            link=BrokerLink(self.link, self.link),
            transport=httpx.MockTransport(self._routed),
            clock=loop().time,
            now=loop().now,
        )

    async def _start(self) -> None:
        self.started_at.append(loop().time())
        self._wait_from = self._wait_until = 0.0
        self._assembled = self._assemble()
        self._running = asyncio.create_task(self._assembled.service.run())
        await asyncio.sleep(0)

    async def _stop(self) -> None:
        self._assembled.service.stop()
        await self._running

    async def _kill(self) -> None:
        """End the process at once: nothing that it wanted to do is done."""
        await self.link.close()
        tasks = [entry.task for entry in self._assembled.in_flight if entry.task is not None]
        for task in (self._running, *tasks):
            task.cancel()
        await asyncio.gather(self._running, *tasks, return_exceptions=True)

    async def run(self) -> None:
        """Play the plan, let everything recover, and check the account."""
        await self._start()
        watching = asyncio.create_task(self._watch())
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish())
            for fault in self.plan.faults:
                group.create_task(self._play(fault))
        self.note("all faults are over")
        until = max([loop().time(), *(end for _, end in self.excused)]) + self.bound + 60.0
        while loop().time() < until and not self._settled():  # noqa: ASYNC110 - looks now and then
            await asyncio.sleep(10.0)
        if self.plan.day:
            self.asked.clear()
            await self._follow()
        watching.cancel()
        await self._stop()
        self._note_doubled()

    async def _publish(self) -> None:
        for number in range(self.plan.journeys):
            bad = self._rng.random() < self.plan.poison_share
            self._put(f"j{number}", self._rng.choice(self.plan.kinds) if bad else None)
            await asyncio.sleep(min(self._rng.expovariate(self.plan.rate), 3600.0))

    def _put(self, name: str, poison: str | None) -> None:
        payload = samples.journey("v3", self._rng, loop().now())
        end = loop().now() - timedelta(seconds=60)
        start = end - timedelta(minutes=30)
        payload["end"]["datetime"], payload["start"]["datetime"] = end.isoformat(), start.isoformat()
        payload["operator_journey_id"] = name
        if poison == "invalid":
            payload["distance"] = "far"
        body = b"no journey" if poison == "not JSON" else samples.encode(payload)
        self.journeys[name] = Journey(name, loop().time(), start, poison)
        self.link.put(body, properties={"message_id": name})

    def _settled(self) -> bool:
        """Whether nothing is left but bad journeys that wait for their last attempts."""
        if len(self._assembled.in_flight) or not self.link.connected:
            return False
        prefix = self.topology.dead_letter_queue("")
        for name, places in self.where().items():
            journey = self.journeys[name]
            patient = journey.poison is not None and POISON[journey.poison][1] in PATIENT
            if not all(
                place.startswith(prefix) or (patient and place != self.topology.queue) for place in places
            ):
                return False
        return True

    async def _follow(self) -> None:
        """Good journeys come now and then until the deadline of the last bad one."""
        lifecycle.TICK_SECONDS = DAY_TICK_SECONDS
        for number in range(4 * 24):
            if number == KNOWN_AFTER:
                self.paused = False
            self._put(f"d{number}", None)
            await asyncio.sleep(900.0)
        if self.paused:
            self.found.append("bad journeys paused consumption though others passed")

    async def _watch(self) -> None:
        """Look at what is held in a pause, and whether there is one."""
        waiting: set[Entry] = set()
        while True:
            held: set[Entry] = set()
            if self._assembled.admission.pausing is not None:
                self.paused = True
                held = {entry for entry in self._assembled.in_flight if entry.state is State.WAITING}
            if len(waiting & held) > MOST_HELD:
                self.found.append(f"{len(waiting & held)} journeys were held in a pause")
            waiting = held
            await asyncio.sleep(LONGEST_HOLD_SECONDS)

    # --- faults ---------------------------------------------------------------------------

    async def _play(self, fault: Fault) -> None:
        await asyncio.sleep(fault.start)
        self.note(str(fault))
        started = loop().time()
        self._active.append(fault)
        self._apply()
        match fault.kind:
            case "restart" | "kill":
                async with self._restarting:
                    await (self._stop() if fault.kind == "restart" else self._kill())
                    await asyncio.sleep(min(fault.seconds, 1.0))  # what was under way arrives
                    self._note_doubled()
                    await asyncio.sleep(min(fault.seconds, 30.0))
                    await self._start()
            case "connection lost":
                self._note_doubled()
                self.link.lose()
            case "queue deleted":
                self._note_doubled()
                for stored in self.link.delete():
                    self.journeys[stored.properties["message_id"]].deleted = True
            case _:
                await asyncio.sleep(fault.seconds)
        self._active.remove(fault)
        self._apply()
        if fault.kind not in (*PARTIAL, *QUEUES):
            self.excused.append((started, loop().time()))
        if fault.kind in OUTAGES | TOKEN:
            self.outages.append((started, loop().time()))
        self.note(f"{fault.kind} is over")

    def _apply(self) -> None:
        """Break at the broker what the faults break that are active now."""
        link, active = self.link, self._active
        kinds = {fault.kind for fault in active}
        link.full, link.missing, link.silent = (
            {self.topology.dead_letter_queue(fault.reason) for fault in active if fault.kind == kind}
            for kind in QUEUES
        )
        was_down, link.down = link.down, "broker down" in kinds
        if link.down and not was_down:
            self._note_doubled()
            link.lose()
        link.reconnect()
        if "alarm" in kinds:
            link.blocked = True
        elif link.blocked:
            link.unblock()

    def _note_doubled(self) -> None:
        """Note what the broker delivers again although its copy is stored."""
        for name, places in self.where().items():
            self.journeys[name].doubled |= len(places) > 1

    # --- the account ----------------------------------------------------------------------

    def where(self) -> dict[str, list[str]]:
        """Return the queues in which each journey lies, by id; once for each copy."""
        found: dict[str, list[str]] = {}
        for name, queue in [*self.link.queues.items(), (self.topology.queue, self.link._unacked.values())]:
            for stored in queue:
                found.setdefault(stored.properties["message_id"], []).append(name)
        return found

    @property
    def bound(self) -> float:
        """How long a good journey may wait."""
        return bound_seconds(self.journeys.values(), sparse=self.plan.sparse)

    def expired(self, journey: Journey) -> bool:
        """Whether the Registry refused it for its age."""
        return journey.id in self._expired

    def reason(self, queue: str) -> str | None:
        """The reason of a dead-letter queue; None for any other."""
        prefix = self.topology.dead_letter_queue("")
        return queue.removeprefix(prefix) if queue.startswith(prefix) else None

    def violated(self, text: str) -> None:
        """Raise with the trace."""
        counts = Counter(journey.poison for journey in self.journeys.values())
        raise ViolationError(
            "\n".join([f"seed {self.seed}: {text}", str(self.plan), str(dict(counts)), *self.trace])
        )


def simulate(seed: int) -> World:
    """Run one seed; raises ViolationError."""
    with (
        mock.patch.object(lifecycle, "TICK_SECONDS", TICK_SECONDS),
        asyncio.Runner(loop_factory=TravellingLoop) as runner,
    ):

        async def run() -> World:
            world = World(seed)
            await world.run()
            check(world)
            return world

        random.seed(seed)  # jitter is part of what a seed draws
        return runner.run(run())
