"""Where ``publish`` takes its lines from: a descriptor, read piece by piece, or invented journeys.

Memory is bounded by the longest line. Reading a pipe or a terminal never blocks the event loop, so
that confirms are counted and signals heard while nothing comes.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from consumer.errors import ConsumerError
from consumer.publishing import samples

LONGEST_LINE_BYTES = 32 * 1024 * 1024
_PIECE_BYTES = 256 * 1024


async def read_lines(descriptor: int) -> AsyncIterator[bytes]:
    """Yield each line without its newline. Raises ConsumerError for one that is absurdly long."""
    number, carry = 1, b""
    while piece := await _read(descriptor):
        *lines, carry = (carry + piece).split(b"\n")
        for line in lines:
            yield line
        number += len(lines)
        if len(carry) > LONGEST_LINE_BYTES:
            raise ConsumerError(f"line {number} is longer than {LONGEST_LINE_BYTES >> 20} MiB")
    if carry:
        yield carry


async def generated_lines(version: samples.Version, count: int) -> AsyncIterator[bytes]:
    """Yield ``count`` journeys of just now."""
    rng = random.SystemRandom()
    for _ in range(count):
        yield samples.encode(samples.journey(version, rng, datetime.now(UTC)))


async def _read(descriptor: int) -> bytes:
    await _readable(descriptor)
    try:
        return os.read(descriptor, _PIECE_BYTES)
    except OSError as error:
        raise ConsumerError(f"reading failed: {error.strerror}") from error


async def _readable(descriptor: int) -> None:
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except PermissionError:  # epoll takes no regular files: they are always readable
        return
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
