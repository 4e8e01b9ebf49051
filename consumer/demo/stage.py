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
from consumer.core.outgoing import PERSISTENT, Outgoing
from consumer.core.topology import Topology
from consumer.deadletters.actions import ReplayToQueue
from consumer.deadletters.selection import Selection
from consumer.deadletters.sweep import BatchResult, DeadLetterMessage, Sweep
from consumer.demo.account import Evidence
from consumer.errors import ConsumerError
from consumer.logs import Output
from consumer.metrics import Metrics
from consumer.metrics.catalogue import PREFIX
from consumer.publishing import connect_virtual, samples
from consumer.sandbox import Sandbox

BROKER = "memory://"
QUEUE = "journeys.completed"
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

    def __init__(self, version: samples.Version, *, speed: float = 1.0, queue: str | None = None) -> None:
        self.published: dict[str, str | None] = {}
        self.replayed: Counter[str] = Counter()
        self._topology = Topology(queue=queue or QUEUE)
        self._version = version
        self._speed = speed
        self._rng = random.Random()  # noqa: S311 - invented journeys
        self._sandbox = Sandbox(rate_limit=1_000_000)
        self._metrics = CollectorRegistry()
        self._sent: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="journey-consumer-demo-")))
            self._token_file = folder / "token"
            await self.rotate_token()
            await stack.enter_async_context(self._sandbox)
            self._sandbox.faults.latency_seconds = LATENCY_SECONDS / self._speed
            output = Output(io.StringIO())  # the demo shows its own events
            self._assembled = assemble(load(self._environment(folder)), Metrics(self._metrics), output)
            self.service = asyncio.create_task(self._assembled.service.run())
            stack.push_async_callback(self._stop_service)
            self._link = await connect_virtual(BROKER, self._topology.queue)
            stack.push_async_callback(self._link.close)
            self._queue = self._open(self._topology.queue, stack)
            self._dead = {
                reason: self._open(self._topology.dead_letter_queue(reason), stack)
                for reason in self._topology.dead_letter_reasons
            }
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._stack.aclose()

    def _open(self, queue: str, stack: AsyncExitStack) -> VirtualQueueReader:
        reader = VirtualQueueReader(BROKER, queue)
        reader.open()
        stack.callback(reader.close)
        return reader

    async def _stop_service(self) -> None:
        """Drain it, as SIGTERM would. Raises what ended it, if it had ended by itself."""
        self._assembled.service.stop()
        await self.service

    def _environment(self, folder: Path) -> dict[str, str]:
        """What an operator would set, with waits that fit into a minute."""

        def seconds(usual: float) -> str:
            return f"{max(0.1, usual / self._speed):.3f}"

        return {
            "BROKER_URL": BROKER,
            "BROKER_QUEUE": self._topology.queue,
            "REGISTRY_URL": self._sandbox.url,
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
        properties = {
            "delivery_mode": PERSISTENT,
            "content_type": "application/json",
            "message_id": message_id,
        }
        await self._link.submit(Outgoing("", self._topology.queue, body, {}, properties))
        self.published[message_id] = journey_id

    async def revoke_token(self) -> None:
        self._sandbox.revoke(self._token)

    async def rotate_token(self) -> None:
        """Let the Registry accept a new token, and write it to the token file."""
        self._token = secrets.token_urlsafe(24)
        self._sandbox.accept(self._token)
        fresh = self._token_file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(self._token)
        fresh.replace(self._token_file)

    async def stop_registry(self) -> None:
        """Close its socket and its connections; its memory stays."""
        await self._sandbox.stop()

    async def start_registry(self) -> None:
        """Listen again on the same port."""
        await self._sandbox.start()

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
        """Read queues and metrics."""
        oldest = self._metric("oldest_pending_start_timestamp_seconds")
        registrations = self._metric("journey_age_at_registration_seconds_count")
        ages = self._metric("journey_age_at_registration_seconds_sum")
        cause = self._assembled.admission.pausing
        return Now(
            published=len(self.published),
            registered=self._outcome("registered"),
            already_registered=self._outcome("already_registered"),
            dead={reason: reader.waiting() for reason, reader in self._dead.items()},
            replayed=self.replayed.total(),
            waiting=self._queue.waiting(),
            in_flight=int(self._metric("in_flight")),
            paused=None if cause is None else cause.value,
            oldest_start=datetime.fromtimestamp(oldest, UTC) if oldest else None,
            mean_age_seconds=ages / registrations if registrations else None,
            registry_up=self._sandbox.is_running,
        )

    def is_settled(self) -> bool:
        """Whether every message that was published or replayed is registered or a dead letter."""
        settled = self._outcome("registered") + self._outcome("already_registered")
        settled += sum(map(self._dead_lettered, self._dead))
        return settled == len(self.published) + self.replayed.total()

    async def finish(self) -> Evidence:
        """Stop the service, empty the queues and collect what both sides know."""
        await self._stop_service()
        queued, *dead = (
            [delivery.message_id or "" for delivery in reader.take_all()]
            for reader in (self._queue, *self._dead.values())
        )
        return Evidence(
            published=self.published,
            queued=queued,
            dead=dict(zip(self._dead, dead, strict=True)),
            times_seen={name: journey.times_seen for name, journey in self._sandbox.journeys.items()},
            outcomes={name: self._outcome(name) for name in ("registered", "already_registered")},
            dead_lettered={reason: self._dead_lettered(reason) for reason in self._dead},
            replayed=self.replayed,
        )

    def _outcome(self, name: str) -> int:
        return int(self._metric("journeys_total", outcome=name))

    def _dead_lettered(self, reason: str) -> int:
        return int(self._metric("dead_lettered_total", reason=reason))

    def _metric(self, name: str, **labels: str) -> float:
        """A metric as /metrics would show it; 0 for a label that it does not have."""
        return self._metrics.get_sample_value(PREFIX + name, labels) or 0.0
