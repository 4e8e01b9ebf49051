"""The sandbox Registry's HTTP edge: requests in, answers and faults out.

The only module here that knows aiohttp. It reads bodies within the limit, asks ``rules`` for
the verdict, lets the faults in force spoil it, and writes one log line for each request: method,
path, status, journey id; never a value of a body, never a token. Every request that arrives is
counted once as having left, also when its connection was cut.
"""

import asyncio
import logging
import random
import time
from dataclasses import replace

from aiohttp import web

from consumer.sandbox.answers import HTML, Answer, Case
from consumer.sandbox.control import Control
from consumer.sandbox.faults import Faults, Knobs
from consumer.sandbox.rules import Call, Rules, Verdict
from consumer.sandbox.state import SeenRequest, Traffic

BODY_LIMIT_BYTES = 2 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024
_ID_LOGGED = 64
_UNREADABLE = b"\x00"  # no JSON begins like this
_PAGE = b"<!DOCTYPE html><html><body><h1>Welcome</h1></body></html>\n"

log = logging.getLogger("consumer.sandbox")


class App:
    """Answers requests; ``handle`` is what ``aiohttp.web.Server`` calls."""

    def __init__(self, rules: Rules, faults: Faults, traffic: Traffic, control: Control) -> None:
        self._rules = rules
        self._faults = faults
        self._traffic = traffic
        self._control = control
        self._closing: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """One request, from its head to the last byte of its answer."""
        path = request.path
        if path.startswith("/_sandbox"):
            body = await _read(request)
            return _response(self._control.answer(request.method, path, dict(request.query), body))
        self._traffic.arrive()
        if self._closing and (timer := self._closing.pop(_transport(request), None)) is not None:
            timer.cancel()
        arrived, verdict, status = time.time(), Verdict(Answer(0)), 0
        try:
            knobs = self._faults.take()
            if knobs.drop_connection == "before_read":
                return _cut(request)
            body = await _read(request)
            verdict = self._verdict(request, path, body, knobs)
            if knobs.latency_seconds:
                await asyncio.sleep(knobs.latency_seconds)
            if knobs.drop_connection == "before_answer":
                return _cut(request)
            status = verdict.answer.status
            return await self._send(request, verdict.answer, knobs)
        except ConnectionError:  # the client left while sending or reading: nobody to answer
            status = 0
            return _cut(request)
        finally:
            self._traffic.leave(
                SeenRequest(arrived, request.method, path, status, verdict.token, verdict.journey_id)
            )
            if log.isEnabledFor(logging.INFO):
                log.info(
                    "%s %s %s %s",
                    request.method,
                    ascii(path)[1:-1],
                    status or "cut",
                    "-" if verdict.journey_id is None else ascii(verdict.journey_id[:_ID_LOGGED])[1:-1],
                )

    # --- Verdict and faults ---------------------------------------------------------------

    def _verdict(self, request: web.BaseRequest, path: str, body: bytes | None, knobs: Knobs) -> Verdict:
        instead = self._instead(knobs)
        if instead is not None:
            return Verdict(instead)
        verdict = self._rules.decide(
            Call(request.method, path, request.headers.get("Authorization"), request.remote or "", body),
            knobs.terms_violation_labels,
        )
        stored = verdict.answer.status in (200, 201, 409)
        if knobs.timeout_408 and stored:
            verdict.answer = replace(self._rules.say(Case.TIMEOUT), headers=verdict.answer.headers)
        return verdict

    def _instead(self, knobs: Knobs) -> Answer | None:  # noqa: PLR0911 -- one return for each fault
        """The answer given in the Registry's stead, when a fault asks for one; nothing is stored."""
        if knobs.maintenance:
            return self._rules.say(Case.MAINTENANCE)
        if knobs.redirect is not None:
            return Answer(308, content_type=HTML, headers={"Location": knobs.redirect})
        if knobs.not_found:
            return Answer(404, content_type=HTML)
        if knobs.garbage:
            return Answer(200, _PAGE, HTML)
        if knobs.throttle is not None:
            throttle = knobs.throttle
            return self._rules.throttled(throttle.retry_after_seconds, with_headers=throttle.with_headers)
        if knobs.error_rate and random.random() < knobs.error_rate:  # noqa: S311 -- chance, not secrecy
            answered = self._rules.say(Case.ERROR)
            if knobs.error_status == answered.status:
                return answered
            return Answer(knobs.error_status, _PAGE, HTML)  # as a proxy before the Registry would
        return None

    async def _send(self, request: web.BaseRequest, answer: Answer, knobs: Knobs) -> web.StreamResponse:
        if not (knobs.huge_answer_bytes or knobs.slow_drip_seconds or knobs.close_idle_seconds is not None):
            return _response(answer)
        size = max(len(answer.body), knobs.huge_answer_bytes)
        response = web.StreamResponse(status=answer.status, headers=_headers(answer))
        response.content_length = size
        await response.prepare(request)
        if knobs.slow_drip_seconds:
            for offset in range(len(answer.body)):
                await response.write(answer.body[offset : offset + 1])
                await asyncio.sleep(knobs.slow_drip_seconds)
        else:
            await response.write(answer.body)
        for offset in range(len(answer.body), size, _CHUNK_BYTES):
            await response.write(b" " * min(_CHUNK_BYTES, size - offset))
        await response.write_eof()
        if knobs.close_idle_seconds is not None:
            self._close_when_idle(_transport(request), knobs.close_idle_seconds)
        return response

    def _close_when_idle(self, transport: asyncio.BaseTransport, seconds: float) -> None:
        def close() -> None:
            self._closing.pop(transport, None)
            transport.close()

        self._closing[transport] = asyncio.get_running_loop().call_later(seconds, close)

    def forget_connections(self) -> None:
        """Cancel what was to be closed later; the connections are gone."""
        for timer in self._closing.values():
            timer.cancel()
        self._closing.clear()


def _transport(request: web.BaseRequest) -> asyncio.BaseTransport:
    if request.transport is None:
        raise ConnectionResetError("the client has left")
    return request.transport


def _headers(answer: Answer) -> dict[str, str]:
    return {**answer.headers, "Content-Type": answer.content_type}


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, headers=_headers(answer))


def _cut(request: web.BaseRequest) -> web.Response:
    """Close the connection; the answer returned can no longer be written anywhere."""
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
    except web.RequestPayloadError:  # a content encoding that is not what it says
        return _UNREADABLE
    return bytes(body)
