"""Payloads out of what people have in files: JSON Lines, one JSON document, or an array. Pure.

1. The first line that is not blank decides. A JSON object of its own: JSON Lines, each passed on unchanged.
2. Otherwise up to ``MOST_BYTES`` are kept: one document over many lines, or an array, whose elements are
   written anew. What is neither is read as lines, so that each line can be refused by its number.
"""

import json
from collections.abc import Iterator

MOST_BYTES = 32 * 1024 * 1024


class Documents:
    """Takes lines without their newline, gives payloads, each with the number of its line or element."""

    def __init__(self) -> None:
        self._number = 0
        self._is_lines = False
        self._kept: list[bytes] = []
        self._bytes = 0

    def feed(self, line: bytes) -> Iterator[tuple[int, bytes]]:
        """Take one line."""
        self._number += 1
        if self._is_lines:
            if line.strip():
                yield self._number, line
            return
        self._kept.append(line)
        self._bytes += len(line) + 1
        if not line.strip():
            return
        first = not any(kept.strip() for kept in self._kept[:-1])
        if (first and isinstance(_json(line), dict)) or self._bytes > MOST_BYTES:
            yield from self._lines()

    def end(self) -> Iterator[tuple[int, bytes]]:
        """Say that there are no more lines."""
        whole = b"\n".join(self._kept).strip()
        match _json(whole) if whole else None:
            case dict():
                yield 1, whole
            case list() as elements:
                for number, element in enumerate(elements, 1):
                    yield number, json.dumps(element, separators=(",", ":")).encode()
            case _:
                yield from self._lines()

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        self._is_lines, kept, self._kept = True, self._kept, []
        yield from ((number, line) for number, line in enumerate(kept, 1) if line.strip())


def is_object(document: bytes) -> bool:
    """Whether it is a JSON object."""
    return isinstance(_json(document), dict)


def _json(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
