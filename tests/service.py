"""The real service as a process of its own, as an operator runs it: environment in, signals, probes, log.

Knows nothing of queues or of the Registry's state: that is ``ledger``. Every method may be called from any
thread; nothing here is shared with the process but its files and sockets.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from consumer.logs import FLUSH_SECONDS
from consumer.metrics import PREFIX
from tests.waiting import wait_until

Labels = frozenset[tuple[str, str]]

_OURS = re.compile(
    r"(BROKER|REGISTRY|DEAD_LETTERS|EVENTS|RETRY|BREAKER|AUTH|HTTP|LOG|EARLY|HOLD|DRAIN)_|SECRETS_DIR$"
)
#: Short waits, so that a test takes seconds for what takes minutes in operation.
QUICK = {
    "RETRY_DELAYS_SECONDS": "1,2",
    "RETRY_BACKOFF_BASE_SECONDS": "0.05",
    "RETRY_BACKOFF_CAP_SECONDS": "0.2",
    "BREAKER_PROBE_SECONDS": "0.3",
    "BREAKER_PROBE_CAP_SECONDS": "0.6",
    "AUTH_PROBE_SECONDS": "0.5",
    "BROKER_HEARTBEAT_SECONDS": "5",
    "HTTP_HOST": "127.0.0.1",
    # An account of dead letters needs them to stay; tests of automatic replay switch it on.
    "DEAD_LETTERS_RETURN_UNAUTHORIZED": "false",
    "DEAD_LETTERS_LOOK_SECONDS": "0",
}


class ServiceProcess:
    """``journey-consumer run`` with an environment of its own; a context manager that starts and cleans up.

    ``settings`` are added to ``QUICK`` by variable name; a value of None takes a variable away. Started
    again after its end it keeps its port and goes on in the same log.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str | None]) -> None:
        self.port = _free_port()
        wanted = {**QUICK, "HTTP_PORT": str(self.port), **settings}
        # Other variables stay: PATH, and those of coverage for its child processes.
        self._environment = {k: v for k, v in os.environ.items() if not _OURS.match(k)}
        self._environment |= {name: value for name, value in wanted.items() if value is not None}
        self._log = directory / f"service-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None
        #: What the next start has as its standard output, in place of the log.
        self.stdout: int | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # no ``__exit__`` follows: a process left running would fail another test
            if self.running:
                self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            self.kill()
        if error is not None:  # pytest shows what was printed by a failed test
            print(f"--- the service's log, last part ---\n{self.log()[-6000:]}")  # noqa: T201

    # --- life ---------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> None:
        """Start the process; with ``wait`` return once it answers over HTTP."""
        assert not self.running, "already running"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "consumer", "run"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log if self.stdout is None else self.stdout,
                stderr=log,
            )
        if wait:
            wait_until(self._answers, 20, lambda: f"the service answers; log: {self.log()[-3000:]}")

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None, "never started"
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None, "never started"
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def terminate(self, timeout: float = 40.0) -> int:
        """SIGTERM; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = 40.0) -> int:
        """Wait for the end; return the exit code."""
        assert self._process is not None, "never started"
        return self._process.wait(timeout)

    # --- what it reports ------------------------------------------------------------------

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of ``path``; (0, "") without an answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    @property
    def ready(self) -> bool:
        """Whether /readyz is green."""
        return self.get("/readyz")[0] == 200

    @property
    def live(self) -> bool:
        """Whether /livez is green."""
        return self.get("/livez")[0] == 200

    def await_ready(self, timeout: float = 20.0) -> None:
        """Wait until /readyz is green."""
        wait_until(lambda: self.ready, timeout, lambda: f"ready, not {self.get('/readyz')}")

    def metrics(self) -> dict[tuple[str, Labels], float]:
        """Return every sample of /metrics by (name, labels)."""
        status, text = self.get("/metrics")
        assert status == 200, f"/metrics answered {status}"
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """Return one sample; ``name`` without the prefix."""
        return self.metrics()[PREFIX + name, frozenset(labels.items())]

    def log(self) -> str:
        """Return all that the process wrote, over all its starts; what it has logged is written first."""
        if self.running and self._log.exists():
            size, since = -1, time.monotonic()
            until = since + 8 * FLUSH_SECONDS  # a process that logs without a pause is not waited for
            while time.monotonic() < min(since + 1.5 * FLUSH_SECONDS, until):
                if (now := self._log.stat().st_size) != size:
                    size, since = now, time.monotonic()
                time.sleep(0.01)
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def log_lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the complete log lines as objects, those of one ``event`` if given."""
        lines = [json.loads(line) for line in self.log().splitlines(keepends=True) if line.endswith("}\n")]
        return [line for line in lines if event is None or line["event"] == event]

    def _answers(self) -> bool:
        assert self.running, f"the service has ended: {self.log()[-3000:]}"
        return self.live


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
