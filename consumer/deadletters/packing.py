"""Deliveries made small while they wait in memory for their turn.

1. Compressed against the first one: journeys of one operator share everything but their values, so that
   what takes 3,000 bytes as objects takes some 250 packed.
2. In memory only: what is packed here is unpacked by the same object, and never written anywhere.
"""

import pickle
import zlib
from operator import attrgetter

from consumer.core.delivery import Delivery

_FIELDS = tuple(Delivery.__slots__)
_values = attrgetter(*_FIELDS)
#: A window of 4 KiB and little memory: setting up the compressor costs more than compressing.
_WINDOW_BITS, _MEMORY_LEVEL, _LEVEL = -12, 5, 6
_LONGEST_DICTIONARY = 4 * 1024


class Packer:
    """Packs and unpacks deliveries of similar content."""

    def __init__(self) -> None:
        self._dictionary = b""

    def pack(self, delivery: Delivery) -> bytes:
        """All of ``delivery`` in few bytes."""
        plain = pickle.dumps(_values(delivery), protocol=5)
        if not self._dictionary:
            self._dictionary = plain[:_LONGEST_DICTIONARY]
        compressor = zlib.compressobj(
            _LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL, zdict=self._dictionary
        )
        return compressor.compress(plain) + compressor.flush()

    def unpack(self, packed: bytes) -> Delivery:
        """The delivery that this object packed."""
        decompressor = zlib.decompressobj(_WINDOW_BITS, zdict=self._dictionary)
        plain = decompressor.decompress(packed) + decompressor.flush()
        return Delivery(*pickle.loads(plain))  # noqa: S301 our own, from our own memory
