"""The generated tables of the documentation: settings and metrics.

A page holds hand-written text around blocks between ``<!-- generated: NAME -->`` and
``<!-- end -->``; only the blocks are replaced. ``tests/unit/test_docs.py`` fails when one is stale.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from consumer.config import described
from consumer.metrics import CATALOGUE, PREFIX

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- generated: (?P<name>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"


def _settings(*prefixes: str) -> str:
    rows = [_row("variable", "default", "allowed", "meaning"), _row("---", "---", "---", "---")]
    for setting in described():
        if setting.name.startswith(prefixes):
            default = f"`{setting.default}`" if setting.default else ""
            rows.append(_row(f"`{setting.name}`", default, setting.allowed, setting.meaning))
    return "".join(rows)


def _metrics() -> str:
    rows = [
        _row("name", "type", "labels", "meaning", "what is normal, what to do"),
        _row("---", "---", "---", "---", "---"),
    ]
    for entry in CATALOGUE:
        labels = "; ".join(
            f"`{label}`: {', '.join(f'`{value}`' for value in values)}" if values else f"`{label}`"
            for label, values in entry.labels.items()
        )
        rows.append(_row(f"`{PREFIX}{entry.name}`", entry.type, labels, entry.meaning, entry.remedy))
    return "".join(rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "settings-registry": lambda: _settings("REGISTRY_"),
    "settings-broker": lambda: _settings("BROKER_", "EVENT_MAPPING_"),
    "settings-retries": lambda: _settings("RETRY_", "BREAKER_", "AUTH_", "HOLD_", "EARLY_", "DRAIN_"),
    "settings-dead-letters": lambda: _settings("DEAD_LETTERS_", "EVENTS_"),
    "settings-process": lambda: _settings("HTTP_", "LOG_", "SECRETS_"),
    "metrics": _metrics,
}


def pages() -> Iterator[Path]:
    """Yield every page that may hold generated blocks."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def fresh(text: str) -> str:
    """Return ``text`` with every generated block renewed; KeyError for an unknown block."""
    return BLOCK.sub(lambda block: f"{block[1]}{BLOCKS[block['name']]()}{block[3]}", text)


def files() -> dict[Path, str]:
    return {page: fresh(page.read_text("utf-8")) for page in pages()}
