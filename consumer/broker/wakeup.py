"""Wakes a thread that waits in ``poll`` or ``select``, where only a descriptor can be waited for."""

import os
import select


class Wakeup:
    """``set`` from any thread; the waiting thread polls ``fileno`` and calls ``clear``."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """What to poll for reading."""
        return self._read

    def set(self) -> None:
        """Wake the thread, now or at its next wait."""
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            return  # the pipe is full: the thread has been woken already

    def clear(self) -> None:
        """Wait anew from here on."""
        try:
            while os.read(self._read, 4096):
                continue
        except BlockingIOError:
            return

    def wait(self, seconds: float) -> None:
        """Return after ``seconds`` or when set."""
        select.select([self._read], [], [], seconds)
        self.clear()

    def close(self) -> None:
        """Close the pipe; nobody may wait or set any more."""
        os.close(self._write)
        os.close(self._read)
