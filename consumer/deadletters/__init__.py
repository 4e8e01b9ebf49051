"""Dead letters: taken from their queues and sent again, without a moment in which one is nowhere.

``replay`` is the core, for the command line and for whoever runs in the same process (the demo).
"""

from consumer.deadletters.replay import Moved, replay

__all__ = ["Moved", "replay"]
