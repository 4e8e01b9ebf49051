"""The one line of each settled delivery, formatted by hand because it is on the hot path.

Ids and reason only: there is no parameter through which a value of a payload could come in. Lines
wait in the output for a moment; ``flush`` writes them, and so does every other log line.
"""

import logging
import time
from collections.abc import Callable

from consumer.logs.formatting import Stamp, cut, id_or_null, quoted, word
from consumer.logs.output import Output
from consumer.logs.records import Format

_FLUSH_LINES, _FLUSH_SECONDS = 256, 0.25
# Outcomes after which nothing is left to do for anybody; the others are dead letters.
_QUIET = frozenset({"registered", "already_registered", "delayed", "returned", "released"})


class SettlementLog:
    """Successes and returns are INFO, dead letters WARNING. ``clock`` is seconds since 1970."""

    def __init__(
        self,
        output: Output,
        *,
        log_format: Format = "json",
        level: str = "INFO",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._output = output
        self._json = log_format == "json"
        threshold = logging.getLevelNamesMapping()[level]
        self._info, self._warning = threshold <= logging.INFO, threshold <= logging.WARNING
        self._clock = clock
        self._stamp = Stamp()
        self._flushed_at = 0.0

    def settled(
        self,
        *,
        outcome: str,
        journey_id: str | None,
        message_id: str | None,
        attempts: int,
        status: int | None,
        detail: str | None,
        age_seconds: float | None,
        redelivered: bool,
    ) -> None:
        """Log one settled delivery. ``detail`` is a code and field path, never a value."""
        quiet = outcome in _QUIET
        if not (self._info if quiet else self._warning):
            return
        now = self._clock()
        level = "INFO" if quiet else "WARNING"
        age = "null" if age_seconds is None else f"{age_seconds:.3f}"
        seen = "true" if redelivered else "false"
        if self._json:
            line = (
                f'{{"ts":"{self._stamp(now)}","level":"{level}","logger":"journey_consumer.settled",'
                f'"event":"settled","outcome":{quoted(outcome)},"journey_id":{id_or_null(journey_id)},'
                f'"message_id":{id_or_null(message_id)},"attempts":{attempts},'
                f'"status":{"null" if status is None else status},"detail":{id_or_null(detail)},'
                f'"age_seconds":{age},"redelivered":{seen}}}\n'
            )
        else:
            line = (
                f"{self._stamp(now)} {level:<7} settled outcome={word(outcome)} "
                f"journey_id={word(cut(journey_id))} message_id={word(cut(message_id))} "
                f"attempts={attempts} status={status or '-'} detail={word(cut(detail))} "
                f"age_seconds={'-' if age_seconds is None else age} redelivered={seen}\n"
            )
        # At a low rate a line is written at once, at a high rate a few times a second.
        if self._output.add(line) >= _FLUSH_LINES or not 0 <= now - self._flushed_at < _FLUSH_SECONDS:
            self._flushed_at = now
            self._output.flush()

    def flush(self) -> None:
        """Write what waits; called by the loop's heartbeat and at exit."""
        self._output.flush()
