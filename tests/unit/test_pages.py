"""What the pages point to and name exists: links, anchors, files, settings, metrics, numbers."""

import re
import tomllib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from consumer import logs
from consumer.broker.connection import RECONNECT_CAP_SECONDS
from consumer.broker.virtual import _LIMITS
from consumer.checks.registry import SKEW_FAIL_SECONDS, SKEW_WARN_SECONDS
from consumer.config import Settings, described
from consumer.core.outcome import PauseCause
from consumer.metrics import CATALOGUE
from tests import pages

ROOT = pages.ROOT
GUARANTEES = ROOT / "docs" / "guarantees.md"
DECISIONS = ROOT / "docs" / "decisions"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
# The wings whose every module has a row; the others are found by their folder.
MAPPED = ("core", "registry", "broker", "service", "deadletters", "metrics", "config")
ALL = pages.pages()
# Names in capitals that are no settings of ours.
FOREIGN = {
    "HTTPS_PROXY",
    "BASE_IMAGE",
    "BROKER_PORT_5672_TCP",
    "CATALOGUE",
    "COMMAND",
    "FILE",
    "TEST_RABBITMQ_ROOT",
}


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files exist in the repository, anchors are headings; nothing points out of it but https addresses."""
    for link in pages.links(page):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not parts.fragment or parts.fragment in pages.anchors(target), link


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_named_file_exists(page: Path) -> None:
    """A promise's test, a module or a folder that was renamed is renamed in the pages."""
    for text in pages.code(pages.prose(page)):
        name = text.rstrip("/")
        if re.fullmatch(r"(tests|consumer|schemas|docs|helm|requirements)/[\w./-]+", name):
            assert (ROOT / name).exists(), text


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_named_setting_exists(page: Path) -> None:
    """Names in capitals are settings, with or without a value."""
    known = {setting.name for setting in described()} | FOREIGN
    for text in pages.code(pages.prose(page)):
        found = re.match(r"([A-Z][A-Z0-9]*_[A-Z0-9_]+)(=|$)", text)
        assert found is None or found[1] in known, text


@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_named_metric_exists(page: Path) -> None:
    """Names that end like a metric's, or have labels, are in the catalogue."""
    known = {entry.name for entry in CATALOGUE}
    labels = {label for entry in CATALOGUE for label in entry.labels}
    for text in pages.code(pages.prose(page)):
        found = re.fullmatch(r"(?:journey_consumer_)?([a-z_]+?)(\{(\w+)(=.*)?\})?", text)
        if found and (found[2] or found[1].endswith(("_total", "_timestamp_seconds"))):
            assert found[1] in known, text
            assert found[3] is None or found[3] in labels, text


def test_the_index_lists_every_page() -> None:
    """A page that is not in the index is not found."""
    listed = {(ROOT / "docs" / link).resolve() for link in pages.links(ROOT / "docs" / "README.md")}
    assert {page for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"} <= listed


def test_the_decisions_are_listed_by_their_titles() -> None:
    """Number and title in the index are those of the record."""
    titles = {
        path.name: path.read_text("utf-8").splitlines()[0] for path in sorted(DECISIONS.glob("[0-9]*.md"))
    }
    index = (DECISIONS / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| \[(\d{4})\]\((\S+)\) \| (.*) \|$", index, re.MULTILINE)
    assert {file: f"# {number}. {title}" for number, file, title in rows} == titles


# --- the map of the architecture ------------------------------------------------------------------------


def test_the_floors_are_those_of_the_import_contract() -> None:
    """The table of floors has the layers that import-linter checks, in their order."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    checked = [set(re.findall(r"\w+", layer)) for layer in layers if layer != "__main__"]
    rows = pages.table(ARCHITECTURE, "floor")
    written = [{name.rstrip("/").removesuffix(".py") for name in pages.code(row["wing"])} for row in rows]
    written[-1].remove("schemas")  # a package of its own, with a contract of its own
    assert written == checked
    assert [row["floor"] for row in rows] == [str(floor) for floor in reversed(range(len(rows)))]


def test_the_map_names_files_that_exist_and_every_module_of_the_service() -> None:
    """A module that is moved, merged or added is moved, merged or added on the map."""
    named = {
        ROOT / name if name.startswith(("schemas/", "tests/")) else ROOT / "consumer" / name
        for name in pages.code(pages.prose(ARCHITECTURE))
        if name.endswith(".py")
    }
    assert sorted(str(path.relative_to(ROOT)) for path in named if not path.is_file()) == []
    modules = {
        path
        for folder in (ROOT / "schemas", *(ROOT / "consumer" / wing for wing in MAPPED))
        for path in folder.glob("*.py")
        if path.name != "__init__.py"
    }
    assert sorted(str(path.relative_to(ROOT)) for path in modules - named) == []


# --- what the page of guarantees says in numbers and names -------------------------------------------


def test_every_promise_names_a_test() -> None:
    """An empty last cell would be a promise that nothing backs."""
    for first in ("promise", "failure"):
        rows = pages.table(GUARANTEES, first)
        assert rows
        assert [row[first] for row in rows if "`tests/" not in row["test"]] == []


def test_every_transport_of_which_we_say_something_is_in_the_table() -> None:
    """What the service says at start and what the page says are about the same transports."""
    rows = pages.table(GUARANTEES, "transport")
    assert {row["transport"] for row in rows} == {f"`{scheme}://`" for scheme in _LIMITS}


def test_the_numbers_of_the_guarantees_are_those_of_the_code() -> None:
    """Numbers in the text are defaults or constants; a change of one is a change of the other."""
    text = " ".join(GUARANTEES.read_text("utf-8").split())
    default = {name.upper(): field.default for name, field in Settings.model_fields.items()}
    delays = sum(default["RETRY_DELAYS_SECONDS"]) / 60
    for sentence in (
        f"log lines of at most the last {logs.FLUSH_SECONDS:g} s",
        f"{logs.MOST_LINES} lines or {logs.MOST_BYTES >> 20} MiB wait",
        f"the last lines are waited for {logs.EXIT_SECONDS:g} s",
        f"at most {RECONNECT_CAP_SECONDS:g} s apart",
        f"`BROKER_DELIVERY_LIMIT` ({default['BROKER_DELIVERY_LIMIT']})",
        f"`HOLD_LIMIT_SECONDS` ({default['HOLD_LIMIT_SECONDS']:g})",
        f"`EARLY_BOUND_SECONDS` ({default['EARLY_BOUND_SECONDS'] / 3600:g} h)",
        f"every delay queue once ({delays:g} minutes with the defaults)",
        f"from {SKEW_WARN_SECONDS:g} s on it warns, from {SKEW_FAIL_SECONDS:g} s on it fails",
    ):
        assert sentence in text


def test_the_causes_of_pauses_in_the_text_exist() -> None:
    """`paused{cause=...}` is told with the values that the metric has."""
    known = {value for entry in CATALOGUE if entry.name == "paused" for value in entry.labels["cause"]}
    assert {cause.value for cause in PauseCause} <= known
    for page in ALL:
        assert set(re.findall(r'paused\{cause="(\w+)"\}', page.read_text("utf-8"))) <= known
