"""What the outside may ask of the process: /metrics, /livez, /readyz, over HTTP from a thread of its own.

1. Its own thread, so that liveness turns red when the event loop hangs instead of hanging with it.
2. Live is the age of the loop's heartbeat and nothing else: asking broker, Registry or token would
   restart every replica when one of them fails. Ready is what the service last said.
3. Other paths are 404, other methods 405; a request's head is bounded in size and time, the number
   of connections too. Nothing here reads a body, a setting or a journey.
"""

import gzip
import io
import logging
import os
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted

from consumer.errors import ConfigurationError
from consumer.service.health import Health

log = logging.getLogger("journey_consumer.service")

_LONGEST_HEAD = 16 * 1024
_HEAD_SECONDS = 5.0
_MOST_CONNECTIONS = 32


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
            server = _Server(family, address, pages)
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
            number = getattr(error, "errno", None) or 0  # gaierror has negative ones
            why = os.strerror(number) if number > 0 else "no such address"
            raise ConfigurationError(
                [f"HTTP_HOST and HTTP_PORT {self.port}: cannot listen there ({why})"]
            ) from None
        self._server = server
        self.port = server.server_address[1]
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.2}, name="http", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and wait for the thread; requests under way are not waited for."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._server = self._thread = None

    def _metrics(self, headers: Any) -> tuple[HTTPStatus, dict[str, str], bytes]:
        encode, content_type = choose_encoder(headers.get("Accept", ""))
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
        if obstacle is None:
            return _text(HTTPStatus.OK, "ready")
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {obstacle}")


_Page = Callable[[Any], tuple[HTTPStatus, dict[str, str], bytes]]


def _text(status: HTTPStatus, text: str) -> tuple[HTTPStatus, dict[str, str], bytes]:
    return status, {"Content-Type": "text/plain; charset=utf-8"}, f"{text}\n".encode()


class _Server(ThreadingHTTPServer):
    """One thread per connection, a bounded number of them, one request each."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = _MOST_CONNECTIONS

    def __init__(self, family: int, address: Any, pages: dict[str, _Page]) -> None:
        self.address_family = family
        self.pages = pages
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, also for IPv4 on '::', and without the reverse DNS look-up of HTTPServer."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread, or close the connection when too many are being served."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread was started, so none will release
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Run in the connection's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base's signature
        """Log bugs only, not clients that disconnect or are slow."""
        if not isinstance(error := sys.exception(), OSError):
            log.error("a request for metrics or health could not be answered", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    """Reads one bounded head, answers, closes."""

    server: _Server
    server_version, sys_version = "journey-consumer", ""
    error_content_type, error_message_format = "text/plain; charset=utf-8", "%(code)d\n"

    def handle(self) -> None:
        """Read the head within its bounds, parse it with the standard library, answer."""
        head = self._read_head()
        if head is None:
            return
        self.rfile = io.BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        self.close_connection = True
        if not self.parse_request():  # it has answered
            return
        if self.command not in {"GET", "HEAD"}:
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
            return
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        status, headers, body = page(self.headers)
        self.send_response(status)
        for name, value in (*headers.items(), ("Content-Length", str(len(body))), ("Connection", "close")):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _read_head(self) -> bytes | None:
        """Everything up to the empty line, None when it is too long or takes too long."""
        deadline = time.monotonic() + _HEAD_SECONDS
        head = b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head:
            left = deadline - time.monotonic()
            if left <= 0 or len(head) > _LONGEST_HEAD:
                return None
            self.connection.settimeout(left)
            part = self.connection.recv(4096)
            if not part:
                return None
            head += part
        self.connection.settimeout(_HEAD_SECONDS)
        return head

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
