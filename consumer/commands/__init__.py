"""One module per command: ``configure(parser)`` and ``run(args) -> exit code``."""

import sys
from types import ModuleType

# httpx imports a command line of its own where click and rich are installed, as rich is for our
# terminal views: 4 MB of memory that the service does not use. Without `main` in this module httpx
# falls back as if they were not installed.
sys.modules.setdefault("httpx._main", ModuleType("httpx._main"))
