"""``python -m consumer`` is ``journey-consumer``."""

import sys

from consumer.commands.cli import main

sys.exit(main())
