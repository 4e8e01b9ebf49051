"""One module per command: ``configure(parser)`` and ``run(args) -> exit code``."""

import sys
from types import ModuleType

# httpx loads a command line of its own wherever click and rich are installed, as they are for our
# terminal views: 4 MB in the memory of a service that has no use for it. Without `main` in it httpx
# takes its own way out, the one for when they are not installed.
sys.modules.setdefault("httpx._main", ModuleType("httpx._main"))
