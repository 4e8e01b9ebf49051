"""A secret from a setting or a file: what may go into a header, and what may be logged of it.

Reads files, knows nothing of rotation or HTTP. No secret is ever in a repr or an exception.
Times are epoch seconds.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

MAX_SECRET_BYTES: Final = 8192  # what common servers accept as a header line
_FAR: Final = 7_258_118_400  # the year 2200


class UnusableSecretError(ValueError):
    """A secret cannot be used; ``code`` says why (``unreadable``, ``empty``, ``invalid``)."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def usable_secret(raw: bytes) -> str:
    """Strip white space and check: 1 to 8192 visible ASCII characters, or the header could be split.

    Raises UnusableSecretError.
    """
    text = raw.strip()
    if not text:
        raise UnusableSecretError("empty")
    if len(text) > MAX_SECRET_BYTES or not all(0x21 <= byte <= 0x7E for byte in text):  # noqa: PLR2004
        raise UnusableSecretError("invalid")
    return text.decode("ascii")


def read_secret(path: str | Path) -> str:
    """Read a file that holds one secret. Raises UnusableSecretError."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(2 * MAX_SECRET_BYTES)
    except OSError:
        raise UnusableSecretError("unreadable") from None
    return usable_secret(raw)


@dataclass(frozen=True, slots=True)
class LoadedToken:
    """A token in use. Only times and fingerprint may be logged."""

    secret: str = field(repr=False)
    loaded_at: float
    expires_at: float | None = None

    @property
    def fingerprint(self) -> str:
        """Eight hex digits to tell one token from the next."""
        return hashlib.sha256(self.secret.encode()).hexdigest()[:8]


def claims(token: str) -> dict[str, Any]:
    """Read what a JWT says of itself, unverified. Empty when it is no JWT."""
    try:
        part = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def moment(value: object) -> float | None:
    """Take a NumericDate (RFC 7519) of this century or the next as epoch seconds, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < _FAR else None
