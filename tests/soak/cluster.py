"""``make cluster``: three RabbitMQ nodes in network namespaces, and how the service survives their faults.

The service is one real process that has all three addresses. Journeys are published with confirms all the
time, to a node that the fault spares. Each fault hits the node that the service consumes from. Needs root
and iproute2. Exits 1 when a journey is lost. ``TEST_RABBITMQ_ROOT`` chooses the RabbitMQ, as in the tests.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Self

from tests.broker import Broker
from tests.ledger import QUEUE, Ledger
from tests.local_registry import TOKEN, LocalRegistry
from tests.machine import machine
from tests.rabbit import RabbitNode
from tests.rabbit_setup import NodeError, Place, Ports
from tests.service import ServiceProcess
from tests.soak.report import Arrivals, count, say, table
from tests.waiting import wait_until

_PORTS = Ports(amqp=5672, distribution=25672, epmd=4369, tls=5671, prometheus=15692, management=15672)
_SIZE = 3
_RECOVERY_SECONDS = 240.0
_OUTAGE_SECONDS = 10.0
_STOP_SECONDS = 120.0
_NOWHERE = "02:00:00:00:00:01"  # no interface has this address: what is sent to it disappears
_RUNNING = """case rabbit:is_running() of
    true -> integer_to_list(length(rabbit_mnesia:cluster_nodes(running)));
    false -> "0"
end"""
_CONSUMERS = """[[atom_to_list(node(proplists:get_value(channel_pid, Each))), "\\n"]
    || Each <- rabbit_amqqueue:consumers_all(<<"/">>)]"""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Network:
    """A bridge with one namespace for each node; a context manager that removes them."""

    def __init__(self) -> None:
        tag, self._subnet = f"{random.getrandbits(24):06x}", f"10.{random.randrange(64, 255)}.77"
        self._bridge = f"soak{tag}"
        self.places = [Place(f"{self._subnet}.{11 + n}", f"soak{tag}-{n}") for n in range(_SIZE)]
        self._removal = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as removal:
            _ip("link", "add", self._bridge, "type", "bridge")
            removal.callback(_ip, "link", "delete", self._bridge)
            _ip("address", "add", f"{self._subnet}.1/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for place in self.places:
                space = str(place.namespace)
                _ip("netns", "add", space)
                removal.callback(_ip, "netns", "delete", space)
                _ip("link", "add", f"v{space[4:]}", "type", "veth", "peer", "name", "eth0", "netns", space)
                _ip("link", "set", f"v{space[4:]}", "master", self._bridge, "up")
                _ip("-n", space, "address", "add", f"{place.host}/24", "dev", "eth0")
                for device in ("eth0", "lo"):
                    _ip("-n", space, "link", "set", device, "up")
            self._removal = removal.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._removal.close()

    def separate(self, one: Place, others: Sequence[Place]) -> None:
        """Lose every packet between ``one`` and ``others``, in silence; clients still reach all of them."""
        for other in others:
            for here, there in ((one, other), (other, one)):
                to = ("to", there.host, "lladdr", _NOWHERE, "nud", "permanent", "dev", "eth0")
                _ip("-n", str(here.namespace), "neighbour", "replace", *to)

    def join(self, one: Place, others: Sequence[Place]) -> None:
        """Undo ``separate``."""
        for other in others:
            for here, there in ((one, other), (other, one)):
                _ip("-n", str(here.namespace), "neighbour", "delete", "to", there.host, "dev", "eth0")


class Cluster:
    """The three nodes; a context manager. ``broker`` publishes to the node in ``broker.node``."""

    def __init__(self, network: Network) -> None:
        self.network = network
        cookie = f"{random.getrandbits(128):032x}"
        conf: dict[str, object] = {
            "loopback_users": "none",
            "cluster_partition_handling": "pause_minority",
            "cluster_formation.peer_discovery_backend": "classic_config",
        }
        for number, place in enumerate(network.places, 1):
            conf[f"cluster_formation.classic_config.nodes.{number}"] = f"tests-{_PORTS.amqp}@{place.host}"
        self.nodes = [
            RabbitNode(conf=conf, place=place, ports=_PORTS, cookie=cookie) for place in network.places
        ]
        self.broker = Broker(self.nodes[0], "/")

    def __enter__(self) -> Self:
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(RabbitNode.start, self.nodes))
            self.await_whole()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        for node in self.nodes:
            node.close()

    @property
    def url(self) -> str:
        """All addresses, as the service takes them."""
        return ";".join(node.url for node in self.nodes)

    def await_whole(self) -> None:
        """Wait until each node sees all nodes."""
        for node in self.nodes:
            wait_until(partial(self._sees_all, node), 120, f"{node.name} sees all nodes", interval=0.2)

    @staticmethod
    def _sees_all(node: RabbitNode) -> bool:
        with suppress(NodeError, subprocess.TimeoutExpired):
            return int(node.eval(_RUNNING, timeout=10)) == _SIZE
        return False

    def consumed_from(self) -> RabbitNode:
        """The node that the service has its consumer on."""
        names = wait_until(lambda: self.broker.node.eval(_CONSUMERS).split(), 60, "the queue has a consumer")
        return next(node for node in self.nodes if node.name == names[0])

    def others(self, node: RabbitNode) -> list[RabbitNode]:
        return [other for other in self.nodes if other is not node]


Heal = Callable[[], object]


def _kill(_cluster: Cluster, victim: RabbitNode) -> Heal:
    victim.kill()
    return victim.start


def _stop_two(cluster: Cluster, victim: RabbitNode) -> Heal:
    two = [victim, cluster.others(victim)[1]]
    with ThreadPoolExecutor() as pool:
        list(pool.map(partial(RabbitNode.stop, timeout=_STOP_SECONDS), two))
    time.sleep(_OUTAGE_SECONDS)

    def heal() -> None:
        with ThreadPoolExecutor() as starting:
            list(starting.map(RabbitNode.start, two))

    return heal


def _partition(cluster: Cluster, victim: RabbitNode) -> Heal:
    others = [node.place for node in cluster.others(victim)]
    cluster.network.separate(victim.place, others)
    return partial(cluster.network.join, victim.place, others)


def _rolling_restart(cluster: Cluster, victim: RabbitNode) -> Heal:
    for node in [victim, *cluster.others(victim)]:
        cluster.broker.node = cluster.others(node)[0]
        node.stop(_STOP_SECONDS)
        node.start()
        cluster.await_whole()
    return lambda: None


def _freeze(_cluster: Cluster, victim: RabbitNode) -> Heal:
    victim.freeze()
    return victim.thaw


#: Each breaks the cluster and gives what heals it; False: nothing is registered before it is healed.
FAULTS: dict[str, tuple[Callable[[Cluster, RabbitNode], Heal], bool]] = {
    "node killed (SIGKILL)": (_kill, True),
    "two of three stopped": (_stop_two, False),
    "node cut off from the others": (_partition, True),
    "rolling restart": (_rolling_restart, True),
    "node frozen (SIGSTOP)": (_freeze, True),
}


class Run:
    """One service, one publisher, one Registry, and the faults one after the other."""

    def __init__(self, cluster: Cluster, ledger: Ledger, registry: LocalRegistry, arrivals: Arrivals) -> None:
        self._cluster = cluster
        self._ledger = ledger
        self._registry = registry
        self._arrivals = arrivals

    def hit(self, name: str) -> tuple[str, ...]:
        """One fault, from its beginning until all that was confirmed meanwhile is registered."""
        cause, survivable = FAULTS[name]
        victim = self._cluster.consumed_from()
        self._cluster.broker.node = self._cluster.others(victim)[0]
        self._ledger.await_published(len(self._ledger.published) + 50)  # the publisher has left the victim
        before, again, began = len(self._ledger.published), self._again(), time.monotonic()
        heal = cause(self._cluster, victim)
        unaided = survivable and self._goes_on(len(self._ledger.published) + 100)
        recovered = time.monotonic()
        heal()
        healed = time.monotonic()
        wait_until(lambda: self._arrivals.first_after(healed), _RECOVERY_SECONDS, "it goes on when healed")
        resumed = self._arrivals.first_after(healed) or 0.0
        self._cluster.await_whole()
        lost = self._missing(len(self._ledger.published))
        return (
            name,
            f"{len(self._ledger.published) - before:,}",
            f"{self._arrivals.longest_gap(began, recovered if unaided else healed + resumed):.1f}",
            "not needed" if unaided else f"{resumed:.1f}",
            f"{self._again() - again:,}",
            str(lost),
        )

    def _again(self) -> int:
        return sum(each.times_seen - 1 for each in dict(self._registry.journeys).values())

    def _goes_on(self, mark: int) -> bool:
        """Whether journeys confirmed after the first ``mark`` are registered before anything is healed."""
        with suppress(AssertionError):
            return wait_until(
                lambda: any(each in self._registry.journeys for each in list(self._ledger.published)[mark:]),
                _RECOVERY_SECONDS,
            )
        return False

    def _missing(self, confirmed: int) -> int:
        """How many of the first ``confirmed`` are not registered, when they have had their time."""
        wanted = set(list(self._ledger.published)[:confirmed])
        with suppress(AssertionError):
            wait_until(lambda: not wanted - self._registry.journeys.keys(), 120, interval=0.5)
        return len(wanted - self._registry.journeys.keys())


def _run(rounds: int, directory: Path) -> bool:
    token_file = directory / "token"
    token_file.write_text(TOKEN)
    with Network() as network, Cluster(network) as cluster, LocalRegistry() as registry:
        version = cluster.nodes[0].eval("rabbit_misc:version()")
        say(f"RabbitMQ {version}: three nodes run")
        registry.faults.apply({"latency_seconds": 0.05})  # so that every fault meets journeys in flight
        ledger = Ledger(cluster.broker)
        ledger.declare()
        settings = {
            "BROKER_URL": cluster.url,
            "BROKER_QUEUE": QUEUE,
            "BROKER_HEARTBEAT_SECONDS": None,  # the default
            "REGISTRY_URL": registry.url,
            "REGISTRY_TOKEN_FILE": str(token_file),
        }
        rows, started = list[tuple[str, ...]](), time.monotonic()
        with ServiceProcess(directory, settings) as service, Arrivals(registry) as arrivals:
            service.await_ready(60)
            run = Run(cluster, ledger, registry, arrivals)
            with ledger.load(most=0):
                for name in list(FAULTS) * rounds:
                    rows.append(run.hit(name))
                    say(f"{time.monotonic() - started:6.0f} s  {'; '.join(rows[-1])}")
            pace = len(ledger.published) / (time.monotonic() - started)
            try:
                ledger.await_settled(120)
            except AssertionError as stuck:
                say(str(stuck))
        account = count(ledger, registry)
    say("")
    say(f"RabbitMQ {version}, three nodes, one replica, {pace:.0f} journeys a second; {machine()}")
    say("")
    table(
        ("fault", "confirmed", "nothing registered, s", "after healing, s", "submitted again", "lost"), rows
    )
    say("")
    dead = account.at.total() - account.at["registered"] - account.at["queued"]
    say(
        f"{account.published:,} confirmed: {account.at['registered']:,} registered, {dead} dead letters, "
        f"{account.at['queued']} queued, {len(account.lost)} lost; {account.again:,} submitted again "
        f"(publishes tried again: {ledger.republished:,})."
    )
    return account.passed


def main() -> int:
    """Return 1 when a journey is lost, changed or stuck."""
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="how often each fault comes")
    args = parser.parse_args()
    if os.geteuid() or not shutil.which("ip"):
        sys.exit("cluster: needs root and iproute2 (Debian: apt install iproute2), for network namespaces")
    with tempfile.TemporaryDirectory(prefix="cluster-") as directory:
        return 0 if _run(args.rounds, Path(directory)) else 1


if __name__ == "__main__":
    sys.exit(main())
