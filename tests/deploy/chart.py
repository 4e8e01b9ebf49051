"""Renders the chart with the real `helm`, and finds things in what comes out.

Each distinct rendering runs once per test session (``Chart`` remembers it); tests must not change what
they are given. Knows nothing of what the chart ought to contain.
"""

import copy
from collections.abc import Iterator
from typing import Any

import yaml

from tests.tools import require_tool
from tools.chart import Refused, render

Object = dict[str, Any]
POD_PATHS = {"Pod": (), "Deployment": ("spec", "template"), "Job": ("spec", "template")}


class Chart:
    """The chart, rendered on demand."""

    def __init__(self) -> None:
        self.helm = require_tool("helm")
        self._rendered: dict[tuple[str, ...], str] = {}

    def text(self, case: str = "minimal", values: str = "", **how: Any) -> str:
        """Render as ``render`` does."""
        key = (case, values, *(f"{name}={value}" for name, value in sorted(how.items())))
        if key not in self._rendered:
            self._rendered[key] = render(case, values, **how)
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


def ours(pod: Object) -> Object:
    """The chart's own container of a pod; the others are the operator's."""
    (found,) = (
        each for each in pod["spec"]["containers"] if each["name"] in {"consumer", "check", "declare"}
    )
    container: Object = found
    return container


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
