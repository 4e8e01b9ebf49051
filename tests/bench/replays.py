"""``dead-letters replay`` to the main queue: how fast, and how much memory, whatever order they lie in."""

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from consumer.broker.declare import ensure
from consumer.core.topology import Topology
from consumer.publishing import samples
from tests.bench.work import Result, fill, payloads, process
from tests.broker import Broker

REPLAY = [sys.executable, "-m", "consumer", "dead-letters", "replay", "--reason", "unauthorized"]
DEATH = {
    "x-reason": "unauthorized",
    "x-detail": "-32501",
    "x-status": 401,
    "x-attempts": 3,
    "x-first-failure": "2026-11-23T15:00:00.000Z",
    "x-last-failure": "2026-11-23T15:00:00.000Z",
    "x-original-exchange": "operator",
    "x-original-routing-key": "journey.done",
    "x-consumer-version": "0.1.0",
}


def dead(*, shuffled: bool) -> Callable[[int], Iterator[tuple[str, bytes]]]:
    """Journeys of the last ten hours, each with a deadline of its own."""

    def source(count: int) -> Iterator[tuple[str, bytes]]:
        order, began = list(range(count)), datetime.now(UTC) - timedelta(hours=10)
        if shuffled:
            random.Random(11).shuffle(order)
        for number, (identifier, body) in zip(order, payloads(count), strict=True):
            payload = json.loads(body)
            for role in ("driver", "passenger"):
                start = began + timedelta(hours=9 * number / count)
                payload[role]["start"]["datetime"] = start.isoformat(timespec="milliseconds")
            yield identifier, samples.encode(payload)

    return source


def replay(broker: Broker, count: int, *, shuffled: bool) -> Result:
    """From the start of the command to its end, imports included; peak memory."""
    topology = Topology(queue=f"replay.{'shuffled' if shuffled else 'ordered'}.{count}")
    with broker.connection() as connection:
        ensure(connection, topology, declare=True)
    source = topology.dead_letter_queue("unauthorized")
    fill(broker, source, count, dead(shuffled=shuffled), DEATH)
    environment = {"BROKER_URL": broker.url, "BROKER_QUEUE": topology.queue}
    started, peak, cpu = time.monotonic(), 0, 0.0
    with process(REPLAY, environment) as contender:
        while contender.is_running() and (now := contender.as_dict(["status", "memory_info", "cpu_times"])):
            if now["status"] == "zombie":
                break
            peak = max(peak, now["memory_info"].rss)
            cpu = now["cpu_times"].user + now["cpu_times"].system
            time.sleep(0.05)
        wall = time.monotonic() - started
    moved, left = broker.depth(topology.queue).total, broker.depth(source).total
    if (moved, left) != (count, 0):
        raise RuntimeError(f"{count} dead letters: {moved} moved, {left} left")
    broker.delete_queue(topology.queue)
    return Result(count, cpu, wall, {count: peak / 1e6})
