"""The schemas of other people's custom resources, as their own Go modules publish them.

No copy is kept here: `go mod download` puts the pinned version into Go's module cache. Fields that a
schema does not name are refused, which an API server would silently drop.
"""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from tests.tools import missing, require_tool

MODULES = {
    "keda.sh": ("github.com/kedacore/keda/v2@v2.16.1", "config/crd/bases"),
    "monitoring.coreos.com": (
        "github.com/prometheus-operator/prometheus-operator@v0.79.2",
        "example/prometheus-operator-crd",
    ),
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML 1.1 gives a lone "=" a meaning, which an enum of the Prometheus operator does not mean."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: loader.construct_scalar(node))


@cache
def schema(group: str, kind: str, version: str) -> dict[str, Any]:
    """The strict schema of one kind; without Go or the module the test is skipped (in CI: fails)."""
    module, folder = MODULES[group]
    command = [require_tool("go"), "mod", "download", "-json", module]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode:
        missing(f"the Go module {module}")
    directory = Path(json.loads(done.stdout)["Dir"]) / folder
    definition = yaml.load((directory / f"{group}_{kind.lower()}s.yaml").read_text(), _Loader)  # noqa: S506
    (found,) = (each for each in definition["spec"]["versions"] if each["name"] == version)
    return _strict(found["schema"]["openAPIV3Schema"], top=True)


def _strict(node: Any, *, top: bool = False) -> Any:
    """Refuse unknown fields, and say the two things of OpenAPI 3.0 that JSON Schema says differently."""
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    strict = {
        key: {name: _strict(each) for name, each in value.items()} if key == "properties" else _strict(value)
        for key, value in node.items()
    }
    if top:  # the CRD leaves these to the API server
        strict["properties"]["metadata"] = {"type": "object"}
    if "properties" in node and not (
        "additionalProperties" in node or node.get("x-kubernetes-preserve-unknown-fields")
    ):
        strict["additionalProperties"] = False
    if node.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
        strict["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return {"anyOf": [strict, {"type": "null"}]} if node.get("nullable") else strict


def validate(each: dict[str, Any]) -> None:
    """Check one custom resource; raises jsonschema.ValidationError."""
    group, _, version = each["apiVersion"].partition("/")
    jsonschema.Draft7Validator(schema(group, each["kind"], version)).validate(each)
