"""What the outside may ask of the process: /metrics, /livez, /readyz, over HTTP from a thread of its own.

1. Its own thread, so that liveness turns red when the event loop hangs instead of hanging with it.
2. Live is the age of the loop's heartbeat and nothing else: asking broker, Registry or token would
   restart every replica when one of them fails. Ready is what the service last said.
3. Probes are answered whatever others do to the port: the thread waits for nobody, connections are bounded in
   number, size and time, and the oldest without a whole request makes room for a new one. Metrics, which
   cost more, are written when nothing else is to be done, but for one connection in a tenth of a second.
4. Other paths are 404, other methods 405. Nothing here reads a body, a setting or a journey.
"""

import errno
import gzip
import io
import logging
import os
import re
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted

from consumer.errors import ConfigurationError
from consumer.service.health import Health

log = logging.getLogger("journey_consumer.service")

_LONGEST_HEAD = 16 * 1024
#: For a request's head to arrive, and then for its answer to be taken.
_HEAD_SECONDS = _ANSWER_SECONDS = 5.0
#: A process may have 1024 open files, most of them for others. The kernel holds what was not accepted yet.
_MOST_CONNECTIONS, _BACKLOG, _ACCEPTS_AT_ONCE = 256, 4096, 64
#: Between two looks at the deadlines; between two costly answers while others keep coming.
_POLL_SECONDS = _COSTLY_SECONDS = 0.1
_NO_DESCRIPTOR = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
#: The formats that we name in an answer: of what a client asks for nothing else is repeated.
_FORMAT = re.compile(
    r"(text/plain; version=0\.0\.4|(text/plain|application/openmetrics-text); version=1\.0\.0); charset=utf-8"
    r"(; escaping=[a-z0-9-]+)?"
)


class HttpServer:
    """Serves metrics and probes. ``start`` and ``stop`` may be called again without harm.

    ``port`` 0 takes a free port; after ``start`` it holds the port that is listened on.
    """

    def __init__(self, registry: CollectorRegistry, health: Health, host: str, port: int) -> None:
        self._registry = registry
        self._health = health
        self._host = host
        self.port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen and serve. Raise ConfigurationError when the address cannot be listened on."""
        if self._server is not None:
            return
        pages = {"/metrics": self._metrics, "/livez": self._livez, "/readyz": self._readyz}
        try:
            found = socket.getaddrinfo(
                self._host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, _, _, _, address = found[0]
            server = _Server(family, address, pages, costly={"/metrics"})
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
            number = getattr(error, "errno", None) or 0  # gaierror has negative ones
            why = os.strerror(number) if number > 0 else "no such address"
            raise ConfigurationError(
                [f"HTTP_HOST and HTTP_PORT {self.port}: cannot listen there ({why})"]
            ) from None
        self._server = server
        self.port = server.port
        self._thread = threading.Thread(target=server.serve, name="http", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and wait for the thread; requests under way are not waited for."""
        if self._server is None or self._thread is None:
            return
        self._server.stopping.set()
        self._thread.join()
        self._server = self._thread = None

    def _metrics(self, headers: Any) -> tuple[HTTPStatus, dict[str, str], bytes]:
        encode, content_type = _encoder(", ".join(headers.get_all("Accept", ())))
        body, extra = (
            encode(self._registry),
            {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"},
        )
        if gzip_accepted(headers.get("Accept-Encoding", "")):
            body, extra["Content-Encoding"] = gzip.compress(body, compresslevel=1), "gzip"
        return HTTPStatus.OK, extra, body

    def _livez(self, _: Any) -> tuple[HTTPStatus, dict[str, str], bytes]:
        if self._health.live:
            return _text(HTTPStatus.OK, "live")
        age = self._health.heartbeat_age_seconds
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, f"not live: the event loop has not run for {age:.0f} s")

    def _readyz(self, _: Any) -> tuple[HTTPStatus, dict[str, str], bytes]:
        obstacle = self._health.obstacle
        if obstacle is None:  # also during a pause: it would be no better elsewhere
            cause = self._health.paused
            return _text(HTTPStatus.OK, "ready" if cause is None else f"ready; consumption paused: {cause}")
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {obstacle}")


_Page = Callable[[Any], tuple[HTTPStatus, dict[str, str], bytes]]


def _text(status: HTTPStatus, text: str) -> tuple[HTTPStatus, dict[str, str], bytes]:
    return status, {"Content-Type": "text/plain; charset=utf-8"}, f"{text}\n".encode()


def _encoder(accept: str) -> tuple[Callable[[Any], bytes], str]:
    """Return the format that is asked for, the default one when the header is odd."""
    with suppress(TypeError, ValueError):  # a version that is no number
        encode, content_type = choose_encoder(accept)
        if _FORMAT.fullmatch(content_type):
            return encode, content_type
    return choose_encoder("")


class _Connection:
    """One request and its answer. ``answer`` is what is still to be written, once ``request`` is complete."""

    __slots__ = ("answer", "deadline", "head", "request", "socket")

    def __init__(self, accepted: socket.socket) -> None:
        self.socket = accepted
        self.deadline = time.monotonic() + _HEAD_SECONDS
        self.head = b""
        self.request: _Request | None = None
        self.answer = memoryview(b"")


class _Server:
    """Listens at once; ``serve`` runs until ``stopping`` is set. ``costly`` are paths of ``pages``."""

    def __init__(
        self, family: socket.AddressFamily, address: Any, pages: Mapping[str, _Page], *, costly: set[str]
    ) -> None:
        self._pages = pages
        self._costly = costly
        self._listener = socket.create_server(
            address, family=family, backlog=_BACKLOG, dualstack_ipv6=family == socket.AF_INET6
        )
        self._listener.settimeout(0.0)
        self.port: int = self._listener.getsockname()[1]
        self.stopping = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._open: dict[_Connection, None] = {}  # the oldest first
        self._waiting: deque[_Connection] = deque()  # for a costly page
        self._costly_at = 0.0  # when one was answered last

    def serve(self) -> None:
        """Serve until stopping."""
        with self._selector, self._listener:
            self._selector.register(self._listener, selectors.EVENT_READ, None)
            while not self.stopping.is_set():
                try:
                    self._turn()
                except Exception:
                    log.exception("serving metrics and health failed; this is tried again")
                    self.stopping.wait(_POLL_SECONDS)
            for connection in list(self._open):
                self._close(connection)

    def _turn(self) -> None:
        """Do what can be done without waiting."""
        ready = [key.data for key, _ in self._selector.select(0 if self._waiting else _POLL_SECONDS)]
        for connection in ready:
            if connection is not None:
                self._guarded(self._go_on, connection)
        if None in ready:
            self._accept()
        now = time.monotonic()
        if self._waiting and (not ready or now > self._costly_at + _COSTLY_SECONDS):
            self._guarded(self._answer, self._waiting.popleft())
            self._costly_at = now
        for connection in [each for each in self._open if each.deadline < now]:
            self._close(connection)

    def _guarded(self, step: Callable[[_Connection], None], connection: _Connection) -> None:
        """Take a step, of a connection that is still open; close it if that fails. Log bugs, not clients."""
        if connection not in self._open:
            return
        try:
            step(connection)
        except BlockingIOError:
            return
        except Exception as error:
            if not isinstance(error, OSError):
                log.exception("a request for metrics or health could not be answered")
            self._close(connection)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                accepted, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # others: the client has gone already
                if error.errno in _NO_DESCRIPTOR:
                    self._make_room()
                return
            connection = _Connection(accepted)
            self._open[connection] = None
            self._selector.register(accepted, selectors.EVENT_READ, connection)
            if len(self._open) > _MOST_CONNECTIONS:
                self._make_room()

    def _make_room(self) -> None:
        """Close the oldest connection without a whole request; without one, the oldest."""
        unasked = (each for each in self._open if each.request is None)
        if oldest := next(unasked, next(iter(self._open), None)):
            self._close(oldest)
        else:
            self.stopping.wait(_POLL_SECONDS)  # others have all descriptors

    def _go_on(self, connection: _Connection) -> None:
        """Read what has come, or write what can be taken."""
        if connection.request is not None:
            self._write(connection)
            return
        part = connection.socket.recv(4096, socket.MSG_DONTWAIT)
        connection.head += part
        if not part or len(connection.head) > _LONGEST_HEAD:
            self._close(connection)
        elif b"\r\n\r\n" in connection.head or b"\n\n" in connection.head:
            self._selector.unregister(connection.socket)
            connection.deadline = time.monotonic() + _ANSWER_SECONDS
            connection.request = _Request(connection.head, self._pages)
            if connection.request.page_path in self._costly:
                self._waiting.append(connection)
                asked = [each for each in self._open if each.request is not None]
                if (
                    len(asked) > _MOST_CONNECTIONS // 2
                ):  # the other half is for those whose request is to come
                    self._close(asked[0])
            else:
                self._answer(connection)

    def _answer(self, connection: _Connection) -> None:
        assert connection.request is not None  # noqa: S101 - for the type checker
        connection.answer = memoryview(connection.request.answer())
        self._selector.register(connection.socket, selectors.EVENT_WRITE, connection)
        self._write(connection)

    def _write(self, connection: _Connection) -> None:
        sent = connection.socket.send(connection.answer, socket.MSG_DONTWAIT)
        connection.answer = connection.answer[sent:]
        if not connection.answer:
            self._close(connection)

    def _close(self, connection: _Connection) -> None:
        self._open.pop(connection, None)
        with suppress(KeyError):  # not registered while it waits for a costly page
            self._selector.unregister(connection.socket)
        with connection.socket, suppress(OSError):  # the client has gone
            connection.socket.shutdown(socket.SHUT_WR)


class _Request(BaseHTTPRequestHandler):
    """Parses one bounded head with the standard library, and makes its answer; knows no socket.

    ``page_path`` is the path of the page that is asked for; None when the answer is an error.
    """

    server_version, sys_version = "journey-consumer", ""
    error_content_type, error_message_format = "text/plain; charset=utf-8", "%(code)d\n"

    def __init__(self, head: bytes, pages: Mapping[str, _Page]) -> None:
        self._pages = pages
        self.rfile, self.wfile = io.BytesIO(head), (answer := io.BytesIO())
        self._answer = answer
        self.raw_requestline = self.rfile.readline()
        self.close_connection = True
        self.page_path: str | None = None
        if not self.parse_request():  # it has answered
            return
        path = self.path.partition("?")[0]
        if self.command not in {"GET", "HEAD"}:
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
        elif path not in pages:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self.page_path = path

    def answer(self) -> bytes:
        """Return the whole answer."""
        if self.page_path is not None:
            status, headers, body = self._pages[self.page_path](self.headers)
            self.send_response(status)
            for name, value in (
                *headers.items(),
                ("Content-Length", str(len(body))),
                ("Connection", "close"),
            ):
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
        return self._answer.getvalue()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer an error without repeating anything of the request."""
        del message, explain
        super().send_error(code)

    def end_headers(self) -> None:
        """Name the allowed methods in every answer that has a head."""
        self.send_header("Allow", "GET, HEAD")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: probes come every few seconds."""
