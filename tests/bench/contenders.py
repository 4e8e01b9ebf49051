"""Who is measured: this service, and what people write instead. Each is a process started anew."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.loops import IN_FLIGHT
from tests.bench.work import FastRegistry, service_environment
from tests.broker import Broker

SERVICE = [sys.executable, "-m", "consumer", "run"]
_PEERS = Path(__file__).parent / "peers"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "journey-consumer" / "bench-peers"

Start = Callable[[Broker, str, FastRegistry], tuple[list[str], dict[str, str]]]


@dataclass(frozen=True, slots=True)
class Contender:
    """``start`` gives command and environment. ``divisor`` keeps the slow ones short."""

    name: str
    start: Start
    divisor: int = 1
    https: bool = True


def _service(broker: Broker, queue: str, registry: FastRegistry) -> tuple[list[str], dict[str, str]]:
    return SERVICE, service_environment(broker, queue, registry)


def _python(kind: str) -> Start:
    def start(broker: Broker, queue: str, registry: FastRegistry) -> tuple[list[str], dict[str, str]]:
        url = f"{registry.url}/v2/journeys"
        return [sys.executable, "-m", "tests.bench.loops", kind, broker.url, queue, url], {}

    return start


def _node(folder: Path, *, validates: bool) -> Start:
    def start(broker: Broker, queue: str, registry: FastRegistry) -> tuple[list[str], dict[str, str]]:
        return ["node", str(folder / "loop.mjs")], {
            "BROKER_URL": broker.url,
            "QUEUE": queue,
            "REGISTRY_URL": registry.url,
            "CA_FILE": str(registry.ca_file or ""),
            "SCHEMA": str(folder / "v2.json") if validates else "",
            "IN_FLIGHT": str(IN_FLIGHT),
        }

    return start


def _node_peers() -> list[Contender] | str:
    """Install what the lock names, in the cache; or say why not."""
    if not shutil.which("node") or not shutil.which("npm"):
        return "node and npm are not installed"
    _CACHE.mkdir(parents=True, exist_ok=True)
    for file in _PEERS.iterdir():
        shutil.copy(file, _CACHE)
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(install, cwd=_CACHE, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"npm ci failed: {done.stderr.strip().splitlines()[0]}"
    schema = [sys.executable, "-m", "consumer", "schema", "--api-version", "v2"]
    (_CACHE / "v2.json").write_bytes(subprocess.run(schema, capture_output=True, check=True).stdout)
    return [
        Contender("Node amqplib + undici", _node(_CACHE, validates=False)),
        Contender("the same + ajv", _node(_CACHE, validates=True)),
    ]


def contenders() -> tuple[list[Contender], str | None]:
    """All that can run here, ours first, and why some cannot."""
    node = _node_peers()
    found = [
        Contender("journey-consumer", _service),
        *([] if isinstance(node, str) else node),
        Contender("kombu + httpx loop", _python("kombu"), 10, https=False),
        Contender("FastStream + httpx", _python("faststream"), 10, https=False),
    ]
    return found, f"Without the peers on Node: {node}." if isinstance(node, str) else None
