"""A private Prometheus: own port, own data, and nothing of it left afterwards.

Scrapes and evaluates every second, because a test's run lasts a minute. Knows nothing of what it scrapes.
"""

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.rabbit_setup import free_port
from tests.tools import require_tool
from tests.waiting import wait_until


class Prometheus:
    """One server; ``jobs`` are scrape configurations, ``rules`` the content of a rule file."""

    def __init__(self, directory: Path, jobs: Sequence[Mapping[str, Any]], rules: Mapping[str, Any]) -> None:
        self._program = require_tool("prometheus")
        self._directory = directory
        self.port = free_port()
        self._log = directory / "prometheus.log"
        (directory / "rules.yml").write_text(yaml.safe_dump(dict(rules)))
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [dict(job) for job in jobs],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))

    def __enter__(self) -> Self:
        command = [
            self._program,
            f"--config.file={self._directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._ready, 30, lambda: f"Prometheus is ready: {self._log.read_text()[-2000:]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(20)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def during(self, expression: str, start: float, end: float, step: float = 1.0) -> list[dict[str, Any]]:
        """Evaluate over a time; return the series, each with ``metric`` and ``values``.

        AssertionError when Prometheus refuses the expression.
        """
        found: list[dict[str, Any]] = self._ask(
            "query_range", query=expression, start=start, end=end, step=step
        )["result"]
        return found

    def now(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate at this moment."""
        found: list[dict[str, Any]] = self._ask("query", query=expression)["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every group of rules with the health of each rule."""
        found: list[dict[str, Any]] = self._ask("rules")["groups"]
        return found

    def _ask(self, path: str, **parameters: Any) -> dict[str, Any]:
        query = urllib.parse.urlencode(parameters).encode() or None  # with a body it is a POST
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}", data=query, timeout=20) as answer:  # noqa: S310 our own server
                data: dict[str, Any] = json.load(answer)["data"]
                return data
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"Prometheus refuses {path} {parameters}: {error.read()!r}") from None

    def _ready(self) -> bool:
        assert self._process.poll() is None, f"Prometheus has ended: {self._log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:  # noqa: S310 our own server
                return bool(answer.status == 200)
        except OSError:
            return False
