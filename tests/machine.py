"""On which machine and Python a figure was measured."""

import os
import platform
import sysconfig
from pathlib import Path


def machine() -> str:
    """One line: processors, Python and how it was built, load at this moment."""
    cpuinfo = Path("/proc/cpuinfo")
    names = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":")[1].strip() for line in names if line.startswith("model name")), "unknown")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    arguments = str(sysconfig.get_config_var("CONFIG_ARGS"))
    built = f"{'with' if '--enable-optimizations' in arguments else 'without'} --enable-optimizations"
    return f"{cores} x {model}, Python {platform.python_version()} {built}, load {os.getloadavg()[0]:.1f}"
