"""What is generated from the chart and kept beside it: the README's table of values, the golden renderings.

`python -m tests.deploy.generated` writes both; tests compare. The table comes from the comments that
start with "# --" above a value; a value without one is an error, so that none stays undescribed.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from tests.deploy.chart import CHART, Chart

COMMAND = "python -m tests.deploy.generated"
README = CHART / "README.md"
GOLDEN = {case: Path(__file__).parent / "golden" / f"{case}.yaml" for case in ("minimal", "keda")}
_BEGIN, _END = "<!-- values: generated -->", "<!-- end of values -->"


def golden(chart: Chart, case: str) -> str:
    """The rendering to keep; a version in it is that of the chart."""
    return chart.text(case)


def rows() -> Iterator[tuple[str, str, str]]:
    """Path, default and description of every described value, in the order of the file."""
    text = (CHART / "values.yaml").read_text()
    lines = text.splitlines()
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
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
    """The comment right above a line, from its "# --" on."""
    block: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        block.insert(0, lines[line].lstrip().removeprefix("#").strip())
        if block[0].startswith("--"):
            return " ".join(block).removeprefix("--").strip()
    return None


def table() -> str:
    """The table of values in Markdown."""
    out = ["| value | default | meaning |", "|---|---|---|"]
    for path, default, meaning in rows():
        cells = (f"`{path}`", f"`{default}`", meaning)
        out.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(out)


def readme() -> str:
    """The README with its table as it ought to be."""
    pattern = re.compile(f"{re.escape(_BEGIN)}.*{re.escape(_END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{_BEGIN}\n{table()}\n{_END}", README.read_text())


if __name__ == "__main__":
    README.write_text(readme())
    for case, path in GOLDEN.items():
        path.write_text(golden(Chart(), case))
