"""``make bench``: the cost of a journey, beside that of common alternatives. Only prints numbers.

The real service, everything on (validation, metrics, logs at info level, acknowledgements), against a
RabbitMQ quorum queue and a fast local HTTP server that answers with the Registry's headers; the alternatives
in the same run, in turns. Compare ratios: absolute numbers belong to the machine.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import amqp

from tests.bench.contenders import Contender, contenders
from tests.bench.replays import replay
from tests.bench.server import FOREIGN, REFUSED
from tests.bench.work import PACE, FastRegistry, Result, drain, fill, mixed, process, refused, trickle
from tests.broker import Broker
from tests.machine import machine
from tests.rabbit import RabbitNode, fresh_vhost

RESIDENT_AFTER = 100_000
PACED_SECONDS = 10
#: Share of bad journeys, and the least rate of the good ones beside them, of that without bad ones.
BESIDE = {0.1: 0.90, 0.5: 0.45, 0.9: 0.08}


def _say(line: str = "") -> None:
    print(line, flush=True)  # noqa: T201


def _median(values: Iterable[float], form: str = ",.0f") -> str:
    """The median, and the range in parentheses."""
    found = sorted(values)
    low, middle, high = (format(each, form) for each in (found[0], statistics.median(found), found[-1]))
    return f"{middle} ({low}-{high})"


class Bench:
    """One broker for all; each measurement has a queue and a Registry of its own."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._queues = 0

    def _queue(self) -> str:
        self._queues += 1
        name = f"bench.{self._queues}"
        self._broker.declare(name)
        return name

    def saturated(self, contender: Contender, count: int, *, tls: bool = False) -> Result:
        """A full queue, as fast as it goes. Speed does not count when something did not arrive."""
        queue, registry = self._queue(), FastRegistry(tls=tls)
        try:
            fill(self._broker, queue, count)
            result = drain(self._broker, queue, *contender.start(self._broker, queue, registry), count)
            arrived = len(registry.arrivals())
        finally:
            registry.stop()
        if arrived != count:
            raise RuntimeError(f"{count - arrived} of {count} journeys did not arrive")
        return result

    def paced(self, contender: Contender, *, tls: bool) -> "Paced":
        """``PACE`` a second: what share of a core, and seconds from publishing to the Registry."""
        queue, registry = self._queue(), FastRegistry(tls=tls)
        try:
            with process(*contender.start(self._broker, queue, registry)) as running:
                while self._broker.consumers(queue) == 0:
                    time.sleep(0.05)
                time.sleep(1.0)  # what follows the start is not the pace
                before, started = running.cpu_times(), time.monotonic()
                published = trickle(self._broker, queue, PACED_SECONDS)
                after, seconds = running.cpu_times(), time.monotonic() - started
                while self._broker.queue_depths()[queue].total:
                    time.sleep(0.05)
            arrived = registry.arrivals()
        finally:
            registry.stop()
        if missing := published.keys() - arrived.keys():
            raise RuntimeError(f"{len(missing)} journeys did not arrive")
        late = sorted(arrived[identifier] - at for identifier, at in published.items())
        cpu = after.user + after.system - before.user - before.system
        p50, p99 = (late[int(len(late) * share)] * 1000 for share in (0.50, 0.99))
        return Paced(cpu / seconds, p50, p99)

    def beside(self, contender: Contender, count: int, share: float) -> Result:
        """The good journeys of ``count``, of which that share is bad, and what it took to settle all."""
        queue, registry = self._queue(), FastRegistry()
        source = mixed(share)
        good = {identifier for identifier, body in source(count) if _is_good(identifier, body)}
        try:
            fill(self._broker, queue, count, source)
            result = drain(self._broker, queue, *contender.start(self._broker, queue, registry), count)
            arrived = registry.arrivals()
        finally:
            registry.stop()
        if missing := good - arrived.keys():
            raise RuntimeError(f"{len(missing)} good journeys did not arrive")
        return Result(round(result.journeys * (1 - share)), result.cpu_seconds, result.wall_seconds)

    def dead_letters(self, contender: Contender, count: int) -> Result:
        """Dead letters published, confirmed and acknowledged; every one must be in its queue."""
        queue, registry = self._queue(), FastRegistry()
        try:
            fill(self._broker, queue, count, refused)
            result = drain(self._broker, queue, *contender.start(self._broker, queue, registry), count)
        finally:
            registry.stop()
        kept = self._broker.depth(f"{queue}.dead-letter.invalid").total
        if kept != count:
            raise RuntimeError(f"{count} refused, {kept} dead letters")
        return result


@dataclass(frozen=True, slots=True)
class Paced:
    share_of_a_core: float
    p50_ms: float
    p99_ms: float


def _is_good(identifier: str, body: bytes) -> bool:
    return not identifier.startswith((REFUSED, FOREIGN)) and b'"driver":' in body


def _compare(bench: Bench, field: Sequence[Contender], journeys: int, rounds: int, *, tls: bool) -> None:
    """Print one table: each contender saturated and paced."""
    running = [each for each in field if each.https or not tls]
    saturated: dict[str, list[Result]] = {each.name: [] for each in running}
    paced: dict[str, list[Paced]] = {each.name: [] for each in running}
    for _ in range(rounds):
        for each in running:
            saturated[each.name].append(bench.saturated(each, journeys // each.divisor, tls=tls))
            # One at a time cannot keep the pace; its figures would be those of a growing queue.
            if each.divisor == 1:
                paced[each.name].append(bench.paced(each, tls=tls))
    rates = {name: statistics.median(r.per_cpu_second for r in done) for name, done in saturated.items()}
    ours = next(iter(rates.values()))
    scheme = "https" if tls else "http"
    _say(f"{scheme:<24}{'per CPU-second':>24}{'ratio':>8}{'per second':>24}")
    for name, done in saturated.items():
        cpu, wall = (_median(r.per_cpu_second for r in done), _median(r.per_second for r in done))
        _say(f"{name:<24}{cpu:>24}{ours / rates[name]:>7.2f}x{wall:>24}")
    _say(f"{f'at {PACE} a second':<24}{'of a core':>24}{'p50 ms':>18}{'p99 ms':>18}")
    for name, slow in paced.items():
        if slow:
            share = _median((each.share_of_a_core for each in slow), ".1%")
            p50, p99 = _median((p.p50_ms for p in slow), ".1f"), _median((p.p99_ms for p in slow), ".1f")
            _say(f"{name:<24}{share:>24}{p50:>18}{p99:>18}")
    _say()


def _beside(bench: Bench, ours: Contender, journeys: int, rounds: int) -> None:
    """Print what bad journeys cost the good ones."""
    found: dict[float, list[Result]] = {share: [] for share in (0.0, *BESIDE)}
    for _ in range(rounds):
        for share, done in found.items():
            done.append(bench.beside(ours, journeys, share))
    _say(
        f"{'good beside bad':<24}{'good per CPU-second':>24}{'good per second':>24}{'kept':>18}{'target':>8}"
    )
    for share, done in found.items():
        kept = _median(
            (one.per_second / alone.per_second for one, alone in zip(done, found[0.0], strict=True)), ".0%"
        )
        cpu, wall = _median(r.per_cpu_second for r in done), _median(r.per_second for r in done)
        _say(f"{f'{share:.0%} bad':<24}{cpu:>24}{wall:>24}{kept:>18}{BESIDE.get(share, 1):>8.0%}")
    _say()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--journeys", type=int, default=20_000, help="journeys of each contender's round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, contenders in turn")
    parser.add_argument("--skip-memory", action="store_true", help="nothing with 100,000 journeys")
    parser.add_argument("--only-beside", action="store_true", help="only good journeys beside bad ones")
    args = parser.parse_args()
    field, absent = contenders()
    ours = field[0]
    with RabbitNode() as node, fresh_vhost(node) as broker:
        bench = Bench(broker)
        _say(f"{machine()}, RabbitMQ {node.eval('rabbit_misc:version()')}.")
        _say(
            f"{args.journeys:,} distinct journeys a round; medians of {args.rounds} rounds (lowest-highest)."
        )
        _say("Ratio: journeys of journey-consumer per CPU-second for each one of the other.")
        if absent:
            _say(absent)
        _say()
        if args.only_beside:
            _beside(bench, ours, args.journeys, args.rounds)
            return 0
        for tls in (False, True):
            _compare(bench, field, args.journeys, args.rounds, tls=tls)
        _beside(bench, ours, args.journeys, args.rounds)
        dead = [bench.dead_letters(ours, args.journeys // 2) for _ in range(args.rounds)]
        _say(
            "Dead letters, published and confirmed before the acknowledgement: "
            f"{_median(each.per_second for each in dead)} a second, "
            f"{_median(each.per_cpu_second for each in dead)} per CPU-second."
        )
        again = args.journeys // 2 if args.skip_memory else RESIDENT_AFTER
        for shuffled, order in ((False, "in the order of their deadlines"), (True, "shuffled")):
            sent = replay(broker, again, shuffled=shuffled)
            _say(
                f"{again:,} dead letters {order}, replayed: {sent.per_second:,.0f} a second, "
                f"{max(sent.resident.values()):.0f} MB at most."
            )
        if not args.skip_memory:
            resident = bench.saturated(ours, RESIDENT_AFTER).resident
            sizes = ", ".join(f"{mb:.1f} MB after {done:,}" for done, mb in sorted(resident.items()))
            _say(f"Resident memory: {sizes}.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except amqp.AMQPError as error:
        sys.exit(f"the broker failed: {type(error).__name__}")
