"""The most urgent dead letters of a look, in the order of their deadlines; the others are only counted.

What is kept for its payload is kept packed and in bounded memory: of too many large ones the least urgent
are let go, and ``len`` says so.
"""

from collections.abc import Iterator

from consumer.core.delivery import Delivery
from consumer.deadletters.order import Window
from consumer.deadletters.packing import Packer
from consumer.deadletters.record import Record

#: Of all packed deliveries together.
MOST_BYTES = 64 * 1024 * 1024


class Listing:
    """Keeps ``limit`` records at most, ``with_deliveries`` when the payloads will be shown as well."""

    def __init__(self, limit: int, *, with_deliveries: bool, most_bytes: int = MOST_BYTES) -> None:
        self._window: Window[tuple[Record, bytes]] = Window((), most=limit, most_bytes=most_bytes)
        self._with_deliveries = with_deliveries
        self._packer = Packer()
        self._kept: list[tuple[Record, bytes]] | None = None
        self.matching = 0

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._entries())

    def add(self, record: Record, delivery: Delivery) -> None:
        """One more that matches."""
        self.matching += 1
        if self._window.is_wanted(record.urgency):
            packed = self._packer.pack(delivery) if self._with_deliveries else b""
            self._window.offer(record.urgency, (record, packed), len(packed))

    def records(self) -> Iterator[Record]:
        """Those that are kept, the nearest deadline first."""
        return (record for record, _ in self._entries())

    def entries(self) -> Iterator[tuple[Record, Delivery]]:
        """The same with their deliveries, one unpacked at a time."""
        return ((record, self._packer.unpack(packed)) for record, packed in self._entries())

    def _entries(self) -> list[tuple[Record, bytes]]:
        if self._kept is None:
            self._kept = self._window.drain()
        return self._kept
