"""Renders the chart with the real `helm`, and finds things in what comes out.

Each distinct rendering runs once per test session (``Chart`` remembers it); tests must not change what
they are given. Knows nothing of what the chart ought to contain.
"""

import copy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.tools import require_tool

CHART = Path(__file__).parents[2] / "helm" / "journey-consumer"
CASES = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*.yaml"))}
VERSIONS = ("1.27.0", "1.30.0", "1.33.0", "1.36.0")
MONITORING = tuple(
    f"monitoring.coreos.com/v1/{kind}" for kind in ("PodMonitor", "ServiceMonitor", "PrometheusRule")
)

Object = dict[str, Any]
POD_PATHS = {"Pod": (), "Deployment": ("spec", "template"), "Job": ("spec", "template")}


class Refused(Exception):  # noqa: N818 - it is an answer, not a failure of the test
    """Helm refused the values; the message is what it said."""


class Chart:
    """The chart, rendered on demand."""

    def __init__(self) -> None:
        self.helm = require_tool("helm")
        self._rendered: dict[tuple[str, ...], str] = {}

    def text(
        self,
        case: str = "minimal",
        values: str = "",
        *,
        release: str = "proofs",
        version: str = VERSIONS[-1],
        apis: tuple[str, ...] = MONITORING,
        chart: Path = CHART,
    ) -> str:
        """Render a case of ``ci/`` with further ``values`` (YAML); Refused when Helm refuses them."""
        key = (case, values, release, version, ",".join(apis), str(chart))
        if key not in self._rendered:
            command = [self.helm, "template", release, chart, "--namespace", "mobility"]
            command += ["--kube-version", version, "--values", CASES[case], "--values", "-"]
            for api in apis:
                command += ["--api-versions", api]
            done = subprocess.run(command, input=values, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Refused(done.stderr)
            self._rendered[key] = done.stdout
        return self._rendered[key]

    def objects(self, case: str = "minimal", values: str = "", **how: Any) -> list[Object]:
        """Render to objects; two keys of one name in a mapping are an error."""
        return parse(self.text(case, values, **how))

    def one(self, kind: str, case: str = "minimal", values: str = "", **how: Any) -> Object:
        """The only object of ``kind``."""
        (found,) = (each for each in self.objects(case, values, **how) if each["kind"] == kind)
        return found

    def settings(self, case: str = "minimal", values: str = "") -> dict[str, str]:
        """What the ConfigMap sets for the service."""
        (found,) = (
            each
            for each in self.objects(case, values)
            if each["kind"] == "ConfigMap" and "SECRETS_DIR" in each["data"]
        )
        data: dict[str, str] = found["data"]
        return data

    def refusal(self, case: str = "minimal", values: str = "") -> str:
        """What Helm says when it refuses these values."""
        try:
            self.text(case, values)
        except Refused as refused:
            return str(refused)
        raise AssertionError(f"these values should be refused:\n{values}")


class _UniqueKeys(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Helm and kubectl keep the last of two equal keys silently; here they are an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = {key for key in keys if keys.count(key) > 1}
        if doubled:
            raise yaml.MarkedYAMLError(problem=f"keys given twice: {doubled}", problem_mark=node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def parse(text: str) -> list[Object]:
    """Split a rendering into its objects."""
    return [each for each in yaml.load_all(text, _UniqueKeys) if each]


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every pod that the objects would start: where it comes from, and the pod itself."""
    for each in objects:
        if each["kind"] in POD_PATHS:
            pod = each
            for step in POD_PATHS[each["kind"]]:
                pod = pod[step]
            yield f"{each['kind']}/{each['metadata']['name']}", pod


def walk(node: Any) -> Iterator[Any]:
    """Every mapping, list and scalar below ``node``."""
    yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)


def nested(path: tuple[str, ...], value: Any) -> str:
    """Values that set only ``path``, as YAML."""
    tree: Any = copy.deepcopy(value)
    for step in reversed(path):
        tree = {step: tree}
    return yaml.safe_dump(tree)
