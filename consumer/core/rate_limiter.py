"""When the next request may go: a smooth rate limiter (GCRA) that shares its limit with other processes.

1. Each caller gets a slot of its own; slots are an interval apart, after at most ``burst`` at once.
   No window of ``t`` seconds ever sees more than ``rate * t + burst`` slots.
2. Answers say what remains of the limit of all clients behind our address, and until when. What
   remains is spread over the time that remains: many who do this share it without knowing each
   other, because each sees the others' share vanish.
3. A share of what remains is never used: requests in flight have not been counted yet.
4. While held nothing is sent; a slot that falls into a hold is lost, and its owner reserves again. From a
   hold on it is ``resuming``, until its owner resets that: one submission should go first.
5. Time (monotonic seconds) is an argument. It knows no HTTP and never sleeps.
"""

from consumer.core.reply import RateLimit

_RESERVE_SHARE = 0.01
# The header counts whole seconds, so the same window's end is seen up to a second apart.
_SAME_WINDOW_SECONDS = 1.5


class RateLimiter:
    """Paces the requests of this process.

    The caller's loop::

        while True:
            await sleep(rate_limiter.reserve(now()))
            if not rate_limiter.held_for(now()):
                break
    """

    __slots__ = (
        "_held_until",
        "_interval",
        "_own_interval",
        "_remaining",
        "_slot",
        "_tolerance",
        "_window_end",
        "resuming",
    )

    def __init__(self, rate_per_minute: float, burst: int) -> None:
        if not rate_per_minute > 0 or burst < 1:
            raise ValueError("rate_per_minute must be positive and burst at least 1")
        self._own_interval = 60.0 / rate_per_minute
        self._tolerance = (burst - 1) * self._own_interval
        self._slot = float("-inf")  # when the next slot would be without bursts
        self._held_until = float("-inf")
        self._interval = self._own_interval  # of the shared limit, until _window_end
        self._window_end = float("-inf")
        self._remaining = 0
        self.resuming = False

    def reserve(self, now: float) -> float:
        """Take the next slot and return the seconds to wait for it (0.0: go)."""
        start = max(now, self._held_until)
        slot = max(self._slot, start)
        following = slot + self._own_interval
        if slot < self._window_end:  # scarce until then, and not a moment longer
            following = max(following, min(slot + self._interval, self._window_end))
        self._slot = following
        return max(slot - self._tolerance, start) - now

    def held_for(self, now: float) -> float:
        """Seconds until anybody may send, 0.0 when that is now. To be asked on waking."""
        return max(self._held_until - now, 0.0)

    def hold(self, until: float) -> None:
        """Send nothing before ``until`` (a 429). A hold is never shortened."""
        self._held_until = max(self._held_until, until)
        self.resuming = True

    def observe(self, seen: RateLimit, now: float) -> None:
        """Obey what an answer says about the shared limit."""
        if seen.reset_in_seconds <= 0:  # the window is just ending: says nothing about the next
            return
        end = now + seen.reset_in_seconds
        remaining = seen.remaining
        known, over = self._window_end, now >= self._window_end
        if not over and abs(end - known) <= _SAME_WINDOW_SECONDS:
            # Answers overtake each other; within a window what remains only shrinks.
            remaining = min(remaining, self._remaining)
            end = min(end, known)
        elif end <= known + _SAME_WINDOW_SECONDS and (over or seen.reset_in_seconds <= _SAME_WINDOW_SECONDS):
            return  # the last words of a window that is over
        self._window_end, self._remaining = end, remaining
        usable = remaining - int((seen.limit or 0) * _RESERVE_SHARE)
        if usable <= 0:
            self.hold(end)
        else:
            self._interval = max(self._own_interval, (end - now) / usable)
