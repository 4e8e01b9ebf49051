"""Programs of the system that some tests need: skipped without them, but never in continuous integration."""

import os
import shutil

import pytest

_WHERE = {
    "rabbitmq-server": "the system package rabbitmq-server",
    "promtool": "the system package prometheus",
    "helm": "Helm 3",
    "docker": "Docker",
}


def missing(what: str) -> None:
    """End the test because ``what`` is not installed: skip, or fail where CI is "true"."""
    text = f"{what} is not installed ({_WHERE.get(what, 'not in PATH')}); the test needs it"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{text}, and with CI=true nothing is skipped", pytrace=False)
    pytest.skip(text)


def require_tool(name: str) -> str:
    """Return the path of the program ``name``; without it the test is skipped, in CI it fails."""
    path = shutil.which(name)
    if path is None:
        missing(name)
    assert path is not None
    return path
