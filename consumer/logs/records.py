"""The handler of Python's logging: whose text is printed, and what of an exception.

1. Only loggers named ``journey_consumer.*`` are printed with their text and fields. Of everybody
   else's records only name, level and place are printed: their texts may quote payloads.
2. An exception is its class and the places it went through; never its message, which may quote values.
"""

import json
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal

from consumer.logs.formatting import Stamp, place, printable, type_name, word
from consumer.logs.output import Output

LOGGER = "journey_consumer"
Format = Literal["json", "text"]

_MOST_FRAMES = 20
_OWN_KEYS = {"ts", "level", "logger", "event", "message", "asctime", "taskName"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | _OWN_KEYS


class Changes:
    """Says a condition once when it changes, instead of again and again while it lasts."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._said: dict[str, tuple[str, int]] = {}

    def say(
        self, condition: str, state: str, event: str, *, level: int = logging.INFO, **fields: Any
    ) -> bool:
        """Log ``event`` if ``condition`` was not already in ``state``; return whether it was logged.

        The line carries how often the previous state was reported again meanwhile (``repeats``).
        """
        before, repeats = self._said.get(condition, (None, 0))
        if before == state:
            self._said[condition] = (state, repeats + 1)
            return False
        self._said[condition] = (state, 0)
        if repeats:
            fields["repeats"] = repeats
        self._logger.log(level, event, extra=fields)
        return True


def configure(output: Output, *, level: str = "INFO", log_format: Format = "json") -> Callable[[], None]:
    """Send all logging of the process to ``output``; return what undoes it.

    Ours from ``level`` on, everybody else's from WARNING on and without text. Exceptions that nobody
    caught, in any thread, and warnings go the same way, because Python would print their texts (a
    warning of pydantic quotes the value it is about).
    """
    handler = _Handler(output, log_format)
    handler.addFilter(_is_ours_or_serious)
    root, ours = logging.getLogger(), logging.getLogger(LOGGER)
    before = root.handlers[:], root.level, ours.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    ours.setLevel(level)
    logging.captureWarnings(capture=True)

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        ours.critical("an exception was not caught", exc_info=(kind, error, trace))

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            uncaught(args.exc_type, args.exc_value, args.exc_traceback)

    def unraisable(args: "sys.UnraisableHookArgs") -> None:
        if args.exc_value is not None:
            uncaught(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, uncaught_in_thread, unraisable

    def undo() -> None:
        handler.flush()
        logging.captureWarnings(capture=False)
        root.handlers[:], level_before, ours_before = before
        root.setLevel(level_before)
        ours.setLevel(ours_before)
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks

    return undo


class _Handler(logging.Handler):
    """Formats records and writes them at once; ``logging`` flushes it at exit."""

    def __init__(self, output: Output, log_format: Format) -> None:
        super().__init__()
        self._output = output
        self._json = log_format == "json"
        self._stamp = Stamp()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = _event(record)
            ts = self._stamp(record.created)
            if self._json:
                named = {"ts": ts, "level": record.levelname, "logger": record.name, **fields}
                line = json.dumps(named, default=type_name, separators=(",", ":"))
            else:
                event = word(fields.pop("event"), spaces=True)
                words = " ".join(f"{key}={word(value)}" for key, value in fields.items())
                line = f"{ts} {record.levelname:<7} {event} {words}".rstrip()
        except Exception as error:  # noqa: BLE001 - logging must not stop what is logged
            # The record's text may be what failed, so it is not repeated (logging's own handler would).
            line = json.dumps({"event": "unprintable log record", "exception": type(error).__name__})
        self._output.add(f"{line}\n")
        self._output.flush()

    def flush(self) -> None:
        self._output.flush()


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name == LOGGER or record.name.startswith(f"{LOGGER}.")


def _is_ours_or_serious(record: logging.LogRecord) -> bool:
    # A library's logger may have a level of its own, which bypasses the root's.
    return _is_ours(record) or record.levelno >= logging.WARNING


def _event(record: logging.LogRecord) -> dict[str, Any]:
    """What may be printed of a record."""
    fields: dict[str, Any]
    if _is_ours(record):
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        fields = {"event": record.getMessage()} | {k: printable(v) for k, v in extra.items()}
    else:
        fields = {
            "event": "a library logged something; its text is withheld",
            "library": record.name,
            "at": f"{place(record.pathname)}:{record.lineno} {record.funcName}",
        }
    if record.exc_info and record.exc_info[1] is not None:
        fields |= exception_fields(record.exc_info[1])
    return fields


def exception_fields(error: BaseException) -> dict[str, Any]:
    """Class, causes and places of an exception; nothing of its message or its variables."""
    frames = list(traceback.walk_tb(error.__traceback__))[-_MOST_FRAMES:]
    places = [f"{place(f.f_code.co_filename)}:{line} {f.f_code.co_name}" for f, line in frames]
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
