"""Structured logs: ``configure`` sends the process's logging to an ``Output``, one line per event.

1. Only loggers named ``journey_consumer.*`` are logged with their text and fields. Of a library's records
   only name, level and place are logged: their texts may quote payloads.
2. An exception is logged as its class and the places it went through; never its message, which may quote
   values.
"""

import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import PurePath
from types import TracebackType
from typing import Any

from consumer.logs.lines import Format, Output, SettlementLog, plain_data, text_value, timestamp, type_name

__all__ = ["LOGGER", "Format", "Output", "SettlementLog", "configure", "exception_fields"]

LOGGER = "journey_consumer"

_MOST_FRAMES = 20
_OWN_KEYS = {"ts", "level", "logger", "event", "message", "asctime", "taskName"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | _OWN_KEYS


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
    """Formats records and writes them at once; ``logging`` flushes it at exit."""

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
        self._output.flush()

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
