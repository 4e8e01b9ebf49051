"""``python -m consumer`` is ``journey-consumer``."""

import sys

from consumer.cli import main

sys.exit(main())
