"""A clock that moves only when a test says so."""

from datetime import UTC, datetime, timedelta

START = datetime(2026, 11, 23, 16, 0, tzinfo=UTC)


class FakeClock:
    """Monotonic seconds by calling it, wall time by ``now``; both move together.

    ``sleep`` takes the place of ``asyncio.sleep``: it moves the clock at once and remembers how long.
    """

    def __init__(self, start: datetime = START, seconds: float = 1000.0) -> None:
        self._wall = start
        self._seconds = seconds
        self.slept: list[float] = []

    def __call__(self) -> float:
        """Return monotonic seconds."""
        return self._seconds

    def now(self) -> datetime:
        """Return the wall time, UTC."""
        return self._wall

    def time(self) -> float:
        """Return the wall time as ``time.time`` does."""
        return self._wall.timestamp()

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self._seconds += seconds
        self._wall += timedelta(seconds=seconds)

    async def sleep(self, seconds: float) -> None:
        """Pass ``seconds`` without waiting."""
        self.slept.append(seconds)
        self.advance(seconds)
