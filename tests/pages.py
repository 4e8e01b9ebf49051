"""Markdown as the tests of the documentation see it: tables, code, links, headings.

Just enough of the format for our own pages; knows nothing of what they say.
"""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def pages() -> list[Path]:
    """Every page that is part of the product."""
    return [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "helm").rglob("*.md")),
    ]


def prose(page: Path) -> str:
    """Return the page without its fenced blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def fenced(page: Path, *languages: str) -> list[str]:
    """Return the contents of the fenced blocks in these languages."""
    found = _FENCE.findall(page.read_text("utf-8"))
    return [
        re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)
        for indent, kind, text in found
        if kind in languages
    ]


def code(text: str) -> list[str]:
    """Return what stands between single backticks, with line breaks as spaces."""
    return [" ".join(part.split()) for part in _CODE.findall(text)]


def links(page: Path) -> list[str]:
    """Return the targets of the page's links."""
    return _LINK.findall(re.sub(_CODE, "", prose(page)))


def anchors(page: Path) -> set[str]:
    """Return the anchors that a forge makes of the page's headings."""
    slugs = set()
    for heading in _HEADING.findall(prose(page)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slugs.add(re.sub(r"[^\w -]", "", plain).strip().replace(" ", "-"))
    return slugs


def table(page: Path, first_heading: str) -> list[dict[str, str]]:
    """Return the rows of the page's one table whose first column has this heading."""
    found = [rows for heads, rows in _tables(page) if heads[0] == first_heading]
    if len(found) != 1:
        raise LookupError(f"{len(found)} tables begin with {first_heading!r} in {page.name}")
    return found[0]


def _tables(page: Path) -> Iterator[tuple[list[str], list[dict[str, str]]]]:
    for block in re.findall(r"(?:^\|.*\|\n)+", page.read_text("utf-8"), re.MULTILINE):
        heads, _, *rows = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        )
        yield heads, [dict(zip(heads, row, strict=True)) for row in rows]
