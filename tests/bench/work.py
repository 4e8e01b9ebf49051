"""The work that every contender gets: a quorum queue full of valid journeys, and a fast Registry.

One private RabbitMQ node and one server process serve the whole run; each contender is a process of
its own, started anew, so that CPU seconds and resident memory are its own.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import amqp
import psutil
import trustme

from consumer.publishing import samples
from tests.bench.server import FOREIGN, REFUSED
from tests.broker import Broker

DEADLINE_SECONDS = 600
#: What the Registry takes: 20,000 a minute.
PACE = 333


#: As travellers write them: most of them mobile, some with spaces, a landline, one from Belgium.
_PHONES = (
    *["+33600{:06d}"] * 6,
    "+33 6 00 {0[0]}{0[1]} {0[2]}{0[3]} {0[4]}{0[5]}",
    "06 00 {0[0]}{0[1]} {0[2]}{0[3]} {0[4]}{0[5]}",
    "+33 1 99 {0[0]}{0[1]} {0[2]}{0[3]} {0[4]}{0[5]}",
    "+32470{:06d}",
)


def _phone(number: int) -> str:
    form, digits = _PHONES[number % len(_PHONES)], number // len(_PHONES) % 1_000_000
    return form.format(f"{digits:06d}" if "[" in form else digits)


def payloads(count: int) -> Iterator[tuple[str, bytes]]:
    """Valid v2 journeys, each with an id, telephone numbers and a minute of its own."""
    rng, now = random.Random(7), datetime.now(UTC)
    bodies = [samples.journey("v2", rng, now) for _ in range(200)]
    for number in range(count):
        identifier = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        body = bodies[number % len(bodies)] | {"journey_id": identifier}
        for each, role in enumerate(("driver", "passenger")):
            body[role] = body[role] | {"identity": {"phone": _phone(2 * number + each), "over_18": True}}
        yield identifier, samples.encode(body)


def refused(count: int) -> Iterator[tuple[str, bytes]]:
    """Journeys without a driver: each becomes a dead letter ``invalid``."""
    for identifier, body in payloads(count):
        payload = json.loads(body)
        del payload["driver"]
        yield identifier, samples.encode(payload)


def mixed(share: float) -> Callable[[int], Iterator[tuple[str, bytes]]]:
    """Journeys of which that ``share`` is bad, in no order.

    A third each: invalid, refused by the Registry's database, answered by something that is not the Registry.
    """

    def source(count: int) -> Iterator[tuple[str, bytes]]:
        bad, rng = round(count * share), random.Random(11)
        kinds = [number % 3 for number in range(bad)] + [-1] * (count - bad)
        rng.shuffle(kinds)
        for kind, (identifier, body) in zip(kinds, payloads(count), strict=True):
            if kind < 0:
                yield identifier, body
            elif kind:
                marked = (REFUSED if kind == 1 else FOREIGN) + identifier[len(REFUSED) :]
                yield marked, body.replace(identifier.encode(), marked.encode())
            else:
                yield identifier, body.replace(b'"driver":', b'"rider":')

    return source


def fill(
    broker: Broker,
    queue: str,
    count: int,
    source: Callable[[int], Iterator[tuple[str, bytes]]] = payloads,
    headers: Mapping[str, str | int] | None = None,
) -> None:
    """Publish ``count`` persistent journeys to ``queue`` and wait until the broker has them all."""
    with broker.channel() as channel:
        channel.confirm_select()
        confirmed = 0

        def on_ack(tag: int, _multiple: bool) -> None:  # noqa: FBT001 py-amqp's signature
            nonlocal confirmed
            confirmed = max(confirmed, tag)

        channel.events["basic_ack"].add(on_ack)
        for identifier, body in source(count):
            message = amqp.Message(
                body,
                message_id=identifier,
                delivery_mode=2,
                content_type="application/json",
                application_headers=dict(headers or {}),
            )
            channel.basic_publish(message, "", queue)
        while confirmed < count:
            channel.connection.drain_events(timeout=30)


@dataclass(slots=True)
class Result:
    """What one contender needed. ``resident`` is MB by journeys done."""

    journeys: int
    cpu_seconds: float
    wall_seconds: float
    resident: dict[int, float] = field(default_factory=dict)

    @property
    def per_cpu_second(self) -> float:
        """Journeys per CPU-second of the consuming process."""
        return self.journeys / self.cpu_seconds

    @property
    def per_second(self) -> float:
        """Journeys per second of the clock."""
        return self.journeys / self.wall_seconds


class FastRegistry:
    """The server process; ``arrivals`` ends it. With ``tls`` its certificate is signed by ``ca_file``."""

    def __init__(self, *, tls: bool = False) -> None:
        command = [sys.executable, "-m", "tests.bench.server"]
        self._directory = tempfile.TemporaryDirectory(prefix="bench-")
        self.ca_file = Path(self._directory.name) / "ca.pem" if tls else None
        if self.ca_file is not None:
            authority, issued = trustme.CA(), Path(self._directory.name) / "server.pem"
            authority.cert_pem.write_to_path(str(self.ca_file))
            authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(issued))
            command.append(str(issued))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{int(self._process.stdout.readline())}"

    def arrivals(self) -> dict[str, float]:
        """When each journey came first, in monotonic seconds."""
        out, _ = self._process.communicate("enough\n", timeout=60)
        arrived: dict[str, float] = json.loads(out)
        return arrived

    def stop(self) -> None:
        """End it, whatever it holds."""
        self._process.kill()
        self._process.communicate()
        self._directory.cleanup()


def service_environment(broker: Broker, queue: str, registry: FastRegistry) -> dict[str, str]:
    """Everything on; only the pace is out of the way of the measurement."""
    return {
        "BROKER_URL": broker.url,
        "BROKER_QUEUE": queue,
        "REGISTRY_URL": registry.url,
        "REGISTRY_TOKEN": "benchmark",
        "REGISTRY_RATE_PER_MINUTE": "10000000",
        "HTTP_HOST": "127.0.0.1",
        "HTTP_PORT": "0",
        **({"REGISTRY_CA_FILE": str(registry.ca_file)} if registry.ca_file else {}),
    }


@contextlib.contextmanager
def process(command: list[str], environment: Mapping[str, str]) -> Iterator[psutil.Process]:
    """Run a contender; its log goes to a file, as it would go to a container's log driver."""
    with open(os.devnull, "wb") as sink:  # noqa: PTH123 a file like any other to the process
        running = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=sink, stderr=subprocess.STDOUT
        )
        try:
            yield psutil.Process(running.pid)
        finally:
            running.terminate()
            running.wait(30)


def drain(
    broker: Broker, queue: str, command: list[str], environment: Mapping[str, str], count: int
) -> Result:
    """Start the contender on a full queue and measure until the queue is empty.

    CPU seconds count from the first thousandth of the work, so that importing does not count.
    """
    with process(command, environment) as contender, broker.channel() as channel:

        def left() -> int:
            return int(channel.queue_declare(queue, passive=True).message_count)

        deadline = time.monotonic() + DEADLINE_SECONDS
        while left() > count - max(count // 1000, 1):
            _check(contender, deadline)
        started, before, begun = time.monotonic(), contender.cpu_times(), count - left()
        resident: dict[int, float] = {}
        steps = iter(range(count // 5, count + 1, count // 5))
        step = next(steps)
        while (todo := left()) > 0:
            _check(contender, deadline)
            if count - todo >= step:
                resident[step] = contender.memory_info().rss / 1e6
                step = next(steps, count + 1)
        while broker.queue_depths()[queue].total:  # what was prefetched
            _check(contender, deadline)
        wall, after = time.monotonic() - started, contender.cpu_times()
        resident[count] = contender.memory_info().rss / 1e6
    cpu = after.user + after.system - before.user - before.system
    return Result(count - begun, cpu, wall, resident)


def _check(contender: psutil.Process, deadline: float) -> None:
    if time.monotonic() > deadline or contender.status() == psutil.STATUS_ZOMBIE:
        raise RuntimeError("the contender ended, or did not finish in time")
    time.sleep(0.02)


def trickle(broker: Broker, queue: str, seconds: int) -> dict[str, float]:
    """Publish ``PACE`` journeys a second at an even pace; returns id -> monotonic seconds."""
    published: dict[str, float] = {}
    made = list(payloads(PACE * seconds))
    with broker.channel() as channel:
        start = time.monotonic()
        for number, (identifier, body) in enumerate(made):
            pause = start + number / PACE - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            message = amqp.Message(body, message_id=identifier, delivery_mode=2)
            published[identifier] = time.monotonic()
            channel.basic_publish(message, "", queue)
    return published
