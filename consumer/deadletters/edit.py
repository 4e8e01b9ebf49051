"""Dead letters mended by a person or a command, and sent again.

1. The original stays in its queue until the mended copy is confirmed: no file is ever the only copy.
2. A payload that our validation still refuses, or that is about another journey, is not sent.
3. Nothing is sent before its audit line is written; one that was then not confirmed has a second line.
4. What changed is told by field paths in the header ``x-edited`` and in the audit line, never by values.
"""

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import schemas
from consumer.core.outgoing import Outgoing
from consumer.deadletters.audit import DurableJsonlFile, audit_line
from consumer.deadletters.hand import DeadLetterMessage
from consumer.deadletters.headers import AND_MORE, EDITED, EVERYTHING, UNKNOWN_KEY
from consumer.deadletters.masking import is_known_key
from consumer.deadletters.mend import PayloadEditor
from consumer.deadletters.record import V2_ID, V3_ID, fingerprint, ids_of, payload_of
from consumer.deadletters.replay import STAYED, Publisher, again, confirmed, trouble_of
from consumer.deadletters.underway import BatchResult, Result
from consumer.errors import ConsumerError

_LONGEST_NOTE = 200
_MISSING: Final = object()


class EditAndReplay:
    """The action of a sweep that sends mended payloads to ``queue``. ``dry_run`` only judges them."""

    def __init__(
        self,
        mend: PayloadEditor,
        *,
        publisher: Publisher,
        queue: str,
        version: schemas.Version,
        audit: DurableJsonlFile,
        now: Callable[[], datetime],
        dry_run: bool = False,
        patience_seconds: float | None = None,
    ) -> None:
        self._mend = mend
        self._publisher = publisher
        self._queue = queue
        self._version: schemas.Version = version
        self._audit = audit
        self._now = now
        self._dry_run = dry_run
        self._patience = patience_seconds
        self.refusals: list[str] = []

    async def __call__(self, batch: Sequence[DeadLetterMessage]) -> BatchResult:
        """Mend, validate, write down what changed, publish with confirms. Raises ConsumerError."""
        mended = await self._mend(batch)
        results = [Result("left as it is", gone=False)] * len(batch)
        sent: list[tuple[int, Outgoing, str]] = []
        for index, dead in enumerate(batch):
            key = fingerprint(dead.delivery)
            if key not in mended:
                continue
            before, after = payload_of(dead.delivery), mended[key]
            note = note_of(changes(before, after))
            refusal = "unchanged" if not note else self._refusal(dead, after)
            if refusal is not None:
                results[index] = Result(refusal, gone=False)
            elif self._dry_run:
                results[index] = Result("would be sent", gone=False)
            else:
                sent.append((index, self._outgoing(dead, after, note), note))
        await self._write_down("edited", batch, [(index, note) for index, _, note in sent])
        failures = await confirmed(self._publisher, [outgoing for _, outgoing, _ in sent], self._patience)
        unconfirmed = []
        for (index, _, note), failure in zip(sent, failures, strict=True):
            results[index] = Result(STAYED, gone=False) if failure else Result("edited and sent", gone=True)
            if failure is not None:
                unconfirmed.append((index, note))
        trouble = trouble_of(failures)
        try:
            await self._write_down("edit not confirmed", batch, unconfirmed)
        except ConsumerError as error:
            trouble = f"{trouble}; {error}"
        return BatchResult(results, trouble)

    async def _write_down(
        self, action: str, batch: Sequence[DeadLetterMessage], which: Sequence[tuple[int, str]]
    ) -> None:
        """An audit line for each of ``which``: index in the batch, and what changed. Raises ConsumerError."""
        now = self._now()
        lines = [
            audit_line(action, batch[index].record, fingerprint(batch[index].delivery), now, changed=note)
            for index, note in which
        ]
        if lines:
            await asyncio.to_thread(self._audit.write, lines)

    def _refusal(self, dead: DeadLetterMessage, after: Any) -> str | None:
        verdict = schemas.validate(self._version, encode(after))
        known = dead.record.journey_id
        if isinstance(verdict, schemas.Refusal):
            first = verdict.violations[0]
            where = f" at {first.path}" if first.path else ""
            self.refusals.append(f"{known or dead.record.message_id or '?'}: {first.code}{where}")
            return "still invalid"
        if not self._is_same(payload_of(dead.delivery), verdict.journey_id):
            return "about another journey"
        return None

    def _is_same(self, before: Any, journey_id: str) -> bool:
        """Whether a mended journey has the id that it had, or has one for the first time."""
        ids = ids_of(before)
        known = ids.get(V2_ID if self._version == "v2" else V3_ID)
        return journey_id == known if known is not None else not ids or journey_id in ids.values()

    def _outgoing(self, dead: DeadLetterMessage, after: Any, note: str) -> Outgoing:
        copy = again(dead.delivery, self._queue)
        # The mended body is plain JSON, whatever it was packed in.
        properties = {k: v for k, v in copy.properties.items() if k != "content_encoding"}
        headers = {k: v for k, v in copy.headers.items() if k != "compression"}
        return dataclasses.replace(
            copy,
            body=encode(after),
            headers={**headers, EDITED: note},
            properties={**properties, "content_type": "application/json"},
        )


def encode(payload: Any) -> bytes:
    """The payload as it is sent. What JSON has no word for becomes a body that validation refuses."""
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
    """The paths at which the two differ, outermost first; a key that nobody knows is not named."""
    if type(before) is type(after) and isinstance(before, dict):
        for key in dict.fromkeys((*before, *after)):
            name = key if is_known_key(key) else UNKNOWN_KEY
            inner = f"{path}.{name}" if path else name
            yield from changes(before.get(key, _MISSING), after.get(key, _MISSING), inner)
    elif type(before) is type(after) and isinstance(before, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from changes(one, other, f"{path}.{index}" if path else str(index))
    elif type(before) is not type(after) or before != after:
        yield path or EVERYTHING
