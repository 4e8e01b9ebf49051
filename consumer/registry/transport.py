"""An HTTP/1.1 client on the event loop: an ``httpx.AsyncBaseTransport`` over llhttp, the parser of Node.

1. One request at a time on a connection; at most ``concurrency`` connections, those being opened or closed
   included.
2. A request is written once and whole. A kept connection that the server has closed is not written to,
   another one is used; what was written is never written again.
3. One deadline from waiting for a connection to the end of the answer. Cancelling ends the request: its
   connection is closed, and its place is free.
4. "Never sent" (ConnectError, ConnectTimeout, TlsError, PoolTimeout) is said only before the first byte was
   written, and of a TLS handshake that the server refused; everything else was perhaps processed.
5. An answer is given once it is whole. One that is cut after its head is given, too: its body then ends
   with the exception that cut it.
6. No redirects, cookies, decompression or proxies.
"""

import asyncio
import random
import re
import select
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import httptools
import httpx

from consumer.registry.tls import Tls

MAX_CONNECT_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 4.0  # below the 5 s after which a Node server, the Registry's, closes idle connections
MAX_HEAD_BYTES: Final = 64 * 1024  # of an answer, with the interim answers before it
MAX_WIRE_BYTES: Final = 1024 * 1024  # of an answer, framing included: a chunk may have one byte of body

_NO_BODY: Final = (204, 304)
_FINAL: Final = 200  # statuses below are interim
_FRAMING: Final = (b"content-length", b"transfer-encoding")
_OUR_OWN: Final = (b"host", *_FRAMING)  # headers that are made here
_UNUSABLE: Final = re.compile(rb"[\r\n\0]")
#: OpenSSL's names of what a server says when it has judged our certificate.
_ABOUT_OUR_CERTIFICATE: Final = re.compile(r"ALERT.*(CERTIFICATE|UNKNOWN_CA)")
#: For so long an address that did not connect is tried after the others.
_AVOIDED_SECONDS: Final = 60.0


class TlsError(httpx.ConnectError):
    """The TLS handshake failed: an unknown issuer, another host's certificate, an old protocol."""


class ClientCertificateError(TlsError):
    """The server wants a client certificate, and got none that it accepts."""


def tls_error(error: OSError) -> TlsError:
    """Our words for OpenSSL's."""
    reason = getattr(error, "reason", None) or ""
    if _ABOUT_OUR_CERTIFICATE.search(reason):
        return ClientCertificateError("the server wants another client certificate, or one at all")
    return TlsError("the TLS handshake failed")


class _CutBody(httpx.AsyncByteStream):
    """What came of a body, then the reason why there is no more."""

    def __init__(self, body: bytes, cut: httpx.RequestError) -> None:
        self._body = body
        self._cut = cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body
        raise self._cut


class _Head:
    """The last request's head, ready but for the length; a token lives here, so no repr shows it."""

    __slots__ = ("headers", "method", "ready", "target")

    def __init__(self, request: httpx.Request, origin: httpx.URL) -> None:
        self.headers, self.method, self.target = request.headers.raw, request.method, request.url.raw_path
        lines = [(b"Host", origin.netloc)]
        lines += [(name, value) for name, value in self.headers if name.lower() not in _OUR_OWN]
        if any(_UNUSABLE.search(part) for line in lines for part in line):
            raise httpx.LocalProtocolError("a header is unusable", request=request)
        head = b"".join(b"%b: %b\r\n" % line for line in lines)
        method = self.method.encode("ascii")
        self.ready = b"%b %b HTTP/1.1\r\n%bContent-Length: " % (method, self.target, head)

    def fits(self, request: httpx.Request) -> bool:
        return (self.headers, self.method, self.target) == (
            request.headers.raw,
            request.method,
            request.url.raw_path,
        )


class _Connection(asyncio.Protocol):
    """One connection and the answer that it is reading; made and kept by the transport."""

    def __init__(self, pool: "DirectTransport", life_ends: float) -> None:
        self._pool = pool
        self._life_ends = life_ends
        self._poll = select.poll()
        self._answer: asyncio.Future[httpx.Response] | None = None
        self._answered = False
        self.made = False
        self.lost_by: Exception | None = None
        self.usable_until = life_ends  # by the loop's clock

    def post(self, request: bytes) -> asyncio.Future[httpx.Response]:
        """Write a whole request; the future is its answer."""
        self._status = self._received = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._keep = self._whole = False
        self._answer = self._pool.loop.create_future()
        self._transport.write(request)
        return self._answer

    def is_spoilt(self) -> bool:
        """Whether the peer has closed or sent what nobody asked for; the loop may not have seen it yet."""
        return self._transport.is_closing() or bool(self._poll.poll(0))

    def abort(self) -> None:
        """Close now, without a farewell that could wait for the peer."""
        self._transport.abort()

    def fail(self, error: httpx.RequestError) -> None:
        """End the answer with ``error``, or as what has come of it, and close."""
        self._end(error)

    def cancel(self, answer: asyncio.Future[httpx.Response]) -> None:
        """Close, unless ``answer`` has already come and the connection was given to another request."""
        if self._answer is answer:
            self._end(httpx.ReadError("cancelled"))

    # --- asyncio's calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = True
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nobody asked: it must not be taken for the next answer
            self.abort()
            return
        self._received += len(data)
        broken = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            broken = httpx.RemoteProtocolError("not HTTP/1.1")
        if self._whole:
            self._keep = self._keep and broken is None  # more came than was asked for
            self._end(None)
        elif broken is not None:
            self._end(broken)
        elif not self._status and self._received > MAX_HEAD_BYTES:
            self._end(httpx.RemoteProtocolError("the head of the answer has no end"))
        elif self._body_bytes > self._pool.max_body_bytes or self._received > MAX_WIRE_BYTES:
            self._end(httpx.RemoteProtocolError("the answer is longer than allowed"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost_by = exc
        self._pool.lost(self)
        del self._parser  # it refers to us
        if isinstance(exc, ssl.SSLError) and not self._answered:
            error: httpx.RequestError = tls_error(exc)
            if isinstance(error, ClientCertificateError):
                self._end(error)
        if exc is not None or not self._status:
            self._end(httpx.ReadError("the connection was lost"))
        elif any(name.lower() in _FRAMING for name, _ in self._headers):
            self._end(httpx.RemoteProtocolError("the connection was closed in the middle of the answer"))
        else:  # the end of the connection is the end of the body
            self._end(None)

    # --- llhttp's calls -------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._status:  # else a trailer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._whole:  # of an answer that nobody asked for
            raise httpx.RemoteProtocolError("two answers")
        self._status = self._parser.get_status_code()
        self._keep = self._parser.should_keep_alive()
        if self._status < _FINAL:  # an interim answer: the head of the real one follows
            self._status = 0
            self._headers = []

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        self._whole = self._answered = bool(self._status)

    # --- The end of an answer -------------------------------------------------------------

    def _end(self, cut: httpx.RequestError | None) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if not answer.done():
            if cut is not None and not self._status:
                answer.set_exception(cut)
            else:
                body = b"".join(self._body)
                stream = httpx.ByteStream(body) if cut is None else _CutBody(body, cut)
                answer.set_result(httpx.Response(self._status, headers=self._headers, stream=stream))
        # A server that answers before it has the whole request may stop reading it.
        reusable = cut is None and self._keep and not self._transport.get_write_buffer_size()
        if not reusable:
            self.abort()
        self.usable_until = min(self._life_ends, self._pool.loop.time() + IDLE_SECONDS)
        self._pool.ended(self, reusable=reusable)


class DirectTransport(httpx.AsyncBaseTransport):
    """Sends requests to ``origin``, whatever host they name. Cheapest when URL and headers repeat.

    ``timeout_seconds`` bounds a request from waiting for a connection to the end of the answer,
    ``connection_seconds`` the life of a connection, so that a change in DNS is followed. Of a body longer
    than ``max_body_bytes`` the beginning is given, and then an exception. ``tls`` is needed for https only.
    """

    loop: asyncio.AbstractEventLoop  # that of the first request; asking for it is a system call (Python 3.11)

    def __init__(
        self,
        *,
        origin: httpx.URL,
        concurrency: int,
        timeout_seconds: float,
        connection_seconds: float = 60.0,
        max_body_bytes: int = 64 * 1024,
        tls: Tls | None = None,
    ) -> None:
        self.max_body_bytes = max_body_bytes
        self._origin = origin
        self._concurrency = concurrency
        self._timeout = timeout_seconds
        self._connection_seconds = connection_seconds
        self._tls = tls
        self._head: _Head | None = None
        self._places = concurrency
        self._open: set[_Connection] = set()
        self._idle: list[_Connection] = []  # the one used last is last
        self._waiting: deque[asyncio.Future[None]] = deque()  # each is woken to look again
        self._deadlines: dict[_Connection, float] = {}  # of the requests that were written
        self._timer: asyncio.TimerHandle | None = None  # one for all deadlines, and for closing idle ones
        self._timer_at = 0.0
        self._failed_at: dict[tuple[Any, ...], float] = {}  # addresses that did not connect
        self._closing = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send, and return once the whole answer is here. Raises httpx's exceptions."""
        head = self._head
        if head is None or not head.fits(request):
            self.loop = asyncio.get_running_loop()
            self._head = head = _Head(request, self._origin)
        started = self.loop.time()
        stream = request.stream
        body = b"".join(stream) if isinstance(stream, httpx.ByteStream) else await request.aread()
        connection = self._take_idle(started) if not self._waiting else None
        if connection is None:
            connection = await self._acquire(request, started)
        deadline = started + self._timeout
        self._deadlines[connection] = deadline
        self._wake_at(deadline)
        answer = connection.post(b"%b%d\r\n\r\n%b" % (head.ready, len(body), body))
        try:
            return await answer
        except asyncio.CancelledError:
            connection.cancel(answer)
            raise

    async def aclose(self) -> None:
        """Close every connection and wait until they are; requests under way end as ``httpx.CloseError``."""
        self._closing = True
        self._wake_next(len(self._waiting))
        for connection in list(self._open):
            connection.fail(httpx.CloseError("the client was closed"))
            connection.abort()
        while self._open:  # noqa: ASYNC110 a few turns of the loop, whatever the peer does
            await asyncio.sleep(0)
        if self._timer is not None:
            self._timer.cancel()

    # --- Connections ----------------------------------------------------------------------

    def _take_idle(self, now: float) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if now < connection.usable_until and not connection.is_spoilt():
                return connection
            connection.abort()
        return None

    async def _acquire(self, request: httpx.Request, started: float) -> _Connection:
        """Wait for a kept connection or for a place to open one, at most half of the time."""
        first = True
        try:
            async with asyncio.timeout_at(started + self._timeout / 2):
                while not self._closing:
                    if not first or not self._waiting:
                        connection = self._take_idle(self.loop.time())
                        if connection is not None:
                            return connection
                        if self._places > 0:
                            break
                    await self._wait_in_line(first=first)
                    first = False
        except TimeoutError:
            raise httpx.PoolTimeout("no connection came free", request=request) from None
        if self._closing:
            raise httpx.CloseError("the client is closed", request=request)
        return await self._connect(request)

    async def _wait_in_line(self, *, first: bool) -> None:
        """Wait to be woken. Who was woken and found nothing stays first in line."""
        woken = self.loop.create_future()
        if first:
            self._waiting.append(woken)
        else:
            self._waiting.appendleft(woken)
        try:
            await woken
        except asyncio.CancelledError:
            if not woken.cancelled():
                self._wake_next()  # it was meant for somebody
            elif woken in self._waiting:
                self._waiting.remove(woken)
            raise

    def _wake_next(self, count: int = 1) -> None:
        while count and self._waiting:
            woken = self._waiting.popleft()
            if not woken.done():
                woken.set_result(None)
                count -= 1

    async def _connect(self, request: httpx.Request) -> _Connection:
        """Take a place and open a connection in at most half of the time. Raises httpx's exceptions."""
        self._places -= 1
        life = self._connection_seconds * random.uniform(0.5, 1.0)  # noqa: S311 not all end at once
        connection = _Connection(self, self.loop.time() + life)
        until = self.loop.time() + min(MAX_CONNECT_SECONDS, self._timeout / 2)
        ready = False
        try:
            await self._try_addresses(connection, until)
            if self._closing:
                raise httpx.CloseError("the client is closed", request=request)
            ready = connection in self._open
        except TimeoutError:
            raise httpx.ConnectTimeout("connecting took too long", request=request) from None
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one in DNS
            raise httpx.ConnectError("no connection", request=request) from error
        finally:
            if not connection.made:  # else ``lost`` gives it back
                self._give_place_back()
            elif not ready:
                connection.abort()
        if not ready:  # lost again before anything was written
            lost_by = connection.lost_by
            raise tls_error(lost_by) if isinstance(lost_by, ssl.SSLError) else httpx.ConnectError("lost")
        return connection

    async def _try_addresses(self, connection: _Connection, until: float) -> None:
        """Try the addresses in turn, each with its share of the time; those that failed lately last."""
        loop, origin, tls = self.loop, self._origin, self._tls if self._origin.scheme == "https" else None
        host, port = origin.raw_host.decode("ascii"), origin.port or (80 if tls is None else 443)
        async with asyncio.timeout_at(until):
            found = await _addresses(host, port)
        lately = self.loop.time() - _AVOIDED_SECONDS
        self._failed_at = {address: at for address, at in self._failed_at.items() if at > lately}
        found.sort(key=lambda info: self._failed_at.get(info[4], 0.0))
        for number, (family, kind, protocol, _, address) in enumerate(found):
            try:
                async with asyncio.timeout((until - self.loop.time()) / (len(found) - number)):
                    sock = await _connected_socket(family, kind, protocol, address)
                    if tls is None:
                        await loop.create_connection(lambda: connection, sock=sock)
                    else:
                        await self._handshake(connection, sock, tls, host)
            except OSError:  # also TimeoutError
                self._failed_at[address] = self.loop.time()
                if connection.made or number + 1 == len(found):
                    raise
            else:
                return

    async def _handshake(self, connection: _Connection, sock: socket.socket, tls: Tls, host: str) -> None:
        tls.refresh()
        try:
            await self.loop.create_connection(
                lambda: connection, sock=sock, ssl=tls.context, server_hostname=host
            )
        except TimeoutError:
            raise
        except OSError as error:  # the server is reached: no other address is tried
            raise tls_error(error) from error

    # --- Called by the connections --------------------------------------------------------

    def opened(self, connection: _Connection) -> None:
        self._open.add(connection)

    def lost(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._give_place_back()

    def ended(self, connection: _Connection, *, reusable: bool) -> None:
        """Note that a connection has no request any more; one that is not ``reusable`` is closing."""
        del self._deadlines[connection]
        if reusable:
            self._idle.append(connection)
            self._wake_at(connection.usable_until)
            self._wake_next()

    def _give_place_back(self) -> None:
        self._places += 1
        self._wake_next()

    # --- Deadlines ------------------------------------------------------------------------

    def _wake_at(self, at: float) -> None:
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer, self._timer_at = self.loop.call_at(at, self._on_time), at

    def _on_time(self) -> None:
        self._timer, now = None, self.loop.time()
        for connection, deadline in list(self._deadlines.items()):
            if deadline <= now:
                connection.fail(httpx.ReadTimeout("no answer in time"))
        for connection in [each for each in self._idle if each.usable_until <= now]:
            self._idle.remove(connection)
            connection.abort()
        if times := [*self._deadlines.values(), *(each.usable_until for each in self._idle)]:
            self._wake_at(min(times))


async def _addresses(host: str, port: int) -> list[Any]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


async def _connected_socket(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)  # noqa: FBT003
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
