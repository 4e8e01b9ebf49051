"""The sandbox Registry over HTTP: the only module here that knows aiohttp.

``Sandbox`` reads a body within the limit, asks ``rules`` for the answer, applies the faults in force and
logs one line for each request: method, path, status, journey id; never a value of a body, never a token.
Every request is counted once when it has been answered or its connection closed. What the sandbox remembers
lives as long as the object, so that ``stop`` then ``start`` is an outage on the same port.
"""

import asyncio
import json
import logging
import random
import ssl
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Self

from aiohttp import web

import schemas
from consumer.core.clock import utc_now
from consumer.sandbox.answers import HTML, Answer, Case
from consumer.sandbox.faults import Fault, Faults
from consumer.sandbox.lookups import Validate
from consumer.sandbox.rules import Call, Clock, Rules, Settings, Verdict
from consumer.sandbox.state import JourneyStatus, SeenRequest, StoredJourney, Tokens, Traffic

_MARKS = {"journey_id", "status", "labels", "conflicting_journey_id"}
_TOKEN_KEYS = ("add_token", "revoke_token", "revoked_tokens")
_RECENT = 1_000
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
        claimless: Iterable[str] = (),
        clock: Clock = utc_now,
        validate: Validate = schemas.validate,
        **settings: Any,
    ) -> None:
        self.faults = Faults()
        chosen, accepted, lacking = Settings(**settings), tuple(tokens), tuple(claimless)
        self._new_rules: Callable[[], Rules] = lambda: Rules(
            chosen, validate, clock, Tokens(accepted, lacking)
        )
        self._rules = self._new_rules()
        self._traffic = Traffic()
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

    @property
    def tokens(self) -> Tokens:
        return self._rules.tokens

    def accept(self, token: str) -> None:
        self.tokens.accept(token)

    def revoke(self, token: str) -> None:
        """Refuse ``token`` from now on. Raises KeyError when it never was accepted."""
        self.tokens.revoke(token)

    @property
    def journeys(self) -> Mapping[str, StoredJourney]:
        """The registered journeys by id, live."""
        return self._rules.journeys.registered

    @property
    def requests(self) -> Sequence[SeenRequest]:
        """The last 20,000 requests, oldest first; control routes are not among them."""
        return tuple(self._traffic.requests)

    @property
    def requests_by_status(self) -> Mapping[int, int]:
        """How many requests got each status; 0 counts the connections that were cut."""
        return self._traffic.by_status

    @property
    def most_in_flight(self) -> int:
        return self._traffic.most_in_flight

    # --- Control routes: ids, digests, names and counts, never a value of a payload, never a token ---

    def _control(  # noqa: PLR0911 -- one return for each route
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None
    ) -> Answer:
        """Answer one control request; 400 says what is wrong with it and changes nothing."""
        try:
            match (method, path.removeprefix("/_sandbox").strip("/")):
                case ("GET", "state"):
                    return _json(self._state())
                case ("GET", "journeys"):
                    return _json(self._journeys(query.get("journey_id")))
                case ("POST", "journeys"):
                    self._mark(_object(body))
                    return _json(self._journeys(None))
                case ("GET", "faults"):
                    return _json(self._in_force())
                case ("POST", "faults"):
                    self._set_faults(_object(body))
                    return _json(self._in_force())
                case ("POST", "reset"):
                    self._reset()
                    return _json(self._in_force())
        except ValueError as error:
            return _json({"error": str(error)}, 400)
        return _json({"error": "no such control route"}, 404)

    def _reset(self) -> None:
        """Forget journeys, traffic, limits and faults; tokens are those of the start."""
        self._rules = self._new_rules()
        self.faults.clear()
        self._traffic.reset()

    def _mark(self, settings: dict[str, Any]) -> None:
        if not {"journey_id", "status"} <= settings.keys() <= _MARKS:
            raise ValueError(
                "the body must hold journey_id and status, may hold labels, conflicting_journey_id"
            )
        journey = self._rules.journeys.find(str(settings["journey_id"]), self._rules.clock())
        if journey is None:
            raise ValueError("journey_id: no such journey")
        if settings["status"] not in list(JourneyStatus):
            raise ValueError(f"status: must be one of {', '.join(JourneyStatus)}")
        labels, conflicting = settings.get("labels", []), settings.get("conflicting_journey_id")
        texts = [*labels, conflicting or ""] if isinstance(labels, list) else [None]
        if not all(isinstance(each, str) for each in texts):
            raise ValueError("labels must be a list of labels, conflicting_journey_id an id")
        journey.status, journey.labels = JourneyStatus(settings["status"]), labels
        journey.conflicting_journey_id = conflicting

    def _set_faults(self, settings: dict[str, Any]) -> None:
        count = settings.pop("count", None)
        added, revoked, listed = (settings.pop(key, None) for key in _TOKEN_KEYS)
        if not all(isinstance(each, str | None) for each in (added, revoked)):
            raise ValueError("add_token, revoke_token: must be a token")
        if not isinstance(listed, list | None) or not all(isinstance(each, str) for each in listed or ()):
            raise ValueError("revoked_tokens: must be a list of tokens or names")
        tokens = self.tokens
        try:
            for each in [*(listed or ()), *([revoked] if revoked is not None else ())]:
                tokens.find(each)
        except KeyError:
            raise ValueError("no such token") from None
        if settings or count is not None:
            self.faults.apply(settings, count=count)
        if listed is not None:
            tokens.revoke_exactly(listed)
        if revoked is not None:
            tokens.revoke(revoked)
        if added is not None:
            tokens.accept(added)

    def _in_force(self) -> dict[str, Any]:
        return {"faults": asdict(self.faults), "tokens": self.tokens.states()}

    def _state(self) -> dict[str, Any]:
        traffic, registered = self._traffic, self._rules.journeys.registered
        return {
            "profile": self._rules.settings.profile.value,
            "now": self._rules.clock().isoformat(),
            "journeys": {
                "registered": len(registered),
                "violating": len(self._rules.journeys.violating),
                "by_status": Counter(each.status.value for each in registered.values()),
                "by_id": {key: each.status.value for key, each in registered.items()},
            },
            "requests": {
                "total": sum(traffic.by_status.values()),
                "by_status": {
                    str(status or "cut"): number for status, number in sorted(traffic.by_status.items())
                },
                "in_flight": traffic.in_flight,
                "most_in_flight": traffic.most_in_flight,
                "recent": [each._asdict() for each in list(traffic.requests)[-_RECENT:]],
            },
            **self._in_force(),
        }

    def _journeys(self, journey_id: str | None) -> dict[str, Any]:
        remembered = {
            "journeys": self._rules.journeys.registered,
            "violating": self._rules.journeys.violating,
        }
        return {
            name: [asdict(each) for each in journeys.values() if journey_id in (None, each.journey_id)]
            for name, journeys in remembered.items()
        }

    # --- Requests -------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        if self._runner is None or task is None:  # stopped
            return _cut(request)
        self._running.add(task)
        try:
            if request.path.startswith("/_sandbox"):
                body = await _read(request)
                return _response(self._control(request.method, request.path, dict(request.query), body))
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
        content_type, query = request.headers.get("Content-Type", ""), dict(request.query)
        path = request.rel_url.raw_path
        verdict = self._rules.decide(
            Call(request.method, path, authorization, address, body, content_type, query, labels)
        )
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


def _json(content: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(content, indent=2).encode() + b"\n")


def _object(body: bytes | None) -> dict[str, Any]:
    try:
        content = json.loads(body or b"null")
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError("the body must be a JSON object")  # noqa: TRY004 -- one error for all wrong bodies
    return content
