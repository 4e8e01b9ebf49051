"""The chart, rendered by `helm`, and what is generated from it.

The table of values in its README comes from the comments that start with "# --" above a value; a value
without one is an error, so that none is undocumented. Further: the golden renderings of the tests, and the
alert rules of the local stack, which are those of the chart.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
CHART = ROOT / "helm" / "journey-consumer"
CASES = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*.yaml"))}
VERSIONS = ("1.27.0", "1.30.0", "1.33.0", "1.36.0")
MONITORING = tuple(
    f"monitoring.coreos.com/v1/{kind}" for kind in ("PodMonitor", "ServiceMonitor", "PrometheusRule")
)
README = CHART / "README.md"
GOLDEN = {case: ROOT / "tests" / "deploy" / "golden" / f"{case}.yaml" for case in ("minimal", "keda")}
LOCAL_RULES = ROOT / "deploy" / "local" / "prometheus" / "rules.yml"
_BEGIN, _END = "<!-- values: generated -->", "<!-- end of values -->"


class Refused(Exception):  # noqa: N818 - an answer that some callers expect
    """Helm refused the values; the message is Helm's."""


def render(
    case: str = "minimal",
    values: str = "",
    *,
    release: str = "proofs",
    namespace: str = "mobility",
    version: str = VERSIONS[-1],
    apis: tuple[str, ...] = MONITORING,
    chart: Path = CHART,
) -> str:
    """Render a case of ``ci/`` with further ``values`` (YAML); Refused when Helm refuses them."""
    command = ["helm", "template", release, str(chart), "--namespace", namespace]
    command += ["--kube-version", version, "--values", str(CASES[case]), "--values", "-"]
    for api in apis:
        command += ["--api-versions", api]
    done = subprocess.run(command, input=values, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def files() -> dict[Path, str]:
    golden = {path: render(case) for case, path in GOLDEN.items()}
    return {README: readme(), LOCAL_RULES: local_rules(), **golden}


def local_rules() -> str:
    """Return what the chart installs for the release that the local stack says it is."""
    text = render(values="monitoring: {rules: {enabled: true}}", release="local", namespace="local")
    (spec,) = (each["spec"] for each in yaml.safe_load_all(text) if each and each["kind"] == "PrometheusRule")
    return "# Written by `make generate`.\n" + yaml.safe_dump(spec, sort_keys=False, width=110)


def rows() -> Iterator[tuple[str, str, str]]:
    """Yield path, default and description of every value, in the order of the file."""
    text = (CHART / "values.yaml").read_text("utf-8")
    lines = text.splitlines()
    root = yaml.compose(text, yaml.SafeLoader)
    if isinstance(root, yaml.MappingNode):
        yield from _rows(root, (), lines)


def _rows(node: yaml.MappingNode, path: tuple[str, ...], lines: list[str]) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        here = (*path, key.value)
        comment = _comment(lines, key.start_mark.line)
        if comment is None and isinstance(value, yaml.MappingNode) and value.value:
            yield from _rows(value, here, lines)
            continue
        if comment is None:
            raise ValueError(f"{'.'.join(here)} has no comment that starts with '# --'")
        default = yaml.SafeLoader("").construct_document(value)
        yield ".".join(here), json.dumps(default, ensure_ascii=False), comment


def _comment(lines: list[str], line: int) -> str | None:
    """Return the comment directly above a line, from its "# --" on."""
    block: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        block.insert(0, lines[line].lstrip().removeprefix("#").strip())
        if block[0].startswith("--"):
            return " ".join(block).removeprefix("--").strip()
    return None


def table() -> str:
    """Return the table of values in Markdown."""
    out = ["| value | default | meaning |", "|---|---|---|"]
    for path, default, meaning in rows():
        cells = (f"`{path}`", f"`{default}`", meaning)
        out.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(out)


def readme() -> str:
    """Return the README with a fresh table."""
    pattern = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{_BEGIN}\n{table()}\n{_END}", README.read_text("utf-8"))
