from pathlib import Path

import pytest

from consumer.config import described
from consumer.metrics import CATALOGUE, PREFIX
from tools import documentation as docs


@pytest.mark.parametrize("page", list(docs.pages()), ids=lambda page: page.name)
def test_the_generated_parts_of_the_documentation_are_fresh(page: Path) -> None:
    """When this fails: `make generate` writes them."""
    text = page.read_text("utf-8")
    assert docs.fresh(text) == text


def test_every_generated_block_is_somewhere() -> None:
    """A block that is on no page documents nothing."""
    found = [block["name"] for page in docs.pages() for block in docs.BLOCK.finditer(page.read_text("utf-8"))]
    assert sorted(found) == sorted(docs.BLOCKS)


def test_every_setting_and_every_metric_is_documented() -> None:
    """A new prefix must not fall through the tables."""
    settings = (docs.ROOT / "docs/configuration.md").read_text("utf-8")
    assert [s.name for s in described() if settings.count(f"| `{s.name}` |") != 1] == []
    metrics = (docs.ROOT / "docs/metrics.md").read_text("utf-8")
    assert [entry.name for entry in CATALOGUE if metrics.count(f"| `{PREFIX}{entry.name}` |") != 1] == []


def test_a_stale_block_is_noticed_and_only_the_block_is_replaced() -> None:
    """Text around the block stays as it was written."""
    stale = "before\n<!-- generated: metrics -->\nold\n<!-- end -->\nafter\n"
    new = docs.fresh(stale)
    assert new != stale
    assert new.startswith("before\n<!-- generated: metrics -->\n| name |")
    assert new.endswith("\n<!-- end -->\nafter\n")
    assert docs.fresh(new) == new
    with pytest.raises(KeyError):
        docs.fresh("<!-- generated: nonsense -->\n<!-- end -->")
