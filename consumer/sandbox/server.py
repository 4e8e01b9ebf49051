"""The sandbox Registry as one object: start it, look into it, stop it, start it again.

Introduces the parts to each other and owns the listening socket. What it remembers lives as
long as the object: ``stop`` then ``start`` is an outage, on the same port.
"""

import logging
import ssl
import traceback
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any, Self

from aiohttp import web

import schemas
from consumer.sandbox.answers import Profile
from consumer.sandbox.app import App
from consumer.sandbox.control import Control
from consumer.sandbox.faults import Faults
from consumer.sandbox.rules import Clock, Rules, Settings, Validate
from consumer.sandbox.state import SeenRequest, StoredJourney, Tokens, Traffic

_BACKLOG = 1024
_AT_ONCE_SECONDS = 0.01  # aiohttp reads 0 as "for ever"


class _PlaceOnly(logging.Filter):
    """Exceptions by class and place: the HTTP parser's own texts quote what a client sent."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind, _, trace = record.exc_info or (None, None, None)
        if kind is not None:
            *_, last = traceback.extract_tb(trace) or [traceback.FrameSummary("?", 0, "?")]
            record.msg = f"{record.getMessage()}: {kind.__name__} at {last.filename}:{last.lineno}"
            record.args, record.exc_info, record.exc_text = (), None, None
        return True


_PLACE_ONLY = _PlaceOnly()


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Sandbox:
    """A local Registry; ``settings`` are those of ``rules.Settings``.

    ``clock`` gives aware datetimes; ``validate`` takes ``v2`` or ``v3`` and the body's bytes.
    ``claimless`` tokens are signed but lack their claims: they get 403.
    """

    def __init__(
        self,
        *,
        tokens: Iterable[str] = (),
        profile: Profile = Profile.Y2025,
        claimless: Iterable[str] = (),
        clock: Clock = _utc_now,
        validate: Validate = schemas.validate,
        **settings: Any,
    ) -> None:
        self._tokens = Tokens(tokens, claimless)
        self._rules = Rules(Settings(profile=profile, **settings), validate, clock, self._tokens)
        self._traffic = Traffic()
        self.faults = Faults()
        self._control = Control(self._rules, self.faults, self._traffic)
        self._app = App(self._rules, self.faults, self._traffic, self._control)
        self._runner: web.ServerRunner | None = None
        self._address = ("127.0.0.1", 0)
        self._ssl_context: ssl.SSLContext | None = None

    # --- Life -----------------------------------------------------------------------------

    async def start(
        self, host: str | None = None, port: int = 0, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        """Listen, on the current loop. Without arguments: where it listened before, or anywhere.

        Raises OSError when the port is taken, RuntimeError when already started.
        """
        if self._runner is not None:
            raise RuntimeError("the sandbox is already started")
        host, port = host or self._address[0], port or self._address[1]
        self._ssl_context = ssl_context or self._ssl_context
        log = logging.getLogger("consumer.sandbox.http")
        log.addFilter(_PLACE_ONLY)  # the same one each time: added once
        server = web.Server(self._app.handle, access_log=None, logger=log)
        runner = web.ServerRunner(server, shutdown_timeout=_AT_ONCE_SECONDS)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port, ssl_context=self._ssl_context, backlog=_BACKLOG)
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self._address = (host, runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the socket and every connection at once; what is remembered stays."""
        runner, self._runner = self._runner, None
        if runner is not None:
            self._app.forget_connections()
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Where it listens, or listened last: ``http://127.0.0.1:8080``."""
        scheme = "http" if self._ssl_context is None else "https"
        host = f"[{self._address[0]}]" if ":" in self._address[0] else self._address[0]
        return f"{scheme}://{host}:{self._address[1]}"

    # --- Tokens ---------------------------------------------------------------------------

    def accept(self, token: str) -> None:
        """Accept ``token`` from now on."""
        self._tokens.accept(token)

    def revoke(self, token: str) -> None:
        """Refuse ``token`` from now on. Raises KeyError when it never was accepted."""
        self._tokens.revoke(token)

    def revoke_exchanged(self) -> None:
        """Make every token given for keys unknown."""
        self._tokens.revoke_exchanged()

    # --- Memory ---------------------------------------------------------------------------

    @property
    def journeys(self) -> Mapping[str, StoredJourney]:
        """The registered journeys by id, live."""
        return MappingProxyType(self._rules.journeys.registered)

    @property
    def violating(self) -> Mapping[str, StoredJourney]:
        """With ``remember_violations``: the ids that the terms of use refused, live."""
        return MappingProxyType(self._rules.journeys.violating)

    @property
    def requests(self) -> Sequence[SeenRequest]:
        """The last 20,000 requests, oldest first; control routes are not among them."""
        return tuple(self._traffic.requests)

    @property
    def requests_by_status(self) -> Mapping[int, int]:
        """How many requests got each status; 0 counts the connections that were cut."""
        return MappingProxyType(self._traffic.by_status)

    @property
    def most_in_flight(self) -> int:
        """The most requests that were being answered at one moment."""
        return self._traffic.most_in_flight

    def mark(self, journey_id: str, status: str) -> None:
        """Give a remembered journey another status. Raises ValueError when there is none."""
        self._control.mark(journey_id, status)

    def reset(self) -> None:
        """Forget everything; tokens and faults are those of the start."""
        self._control.reset()
