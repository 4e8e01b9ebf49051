"""What one pass of a sweep holds: dead letters come in as their queues give them, and go out by deadline.

What can go at once stays as it is; what has to wait for its turn waits packed.
"""

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from consumer.broker.queue_reader import BATCH_BYTES, QueueReader
from consumer.core.delivery import Delivery
from consumer.deadletters.order import Window
from consumer.deadletters.packing import Packer
from consumer.deadletters.record import Record, read

#: What a packed one costs besides its bytes.
_BOOKKEEPING_BYTES = 128


@dataclass(slots=True, eq=False)
class DeadLetterMessage:
    """A dead letter in our hands, with the tap to acknowledge it on and the reason of its queue."""

    record: Record
    delivery: Delivery
    tap: QueueReader
    queue_reason: str


class _Packed(NamedTuple):
    packed: bytes
    tap: QueueReader
    queue_reason: str


class ReorderBuffer:
    """What one pass holds.

    ``expected`` are the urgencies of all that will come, ascending. ``most`` (None: any number) and
    ``most_bytes`` bound what waits for its turn.
    """

    def __init__(self, expected: Sequence[float], *, most: int | None, most_bytes: int) -> None:
        self._window: Window[DeadLetterMessage | _Packed] = Window(
            expected, most=sys.maxsize if most is None else most, most_bytes=most_bytes
        )
        self._packer = Packer()
        self._ready: deque[DeadLetterMessage | _Packed] = deque()
        self._ready_bytes = 0

    def __len__(self) -> int:
        """How many may go now."""
        return len(self._ready)

    def has_batch(self, least: int) -> bool:
        """Whether ``least`` may go now, or fewer that are so large that no more should come to them."""
        return len(self._ready) >= least or self._ready_bytes >= BATCH_BYTES

    def take_in(self, batch: Sequence[DeadLetterMessage]) -> None:
        """These came."""
        for dead in batch:
            self._window.passes(dead.record.urgency)
        for dead in batch:
            urgency = dead.record.urgency
            if self._window.is_due(urgency):
                self._window.offer(urgency, dead, 0)  # it leaves at once
            elif self._window.is_wanted(urgency):
                packed = self._packer.pack(dead.delivery)
                held = _Packed(packed, dead.tap, dead.queue_reason)
                self._window.offer(urgency, held, len(packed) + _BOOKKEEPING_BYTES)
        self._release(self._window.release())

    def no_more(self) -> None:
        """Nothing more is coming: all that is held may go."""
        self._release(self._window.drain())

    def _release(self, released: Sequence[DeadLetterMessage | _Packed]) -> None:
        self._ready += released
        self._ready_bytes += sum(map(_size, released))

    def take_out(self, most: int) -> list[DeadLetterMessage]:
        """Up to ``most`` of those that may go, or ``BATCH_BYTES``, the nearest deadline first."""
        batch, size = list[DeadLetterMessage](), 0
        while self._ready and len(batch) < most and size < BATCH_BYTES:
            held = self._ready.popleft()
            self._ready_bytes -= _size(held)
            batch.append(self._unpacked(held))
            size += len(batch[-1].delivery.body)
        return batch

    def _unpacked(self, held: DeadLetterMessage | _Packed) -> DeadLetterMessage:
        if isinstance(held, DeadLetterMessage):
            return held
        delivery = self._packer.unpack(held.packed)
        return DeadLetterMessage(read(delivery, held.queue_reason), delivery, held.tap, held.queue_reason)


def _size(held: DeadLetterMessage | _Packed) -> int:
    return len(held.delivery.body) if isinstance(held, DeadLetterMessage) else len(held.packed)
