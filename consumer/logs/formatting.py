"""How values are written into a log line: plain, short, escaped.

Knows nothing of loggers or streams. Everything written is ASCII without control characters, so that
no value can forge a line; of an object that is not plain data only the class is written.
"""

import json
import math
import re
import time
from json.encoder import encode_basestring_ascii as quoted
from pathlib import PurePath
from typing import Any

__all__ = ["Stamp", "cut", "id_or_null", "place", "printable", "quoted", "type_name", "word"]

LONGEST_ID = 128
LONGEST_VALUE = 1024
_BARE = re.compile(r"[\w.,:;/@+*#()<>%-]+", re.ASCII)


def type_name(value: object) -> str:
    """Name the class of a value, with its module unless it is built in."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def place(path: str) -> str:
    """Shorten a source file's path to its last two parts."""
    return "/".join(PurePath(path).parts[-2:])


def printable(value: Any) -> Any:  # noqa: PLR0911 - one line for each kind of value
    """Return what may be written of a value: plain data, long texts cut; of other objects the class."""
    match value:
        case str():
            return value[:LONGEST_VALUE]
        case float() if not math.isfinite(value):  # JSON has no word for it
            return str(value)
        case int() | float() | None:
            return value
        case PurePath():
            return str(value)
        case list() | tuple():
            return [printable(item) for item in value]
        case dict():
            return {str(key): printable(item) for key, item in value.items()}
        case _:
            return type_name(value)


def cut(text: str | None) -> str | None:
    """Cut an id to a length that fits a line."""
    return text if text is None or len(text) <= LONGEST_ID else f"{text[:LONGEST_ID]}…"


def id_or_null(text: str | None) -> str:
    """Write an id as a JSON string, cut, or as null."""
    if text is None:
        return "null"
    return quoted(text if len(text) <= LONGEST_ID else f"{text[:LONGEST_ID]}…")


def word(value: Any, *, spaces: bool = False) -> str:
    """Write a value of the text format: bare when harmless, else as a JSON string."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, default=type_name)
    if _BARE.fullmatch(text) or (spaces and text.isascii() and text.isprintable()):
        return text
    return quoted(text)


class Stamp:
    """ISO 8601 in UTC with milliseconds; the part down to the second is kept for its second."""

    def __init__(self) -> None:
        self._kept = (-1, "")

    def __call__(self, seconds: float) -> str:
        """Write ``seconds`` since 1970."""
        whole = int(seconds)
        second, text = self._kept
        if second != whole:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            self._kept = (whole, text)
        return f"{text}.{int((seconds - whole) * 1000):03d}Z"
