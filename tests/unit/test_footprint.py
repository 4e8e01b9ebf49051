"""What `run` must not carry in its memory."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["rich", "click", "pygments", "aiohttp", "multiprocessing.pool"])
def test_the_service_does_not_load(package: str) -> None:
    """The sandbox's web server and the terminal views stay out of the service's process."""
    code = f"import sys, consumer.commands.run; sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
