"""What the probes answer: live is the age of the heartbeat, ready is what the service last said.

Asking broker, Registry or token here would restart every replica when one of them fails.
"""

import time
from collections.abc import Callable

STALE_AFTER_SECONDS = 15.0


class Health:
    """What the probes answer. Written by the event loop, read from the HTTP thread.

    Until the first word of the service it is not ready; until ``stale_after_seconds`` after the
    last ``beat`` it is live. ``clock`` is monotonic seconds.
    """

    def __init__(
        self,
        *,
        stale_after_seconds: float = STALE_AFTER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._stale_after = stale_after_seconds
        self._beat_at = clock()
        self._obstacle: str | None = "starting"
        self._paused: str | None = None

    def beat(self) -> None:
        """The event loop is running. To be called about once a second, whatever else is wrong."""
        self._beat_at = self._clock()

    def ready(self, paused: str | None = None) -> None:
        """Configured, subscribed, not draining; ``paused`` is the cause of a pause of consumption."""
        self._obstacle, self._paused = None, paused

    def not_ready(self, reason: str) -> None:
        """Not ready; ``reason`` is shown by ``/readyz``."""
        self._obstacle = reason

    @property
    def heartbeat_age_seconds(self) -> float:
        """Seconds since the last heartbeat."""
        return self._clock() - self._beat_at

    @property
    def live(self) -> bool:
        """Whether the event loop ran lately."""
        return self.heartbeat_age_seconds < self._stale_after

    @property
    def obstacle(self) -> str | None:
        """Why the service is not ready, None when it is."""
        return self._obstacle

    @property
    def paused(self) -> str | None:
        """Why a service that is ready consumes nothing, None when it does."""
        return self._paused
