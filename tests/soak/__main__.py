"""``make soak MINUTES=10``: one RabbitMQ node, two replicas, faults of every kind, and a full account.

Journeys are published with confirms, all the time, a tenth of them invalid; an unconfirmed publish is
repeated. The first replica lives throughout: its memory and descriptors are those of the whole run. The
second is terminated and killed. Exits 1 when a journey is lost, changed, or still queued at the end.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.broker import Broker
from tests.ledger import QUEUE, TOPOLOGY, Ledger
from tests.local_registry import TOKEN, LocalRegistry
from tests.machine import machine
from tests.proxy import Proxy
from tests.rabbit import RabbitNode, fresh_vhost
from tests.service import ServiceProcess
from tests.soak.report import Footprint, count, say, table

_INVALID = TOPOLOGY.dead_letter_queue("invalid")
_SETTLE_SECONDS = 300.0
_USUAL = {"latency_seconds": 0.05}  # so that every fault meets journeys in flight
_ODD_ANSWERS: tuple[Mapping[str, Any], ...] = (
    *({"error_rate": 0.5, "error_status": status} for status in (400, 404, 406, 500, 502, 503)),
    {"maintenance": True},
    {"garbage": True},
    {"not_found": True},
    {"redirect": "https://elsewhere.example/"},
    {"timeout_408": True},
    {"drop_connection": "before_read"},
    {"drop_connection": "before_answer"},
    {"latency_seconds": 1.0},
    {"slow_drip_seconds": 0.005},
    {"close_idle_seconds": 0.05},
    {"huge_answer_bytes": 2_000_000},
    {"throttle": {"retry_after_seconds": 2}},
    {"throttle": {"retry_after_seconds": 0, "with_headers": False}},
)


@dataclass(slots=True)
class Stage:
    """The parts that a fault may break; each fault leaves them whole."""

    rng: random.Random
    broker: Broker
    network: Proxy
    registry: LocalRegistry
    token_file: Path
    victim: ServiceProcess

    def hold(self, least: float = 1.0, most: float = 6.0) -> None:
        """Let the fault last."""
        time.sleep(self.rng.uniform(least, most))


def _broker_restarted(stage: Stage) -> None:
    stage.broker.node.restart()


def _broker_killed(stage: Stage) -> None:
    stage.broker.node.kill()
    stage.hold()
    stage.broker.node.start()


def _memory_alarm(stage: Stage) -> None:
    stage.broker.node.set_memory_alarm(on=True)
    stage.hold()
    stage.broker.node.set_memory_alarm(on=False)


def _dead_letter_queue_full(stage: Stage) -> None:
    node, vhost = stage.broker.node, stage.broker.vhost
    limit = json.dumps({"max-length": 5, "overflow": "reject-publish"})
    node.ctl("set_policy", "--vhost", vhost, "--apply-to", "queues", "full", _INVALID, limit)
    stage.hold(4, 10)
    node.ctl("clear_policy", "--vhost", vhost, "full")


def _connections_cut(stage: Stage) -> None:
    for _ in range(stage.rng.randrange(1, 4)):
        stage.network.cut()
        stage.hold(0.1, 2)


def _network_silent(stage: Stage) -> None:
    stage.network.blackhole()
    stage.hold(5, 15)  # up to three times the heartbeat
    stage.network.blackhole(on=False)


def _broker_unreachable(stage: Stage) -> None:
    stage.network.refuse()
    stage.network.cut()
    stage.hold()
    stage.network.refuse(on=False)


def _registry_down(stage: Stage) -> None:
    stage.registry.down()
    stage.hold()
    stage.registry.up()


def _odd_answers(stage: Stage) -> None:
    for fault in stage.rng.sample(_ODD_ANSWERS, 2):
        stage.registry.faults.apply(fault)
        stage.hold()
        stage.registry.faults.clear()
        stage.registry.faults.apply(_USUAL)


def _token_revoked(stage: Stage) -> None:
    old, new = stage.token_file.read_text(), f"token-{stage.rng.getrandbits(64):x}"
    stage.registry.revoke(old)
    stage.hold()
    stage.registry.accept(new)
    stage.token_file.write_text(new)


def _replica_killed(stage: Stage) -> None:
    stage.victim.kill()
    stage.hold(0, 2)
    stage.victim.start()


def _replica_terminated(stage: Stage) -> None:
    code = stage.victim.terminate()
    assert code == 0, f"SIGTERM: exit code {code}"
    stage.victim.start()


FAULTS: tuple[Callable[[Stage], None], ...] = (
    _broker_restarted,
    _broker_killed,
    _memory_alarm,
    _dead_letter_queue_full,
    _connections_cut,
    _network_silent,
    _broker_unreachable,
    _registry_down,
    _odd_answers,
    _odd_answers,
    _token_revoked,
    _replica_killed,
    _replica_terminated,
)


def _soak(minutes: float, seed: int, directory: Path) -> bool:
    token_file = directory / "token"
    token_file.write_text(TOKEN)
    with (
        RabbitNode() as node,
        fresh_vhost(node) as broker,
        Proxy("127.0.0.1", node.port) as network,
        LocalRegistry() as registry,
    ):
        registry.faults.apply(_USUAL)
        ledger = Ledger(broker)
        ledger.declare()
        settings = {
            "BROKER_URL": broker.url_at(network.port),
            "BROKER_QUEUE": QUEUE,
            "REGISTRY_URL": registry.url,
            "REGISTRY_TOKEN_FILE": str(token_file),
            "REGISTRY_TIMEOUT_SECONDS": "5",
        }
        with ServiceProcess(directory, settings) as steady, ServiceProcess(directory, settings) as victim:
            stage = Stage(random.Random(seed), broker, network, registry, token_file, victim)
            footprint, done, plan = Footprint(steady), Counter[str](), list[Callable[[Stage], None]]()
            started = time.monotonic()
            with ledger.load(most=0, share_invalid=0.1):
                while time.monotonic() - started < minutes * 60:
                    plan = plan or stage.rng.sample(FAULTS, len(FAULTS))  # each kind, then each kind again
                    fault = plan.pop()
                    stage.hold(1, 4)
                    fault(stage)
                    name = fault.__name__[1:].replace("_", " ")
                    done[name] += 1
                    numbers = f"{len(ledger.published):,} confirmed, {len(registry.journeys):,} registered"
                    say(f"{time.monotonic() - started:6.0f} s  {name:<24}{numbers}; {footprint.sample()}")
            pace, ended = len(ledger.published) / (time.monotonic() - started), time.monotonic()
            try:
                ledger.await_settled(_SETTLE_SECONDS)
            except AssertionError as stuck:
                say(str(stuck))
            settled = time.monotonic() - ended
            footprint.sample()
        account = count(ledger, registry)
        version = node.eval("rabbit_misc:version()")
    say("")
    table(
        ("soak", ""),
        (
            ("machine", machine()),
            ("run", f"RabbitMQ {version}, 2 replicas, {minutes:g} min at {pace:.0f} a second, seed {seed}"),
            ("faults", f"{done.total()}: " + ", ".join(f"{name} {n}" for name, n in sorted(done.items()))),
            ("confirmed", f"{account.published:,}"),
            ("lost", len(account.lost)),
            ("changed", account.changed),
            ("registered", f"{account.at['registered']:,}"),
            *(
                (f"dead letters `{reason}`", f"{n:,}")
                for reason, n in sorted(account.at.items())
                if reason not in {"registered", "queued"}
            ),
            ("still queued", account.at["queued"]),
            ("in two places", account.in_two),
            ("twice in a dead-letter queue", account.twice),
            (
                "submitted again",
                f"{account.again:,} (publishes tried again: {ledger.republished:,})",
            ),
            ("everything settled after the last fault", f"{settled:.0f} s"),
            *(
                (f"replica that lived, after {at:.0f} s", f"{mb:.0f} MB, {fds} descriptors")
                for at, mb, fds in footprint.over_time()
            ),
        ),
    )
    for lost in account.lost[:10]:
        say(f"lost: {lost}")
    return account.passed


def main() -> int:
    """Return 1 when a journey is lost, changed or stuck."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.getrandbits(32))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        return 0 if _soak(args.minutes, args.seed, Path(directory)) else 1


if __name__ == "__main__":
    sys.exit(main())
