"""The embedded parts: kombu's memory:// broker, the sandbox Registry, and the real service between them.

Builds them, breaks and mends them on request, and counts what they hold. Knows no script and no view.
Everything lives in this process and in one temporary folder, which is removed at the end.
"""

import asyncio
import random
import secrets
import tempfile
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO, cast

from prometheus_client import CollectorRegistry

from consumer.app import Assembled, assemble
from consumer.broker.virtual import VirtualLink
from consumer.broker.virtual_reader import VirtualQueueReader
from consumer.config import load
from consumer.core.outgoing import PERSISTENT, Outgoing
from consumer.core.topology import Topology
from consumer.deadletters.actions import ReplayToQueue
from consumer.deadletters.selection import Selection
from consumer.deadletters.sweep import Sweep
from consumer.demo.account import Evidence, Message
from consumer.errors import PublishError
from consumer.logs import Output
from consumer.metrics import Metrics
from consumer.metrics.catalogue import PREFIX
from consumer.publishing import samples
from consumer.sandbox import Sandbox
from consumer.service.handler import utc_now

BROKER = "memory://"
QUEUE = "journeys.completed"
LATENCY_SECONDS = 0.12


@dataclass(frozen=True, slots=True)
class Now:
    """What is so at one moment. Times are aware; counts are whole numbers."""

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

    @property
    def done(self) -> int:
        """What the Registry has said yes to."""
        return self.registered + self.already_registered


class _Discarded:
    """A log's stream that keeps nothing; the demo tells its story itself."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        return


class Stage:
    """The parts and the levers; an async context manager. ``speed`` shortens the service's waits."""

    def __init__(self, version: samples.Version, *, speed: float = 1.0, queue: str | None = None) -> None:
        self.published: list[Message] = []
        self.replayed: Counter[str] = Counter()
        self.topology = Topology(queue=queue or QUEUE)
        self._version = version
        self._speed = speed
        self._rng = random.Random()  # noqa: S311 - invented journeys
        self._token = secrets.token_urlsafe(24)
        self._sandbox = Sandbox(tokens=[self._token], rate_limit=1_000_000)
        self._registry_up = False
        self._registry = CollectorRegistry()
        self._sent: list[dict[str, object]] = []

    async def __aenter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="journey-consumer-demo-")
        self._token_file = Path(self._folder.name) / "token"
        self._write_token()
        await self._sandbox.start()
        self._registry_up = True
        self._sandbox.faults.apply({"latency_seconds": LATENCY_SECONDS / self._speed})
        self._assembled: Assembled = assemble(
            load(self._environment()), Metrics(self._registry), Output(cast("TextIO", _Discarded()))
        )
        self._service = asyncio.create_task(self._assembled.service.run())
        self._link = VirtualLink(
            url=BROKER, topology=self.topology, prefetch=1, metrics=Metrics(CollectorRegistry())
        )
        self._link.listen(lambda _delivery: None, lambda: None)
        self._link.start()
        while not self._link.connected:  # noqa: ASYNC110 - the link has no event for it
            await asyncio.sleep(0.01)
        self._taps = {
            name: VirtualQueueReader(BROKER, name) for name in (self.topology.queue, *self._dead_queues)
        }
        for tap in self._taps.values():
            tap.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop_service()
        await self._link.close()
        for tap in self._taps.values():
            tap.close()
        await self._sandbox.stop()
        self._folder.cleanup()

    async def _stop_service(self) -> None:
        """Drain it, as SIGTERM would. Raises what ended it, if it had ended by itself."""
        self._assembled.service.stop()
        await self._service

    def _environment(self) -> dict[str, str]:
        """What an operator would set, with waits that fit into a minute."""

        def seconds(usual: float) -> str:
            return f"{max(0.1, usual / self._speed):.3f}"

        secrets_folder = Path(self._folder.name) / "secrets"
        secrets_folder.mkdir()
        return {
            "BROKER_URL": BROKER,
            "BROKER_QUEUE": self.topology.queue,
            "BROKER_PREFETCH": "32",
            "DEAD_LETTERS_RETURN_UNAUTHORIZED": "false",  # the script does it, to be seen
            "DEAD_LETTERS_LOOK_SECONDS": "0",
            "REGISTRY_URL": self._sandbox.url,
            "REGISTRY_API_VERSION": self._version,
            "REGISTRY_TOKEN_FILE": str(self._token_file),
            "REGISTRY_CONCURRENCY": "16",
            "REGISTRY_TIMEOUT_SECONDS": "5",
            "RETRY_BACKOFF_BASE_SECONDS": seconds(0.3),
            "RETRY_BACKOFF_CAP_SECONDS": seconds(1.0),
            "RETRY_DELAYS_SECONDS": "1,2",
            "AUTH_PAUSE_AFTER": "10",
            "AUTH_PROBE_SECONDS": seconds(3.0),
            "BREAKER_THRESHOLD": "10",
            "BREAKER_PROBE_SECONDS": seconds(1.0),
            "BREAKER_PROBE_CAP_SECONDS": seconds(2.0),
            "DRAIN_TIMEOUT_SECONDS": "5",
            "SECRETS_DIR": str(secrets_folder),
        }

    # --- levers -------------------------------------------------------------------------

    async def publish_valid(self) -> None:
        """Publish a journey that nobody has seen yet."""
        payload = samples.journey(self._version, self._rng, datetime.now(UTC))
        self._sent.append(payload)
        await self._publish(samples.encode(payload), samples.journey_id(payload))

    async def publish_invalid(self) -> None:
        """Publish a payload with a mistake."""
        await self._publish(samples.invalid(self._version, self._rng, datetime.now(UTC)), None)

    async def publish_again(self) -> None:
        """Publish a journey that was published before, as a second message."""
        payload = self._rng.choice(self._sent)
        await self._publish(samples.encode(payload), samples.journey_id(payload))

    async def _publish(self, body: bytes, journey_id: str | None) -> None:
        message = Message(str(uuid.UUID(int=self._rng.getrandbits(128), version=4)), journey_id)
        properties = {
            "delivery_mode": PERSISTENT,
            "content_type": "application/json",
            "message_id": message.message_id,
        }
        await self._link.submit(Outgoing("", self.topology.queue, body, {}, properties))
        self.published.append(message)

    def revoke_token(self) -> None:
        """The Registry refuses the token from now on."""
        self._sandbox.revoke(self._token)

    def rotate_token(self) -> None:
        """The Registry accepts a new token, and the token file holds it."""
        self._token = secrets.token_urlsafe(24)
        self._sandbox.accept(self._token)
        self._write_token()

    def _write_token(self) -> None:
        fresh = self._token_file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(self._token)
        fresh.replace(self._token_file)

    async def stop_registry(self) -> None:
        """The Registry goes away; connections are cut, what it remembers stays."""
        self._registry_up = False
        await self._sandbox.stop()

    async def start_registry(self) -> None:
        """The Registry comes back where it was."""
        await self._sandbox.start()
        self._registry_up = True

    async def replay(self, reason: str) -> int:
        """Send the dead letters of ``reason`` again, as `dead-letters replay` does; returns how many."""
        queue = self.topology.dead_letter_queue(reason)

        def count(replayed: int) -> None:
            self.replayed[reason] += replayed

        sweep = Sweep({reason: lambda: VirtualQueueReader(BROKER, queue)}, Selection(), now=utc_now)
        tally = await sweep.run(ReplayToQueue(self._link, self.topology.queue, on_replayed=count))
        if tally.trouble is not None:
            raise PublishError(tally.trouble)
        return tally.acted

    # --- what is so ---------------------------------------------------------------------

    def now(self) -> Now:
        """Look at queues and counters."""
        oldest = self._value("oldest_pending_start_timestamp_seconds")
        registrations = self._value("journey_age_at_registration_seconds_count")
        ages = self._value("journey_age_at_registration_seconds_sum")
        pausing = self._assembled.admission.pausing
        return Now(
            published=len(self.published),
            registered=self._outcome("registered"),
            already_registered=self._outcome("already_registered"),
            dead={reason: self._taps[name].waiting() for name, reason in self._dead_queues.items()},
            replayed=self.replayed.total(),
            waiting=self._taps[self.topology.queue].waiting(),
            in_flight=int(self._value("in_flight")),
            paused=None if pausing is None else pausing.value,
            oldest_start=datetime.fromtimestamp(oldest, UTC) if oldest else None,
            mean_age_seconds=ages / registrations if registrations else None,
            registry_up=self._registry_up,
        )

    def is_settled(self) -> bool:
        """Whether every message that was published or replayed has its final fate."""
        fates = self._outcome("registered") + self._outcome("already_registered")
        fates += sum(self._dead_lettered(reason) for reason in self._dead_queues.values())
        return fates == len(self.published) + self.replayed.total()

    def service_ended(self) -> bool:
        """Whether the service has stopped by itself, which it never should."""
        return self._service.done()

    async def finish(self) -> Evidence:
        """Stop the service, empty the queues and gather what both sides know."""
        await self._stop_service()
        found = {
            name: [delivery.message_id or "" for delivery in tap.take_all()]
            for name, tap in self._taps.items()
        }
        return Evidence(
            published=tuple(self.published),
            queued=found[self.topology.queue],
            dead={reason: found[name] for name, reason in self._dead_queues.items()},
            times_seen={name: journey.times_seen for name, journey in self._sandbox.journeys.items()},
            outcomes={name: self._outcome(name) for name in ("registered", "already_registered")},
            dead_lettered={reason: self._dead_lettered(reason) for reason in self._dead_queues.values()},
            replayed=self.replayed,
        )

    @property
    def _dead_queues(self) -> dict[str, str]:
        return {self.topology.dead_letter_queue(r): r for r in self.topology.dead_letter_reasons}

    def _outcome(self, name: str) -> int:
        return int(self._value("journeys_total", outcome=name))

    def _dead_lettered(self, reason: str) -> int:
        return int(self._value("dead_lettered_total", reason=reason))

    def _value(self, name: str, **labels: str) -> float:
        """A metric as /metrics would show it; 0 for a label that it does not have."""
        return self._registry.get_sample_value(PREFIX + name, labels) or 0.0
