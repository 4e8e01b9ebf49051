"""Only loggers of our own name are printed with their text, so every module of the service uses one."""

import re
from pathlib import Path

import consumer
from consumer.logs import LOGGER

SOURCE = Path(consumer.__file__).parent


def test_every_module_of_the_service_logs_under_our_name() -> None:
    """A logger with another name would lose its text in production; the sandbox is no part of the service."""
    others = [
        f"{file.relative_to(SOURCE)}: {name}"
        for file in SOURCE.rglob("*.py")
        for name in re.findall(r"getLogger\(([^)]+)\)", file.read_text("utf-8"))
        if not name.startswith((f'"{LOGGER}.', "LOGGER")) and name
    ]
    assert [s for s in others if "sandbox" not in s and not s.startswith("logs.py")] == []
