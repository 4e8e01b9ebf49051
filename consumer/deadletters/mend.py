"""Where mended payloads come from: a file that a person has edited, or a shell command.

1. Both give the payloads of a batch by key; what they leave out stays as it is.
2. What can not be understood is an error that names its place and quotes nothing of it.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, KeysView, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

from consumer.deadletters.audit import export_line
from consumer.deadletters.hand import DeadLetterMessage
from consumer.deadletters.record import fingerprint, is_too_deep
from consumer.errors import ConsumerError

_MISSING: Final = object()
#: A command may write so much for what it is given, no more: otherwise it never ends.
_MOST_TIMES, _MOST_MORE = 4, 4 * 1024 * 1024
_CHUNK = 64 * 1024


class PayloadEditor(Protocol):
    """Gives back the mended payloads of a batch by key; what it leaves out stays as it is."""

    async def __call__(self, batch: Sequence[DeadLetterMessage]) -> Mapping[str, Any]:
        """Mend. Raises ConsumerError; nothing of the batch is then touched."""


class FileEditor:
    """Payloads out of a file that was exported and mended; only where each line begins is kept in memory.

    Raises ConsumerError for a line that is not as it was exported.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[str, int] = {}
        with path.open("rb") as file:
            while True:
                offset, line = file.tell(), file.readline()
                if not line:
                    break
                if line.strip():
                    where = f"{path} at byte {offset}"
                    key, payload = _mended(line, where)
                    first = self._offsets.setdefault(key, offset)
                    if first != offset:
                        file.seek(first)
                        if _mended(file.readline(), where) != (key, payload):
                            raise ConsumerError(f"{where} and at byte {first} mend the same one differently")
                        file.seek(offset + len(line))

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def keys(self) -> KeysView[str]:
        """Of which dead letters there is a line."""
        return self._offsets.keys()

    async def __call__(self, batch: Sequence[DeadLetterMessage]) -> Mapping[str, Any]:
        """The payloads of these."""
        mended = {}
        with self._path.open("rb") as file:
            for dead in batch:
                key = fingerprint(dead.delivery)
                if key in self._offsets:
                    file.seek(self._offsets[key])
                    found, payload = _mended(file.readline(), str(self._path))
                    if found == key and payload is not _MISSING:
                        mended[key] = payload
        return mended


class CommandEditor:
    """Payloads through a shell command: JSON Lines in, JSON Lines out, once for each batch."""

    def __init__(self, command: str, now: Callable[[], datetime]) -> None:
        self._command = command
        self._now = now

    async def __call__(self, batch: Sequence[DeadLetterMessage]) -> Mapping[str, Any]:
        """Mend by the command; a line that it does not write stays as it is."""
        now = self._now()
        # Twins have one key, and are mended alike.
        lines = {
            fingerprint(dead.delivery): json.dumps(export_line(dead.record, dead.delivery, now))
            for dead in batch
        }
        written, code = await _run(self._command, "".join(f"{line}\n" for line in lines.values()).encode())
        if code:
            raise ConsumerError(f"the command ended with {code}; nothing of its batch was sent")
        mended = dict[str, Any]()
        for number, line in enumerate(written.splitlines(), 1):
            if line.strip():
                where = f"line {number} of the command's output"
                key, payload = _mended(line, where)
                if key not in lines:
                    raise ConsumerError(f"{where} has the key of none that it was given")
                if mended.setdefault(key, payload) != payload:
                    raise ConsumerError(f"{where} mends one in a second way")
        return {key: payload for key, payload in mended.items() if payload is not _MISSING}


async def _run(command: str, text: bytes) -> tuple[bytes, int]:
    """What a shell command makes of ``text``, and its exit code; killed with all its kind when cancelled."""
    # In a session of its own: Ctrl-C is for us, who let it end its batch; and all of it can be killed.
    process = await asyncio.create_subprocess_shell(
        command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None  # noqa: S101 for the type checker: both are pipes
    assert process.stdout is not None  # noqa: S101
    feeding = asyncio.ensure_future(_feed(process.stdin, text))
    try:
        written = await _read(process.stdout, _MOST_TIMES * len(text) + _MOST_MORE)
        return written, await process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # Waiting for its end would also wait for whoever left its session and still holds its output.
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 there is no other way
        raise
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def _read(stdout: asyncio.StreamReader, most: int) -> bytes:
    written = bytearray()
    while chunk := await stdout.read(_CHUNK):
        written += chunk
        if len(written) > most:
            raise ConsumerError(f"the command writes without end: more than {most:,} bytes for one batch")
    return bytes(written)


async def _feed(stdin: asyncio.StreamWriter, text: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # it may end without reading
        stdin.write(text)
        await stdin.drain()
        stdin.close()
        await stdin.wait_closed()


def _mended(line: bytes, where: str) -> tuple[str, Any]:
    """The key and the payload of a line. Raises ConsumerError, which quotes nothing of it."""
    try:
        read = json.loads(line)
        found = str(read["key"]), read.get("payload", _MISSING)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConsumerError(f"{where} is not a JSON object with a key and a payload") from None
    if is_too_deep(read):
        raise ConsumerError(f"{where} is nested deeper than any journey")
    return found
