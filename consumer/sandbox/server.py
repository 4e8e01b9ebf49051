"""The sandbox Registry over HTTP: the only module here that knows aiohttp.

``Sandbox`` reads a body within the limit, asks ``rules`` for the answer, applies the faults in force and
logs one line for each request: method, path, status, journey id; never a value of a body, never a token.
Every request is counted once when it has been answered or its connection closed. What the sandbox remembers
lives as long as the object, so that ``stop`` then ``start`` is an outage on the same port.
"""

import asyncio
import logging
import random
import ssl
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Self

from aiohttp import web

import schemas
from consumer.core.clock import utc_now
from consumer.sandbox.answers import HTML, Answer, Case, Profile
from consumer.sandbox.control import Control
from consumer.sandbox.faults import Fault, Faults
from consumer.sandbox.rules import Call, Clock, Rules, Settings, Validate, Verdict
from consumer.sandbox.state import SeenRequest, StoredJourney, Tokens, Traffic

BODY_LIMIT_BYTES = 2 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024
_LOGGED_ID_LENGTH = 64
_UNREADABLE = b"\x00"  # no JSON begins like this
_PAGE = b"<!DOCTYPE html><html><body><h1>Welcome</h1></body></html>\n"
_BACKLOG = 1024
_SHUTDOWN_SECONDS = 0.01  # aiohttp reads 0 as "without limit"

log = logging.getLogger("consumer.sandbox")


def _errors_by_place(record: logging.LogRecord) -> bool:
    """Log exceptions by class and place: the texts of aiohttp's parser quote what a client sent."""
    kind, _, trace = record.exc_info or (None, None, None)
    if kind is not None:
        *_, last = traceback.extract_tb(trace) or [traceback.FrameSummary("?", 0, "?")]
        record.msg = f"{record.getMessage()}: {kind.__name__} at {last.filename}:{last.lineno}"
        record.args, record.exc_info, record.exc_text = (), None, None
    return True


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
        clock: Clock = utc_now,
        validate: Validate = schemas.validate,
        **settings: Any,
    ) -> None:
        self.faults = Faults()
        self._tokens = Tokens(tokens, claimless)
        self._rules = Rules(Settings(profile=profile, **settings), validate, clock, self._tokens)
        self._traffic = Traffic()
        self._control = Control(self._rules, self.faults, self._traffic)
        self._runner: web.ServerRunner | None = None
        self._address = ("127.0.0.1", 0)
        self._ssl_context: ssl.SSLContext | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._idle_timers: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}

    async def start(
        self, host: str | None = None, port: int = 0, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        """Listen, on the current loop. Without arguments: on the previous address, or on any port.

        Raises OSError when the port is taken, RuntimeError when already started.
        """
        if self._runner is not None:
            raise RuntimeError("the sandbox is already started")
        host, port = host or self._address[0], port or self._address[1]
        self._ssl_context = ssl_context or self._ssl_context
        server_log = logging.getLogger("consumer.sandbox.http")
        server_log.addFilter(_errors_by_place)
        server = web.Server(self._handle, access_log=None, logger=server_log)
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, host, port, ssl_context=self._ssl_context, backlog=_BACKLOG)
            await site.start()
        except OSError:
            await self.stop()
            raise
        self._address = (host, self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the socket and every connection at once; the memory stays.

        Requests are cancelled before aiohttp shuts down: it logs an InvalidStateError for a request that
        ends in the moment in which its own wait for it times out.
        """
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for timer in self._idle_timers.values():
            timer.cancel()
        self._idle_timers.clear()
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.stop()

    @property
    def is_running(self) -> bool:
        return self._runner is not None

    @property
    def url(self) -> str:
        """Where it listens, or listened last: ``http://127.0.0.1:8080``."""
        scheme = "http" if self._ssl_context is None else "https"
        host = f"[{self._address[0]}]" if ":" in self._address[0] else self._address[0]
        return f"{scheme}://{host}:{self._address[1]}"

    def accept(self, token: str) -> None:
        self._tokens.accept(token)

    def revoke(self, token: str) -> None:
        """Refuse ``token`` from now on. Raises KeyError when it never was accepted."""
        self._tokens.revoke(token)

    def revoke_exchanged(self) -> None:
        """Make every token given for keys unknown."""
        self._tokens.revoke_exchanged()

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

    # --- Requests -------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        if self._runner is None or task is None:  # stopped
            return _cut(request)
        self._running.add(task)
        try:
            if request.path.startswith("/_sandbox"):
                body = await _read(request)
                return _response(
                    self._control.answer(request.method, request.path, dict(request.query), body)
                )
            return await self._answer(request)
        finally:
            self._running.discard(task)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._traffic.arrive()
        if self._idle_timers and (timer := self._idle_timers.pop(_transport(request), None)) is not None:
            timer.cancel()
        arrived, verdict, status = time.time(), Verdict(Answer(0)), 0
        try:
            fault = self.faults.take()
            if fault.drop_connection == "before_read":
                return _cut(request)
            verdict = self._verdict(request, await _read(request), fault)
            if fault.latency_seconds:
                await asyncio.sleep(fault.latency_seconds)
            if fault.drop_connection == "before_answer":
                return _cut(request)
            status = verdict.answer.status
            return await self._send(request, verdict.answer, fault)
        except ConnectionError:  # the client left while sending or reading
            status = 0
            return _cut(request)
        finally:
            self._traffic.leave(
                SeenRequest(arrived, request.method, request.path, status, verdict.token, verdict.journey_id)
            )
            log.info(
                "%s %s %s %s",
                request.method,
                ascii(request.path)[1:-1],
                status or "cut",
                "-" if verdict.journey_id is None else ascii(verdict.journey_id[:_LOGGED_ID_LENGTH])[1:-1],
            )

    def _verdict(self, request: web.BaseRequest, body: bytes | None, fault: Fault) -> Verdict:
        instead = self._answer_instead(fault)
        if instead is not None:
            return Verdict(instead)
        authorization, address = request.headers.get("Authorization"), request.remote or ""
        labels = fault.terms_violation_labels
        verdict = self._rules.decide(Call(request.method, request.path, authorization, address, body, labels))
        if fault.timeout_408 and verdict.answer.status in (200, 201, 409):
            verdict.answer = replace(self._rules.answer(Case.TIMEOUT), headers=verdict.answer.headers)
        return verdict

    def _answer_instead(self, fault: Fault) -> Answer | None:  # noqa: PLR0911 -- one return for each fault
        """The answer that a fault gives in place of the Registry's; nothing is stored."""
        if fault.maintenance:
            return self._rules.answer(Case.MAINTENANCE)
        if fault.redirect is not None:
            return Answer(308, content_type=HTML, headers={"Location": fault.redirect})
        if fault.not_found:
            return Answer(404, content_type=HTML)
        if fault.garbage:
            return Answer(200, _PAGE, HTML)
        if fault.throttle is not None:
            return self._rules.throttled(
                fault.throttle.retry_after_seconds, with_headers=fault.throttle.with_headers
            )
        if fault.error_rate and random.random() < fault.error_rate:  # noqa: S311 -- chance, not secrecy
            error = self._rules.answer(Case.ERROR)
            # Another status comes from a proxy before the Registry, with a page.
            return error if fault.error_status == error.status else Answer(fault.error_status, _PAGE, HTML)
        return None

    async def _send(self, request: web.BaseRequest, answer: Answer, fault: Fault) -> web.StreamResponse:
        if not (fault.huge_answer_bytes or fault.slow_drip_seconds or fault.close_idle_seconds is not None):
            return _response(answer)
        size = max(len(answer.body), fault.huge_answer_bytes)
        response = web.StreamResponse(status=answer.status, headers=_headers(answer))
        response.content_length = size
        await response.prepare(request)
        if fault.slow_drip_seconds:
            for offset in range(len(answer.body)):
                await response.write(answer.body[offset : offset + 1])
                await asyncio.sleep(fault.slow_drip_seconds)
        else:
            await response.write(answer.body)
        for offset in range(len(answer.body), size, _CHUNK_BYTES):
            await response.write(b" " * min(_CHUNK_BYTES, size - offset))
        await response.write_eof()
        if fault.close_idle_seconds is not None:
            self._close_when_idle(_transport(request), fault.close_idle_seconds)
        return response

    def _close_when_idle(self, transport: asyncio.BaseTransport, seconds: float) -> None:
        def close() -> None:
            self._idle_timers.pop(transport, None)
            transport.close()

        self._idle_timers[transport] = asyncio.get_running_loop().call_later(seconds, close)


def _transport(request: web.BaseRequest) -> asyncio.BaseTransport:
    if request.transport is None:
        raise ConnectionResetError("the client has left")
    return request.transport


def _headers(answer: Answer) -> dict[str, str]:
    return {**answer.headers, "Content-Type": answer.content_type}


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=_headers(answer))


def _cut(request: web.BaseRequest) -> web.Response:
    """Close the connection; the answer returned can no longer be written."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


async def _read(request: web.BaseRequest) -> bytes | None:
    """The whole body; None when it exceeds the limit, the rest of it then unread."""
    if request.content_length is not None and request.content_length > BODY_LIMIT_BYTES:
        return None
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # curl waits for it
    body = bytearray()
    try:
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > BODY_LIMIT_BYTES:
                return None
    except web.RequestPayloadError:  # a content encoding that does not match its header
        return _UNREADABLE
    return bytes(body)
