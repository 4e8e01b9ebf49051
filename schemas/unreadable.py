r"""Bodies that are not JSON, where our parser and Node's differ, and the size of what is parsed.

1. Node's server drops a byte order mark, and ``JSON.parse`` accepts a lone surrogate (``\ud800``): a body
   is not refused for these. What ``repaired`` returns is validated in place of the body, never sent.
2. A structure that is too large to be a journey is not parsed.
3. The code of an unreadable body says why, without a position or a character of it.
"""

import json
import re
from typing import NoReturn

from schemas.verdict import Refusal
from schemas.violations import whole

_SMALL_BYTES = 64 * 1024
_MAX_PARTS = 20_000  # the largest journey has some 300, and 20,000 characters of text
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Every escape is consumed, so that what follows an escaped backslash is not one. Group 1: a lone surrogate.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def repaired(body: bytes) -> bytes:
    """Return the body without byte order mark, each lone surrogate replaced by another code point."""
    body = body.removeprefix(_BYTE_ORDER_MARK)
    if _SURROGATE.search(body) is None:
        return body
    readable = bytearray(body)
    for escape in _ESCAPE.finditer(body):
        if escape[1]:
            readable[escape.start() : escape.end()] = rb"\ufffd"  # as long, so that no position moves
    return bytes(readable)


def is_too_complex(body: bytes) -> bool:
    """Return whether a large body has more parts than a journey can have.

    The body limit alone does not bound the work: 2 MB of ``{},`` are 600,000 objects, about 800 MB of memory.
    """
    return len(body) > _SMALL_BYTES and sum(map(body.count, (b",", b":", b"{", b"["))) > _MAX_PARTS


def diagnose(body: bytes, parser_message: str) -> Refusal:
    """Return why a body is not a JSON text. ``parser_message`` is only searched, never shown."""
    if not body.strip():
        return whole("empty", "is empty")
    if "recursion limit" in parser_message:
        return whole("nested_too_deep", "is nested deeper than a journey can be")
    try:
        body.decode()
    except UnicodeDecodeError:
        return whole("not_utf8", "is not UTF-8")
    return whole("not_json", "is not JSON")


def has_only_json_numbers(body: bytes) -> bool:
    """Return whether a body that is otherwise JSON has no NaN or Infinity outside its strings."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(name)

    try:
        json.loads(body, parse_constant=refuse, parse_int=float)
    except ValueError:
        return False
    return True
