"""Structured logs: ``configure`` sends the process's logging to an ``Output``, one line per event.

1. Only loggers named ``journey_consumer.*`` are logged with their text and fields. Of a library's records
   only name, level and place are logged: their texts may quote payloads.
2. An exception is logged as its class and the places it went through; never its message.
3. Everything written is ASCII without control characters, so that no value can forge a line; of an object
   that is not plain data only the class is written.
4. A settled delivery's line holds ids and the reason only: there is no parameter for a value of a payload.
5. Lines keep their order, from any thread. A log that cannot be written, or whose reader does not read,
   stops nothing: ``Output`` bounds what waits, and counts the lines that it lost.
"""

import contextlib
import json
import logging
import math
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted
from pathlib import PurePath
from types import TracebackType
from typing import Any, Literal, Protocol

from consumer.core.clock import iso_utc

Format = Literal["json", "text"]
Journeys = Literal["all", "failures", "none"]

LOGGER = "journey_consumer"

_MOST_FRAMES = 20
_OWN_KEYS = {"ts", "level", "logger", "event", "message", "asctime", "taskName"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | _OWN_KEYS
_LONGEST_ID, _LONGEST_VALUE = 128, 1024
_BARE = re.compile(r"[\w.,:;/@+*#()<>%-]+", re.ASCII)
#: Lines that wait to be written, and their bytes; beyond they are lost.
MOST_LINES, MOST_BYTES = 10_000, 4 * 1024 * 1024
#: Between two writes while lines keep coming; at exit; without a line, until the thread ends.
FLUSH_SECONDS, EXIT_SECONDS, IDLE_SECONDS = 0.25, 2.0, 10.0
_NEWLINE = ord("\n")
# Final outcomes that need no action, and deliveries without a final outcome; the others are dead letters.
_SUCCESSES = frozenset({"registered", "already_registered"})
_INFO_OUTCOMES = _SUCCESSES | {"delayed", "returned", "released"}


class RawStream(Protocol):
    """A file without a buffer: ``write`` may take a part, and returns how much (None: it would block)."""

    def write(self, data: memoryview, /) -> int | None:
        """Raise OSError, or ValueError when closed."""


class Output:
    """Takes whole lines from any thread, without waiting; one thread writes them to ``stream``.

    ``lost_lines`` counts what was refused because too much waits, and what could not be written. The lines
    are ASCII, and ``stream`` unbuffered: a buffer of Python's would be written, and waited for, at exit.
    """

    def __init__(self, stream: RawStream) -> None:
        self._stream = stream
        # Reentrant: a destructor that runs in here may log, too.
        self._changed = threading.Condition(threading.RLock())
        self._lines: list[str] = []
        self._added = self._finished = 0  # lines ever; the difference waits
        self._size = 0  # of what waits, in bytes
        self._thread: threading.Thread | None = None
        self._idle = False  # the thread waits for a line
        self._resting = False  # the thread lets lines gather
        self._flushing = 0
        self._torn = False  # a line was written in part
        self.lost_lines = 0

    def add(self, line: str) -> None:
        """Let one line (with its newline) be written: soon, or with what comes in the next moment."""
        with self._changed:
            if self._added - self._finished >= MOST_LINES or self._size + len(line) > MOST_BYTES:
                self.lost_lines += 1
                return
            self._lines.append(line)
            self._added += 1
            self._size += len(line)
            if self._idle or (self._resting and self._half_full()):
                self._idle = self._resting = False
                self._changed.notify_all()
            elif self._thread is None and not sys.is_finalizing():
                self._start()

    def flush(self, seconds: float = EXIT_SECONDS) -> bool:
        """Wait until what was added is written or lost, at most so long; returns whether it is."""
        with self._changed:
            last = self._added
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self._finished >= last, seconds)
            finally:
                self._flushing -= 1

    def _half_full(self) -> bool:
        return len(self._lines) > MOST_LINES // 2 or self._size > MOST_BYTES // 2

    def _start(self) -> None:
        thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        with contextlib.suppress(RuntimeError):  # no thread can be had now: the next line tries again
            thread.start()
            self._thread = thread

    def _write_all(self) -> None:
        """Write what comes, a few times a second while lines keep coming; end when none does."""
        while lines := self._next_lines():
            lost = self._write("".join(lines).encode())
            with self._changed:
                self._finished += len(lines)
                self._size -= sum(map(len, lines))
                self.lost_lines += lost
                self._changed.notify_all()
                self._resting = True
                self._changed.wait_for(lambda: self._flushing or self._half_full(), FLUSH_SECONDS)
                self._resting = False

    def _next_lines(self) -> list[str]:
        with self._changed:
            if not self._lines:
                self._idle = True
                self._changed.wait_for(lambda: self._lines, IDLE_SECONDS)
                self._idle = False
            if not self._lines:
                self._thread = None
            lines, self._lines = self._lines, []
            return lines

    def _write(self, data: bytes) -> int:
        """Write whole lines; return how many of them were lost."""
        rest = memoryview(b"\n" + data if self._torn else data)
        try:
            while rest:
                written = self._stream.write(rest)
                if not written:  # another process has made the pipe non-blocking, and it is full
                    time.sleep(FLUSH_SECONDS)
                    continue
                self._torn = rest[written - 1] != _NEWLINE
                rest = rest[written:]
        except Exception:  # noqa: BLE001 - full disk, closed pipe or file: this thread must live
            # A newline in front ends what was written before; the next write begins with one.
            return bytes(rest[1:]).count(b"\n")
        return 0


class SettlementLog:
    """Writes one line for each settled delivery, formatted by hand because it is on the hot path.

    Dead letters are WARNING, everything else INFO. ``journeys``: which have a line. ``clock`` returns
    seconds since 1970.
    """

    def __init__(
        self,
        output: Output,
        *,
        log_format: Format = "json",
        level: str = "INFO",
        journeys: Journeys = "all",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._output = output
        self._json = log_format == "json"
        threshold = logging.getLevelNamesMapping()[level]
        self._warning = threshold <= logging.WARNING and journeys != "none"
        self._info = threshold <= logging.INFO and journeys != "none"
        self._success = self._info and journeys == "all"
        self._clock = clock

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
        info = outcome in _INFO_OUTCOMES
        wanted = self._success if outcome in _SUCCESSES else self._info if info else self._warning
        if not wanted:
            return
        now = self._clock()
        level = "INFO" if info else "WARNING"
        age = "null" if age_seconds is None else f"{age_seconds:.3f}"
        again = "true" if redelivered else "false"
        if self._json:
            line = (
                f'{{"ts":"{timestamp(now)}","level":"{level}","logger":"journey_consumer.settled",'
                f'"event":"settled","outcome":{quoted(outcome)},"journey_id":{_json_id(journey_id)},'
                f'"message_id":{_json_id(message_id)},"attempts":{attempts},'
                f'"status":{"null" if status is None else status},"detail":{_json_id(detail)},'
                f'"age_seconds":{age},"redelivered":{again}}}\n'
            )
        else:
            line = (
                f"{timestamp(now)} {level:<7} settled outcome={text_value(outcome)} "
                f"journey_id={_text_id(journey_id)} message_id={_text_id(message_id)} "
                f"attempts={attempts} status={status or '-'} detail={_text_id(detail)} "
                f"age_seconds={'-' if age_seconds is None else age} redelivered={again}\n"
            )
        self._output.add(line)


def timestamp(seconds: float) -> str:
    return iso_utc(datetime.fromtimestamp(seconds, UTC))


def plain_data(value: Any) -> Any:  # noqa: PLR0911 - one line for each kind of value
    """Return what may be written of a value: plain data, long texts cut; of other objects the class."""
    match value:
        case str():
            return value[:_LONGEST_VALUE]
        case float() if not math.isfinite(value):  # not a JSON number
            return str(value)
        case int() | float() | None:
            return value
        case PurePath():
            return str(value)
        case list() | tuple():
            return [plain_data(item) for item in value]
        case dict():
            return {str(key): plain_data(item) for key, item in value.items()}
        case _:
            return type_name(value)


def type_name(value: object) -> str:
    """Name the class of a value, with its module unless it is built in."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def text_value(value: Any, *, spaces: bool = False) -> str:
    """Write a value of the text format: bare when harmless, else as a JSON string."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, default=type_name)
    if _BARE.fullmatch(text) or (spaces and text.isascii() and text.isprintable()):
        return text
    return quoted(text)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_ID else f"{text[:_LONGEST_ID]}…"


def _json_id(text: str | None) -> str:
    return "null" if text is None else quoted(_cut(text))


def _text_id(text: str | None) -> str:
    return "-" if text is None else text_value(_cut(text))


def configure(output: Output, *, level: str, log_format: Format) -> None:
    """Send all logging of the process to ``output``.

    Our own loggers log from ``level`` on, all others from WARNING on and without text. Uncaught exceptions
    of any thread and warnings are logged the same way, because Python would print their texts (a warning
    of pydantic quotes the value it is about).
    """
    handler = _Handler(output, log_format)
    handler.addFilter(lambda record: _is_ours(record) or record.levelno >= logging.WARNING)
    root, ours = logging.getLogger(), logging.getLogger(LOGGER)
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    ours.setLevel(level)
    logging.captureWarnings(capture=True)

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            ours.critical("uncaught exception", exc_info=(kind, error, trace))

    def uncaught_hook(args: "threading.ExceptHookArgs | sys.UnraisableHookArgs") -> None:
        if args.exc_value is not None:
            uncaught(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, uncaught_hook, uncaught_hook


class _Handler(logging.Handler):
    """Formats records; ``logging`` flushes it at exit."""

    def __init__(self, output: Output, log_format: Format) -> None:
        super().__init__()
        self._output = output
        self._json = log_format == "json"

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = _fields(record)
            ts = timestamp(record.created)
            if self._json:
                named = {"ts": ts, "level": record.levelname, "logger": record.name, **fields}
                line = json.dumps(named, default=type_name, separators=(",", ":"))
            else:
                event = text_value(fields.pop("event"), spaces=True)
                rest = " ".join(f"{key}={text_value(value)}" for key, value in fields.items())
                line = f"{ts} {record.levelname:<7} {event} {rest}".rstrip()
        except Exception as error:  # noqa: BLE001 - logging must not stop what is logged
            # The record's text may be what failed, so it is not repeated (logging's own handler would).
            line = json.dumps({"event": "unprintable log record", "exception": type(error).__name__})
        self._output.add(f"{line}\n")

    def flush(self) -> None:
        self._output.flush()


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name == LOGGER or record.name.startswith(f"{LOGGER}.")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any]
    if _is_ours(record):
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        fields = {"event": record.getMessage()} | {k: plain_data(v) for k, v in extra.items()}
    else:
        fields = {
            "event": "library log record, text withheld",
            "library": record.name,
            "at": f"{_place(record.pathname)}:{record.lineno} {record.funcName}",
        }
    if record.exc_info and record.exc_info[1] is not None:
        fields |= exception_fields(record.exc_info[1])
    return fields


def exception_fields(error: BaseException) -> dict[str, Any]:
    """Return class, causes and places of an exception; nothing of its message or its variables."""
    frames = list(traceback.walk_tb(error.__traceback__))[-_MOST_FRAMES:]
    places = [f"{_place(f.f_code.co_filename)}:{line} {f.f_code.co_name}" for f, line in frames]
    fields: dict[str, Any] = {"exception": type_name(error), "trace": places}
    if causes := [type_name(cause) for cause in _causes(error, {id(error)})]:
        fields["causes"] = causes
    return fields


def _causes(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    inner = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    context = None if error.__suppress_context__ else error.__context__
    for cause in [*inner, error.__cause__, context]:
        if cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            yield from _causes(cause, seen)


def _place(path: str) -> str:
    """Shorten a source file's path to its last two parts."""
    return "/".join(PurePath(path).parts[-2:])
