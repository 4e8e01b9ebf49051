"""Which delivery tags to acknowledge next, and how few frames that takes. Pure.

1. Tags arrive in ascending order on one channel and are settled in any order.
2. A run of settled tags at the front is acknowledged with one ``multiple`` frame: nothing that
   is still unsettled lies below it, so it can cover nothing it should not.
3. A tag behind an unsettled one waits for one more call, then is acknowledged by itself.
"""

from collections import deque


class AckLedger:
    """The outstanding tags of one channel, and how many bytes of what is not settled."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self._sizes: dict[int, int] = {}
        self._outstanding: deque[int] = deque()
        self._settled: set[int] = set()
        self._waited: set[int] = set()
        self._alone: set[int] = set()

    def delivered(self, tag: int, size: int = 0) -> None:
        """The broker delivered ``tag``; it is larger than all before."""
        self._outstanding.append(tag)
        self._sizes[tag] = size
        self.held_bytes += size

    def settle(self, tag: int) -> None:
        """The delivery ``tag`` may be acknowledged."""
        self._settled.add(tag)
        self.held_bytes -= self._sizes.pop(tag, 0)

    def returned(self, tag: int) -> None:
        """The delivery ``tag`` was given back: no frame may be written for it."""
        self._alone.add(tag)
        self.held_bytes -= self._sizes.pop(tag, 0)

    @property
    def held(self) -> int:
        """How many deliveries are not settled."""
        return len(self._sizes)

    @property
    def pending(self) -> bool:
        """Whether something settled still waits for its frame."""
        return bool(self._settled)

    def collect(self, *, everything: bool = False) -> list[tuple[int, bool]]:
        """Return the (tag, multiple) frames to write now; ``everything`` leaves nothing waiting."""
        frames: list[tuple[int, bool]] = []
        outstanding, settled, alone = self._outstanding, self._settled, self._alone
        count, last = 0, 0
        while outstanding:
            tag = outstanding[0]
            if tag in settled:
                settled.discard(tag)
                count, last = count + 1, tag
            elif tag in alone:
                alone.discard(tag)
            else:
                break
            outstanding.popleft()
        if count:
            frames.append((last, count > 1))
        if settled:
            due = set(settled) if everything else settled & self._waited
            for tag in sorted(due):
                frames.append((tag, False))
                settled.discard(tag)
                alone.add(tag)
        self._waited = set(settled)
        return frames
