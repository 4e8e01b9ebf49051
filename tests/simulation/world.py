"""One simulated day of the service: the whole program between an in-memory broker and a simulated Registry.

A seed draws the journeys (how many, at which pace, which of them the Registry can never take, and what
answers those) and the faults: outages of every kind, gateways, throttling, revoked tokens, lost connections,
full dead-letter queues, restarts. Time is virtual. Afterwards the account is checked; a violation raises
``ViolationError`` with the trace.
"""

import asyncio
import io
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from unittest import mock

import httpx
from prometheus_client import CollectorRegistry

from consumer.app import Assembled, BrokerLink, assemble, build_topology
from consumer.config import Settings
from consumer.logs import Output
from consumer.metrics import Metrics
from consumer.publishing import samples
from consumer.service import lifecycle
from tests.corridor import SETTINGS, refused, registered, unavailable
from tests.memory_link import MemoryLink
from tests.travel import TravellingLoop, loop

#: The service looks around this often; five times a second would be most of the work.
TICK_SECONDS = 2.0
#: A good journey is registered this long, at most, after the Registry takes it (seconds); see ``_bound``.
BOUND_SECONDS = 900.0
#: What the Registry is asked in an outage: until it is known, then the rounds of probes of each process.
OUTAGE_REQUESTS, OUTAGE_REQUESTS_A_MINUTE = 600, 80

Answer = Callable[[], httpx.Response]


def _html(status: int) -> Answer:
    return lambda: httpx.Response(status, text="<html><body>No.</body></html>")


def _raise(error: type[Exception]) -> Answer:
    def answer() -> httpx.Response:
        raise error("simulated")

    return answer


def _database(message: str) -> Answer:
    body = {"jsonrpc": "2.0", "id": 1, "error": {"message": message}}
    return lambda: httpx.Response(500, json=body)


#: What answers a journey that the Registry can never take, and the reason of its dead letter.
POISON: dict[str, tuple[Answer, str]] = {
    "unknown 500": (_database("something new"), "exhausted"),
    "refused by the database": (_database('invalid input syntax for type integer: "0.5"'), "rejected"),
    "firewall 406": (_html(406), "exhausted"),
    "firewall 403": (_html(403), "exhausted"),
    "gateway 413": (_html(413), "exhausted"),
    "portal 200": (_html(200), "exhausted"),
    "redirect": (lambda: httpx.Response(302, headers={"location": "/x"}), "exhausted"),
    "not found": (lambda: refused(404, -32601), "exhausted"),
    "connection cut": (_raise(httpx.ReadError), "exhausted"),
    "refused by the validator": (lambda: refused(400, -32602, ["/distance: must be integer"]), "rejected"),
    "invalid": (registered, "invalid"),  # never sent
}
#: How everything is answered in an outage. ``token``: answers that say that the token is refused.
OUTAGES: dict[str, Answer] = {
    "maintenance": unavailable,
    "refused connections": _raise(httpx.ConnectError),
    "no answer": _raise(httpx.ReadTimeout),
    "gateway 502": _html(502),
    "gateway 400": _html(400),
    "firewall 403": _html(403),
    "captive portal": _html(200),
    "database down": _database("connection terminated unexpectedly"),
    "wrong route": lambda: httpx.Response(404),
    "throttled": lambda: refused(429, 429, Retry_After="30"),
}


class ViolationError(AssertionError):
    """An invariant does not hold; the text ends with the trace."""


@dataclass(slots=True)
class Journey:
    """One journey of the simulation. Times are seconds of the virtual clock."""

    id: str
    body: bytes
    published_at: float
    poison: str | None
    takeable_from: float = 0.0
    registered_at: float | None = None


@dataclass(slots=True)
class Plan:
    """What a seed draws."""

    journeys: int
    rate: float
    poison_share: float
    kinds: list[str]
    faults: list[tuple[float, float, str]] = field(default_factory=list)

    @classmethod
    def draw(cls, rng: random.Random) -> "Plan":
        """Draw journeys, their pace and the bad ones among them, and up to four faults."""
        plan = cls(
            journeys=rng.choice([20, 40, 60, 90]),
            rate=rng.choice([0.001, 0.01, 0.1, 1.0, 50.0, 1e6]),
            poison_share=rng.choice([0.0, 0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.95]),
            kinds=rng.sample(sorted(POISON), rng.choice([1, 1, 2, len(POISON)])),
        )
        if plan.rate < 0.1:
            plan.journeys //= 10
        at = 0.0
        for _ in range(rng.choice([0, 0, 1, 2, 4])):
            at += rng.choice([0.0, 0.5, rng.uniform(0.0, 60.0), rng.uniform(0.0, 1800.0)])
            kind = rng.choice([*OUTAGES, *OUTAGES, "token", "lost connection", "full queue", "restart"])
            length = rng.choice([1.0, 30.0, 400.0, 4000.0])
            plan.faults.append((at, length, kind))
            at += length
        return plan


class World:
    """Everything around the service. ``trace`` holds what happened, a line each."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._rng = random.Random(seed)
        self.plan = Plan.draw(self._rng)
        self.trace: list[str] = []
        self.settings = Settings(
            **{**SETTINGS, "broker_prefetch": 32, "registry_concurrency": 16, "breaker_threshold": 10}
        )
        self.topology = build_topology(self.settings)
        self.link = MemoryLink(topology=self.topology, prefetch=32)
        self._outage: str | None = None
        self._requests: list[float] = []
        self.journeys: dict[str, Journey] = {}
        self._now0 = loop().time()

    def _note(self, text: str) -> None:
        self.trace.append(f"{loop().time() - self._now0:10.2f}  {text}")

    # --- the Registry ---------------------------------------------------------------------

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        await asyncio.sleep(self._rng.uniform(0.005, 0.05))
        journey = self.journeys[json.loads(request.content)["operator_journey_id"]]
        now = loop().time()
        self._requests.append(now)
        if self._outage == "token":
            return refused(401, -32501)
        if self._outage is not None:
            return OUTAGES[self._outage]()
        if journey.poison is not None:
            return POISON[journey.poison][0]()
        if journey.registered_at is not None:
            return refused(409, -32509)
        journey.registered_at = now
        return registered()

    # --- the service ----------------------------------------------------------------------

    def _assemble(self) -> Assembled:
        self.collector = CollectorRegistry()
        return assemble(
            self.settings,
            Metrics(self.collector),
            Output(io.BytesIO()),
            link=BrokerLink(self.link, self.link),
            transport=httpx.MockTransport(self._answer),
            clock=lambda: loop().time(),
            now=lambda: loop().now(),
        )

    async def _start(self) -> None:
        self._service = self._assemble().service
        self._running = asyncio.create_task(self._service.run())
        await asyncio.sleep(0)

    async def _stop(self) -> None:
        self._service.stop()
        await self._running

    async def run(self) -> None:
        """Play the plan, let everything recover, and check the account."""
        await self._start()
        publishing = asyncio.create_task(self._publish())
        for at, length, kind in self.plan.faults:
            await asyncio.sleep(max(0.0, self._now0 + at - loop().time()))
            await self._fault(kind, length)
        await publishing
        self._note("all faults are over")
        self._recovered_at = loop().time()
        await asyncio.sleep(self._bound() + 60.0)
        await self._stop()
        self._check()

    async def _publish(self) -> None:
        rng, plan = self._rng, self.plan
        for number in range(plan.journeys):
            payload = samples.journey("v3", rng, loop().now())
            end = loop().now() - timedelta(seconds=60)
            payload["end"]["datetime"] = end.isoformat()
            payload["start"]["datetime"] = (end - timedelta(minutes=30)).isoformat()
            payload["operator_journey_id"] = f"j{number}"
            poison = rng.choice(plan.kinds) if rng.random() < plan.poison_share else None
            if poison == "invalid":
                payload["distance"] = "far"
            body = samples.encode(payload)
            self.journeys[f"j{number}"] = Journey(f"j{number}", body, loop().time(), poison)
            self.link.put(body, properties={"message_id": f"j{number}"})
            await asyncio.sleep(min(rng.expovariate(plan.rate), 3600.0))

    async def _fault(self, kind: str, length: float) -> None:
        self._note(f"{kind} for {length:.0f} s")
        match kind:
            case "lost connection":
                self.link.lose()
            case "restart":
                await self._stop()
                await asyncio.sleep(min(length, 30.0))
                await self._start()
            case "full queue":
                self.link.full = {
                    self.topology.dead_letter_queue(self._rng.choice(["rejected", "exhausted"]))
                }
                await asyncio.sleep(length)
                self.link.full = set()
            case outage:
                self._outage, before = outage, len(self._requests)
                await asyncio.sleep(length)
                self._outage = None
                self._outage_ended_at = loop().time()
                asked = len(self._requests) - before
                if asked > OUTAGE_REQUESTS + OUTAGE_REQUESTS_A_MINUTE * length / 60:
                    self._violated(f"{asked} requests in an outage of {length:.0f} s")
        self._note(f"{kind} is over")

    # --- the account ----------------------------------------------------------------------

    def _bound(self) -> float:
        """How long a good journey may take: longer, the more bad ones may stand before it."""
        bad = sum(journey.poison is not None for journey in self.journeys.values())
        return BOUND_SECONDS + 60.0 * bad / 8

    def _where(self) -> dict[str, list[str]]:
        """Return the queues in which each journey lies, by id."""
        found: dict[str, list[str]] = {}
        for name, queue in self.link.queues.items():
            for stored in queue:
                found.setdefault(stored.properties["message_id"], []).append(name)
        return found

    def _check(self) -> None:
        where = self._where()
        prefix = f"{self.topology.queue}.dead-letter."
        for journey in self.journeys.values():
            places = where.get(journey.id, [])
            dead = [name.removeprefix(prefix) for name in places if name.startswith(prefix)]
            if journey.poison is None:
                self._check_good(journey, places, dead)
            else:
                allowed = {POISON[journey.poison][1], "unauthorized"}
                if not places:
                    self._violated(f"{journey.id} ({journey.poison}) is lost")
                if not set(dead) <= allowed:
                    self._violated(f"{journey.id} ({journey.poison}) was dead-lettered as {dead}")
                if POISON[journey.poison][1] != "exhausted" and not dead:
                    self._violated(f"{journey.id} ({journey.poison}) is still in {places}")

    def _check_good(self, journey: Journey, places: list[str], dead: list[str]) -> None:
        if journey.registered_at is None:
            token = any(kind == "token" for _, _, kind in self.plan.faults)
            if dead == ["unauthorized"] and token:
                return  # waits there for a person, or for a new token
            state = f"is in {places}" if places else "is lost"
            self._violated(f"{journey.id} is good, was not registered, and {state}")
        elif dead:
            self._violated(f"{journey.id} is registered and dead-lettered as {dead}")
        else:
            takeable = max(journey.published_at, self._last_fault_before(journey.registered_at or 0.0))
            late = (journey.registered_at or 0.0) - takeable
            if late > self._bound():
                self._violated(f"{journey.id} was registered {late:.0f} s after the Registry took it")

    def _last_fault_before(self, moment: float) -> float:
        ends = [self._now0 + at + length for at, length, _ in self.plan.faults]
        return max((end for end in ends if end <= moment), default=0.0)

    def _violated(self, text: str) -> None:
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
            return world

        random.seed(seed)  # jitter is part of what a seed draws
        return runner.run(run())
