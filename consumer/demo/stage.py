"""The parts of the demo: an in-memory broker, the sandbox Registry, and the real service between them.

Builds them, changes them on request, and counts what they hold. Knows no script and no view. Everything
lives in this process and in one temporary folder, which is removed at the end.
"""

import asyncio
import io
import random
import secrets
import tempfile
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from prometheus_client import CollectorRegistry

from consumer.app import assemble
from consumer.broker.virtual import VirtualQueueReader
from consumer.config import load
from consumer.core.clock import utc_now
from consumer.core.topology import Topology
from consumer.deadletters.actions import ReplayToQueue
from consumer.deadletters.selection import Selection
from consumer.deadletters.sweep import BatchResult, DeadLetterMessage, Sweep
from consumer.demo.account import Evidence
from consumer.errors import ConsumerError
from consumer.logs import Output
from consumer.metrics import Metrics
from consumer.metrics.catalogue import OUTCOMES, PREFIX
from consumer.publishing import samples
from consumer.publishing.publish import Target, connect_virtual, outgoing
from consumer.sandbox import Sandbox

BROKER = "memory://"
LATENCY_SECONDS = 0.12

Kind = Literal["valid", "invalid", "again"]


@dataclass(frozen=True, slots=True)
class Now:
    """The counts of one moment. Times are aware."""

    published: int
    registered: int
    already_registered: int
    dead: dict[str, int]
    replayed: int
    waiting: int
    in_flight: int
    paused: str | None
    oldest_start: datetime | None
    mean_age_seconds: float | None
    registry_up: bool


class Stage:
    """The parts, as an async context manager. ``speed`` shortens the service's waits."""

    def __init__(self, version: samples.Version, *, speed: float) -> None:
        self.published: dict[str, str | None] = {}
        self.replayed: Counter[str] = Counter()
        # memory:// is one broker for the whole process, tests included.
        self._topology = Topology(queue=f"journeys.completed.{uuid.uuid4()}")
        self._version = version
        self.speed = speed
        self._rng = random.Random()  # noqa: S311 - invented journeys
        self.registry = Sandbox(rate_limit=1_000_000)
        self._collectors = CollectorRegistry()
        self._sent: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="journey-consumer-demo-")))
            self._token_file = folder / "token"
            await self.rotate_token()
            await stack.enter_async_context(self.registry)
            self.registry.faults.latency_seconds = LATENCY_SECONDS / self.speed
            output = Output(io.BytesIO())  # the demo shows its own events
            self._assembled = assemble(load(self._environment(folder)), Metrics(self._collectors), output)
            self.service = asyncio.create_task(self._assembled.service.run())
            stack.push_async_callback(self._stop_service)
            self._link = await connect_virtual(BROKER, self._topology)
            stack.push_async_callback(self._link.close)
            self._queue = VirtualQueueReader(BROKER, self._topology.queue)
            self._dead = {
                reason: VirtualQueueReader(BROKER, self._topology.dead_letter_queue(reason))
                for reason in self._topology.dead_letter_reasons
            }
            for reader in (self._queue, *self._dead.values()):
                reader.open()
                stack.callback(reader.close)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._stack.aclose()

    async def _stop_service(self) -> None:
        """Drain it, as SIGTERM would. Raises what ended it, if it had ended by itself."""
        self._assembled.service.stop()
        await self.service

    def _environment(self, folder: Path) -> dict[str, str]:
        """What an operator would set, with waits that fit into a minute."""

        def seconds(usual: float) -> str:
            return f"{max(0.1, usual / self.speed):.3f}"

        return {
            "BROKER_URL": BROKER,
            "BROKER_QUEUE": self._topology.queue,
            "REGISTRY_URL": self.registry.url,
            "REGISTRY_API_VERSION": self._version,
            "REGISTRY_TOKEN_FILE": str(self._token_file),
            "REGISTRY_CONCURRENCY": "16",
            "RETRY_BACKOFF_BASE_SECONDS": seconds(0.3),
            "RETRY_BACKOFF_CAP_SECONDS": seconds(1.0),
            "RETRY_DELAYS_SECONDS": "1,2",
            "AUTH_PAUSE_AFTER": "10",
            "AUTH_PROBE_SECONDS": seconds(3.0),
            "BREAKER_PROBE_SECONDS": seconds(1.0),
            "BREAKER_PROBE_CAP_SECONDS": seconds(2.0),
            "DRAIN_TIMEOUT_SECONDS": "5",
            "SECRETS_DIR": str(folder),
        }

    async def publish(self, kind: Kind) -> None:
        """Publish a new journey, a payload with a mistake, or a journey that was published before."""
        journey_id = None
        if kind == "invalid":
            body = samples.invalid(self._version, self._rng, utc_now())
        else:
            if kind == "valid":
                self._sent.append(samples.journey(self._version, self._rng, utc_now()))
            payload = self._sent[-1] if kind == "valid" else self._rng.choice(self._sent)
            body, journey_id = samples.encode(payload), samples.journey_id(payload)
        message_id = str(uuid.uuid4())
        await self._link.submit(outgoing(Target("", self._topology.queue), body, message_id))
        self.published[message_id] = journey_id

    async def revoke_token(self) -> None:
        self.registry.revoke(self._token)

    async def rotate_token(self) -> None:
        """Let the Registry accept a new token, and write it to the token file."""
        self._token = secrets.token_urlsafe(24)
        self.registry.accept(self._token)
        fresh = self._token_file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(self._token)
        fresh.replace(self._token_file)

    async def replay_unauthorized(self) -> int:
        """Replay the dead letters `unauthorized`, as `dead-letters replay` does; returns how many."""
        reason = "unauthorized"
        queue = self._topology.dead_letter_queue(reason)

        replay = ReplayToQueue(self._link, self._topology.queue)

        async def replay_and_count(batch: Sequence[DeadLetterMessage]) -> BatchResult:
            replayed = await replay(batch)
            self.replayed[reason] += sum(result.ack for result in replayed.results)
            return replayed

        sweep = Sweep({reason: lambda: VirtualQueueReader(BROKER, queue)}, Selection(), now=utc_now)
        tally = await sweep.run(replay_and_count)
        if tally.trouble is not None:
            raise ConsumerError(tally.trouble)
        return tally.acted

    def now(self) -> Now:
        oldest = self._metric("oldest_pending_start_timestamp_seconds")
        registrations = self._metric("journey_age_at_registration_seconds_count")
        ages = self._metric("journey_age_at_registration_seconds_sum")
        cause = self._assembled.admission.pausing
        return Now(
            published=len(self.published),
            registered=self._outcome("registered"),
            already_registered=self._outcome("already_registered"),
            dead={reason: reader.open() for reason, reader in self._dead.items()},
            replayed=self.replayed.total(),
            waiting=self._queue.open(),
            in_flight=int(self._metric("in_flight")),
            paused=None if cause is None else cause.value,
            oldest_start=datetime.fromtimestamp(oldest, UTC) if oldest else None,
            mean_age_seconds=ages / registrations if registrations else None,
            registry_up=self.registry.is_running,
        )

    def is_settled(self) -> bool:
        """Whether every message that was published or replayed is registered or a dead letter."""
        return sum(map(self._outcome, OUTCOMES)) == len(self.published) + self.replayed.total()

    async def finish(self) -> Evidence:
        """Stop the service, empty the queues and collect what both sides know."""
        await self._stop_service()
        return Evidence(
            published=self.published,
            queued=_take_ids(self._queue),
            dead={reason: _take_ids(reader) for reason, reader in self._dead.items()},
            times_seen={name: journey.times_seen for name, journey in self.registry.journeys.items()},
            outcomes={name: self._outcome(name) for name in ("registered", "already_registered")},
            dead_lettered={
                each: int(self._metric("dead_lettered_total", reason=each)) for each in self._dead
            },
            replayed=self.replayed,
        )

    def _outcome(self, name: str) -> int:
        return int(self._metric("journeys_total", outcome=name))

    def _metric(self, name: str, **labels: str) -> float:
        """A metric as /metrics would show it; 0 for a label that it does not have."""
        return self._collectors.get_sample_value(PREFIX + name, labels) or 0.0


def _take_ids(reader: VirtualQueueReader) -> list[str]:
    return [delivery.message_id or "" for delivery in reader.read(reader.open())]
