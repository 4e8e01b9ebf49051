"""Dead letters whose payload is changed, by a file or by a shell command, and then replayed.

1. The original stays in its queue until the edited copy is confirmed: no file is ever the only copy.
2. A payload that our validation still refuses, or that is about another journey, is not sent.
3. Nothing is sent before its audit line is written; one that was then not confirmed has a second line.
4. What changed is written as field paths into the header ``x-edited`` and the audit line, never as values.
5. A line that cannot be understood is an error that names its place and quotes nothing of it.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import schemas
from consumer.core.outgoing import Outgoing
from consumer.deadletters.actions import ReplayToQueue
from consumer.deadletters.audit import DurableJsonlFile, audit_line, export_line
from consumer.deadletters.masking import AND_MORE, EDITED, EVERYTHING, KNOWN_KEYS, UNKNOWN_KEY
from consumer.deadletters.record import V2_ID, V3_ID, ids_of, is_too_deep, payload_of
from consumer.deadletters.sweep import BatchResult, DeadLetterMessage, Result
from consumer.errors import ConsumerError

_LONGEST_NOTE = 200
_MISSING: Final = object()
#: A command may write so much for what it is given, no more: otherwise it never ends.
_MOST_TIMES, _MOST_MORE = 4, 4 * 1024 * 1024

#: Returns the edited payloads of a batch by key; what it leaves out stays as it is. When it raises
#: ConsumerError, nothing of the batch is sent.
PayloadEditor = Callable[[Sequence[DeadLetterMessage]], Awaitable[Mapping[str, Any]]]


class FileEditor:
    """Payloads from a file that was exported and edited; only offsets and hashes are kept in memory.

    Raises ConsumerError for a line that is not as it was exported.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[str, int] = {}
        self.keys = self._offsets.keys()
        offset, payloads = 0, dict[str, int]()
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    where = f"{path} at byte {offset}"
                    key, payload = _parse_line(line, where)
                    first = self._offsets.setdefault(key, offset)
                    digest = hash(json.dumps(payload, sort_keys=True, default=id))  # id: of _MISSING
                    if payloads.setdefault(key, digest) != digest:
                        raise ConsumerError(f"{where} and at byte {first} edit one dead letter in two ways")
                offset += len(line)

    async def __call__(self, batch: Sequence[DeadLetterMessage]) -> Mapping[str, Any]:
        edited = {}
        with self._path.open("rb") as file:
            for dead in batch:
                if dead.key in self._offsets:
                    file.seek(self._offsets[dead.key])
                    key, payload = _parse_line(file.readline(), str(self._path))
                    if key == dead.key and payload is not _MISSING:
                        edited[key] = payload
        return edited


class CommandEditor:
    """Payloads through a shell command: JSON Lines in, JSON Lines out, once for each batch."""

    def __init__(self, command: str, now: Callable[[], datetime]) -> None:
        self._command = command
        self._now = now

    async def __call__(self, batch: Sequence[DeadLetterMessage]) -> Mapping[str, Any]:
        now = self._now()
        # Copies of one message have one key, and are edited alike.
        lines = {dead.key: json.dumps(export_line(dead, now)) for dead in batch}
        written, code = await _run(self._command, "".join(f"{line}\n" for line in lines.values()).encode())
        if code:
            raise ConsumerError(f"the command exited with {code}; nothing of its batch was sent")
        edited = dict[str, Any]()
        for number, line in enumerate(written.splitlines(), 1):
            if line.strip():
                where = f"line {number} of the command's output"
                key, payload = _parse_line(line, where)
                if key not in lines:
                    raise ConsumerError(f"{where} has a key that was not in its input")
                if edited.setdefault(key, payload) != payload:
                    raise ConsumerError(f"{where} edits one dead letter in a second way")
        return {key: payload for key, payload in edited.items() if payload is not _MISSING}


async def _run(command: str, text: bytes) -> tuple[bytes, int]:
    """The output and exit code of a shell command; its process group is killed when this is cancelled."""
    # In a session of its own: Ctrl-C lets it finish its batch, and all of its processes can be killed.
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
        # Waiting for its end would also wait for a child that left its session and still holds its output.
        process._transport.close()  # type: ignore[attr-defined]  # noqa: SLF001 there is no other way
        raise
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


async def _read(stdout: asyncio.StreamReader, most: int) -> bytes:
    try:
        await stdout.readexactly(most + 1)
    except asyncio.IncompleteReadError as end:
        return end.partial
    raise ConsumerError(f"the command wrote more than {most:,} bytes for one batch")


async def _feed(stdin: asyncio.StreamWriter, text: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # it may exit without reading
        stdin.write(text)
        await stdin.drain()
        stdin.close()
        await stdin.wait_closed()


def _parse_line(line: bytes, where: str) -> tuple[str, Any]:
    """The key and the payload of a line. Raises ConsumerError."""
    try:
        read = json.loads(line)
        found = str(read["key"]), read.get("payload", _MISSING)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConsumerError(f"{where} is not a JSON object with a key and a payload") from None
    if is_too_deep(read):
        raise ConsumerError(f"{where} is nested too deep for a journey")
    return found


@dataclass(frozen=True, slots=True)
class EditAndReplay:
    """Publishes edited payloads with ``replay``. ``dry_run`` only validates them."""

    editor: PayloadEditor
    replay: ReplayToQueue
    version: schemas.Version
    audit: DurableJsonlFile
    now: Callable[[], datetime]
    dry_run: bool
    refusals: list[str] = field(default_factory=list)

    async def __call__(self, batch: Sequence[DeadLetterMessage]) -> BatchResult:
        """Edit, validate, write the audit lines, publish with confirms. Raises ConsumerError."""
        edited = await self.editor(batch)
        results = [Result("not edited", ack=False)] * len(batch)
        messages = dict[int, Outgoing]()  # by index in the batch
        for index, dead in enumerate(batch):
            if dead.key not in edited:
                continue
            after = edited[dead.key]
            note = note_of(changes(payload_of(dead.delivery), after))
            refusal = self._refusal(dead, after) if note else "unchanged"
            results[index] = Result(refusal or "would be sent", ack=False)
            if refusal is None and not self.dry_run:
                messages[index] = self._outgoing(dead, after, note)
        await self._write_audit("edited", batch, messages)
        published = await self.replay.publish(list(messages.values()), "edited and sent")
        trouble = published.trouble
        for index, result in zip(tuple(messages), published.results, strict=True):
            results[index] = result
            if result.ack:
                del messages[index]
        try:
            await self._write_audit("edit not confirmed", batch, messages)
        except ConsumerError as error:
            trouble = f"{trouble}; {error}"
        return BatchResult(results, trouble)

    async def _write_audit(
        self, action: str, batch: Sequence[DeadLetterMessage], messages: Mapping[int, Outgoing]
    ) -> None:
        """An audit line for each message, by its index in the batch. Raises ConsumerError."""
        now, lines = self.now(), list[dict[str, Any]]()
        for index, message in messages.items():
            lines.append(audit_line(action, batch[index], now, changed=message.headers[EDITED]))
        if lines:
            await asyncio.to_thread(self.audit.write, lines)

    def _refusal(self, dead: DeadLetterMessage, after: Any) -> str | None:
        """Why an edited payload is not sent; None when it is valid and about the same journey."""
        verdict = schemas.validate(self.version, encode(after))
        if isinstance(verdict, schemas.Refusal):
            first = verdict.violations[0]
            where = f" at {first.path}" if first.path else ""
            name = dead.record.journey_id or dead.record.message_id or "?"
            self.refusals.append(f"{name}: {first.code}{where}")
            return "still invalid"
        ids = ids_of(payload_of(dead.delivery))
        known = ids.get(V2_ID if self.version == "v2" else V3_ID)
        # A payload without an id of this version may be given one of those that it has, or its first one.
        allowed = [verdict.journey_id] if not ids else ids.values() if known is None else [known]
        return None if verdict.journey_id in allowed else "about another journey"

    def _outgoing(self, dead: DeadLetterMessage, after: Any, note: str) -> Outgoing:
        copy = self.replay.copy(dead.delivery)
        # The edited body is plain JSON, also when the original was compressed.
        properties = {k: v for k, v in copy.properties.items() if k != "content_encoding"}
        headers = {k: v for k, v in copy.headers.items() if k != "compression"}
        return replace(
            copy,
            body=encode(after),
            headers={**headers, EDITED: note},
            properties={**properties, "content_type": "application/json"},
        )


def encode(payload: Any) -> bytes:
    """The payload as it is sent. What JSON cannot express becomes a body that validation refuses."""
    try:
        return json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError):  # NaN, half a surrogate pair, nested without end
        return b""


def note_of(paths: Iterable[str]) -> str:
    """The paths in one line of some 200 characters; empty when there are none."""
    note = ""
    for path in dict.fromkeys(paths):
        longer = f"{note}, {path}" if note else path
        if len(longer) > _LONGEST_NOTE:
            return f"{note}, {AND_MORE}" if note else AND_MORE
        note = longer
    return note


def changes(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """The paths at which the two differ, outermost first; an unknown key is not named."""
    if type(before) is type(after) and isinstance(before, dict):
        for key in dict.fromkeys((*before, *after)):
            name = key if key in KNOWN_KEYS else UNKNOWN_KEY
            inner = f"{path}.{name}" if path else name
            yield from changes(before.get(key, _MISSING), after.get(key, _MISSING), inner)
    elif type(before) is type(after) and isinstance(before, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from changes(one, other, f"{path}.{index}" if path else str(index))
    elif type(before) is not type(after) or before != after:
        yield path or EVERYTHING
