"""Where log lines go: one stream, whole lines, in order, from any thread.

Knows nothing of what the lines say. A log that cannot be written stops no journey.
"""

import threading
from typing import TextIO


class Output:
    """A stream that takes whole lines from any thread and keeps their order."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self.lost_lines = 0

    def add(self, line: str) -> int:
        """Buffer one line (with its newline); return how many wait."""
        with self._lock:
            self._lines.append(line)
            return len(self._lines)

    def flush(self) -> None:
        """Write what waits. An unwritable stream loses the lines, and counts them."""
        with self._lock:
            if not self._lines:
                return
            lines, self._lines = self._lines, []
            try:
                self._stream.write("".join(lines))
                self._stream.flush()
            except (OSError, ValueError):  # full disk, closed pipe; ValueError: closed file
                self.lost_lines += len(lines)
