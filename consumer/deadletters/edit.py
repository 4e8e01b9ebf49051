"""Dead letters mended by a person or a command, and sent again.

1. The original stays in its queue until the mended copy is confirmed: no file is ever the only copy.
2. A payload that our validation still refuses, or that is about another journey, is not sent.
3. What changed is told by field paths in the header ``x-edited`` and in the audit line, never by values.
"""

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol

import schemas
from consumer.deadletters.hand import Dead
from consumer.deadletters.journal import LineFile, audit_line, export_line
from consumer.deadletters.masking import is_known_key
from consumer.deadletters.record import fingerprint, payload_of
from consumer.deadletters.replay import STAYED, Publisher, again, confirmed, trouble_of
from consumer.deadletters.sweep import Acted, Result
from consumer.errors import ConsumerError
from consumer.messages import Outgoing

EDITED: Final = "x-edited"
_LONGEST_NOTE = 200
_MISSING: Final = object()


class Mender(Protocol):
    """Gives back the mended payloads of a batch by key; what it leaves out stays as it is."""

    async def __call__(self, batch: Sequence[Dead]) -> Mapping[str, Any]:
        """Mend. Raises ConsumerError; nothing of the batch is then touched."""


class ToEdited:
    """The action of a sweep that sends mended payloads to ``queue``. ``dry_run`` only judges them."""

    def __init__(
        self,
        mend: Mender,
        *,
        publisher: Publisher,
        queue: str,
        version: schemas.Version,
        audit: LineFile,
        now: Callable[[], datetime],
        dry_run: bool = False,
    ) -> None:
        self._mend = mend
        self._publisher = publisher
        self._queue = queue
        self._version: schemas.Version = version
        self._audit = audit
        self._now = now
        self._dry_run = dry_run
        self.refusals: list[str] = []

    async def __call__(self, batch: Sequence[Dead]) -> Acted:
        """Mend, validate, publish with confirms, write down what changed."""
        mended = await self._mend(batch)
        results = [Result("left as it is", gone=False)] * len(batch)
        sent: list[tuple[int, Outgoing, str]] = []
        for index, dead in enumerate(batch):
            key = fingerprint(dead.delivery)
            if key not in mended:
                continue
            before, after = payload_of(dead.delivery), mended[key]
            note = ", ".join(changes(before, after))
            refusal = "unchanged" if not note else self._refusal(dead, after)
            if refusal is not None:
                results[index] = Result(refusal, gone=False)
            elif self._dry_run:
                results[index] = Result("would be sent", gone=False)
            else:
                sent.append((index, self._outgoing(dead, after, note), note))
        failures = await confirmed(self._publisher, [outgoing for _, outgoing, _ in sent])
        lines, now = [], self._now()
        for (index, _, note), failure in zip(sent, failures, strict=True):
            results[index] = Result(STAYED, gone=False) if failure else Result("edited and sent", gone=True)
            if failure is None:
                dead = batch[index]
                lines.append(audit_line("edited", dead.record, fingerprint(dead.delivery), now, changed=note))
        if lines:
            await asyncio.to_thread(self._audit.write, lines)
        return Acted(results, trouble_of(failures))

    def _refusal(self, dead: Dead, after: Any) -> str | None:
        verdict = schemas.validate(self._version, encode(after))
        known = dead.record.journey_id
        if isinstance(verdict, schemas.Refusal):
            first = verdict.violations[0]
            where = f" at {first.path}" if first.path else ""
            self.refusals.append(f"{known or dead.record.message_id or '?'}: {first.code}{where}")
            return "still invalid"
        if known is not None and verdict.journey_id != known:
            return "about another journey"
        return None

    def _outgoing(self, dead: Dead, after: Any, note: str) -> Outgoing:
        copy = again(dead.delivery, self._queue)
        properties = {k: v for k, v in copy.properties.items() if k != "content_encoding"}
        return dataclasses.replace(
            copy,
            body=encode(after),
            headers={**copy.headers, EDITED: note[:_LONGEST_NOTE]},
            properties={**properties, "content_type": "application/json"},  # out of its CloudEvent, if any
        )


def encode(payload: Any) -> bytes:
    """The payload as it is sent. What JSON has no word for becomes a body that validation refuses."""
    try:
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except ValueError:  # NaN, or half a surrogate pair
        return b""


def changes(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """The paths at which the two differ, outermost first; a key that nobody knows is not named."""
    if type(before) is type(after) and isinstance(before, dict):
        for key in dict.fromkeys((*before, *after)):
            name = key if is_known_key(key) else "(unknown key)"
            inner = f"{path}.{name}" if path else name
            yield from changes(before.get(key, _MISSING), after.get(key, _MISSING), inner)
    elif type(before) is type(after) and isinstance(before, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from changes(one, other, f"{path}.{index}" if path else str(index))
    elif type(before) is not type(after) or before != after:
        yield path or "(everything)"


# --- menders --------------------------------------------------------------------------------


class MendedFile:
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
                    key, _ = _mended(line, f"{path} at byte {offset}")
                    self._offsets[key] = offset

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def keys(self) -> KeysView[str]:
        """Of which dead letters there is a line."""
        return self._offsets.keys()

    async def __call__(self, batch: Sequence[Dead]) -> Mapping[str, Any]:
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


class Pipe:
    """Payloads through a shell command: JSON Lines in, JSON Lines out, once for each batch."""

    def __init__(self, command: str, now: Callable[[], datetime]) -> None:
        self._command = command
        self._now = now

    async def __call__(self, batch: Sequence[Dead]) -> Mapping[str, Any]:
        """Mend by the command; a line that it does not write stays as it is."""
        now = self._now()
        lines = [json.dumps(export_line(dead.record, dead.delivery, now)) for dead in batch]
        process = await asyncio.create_subprocess_shell(
            self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            written, _ = await process.communicate("".join(f"{line}\n" for line in lines).encode())
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            raise ConsumerError(f"the command ended with {process.returncode}; nothing of its batch was sent")
        mended = dict(
            _mended(line, f"line {number} of the command's output")
            for number, line in enumerate(written.splitlines(), 1)
            if line.strip()
        )
        return {key: payload for key, payload in mended.items() if payload is not _MISSING}


def _mended(line: bytes, where: str) -> tuple[str, Any]:
    """The key and the payload of a line. Raises ConsumerError, which quotes nothing of it."""
    try:
        read = json.loads(line)
        return str(read["key"]), read.get("payload", _MISSING)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConsumerError(f"{where} is not a JSON object with a key and a payload") from None
