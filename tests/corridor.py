"""The whole service in one process, on a travelling clock: ``assemble`` between two scripted ends.

The broker is a ``MemoryLink``, the Registry's answers come from a list through the real HTTP edge.
"""

import asyncio
import contextlib
import io
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from consumer.app import BrokerLink, assemble, build_topology
from consumer.config import Settings
from consumer.core.delivery import Delivery
from consumer.logs import Output
from consumer.metrics import PREFIX, Metrics
from consumer.publishing import samples
from consumer.registry.tokens import TokenSource
from consumer.service.inflight import Entry, HandlingResult
from consumer.service.lifecycle import Service
from tests.memory_link import MemoryLink
from tests.travel import loop

QUEUE = "journeys"
THRESHOLD = 3  # failures in a row that open a breaker
PROBE_SECONDS = 10.0

SETTINGS: dict[str, Any] = {
    "registry_url": "http://localhost:1",
    "registry_api_version": "v3.3",
    "registry_token": "token",
    "registry_concurrency": 8,
    "registry_rate_per_minute": 1_000_000,
    "broker_url": "memory://",
    "broker_queue": QUEUE,
    "retry_delays_seconds": (60, 300),
    "breaker_threshold": THRESHOLD,
    "auth_pause_after": THRESHOLD,
    "breaker_probe_seconds": PROBE_SECONDS,
    "auth_probe_seconds": PROBE_SECONDS,
    "breaker_probe_cap_seconds": 4 * PROBE_SECONDS,
}

Answer = httpx.Response | Exception | Callable[[httpx.Request], Awaitable[httpx.Response]]


def registered() -> httpx.Response:
    """Return the Registry's 201."""
    result = {"operator_journey_id": "x", "created_at": "2026-11-23T16:00:00Z"}
    return httpx.Response(201, json={"id": 1, "jsonrpc": "2.0", "result": result})


def refused(status: int, code: int, data: Any = None, **headers: str) -> httpx.Response:
    """Return one of the Registry's errors; header names are given with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    error = {"code": code, "message": "x", "data": data}
    return httpx.Response(status, json={"id": 1, "jsonrpc": "2.0", "error": error}, headers=named)


def unavailable() -> httpx.Response:
    """Return a maintenance page's answer."""
    return httpx.Response(503, json={"code": 503, "error": "Service Unavailable"})


class Corridor:
    """Make it inside a ``travelling`` test. ``answers`` are used up in order, the last one is repeated.

    ``settings`` are the service's own, by their names in ``Settings``. ``proven``: not at its start.
    """

    def __init__(
        self, *answers: Answer, tokens: TokenSource | None = None, proven: bool = True, **settings: Any
    ) -> None:
        self.answers = list(answers) or [registered()]
        self.status: Answer = refused(404, -32504)  # of every journey that is asked about
        self.asked: list[httpx.Request] = []
        self.sent: list[httpx.Request] = []
        self.sent_at: list[float] = []
        self.in_flight = self.most_in_flight = 0
        self.settings = Settings(**{**SETTINGS, **settings})
        self.topology = build_topology(self.settings)
        self.link = MemoryLink(topology=self.topology)
        self.collector = CollectorRegistry()
        self.metrics = Metrics(self.collector)
        self.log = io.BytesIO()
        self.output = Output(self.log)
        self.assembled = assemble(
            self.settings,
            self.metrics,
            self.output,
            link=BrokerLink(self.link, self.link),
            transport=httpx.MockTransport(self._answer),
            tokens=tokens,
            clock=lambda: loop().time(),
            now=lambda: loop().now(),
        )
        self.service = self.assembled.service
        self.health = self.assembled.health
        self.admission = self.assembled.admission
        self.admission.proven = proven
        self.handler = self.assembled.handler
        self.settler = self.assembled.settler

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        if request.method == "GET":
            self.asked.append(request)
            return await self._given(self.status, request)
        self.sent.append(request)
        self.sent_at.append(loop().time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._given(answer, request)
        finally:
            self.in_flight -= 1

    async def _given(self, answer: Answer, request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        if callable(answer):
            return await answer(request)
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    # --- deliveries -----------------------------------------------------------------------

    def payload(self, number: int = 0, *, ends_in_seconds: float = -3600.0) -> dict[str, Any]:
        """Make a valid v3 journey that takes half an hour and ends so many seconds from now."""
        payload = samples.journey("v3", random.Random(number), loop().now())
        end = loop().now() + timedelta(seconds=ends_in_seconds)
        payload["end"]["datetime"] = end.isoformat()
        payload["start"]["datetime"] = (end - timedelta(minutes=30)).isoformat()
        payload["operator_journey_id"] = f"journey-{number}"
        return payload

    def delivery(self, body: bytes | None = None, **more: Any) -> Delivery:
        """Return a delivery of its own, as the link would hand it over; the link must be open."""
        self.link.put(samples.encode(self.payload()) if body is None else body, **more)
        self.link._tag += 1
        stored = self.link.queues[QUEUE].pop()
        self.link._unacked[self.link._tag] = stored
        return Delivery(
            body=stored.body,
            headers=stored.headers,
            properties=stored.properties,
            exchange=stored.exchange,
            routing_key=stored.routing_key,
            received_at=loop().time(),
            tag=self.link._tag,
            generation=self.link._generation,
        )

    def entry(self, body: bytes | None = None, **more: Any) -> Entry:
        """Return the entry of a delivery of its own, read; the link must be open."""
        entry = self.assembled.in_flight.open(self.delivery(body, **more))
        self.assembled.in_flight.read(entry)
        return entry

    async def handle(self, body: bytes | None = None, **more: Any) -> HandlingResult:
        """Take one delivery through the handler."""
        async with self.open():
            return await self.handler.handle(self.entry(body, **more))

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connect the link; the test takes the deliveries itself."""

        def lost() -> None:
            self.settler.withdraw(self.assembled.in_flight)
            self.admission.notifier.notify_all()

        running = asyncio.create_task(self.link.run(lambda _: None, lost))
        await asyncio.sleep(0)
        yield
        await self.link.close()
        await running

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Service]:
        """Run the service around the body, then drain it."""
        running = asyncio.create_task(self.service.run())
        await asyncio.sleep(0)
        yield self.service
        self.service.stop()
        await running

    # --- what came of it --------------------------------------------------------------------

    def value(self, name: str, **labels: str) -> float:
        """Return a sample as a scrape would see it."""
        found = self.collector.get_sample_value(PREFIX + name, labels)
        assert found is not None, f"there is no {name} {labels}"
        return found

    def settled(self) -> list[dict[str, Any]]:
        """Return the lines of the settlement log."""
        assert self.output.flush()
        return [json.loads(line) for line in self.log.getvalue().splitlines()]

    def dead(self, reason: str) -> list[Any]:
        """Return the dead letters of ``reason``."""
        return list(self.link.queues[self.topology.dead_letter_queue(reason)])

    def balance(self, published: int) -> None:
        """Assert that every journey is somewhere, exactly once; call it after the drain."""
        queues = {name: len(queue) for name, queue in self.link.queues.items() if queue}
        acknowledged = self.value("journeys_total", outcome="registered") + self.value(
            "journeys_total", outcome="already_registered"
        )
        assert acknowledged + sum(queues.values()) == published, f"{acknowledged} and {queues}"


async def passes(seconds: float) -> None:
    """Let ``seconds`` pass; on a travelling clock that is no waiting."""
    await asyncio.sleep(seconds)
