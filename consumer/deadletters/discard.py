"""Dead letters given up for good: written down first, then acknowledged.

Nothing is acknowledged before its audit line, and its archive line when one is asked for, are on the disk.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from consumer.deadletters.audit import DurableJsonlFile, archive_line, audit_line
from consumer.deadletters.hand import DeadLetterMessage
from consumer.deadletters.record import fingerprint
from consumer.deadletters.underway import BatchResult, Result

DISCARDED = "discarded"


class Discard:
    """The action of a sweep that removes dead letters. ``why`` is the person's reason, for the auditor."""

    def __init__(
        self,
        *,
        why: str,
        audit: DurableJsonlFile,
        archive: DurableJsonlFile | None,
        now: Callable[[], datetime],
    ) -> None:
        self._why = why
        self._audit = audit
        self._archive = archive
        self._now = now

    async def __call__(self, batch: Sequence[DeadLetterMessage]) -> BatchResult:
        """Write them down, and let them go."""
        await asyncio.to_thread(self._write_down, batch)
        return BatchResult([Result(DISCARDED, gone=True)] * len(batch))

    def _write_down(self, batch: Sequence[DeadLetterMessage]) -> None:
        archived = self._archive is not None
        if self._archive is not None:
            self._archive.write(map(archive_line, batch))
        now = self._now()
        self._audit.write(
            audit_line(
                DISCARDED, dead.record, fingerprint(dead.delivery), now, why=self._why, archived=archived
            )
            for dead in batch
        )
