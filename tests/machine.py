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
    pgo = "with" if "--enable-optimizations" in arguments else "without"
    python = f"{platform.python_implementation()} {platform.python_version()} {pgo} PGO"
    return f"{cores} x {model}, {python}, load {os.getloadavg()[0]:.1f}"
