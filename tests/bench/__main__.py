"""``make bench``: the cost of a journey, beside that of common alternatives. Only prints numbers.

The real service, everything on (validation, metrics, logs at info level, acknowledgements), against
a RabbitMQ quorum queue and a fast local HTTP server. The same work by a plain kombu + httpx loop and
by FastStream + httpx in the same run. Compare ratios: absolute numbers belong to the machine.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import amqp

from tests.bench.replays import replay
from tests.bench.work import (
    LATENCY_RATE,
    FastRegistry,
    Result,
    drain,
    fill,
    process,
    refused,
    service_environment,
    trickle,
)
from tests.broker import Broker
from tests.rabbit import RabbitNode, fresh_vhost

SERVICE = [sys.executable, "-m", "consumer", "run"]
RESIDENT_AFTER = 100_000


def _queue(broker: Broker, name: str) -> str:
    with broker.channel() as channel:
        channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
    return name


def _service(broker: Broker, count: int, name: str) -> Result:
    queue, registry = _queue(broker, name), FastRegistry()
    try:
        fill(broker, queue, count)
        result = drain(broker, queue, SERVICE, service_environment(broker, queue, registry.url), count)
        return _complete(result, registry, count)
    finally:
        registry.stop()


def _complete(result: Result, registry: FastRegistry, count: int) -> Result:
    """Speed does not count when something did not arrive."""
    arrived = len(registry.arrivals())
    if arrived != count:
        raise RuntimeError(f"{count - arrived} of {count} journeys did not arrive")
    return result


def _loop(kind: str) -> Callable[[Broker, int, str], Result]:
    def contender(broker: Broker, count: int, name: str) -> Result:
        queue, registry = _queue(broker, name), FastRegistry()
        url = f"{registry.url}/v2/journeys"
        try:
            fill(broker, queue, count)
            command = [sys.executable, "-m", "tests.bench.loops", kind, broker.url, queue, url]
            return _complete(drain(broker, queue, command, {}, count), registry, count)
        finally:
            registry.stop()

    return contender


def _latency(broker: Broker, seconds: int) -> list[float]:
    """Seconds from publishing to arriving at the Registry, sorted."""
    queue, registry = _queue(broker, "latency"), FastRegistry()
    with process(SERVICE, service_environment(broker, queue, registry.url)):
        with broker.channel() as channel:
            while channel.queue_declare(queue, passive=True).consumer_count == 0:
                time.sleep(0.05)
        published = trickle(broker, queue, seconds)
        with broker.channel() as channel:
            while channel.queue_declare(queue, passive=True).message_count:
                time.sleep(0.05)
        time.sleep(1.0)
        arrived = registry.arrivals()
    missing = published.keys() - arrived.keys()
    if missing:
        raise RuntimeError(f"{len(missing)} journeys did not arrive")
    return sorted(arrived[identifier] - at for identifier, at in published.items())


def _dead_letters(broker: Broker, count: int) -> Result:
    """Dead letters published, confirmed and acknowledged; every one must be in its queue."""
    queue, registry = _queue(broker, "dead"), FastRegistry()
    try:
        fill(broker, queue, count, refused)
        result = drain(broker, queue, SERVICE, service_environment(broker, queue, registry.url), count)
    finally:
        registry.stop()
    kept = broker.depth(f"{queue}.dead-letter.invalid").total
    if kept != count:
        raise RuntimeError(f"{count} refused, {kept} dead letters")
    return result


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--journeys", type=int, default=20_000, help="journeys of each contender's round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, contenders in turn")
    parser.add_argument("--skip-memory", action="store_true", help="nothing with 100,000 journeys")
    args = parser.parse_args()
    contenders: dict[str, tuple[Callable[[Broker, int, str], Result], int]] = {
        "journey-consumer": (_service, 1),
        "kombu + httpx loop": (_loop("kombu"), 10),
        "FastStream + httpx": (_loop("faststream"), 10),
    }
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    with RabbitNode() as node, fresh_vhost(node) as broker:
        for turn in range(args.rounds):
            for name, (contender, divisor) in contenders.items():
                queue = f"bench.{turn}.{name.split()[0]}"
                results[name].append(contender(broker, args.journeys // divisor, queue))
        rates = {name: statistics.median(r.per_cpu_second for r in done) for name, done in results.items()}
        _say(f"{'':<22}{'per CPU-second':>16}{'ratio':>8}{'per second':>12}   (median of {args.rounds})")
        ours = rates["journey-consumer"]
        for name, done in results.items():
            wall = statistics.median(r.journeys / r.wall_seconds for r in done)
            _say(f"{name:<22}{rates[name]:>16,.0f}{ours / rates[name]:>7.1f}x{wall:>12,.0f}")
        share = 20_000 / 60 / ours
        _say(f"The Registry's 20,000 a minute take {share:.1%} of a core.")
        dead = _dead_letters(broker, args.journeys // 2)
        _say(
            f"Dead letters, published and confirmed before the acknowledgement: "
            f"{dead.journeys / dead.wall_seconds:,.0f} a second, {dead.per_cpu_second:,.0f} per CPU-second."
        )
        again = args.journeys // 2 if args.skip_memory else RESIDENT_AFTER
        for shuffled, order in ((False, "in the order of their deadlines"), (True, "shuffled")):
            sent = replay(broker, again, shuffled=shuffled)
            _say(
                f"{again:,} dead letters {order}, replayed: {again / sent.wall_seconds:,.0f} a second, "
                f"{max(sent.resident.values()):.0f} MB at most."
            )
        late = _latency(broker, 10)
        p50, p99 = (late[int(len(late) * share)] * 1000 for share in (0.50, 0.99))
        _say(f"At {LATENCY_RATE} journeys a second, publish to Registry: p50 {p50:.1f} ms, p99 {p99:.1f} ms.")
        if not args.skip_memory:
            resident = _service(broker, RESIDENT_AFTER, "bench.memory").resident
            sizes = ", ".join(f"{mb:.1f} MB after {done:,}" for done, mb in sorted(resident.items()))
            _say(f"Resident memory: {sizes}.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except amqp.AMQPError as error:
        sys.exit(f"the broker failed: {type(error).__name__}")
