"""Builds the Dockerfile without a container engine, and runs what comes out as a cluster would.

`buildah` carries out the Dockerfile as it stands, on a base made by `debootstrap`: Debian's Python instead of
the official image's. Base and layers are kept in the user's cache directory. `Container` stands in for the
runtime: namespaces for processes and mounts, a read-only root, the user, no capabilities. Its seccomp
filter, its network namespace and its memory limit are not imitated.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import pytest

from tests.tools import missing, require_tool
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
_BASE_PACKAGES = "python3,python3-venv,python-is-python3,ca-certificates"
_BASE_TAG = "localhost/journey-consumer-test-base"
_TAG = "localhost/journey-consumer-test"

# Mounts as a runtime makes them, then the program in place of the shell, so that it is process 1.
_START = """
set -eu
root=$1 secrets=$2; shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root/run/secrets/journey-consumer"
mount --bind "$secrets" "$root/run/secrets/journey-consumer"
mount -o remount,bind,ro "$root/run/secrets/journey-consumer"
mount -o remount,ro "$root/run"
mount -o remount,bind,ro "$root"
exec chroot "$root" /usr/bin/env -i "$@"
"""


def _buildah(*arguments: str | Path, seconds: float = 240) -> str:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "journey-consumer" / "image"
    store = ("--root", cache / "storage", "--runroot", cache / "run", "--storage-driver", "overlay")
    done = subprocess.run(
        [require_tool("buildah"), *store, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
        cwd=ROOT,
    )
    assert done.returncode == 0, f"buildah {arguments[0]}: {(done.stdout + done.stderr)[-3000:]}"
    return done.stdout.strip()


def _prepare_base() -> None:
    """Make a Debian with Python where the official image would be, unless it is there already."""
    if _BASE_TAG in _buildah("images", "--format", "{{.Name}}").splitlines():
        return
    with tempfile.TemporaryDirectory() as directory:
        command = [require_tool("debootstrap"), "--variant=minbase", f"--include={_BASE_PACKAGES}"]
        done = subprocess.run(
            [*command, "stable", directory], capture_output=True, text=True, check=False, timeout=240
        )
        if done.returncode:
            missing("a mirror of Debian")
        container = _buildah("from", "scratch")
        _buildah("add", "--quiet", container, directory, "/")
        _buildah("commit", "--quiet", "--rm", container, _BASE_TAG)


def _way_to_the_package_index() -> Iterator[str | Path]:
    """Hand this machine's settings of pip and its certificates to the steps of the build."""
    for name, value in os.environ.items():
        if name.startswith("PIP_") and name != "PIP_FIND_LINKS":
            yield from ("--env", f"{name}={value}")
    for path in ("/etc/ssl/certs", "/etc/pip.conf"):
        if Path(path).exists():
            yield from ("--volume", f"{path}:{path}:ro")


class Image:
    """A built image: ``root`` is its file system, ``config`` what the Dockerfile says of how to run it."""

    def __init__(self, root: Path, config: dict[str, Any]) -> None:
        self.root = root
        self.config = config

    @property
    def environment(self) -> dict[str, str]:
        """The image's variables, without those of the way it was built here."""
        pairs = (each.partition("=") for each in self.config["Env"])
        return {name: value for name, _, value in pairs if not name.startswith("PIP_")}

    @property
    def program(self) -> Path:
        """The directory that the image adds to its base."""
        return self.root / "opt" / "journey-consumer"

    @property
    def packages(self) -> Path:
        """The directory of its Python packages."""
        (found,) = self.program.glob("lib/python3*/site-packages")
        return found

    def size(self) -> int:
        """Bytes that it adds to its base."""
        return sum(path.lstat().st_size for path in self.program.rglob("*") if not path.is_dir())

    def installed(self) -> set[str]:
        """Names of the packages in it, without versions."""
        return {path.name.partition("-")[0] for path in self.packages.iterdir()}


@contextmanager
def built(target: str = "", **arguments: str) -> Iterator[Image]:
    """Build a stage of the Dockerfile (the last one) and lend the result; ``arguments`` are build arguments.

    Skips without root; missing tools fail in CI.
    """
    for tool in ("buildah", "unshare"):
        require_tool(tool)
    namespaces = ["unshare", "--mount", "--pid", "--fork", "true"]
    if os.geteuid() != 0 or subprocess.run(namespaces, check=False, capture_output=True).returncode:
        pytest.skip("only root, with the right to mount, can build and run an image without an engine")
    _prepare_base()
    options = ["--isolation", "chroot", "--network", "host", "--pull-never", "--layers"]
    options += ["--target", target] if target else []
    for name, value in {"BASE_IMAGE": _BASE_TAG, **arguments}.items():
        options += ["--build-arg", f"{name}={value}"]
    tag = "-".join([_TAG, *filter(None, [target]), *arguments.values()])
    _buildah("bud", *options, *_way_to_the_package_index(), "-t", tag)
    config = json.loads(_buildah("inspect", "--type", "image", tag))["OCIv1"]["config"]
    container = _buildah("from", "--pull-never", tag)
    try:
        yield Image(Path(_buildah("mount", container)), config)
    finally:
        _buildah("umount", container)
        _buildah("rm", container)


class Container:
    """One process tree of an image, from ``with`` to its end; what it writes is in ``output``."""

    def __init__(self, image: Image, args: list[str], environ: dict[str, str], secrets: Path) -> None:
        user, _, group = image.config["User"].partition(":")
        variables = [f"{name}={value}" for name, value in (image.environment | environ).items()]
        rights = [f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        rights += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        self._command: list[str | Path] = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        self._command += ["sh", "-c", _START, "sh", image.root, secrets]
        self._command += [*variables, "/usr/bin/setpriv", *rights, *image.config["Entrypoint"], *args]
        self._outer: subprocess.Popen[str] | None = None
        self._written = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> Self:
        self._outer = subprocess.Popen(
            self._command, stdout=self._written, stderr=subprocess.STDOUT, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._outer is not None
        self._outer.kill()
        self._outer.wait()
        self._written.close()

    @property
    def output(self) -> str:
        """Everything it has written so far."""
        self._written.flush()
        return os.pread(self._written.fileno(), 10_000_000, 0).decode()

    @property
    def process(self) -> psutil.Process:
        """Process 1 of the container, as seen from outside."""
        assert self._outer is not None
        return wait_until(lambda: psutil.Process(self._outer.pid).children(), 5, "the first process")[0]

    def wait(self, seconds: float) -> int:
        """Wait for its end; the exit code."""
        assert self._outer is not None
        return self._outer.wait(seconds)
