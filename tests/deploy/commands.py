"""The commands of the documentation, run as they are written on stand-ins for the local stack's containers.

A `docker` of our own in PATH takes `compose exec` and its like to the processes that the test has started;
only ports are put in. A line that the stand-in does not know fails.
"""

import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.rabbit import RabbitNode

_DOCKER = """#!/bin/sh
set -eu
[ "$1" = compose ] || exit 97
shift
case "$*" in
"exec -T consumer journey-consumer "*) shift 4; exec {python} -m consumer "$@" ;;
"exec -T rabbitmq rabbitmqctl "*) shift 4; exec {ctl} --quiet --node {node} --vhost {vhost} "$@" ;;
"exec -T prometheus promtool "*) shift 3; exec "$@" ;;
"logs --no-log-prefix consumer") exec cat {log} ;;
ps | "up --detach consumer" | "restart consumer") ;; # nothing to stand in for: a cluster's own work
*) echo "no stand-in for: $*" >&2; exit 98 ;;
esac
"""


def shell_lines(page: str) -> list[str]:
    """Every command of the page's blocks, one a line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line]


class Shell:
    """Runs lines; ``ports`` maps what the documentation says to what the test has."""

    def __init__(
        self,
        directory: Path,
        *,
        node: RabbitNode,
        vhost: str,
        log: Path,
        environment: Mapping[str, str],
        ports: Mapping[int, int],
    ) -> None:
        self._ports = dict(ports)
        self._directory = directory
        ctl = directory / "rabbitmqctl"
        exports = "".join(f"export {key}='{value}'\n" for key, value in node._environment.items())
        ctl.write_text(f'#!/bin/sh\n{exports}exec {shlex.join(map(str, node.ctl_command))} "$@"\n')
        docker = directory / "docker"
        docker.write_text(
            _DOCKER.format(python=sys.executable, ctl=ctl, node=node._name, vhost=vhost, log=log)
        )
        for program in (ctl, docker):
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self._environment = {**os.environ, **environment, "PATH": f"{directory}:{os.environ['PATH']}"}

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run one line below the test's own directory."""
        for written, real in self._ports.items():
            line = line.replace(f"localhost:{written}", f"127.0.0.1:{real}")
        return subprocess.run(
            ["sh", "-c", line],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
