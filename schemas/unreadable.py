"""When the parser gives up: is it really not JSON, or JSON that Node reads and ours does not?

1. Node's server drops a byte order mark, and ``JSON.parse`` takes a lone surrogate (``\\ud800``); a body is not refused
   for these. ``repaired`` is judged in place of the original, never sent.
2. What stays unreadable gets a code that says why, and no position or character of the body.
"""

import json
import re
from typing import NoReturn

from schemas.verdict import Refusal
from schemas.violations import whole

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Every escape is consumed, so that the u of an escaped backslash is not taken for one. Group 1: a lone surrogate.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def repaired(body: bytes) -> bytes:
    """The body without byte order mark, each lone surrogate replaced by another single code point."""
    return _ESCAPE.sub(
        lambda escape: rb"\ufffd" if escape[1] else escape[0], body.removeprefix(_BYTE_ORDER_MARK)
    )


def diagnose(body: bytes, parser_message: str) -> Refusal:
    """Say why a body is not a JSON text. ``parser_message`` is only searched, never shown."""
    if not body.strip():
        return whole("empty", "is empty")
    if "recursion limit" in parser_message:
        return whole("nested_too_deep", "is nested deeper than any journey")
    try:
        body.decode()
    except UnicodeDecodeError:
        return whole("not_utf8", "is not UTF-8")
    return whole("not_json", "is not JSON")


def has_only_json_numbers(body: bytes) -> bool:
    """Whether no NaN or Infinity stands outside a string, in a body that is otherwise JSON."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(name)

    try:
        json.loads(body, parse_constant=refuse, parse_int=float)
    except ValueError:
        return False
    return True
