"""Which API versions the server of 2025 serves: the path begins with a range of versions.

Read here: a version or a part of one, ``x`` and ``*``, ``^`` and ``~``, with or without a ``v``. Other ranges
(``>=3``, ``3 || 4``) are answered as unserved.
"""

import re

SERVED = ((3, 2, 0), (3, 3, 0))
_RANGE = re.compile(r"([\^~]?)v?(\d+)(?:\.(\d+|[xX*]))?(?:\.(\d+|[xX*]))?")


def is_served(text: str) -> bool:
    """Return whether a served version lies in the range ``text``."""
    found = _RANGE.fullmatch(text)
    if found is None:
        return text in {"x", "X", "*"}
    wanted = [int(part) for part in found.groups()[1:] if part is not None and part.isdecimal()]
    fixed = {"^": 1, "~": 2, "": len(wanted)}[found[1]]
    return any(
        list(version[: min(fixed, len(wanted))]) == wanted[:fixed] and list(version) >= wanted
        for version in SERVED
    )
