"""What the README lets you type in three terminals works as it says, on a real RabbitMQ."""

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import pages
from tests.broker import Broker
from tests.rabbit_setup import free_port
from tests.tools import require_tool
from tests.waiting import wait_until

README = pages.ROOT / "README.md"


def terminals(ports: dict[str, str]) -> list[str]:
    """Return the three blocks, on free ports."""
    blocks = [block for block in pages.fenced(README, "sh") if block.startswith("# terminal")]
    for number, other in ports.items():
        blocks = [re.sub(rf"\b{number}\b", other, block) for block in blocks]
    return blocks


@contextmanager
def shell(script: str, environ: dict[str, str], output: Path) -> Iterator[None]:
    """Run a block as it would be typed; its last command is ended by SIGTERM."""
    *first, last = script.strip().splitlines()
    lines = "\n".join(["set -e", *first, f"exec {last}"])
    with output.open("wb") as stream:
        process = subprocess.Popen(["bash", "-c", lines], env=environ, stdout=stream, stderr=stream)
    try:
        yield
    finally:
        process.terminate()
        process.wait(40)


def test_the_three_terminals(vhost: Broker, tmp_path: Path) -> None:
    """Registered and invalid journeys are counted as the page says; nothing else is."""
    require_tool("curl")
    ports = {"8080": str(free_port()), "8000": str(free_port())}
    sandbox, service, publish = terminals(ports)
    program = Path(sys.executable).parent
    environ = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ} | {
        "PATH": f"{program}:/usr/bin:/bin",
        "BROKER_URL": vhost.url,
        "HTTP_PORT": ports["8000"],
    }

    def counted(outcome: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['8000']}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        found = re.search(
            rf'^journey_consumer_journeys_total{{outcome="{outcome}"}} (\S+)$', text, re.MULTILINE
        )
        assert found is not None
        return float(found[1])

    first, second = tmp_path / "first", tmp_path / "second"
    with shell(sandbox, environ, first):
        wait_until(lambda: ports["8080"] in first.read_text(), 20, first.read_text)
        with shell(service, environ, second):
            wait_until(lambda: "broker connected" in second.read_text(), 20, second.read_text)
            done = subprocess.run(
                ["bash", "-ec", publish], env=environ, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
            assert "journey_consumer_journeys_total{" in done.stdout
            wait_until(lambda: counted("registered") == 1000, 30, "all are registered")
            assert counted("invalid") == 1
            assert vhost.depth("journeys.completed.dead-letter.invalid").total == 1
