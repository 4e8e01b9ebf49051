"""Rules that a review need not check: layers, sizes, names, pins, traces of a machine."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for part in ("consumer", "schemas", "tools") for path in ROOT.glob(f"{part}/**/*.py"))
LOCKS = sorted(ROOT.glob("requirements/*.lock"))

_LINES_AT_MOST = 500
_NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}
_OF_THIS_MACHINE = re.compile(
    r"(?<![\w.~-])/(?:work|root|home/\w+|Users/\w+)/"  # an absolute path of a machine
    r"|--(?:extra-)?index-url|--find-links|files\.pythonhosted|/simple/?(?:\s|$)"  # where packages come from
)


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:  # a source archive: everything in it was tracked
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_imports_go_down_only() -> None:
    """The layers of pyproject.toml hold, and third-party libraries are imported in their wings only."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_short_named_and_introduced(path: Path) -> None:
    """Each module has an introduction, at most 500 lines and a meaningful name."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= _LINES_AT_MOST, "split it by subject"
    assert path.stem not in _NAMES_THAT_SAY_NOTHING
    assert ast.get_docstring(ast.parse(text)), "the first lines say what the module knows and must not know"


def test_nothing_names_a_machine_or_a_package_index() -> None:
    """No tracked file holds an absolute path of a machine or the address of a package index."""
    found = []
    for path in _tracked():
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if _OF_THIS_MACHINE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)


def _pins(lock: Path) -> dict[str, str]:
    """Return name -> version of a lock, having checked that every pin has a hash."""
    pins = {}
    for entry in re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8")):
        if entry.startswith("#"):
            continue
        name, version = re.match(r"([\w.-]+)==(\S+)", entry).groups()  # type: ignore[union-attr]
        assert "--hash=sha256:" in entry, name
        pins[name] = version
    return pins


def test_everything_installed_is_pinned_by_hash() -> None:
    """The locks hold what pyproject.toml asks for, every pin with its hashes, and agree with each other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    run = _pins(ROOT / "requirements" / "run.lock")
    assert "setuptools" in _pins(ROOT / "requirements" / "build.lock")
    for name, wanted in {"run": project["dependencies"], **project["optional-dependencies"]}.items():
        pins = _pins(ROOT / "requirements" / f"{name}.lock")
        names = {re.match(r"[\w.-]+", requirement)[0].lower() for requirement in wanted}  # type: ignore[index]
        assert names <= pins.keys()
        assert run.items() <= pins.items()


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile"])
def test_installing_what_is_pinned_resolves_nothing(file: str) -> None:
    """With --require-hashes pip fails once there is a newer release of what is asked for with an extra."""
    text = (ROOT / file).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [part for part in re.split(r"&&|\n", text) if "--require-hashes" in part]
    assert commands
    assert all("--no-deps" in command for command in commands)
