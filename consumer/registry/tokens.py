"""A token that is given to us: in a setting, or in a file that is rotated.

1. ``token()`` gives a token that is fit for a header, or the outcome of having none; never raises.
2. A file is read again when it changes and once when its token is refused; while a rotation leaves
   it missing or empty the last good token stays in use.
3. No token is ever in a repr, a log line or an exception.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from consumer.core.outcome import Misconfigured, Outcome
from consumer.errors import ConfigurationError
from consumer.registry.secret import (
    LoadedToken,
    UnusableSecretError,
    claims,
    moment,
    read_secret,
    usable_secret,
)

WATCH_INTERVAL_SECONDS: Final = 1.0

_log = logging.getLogger("journey_consumer.registry")


class TokenSource(Protocol):
    """What the handler and the metrics need of any way to authenticate."""

    @property
    def held(self) -> LoadedToken | None:
        """The token in use, for metrics; None when there is none."""

    async def token(self) -> str | Outcome:
        """Give the token to send, or the outcome of having none."""

    async def renew(self, refused: str) -> bool:
        """Look once more, because the Registry refused this token; True when another one can be tried."""

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Call ``on_change`` after each new token, until cancelled; returns when nothing can change."""

    async def aclose(self) -> None:
        """Stop what runs in the background."""


class StaticToken:
    """A token from the settings: it never changes. Raises ConfigurationError."""

    def __init__(self, token: str, *, now: Callable[[], float] = time.time) -> None:
        try:
            secret = usable_secret(token.encode())
        except ValueError:  # also of a lone surrogate, whose error would quote the token
            raise ConfigurationError(["REGISTRY_TOKEN must be visible ASCII without spaces"]) from None
        self.held = LoadedToken(secret, loaded_at=now(), expires_at=moment(claims(secret).get("exp")))

    async def token(self) -> str | Outcome:
        """Give the token."""
        return self.held.secret

    async def renew(self, refused: str) -> bool:
        """Tell whether the refused token was another one."""
        return refused != self.held.secret

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Return: there is nothing to watch."""

    async def aclose(self) -> None:
        """Nothing runs."""


class FileToken:
    """A token in a file, as mounted by Kubernetes: rotation swaps a symlink above the file."""

    def __init__(self, path: str | Path, *, now: Callable[[], float] = time.time) -> None:
        self._path = Path(path)
        self._now = now
        self._stamp: tuple[str, int, int, int] | None = None
        self._problem: str | None = "unreadable"
        self.held: LoadedToken | None = None
        self.poll()

    async def token(self) -> str | Outcome:
        """Give the last good token; Misconfigured ``token_file_{unreadable,empty,invalid}`` without one."""
        if self.held is None:
            self.poll()
        return Misconfigured(0, f"token_file_{self._problem}") if self.held is None else self.held.secret

    async def renew(self, refused: str) -> bool:
        """Read the file again, changed or not."""
        self._read()
        return self.held is not None and self.held.secret != refused

    def poll(self) -> bool:
        """Read the file if it changed or was unusable; True when there is a new token. Costs a stat."""
        stamp = self._look()
        if stamp == self._stamp and self._problem is None:
            return False
        self._stamp = stamp  # taken before reading: a change in between is seen at the next poll
        return self._read()

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Poll about once a second, until cancelled."""
        known = self.held
        while True:
            self.poll()
            if self.held is not known:  # also when a refused token made someone else read the file
                known = self.held
                on_change()
            await asyncio.sleep(WATCH_INTERVAL_SECONDS)

    async def aclose(self) -> None:
        """Nothing runs."""

    def _look(self) -> tuple[str, int, int, int] | None:
        try:
            real = os.path.realpath(self._path)
            stat = os.stat(real)  # noqa: PTH116  # pathlib would follow the link a second time
        except OSError:
            return None
        return real, stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _read(self) -> bool:
        try:
            secret = read_secret(self._path)
        except UnusableSecretError as error:
            if error.code != self._problem:
                _log.warning("the token file is %s; keeping the token in use, if any", error.code)
            self._problem = error.code
            return False
        self._problem = None
        if self.held is not None and self.held.secret == secret:
            return False
        self.held = LoadedToken(secret, loaded_at=self._now(), expires_at=moment(claims(secret).get("exp")))
        _log.info("token loaded from its file, fingerprint %s", self.held.fingerprint)
        return True
