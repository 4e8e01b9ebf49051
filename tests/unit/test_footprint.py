"""What `run` must not load, and commands without the packages of an extra."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["rich", "click", "pygments", "aiohttp", "multiprocessing.pool"])
def test_the_service_does_not_load(package: str) -> None:
    """The sandbox's web server and the terminal views stay out of the service's process."""
    code = f"import sys, consumer.commands.run; sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("command", ["sandbox", "demo"])
@pytest.mark.parametrize(
    ("absent", "sentence"),
    [
        ("aiohttp", "the sandbox needs aiohttp: pip install journey-consumer[sandbox]"),
        ("consumer.sandbox", "build one that has it with `docker build --target sandbox`"),
    ],
)
def test_without_the_extra_a_command_names_it(command: str, absent: str, sentence: str) -> None:
    """Exit 2 and one sentence that says how to get it; the help still works."""
    code = (
        f"import sys; sys.modules[{absent!r}] = None\n"
        "from consumer.commands import cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    shown = subprocess.run([sys.executable, "-c", code, command, "--help"], capture_output=True, check=False)
    assert shown.returncode == 0
