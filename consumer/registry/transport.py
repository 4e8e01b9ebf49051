"""An ``httpx.AsyncBaseTransport`` over pyreqwest (Rust), chosen by ``tests/bench/transports.py``.

1. Speaks httpx on top (requests, responses, exceptions); no pyreqwest object leaves this module.
2. At most ``concurrency`` requests at once, on as many connections (hyper may open a spare one while it
   waits for one to come free); no redirects, cookies, decompression or retries of what was sent;
   no proxy of the environment unless asked; TLS 1.2 or newer, certificate and host name verified.
3. The client's own total timeout is always set: cancelling a waiting task does not stop the request
   underneath (pyreqwest 0.15), so this is what gives its slot back.
4. "Never sent" is said only of what failed while connecting; everything else was perhaps processed.
"""

import re
import ssl
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

import certifi
import httpx
from pyreqwest import exceptions
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, DetailedPyreqwestError, PyreqwestError
from pyreqwest.http import HeaderMap, Url
from pyreqwest.proxy import ProxyBuilder
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

MAX_CONNECT_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 4.0  # below the 5 s after which a Node server, the Registry's, closes idle connections


class TlsError(httpx.ConnectError):
    """The TLS handshake failed: an unknown issuer, another host's certificate, an old protocol."""


class UnusableCertificatesError(ValueError):
    """No certificate to trust could be read; the text says where we looked."""


TRANSLATION: Final[Mapping[type[PyreqwestError], type[httpx.RequestError]]] = {
    exceptions.ConnectError: httpx.ConnectError,  # but see _translated
    exceptions.ConnectTimeoutError: httpx.ConnectTimeout,  # but see _translated
    exceptions.PoolTimeoutError: httpx.PoolTimeout,
    exceptions.ReadTimeoutError: httpx.ReadTimeout,
    exceptions.WriteTimeoutError: httpx.WriteTimeout,
    exceptions.RequestTimeoutError: httpx.ReadTimeout,
    exceptions.ReadError: httpx.ReadError,
    exceptions.WriteError: httpx.WriteError,
    exceptions.NetworkError: httpx.NetworkError,
    exceptions.ClientClosedError: httpx.CloseError,
    exceptions.DecodeError: httpx.RemoteProtocolError,
    exceptions.BodyDecodeError: httpx.RemoteProtocolError,
    exceptions.JSONDecodeError: httpx.RemoteProtocolError,
    exceptions.RedirectError: httpx.TooManyRedirects,
    exceptions.BuilderError: httpx.LocalProtocolError,
    exceptions.StatusError: httpx.TransportError,
    exceptions.RequestPanicError: httpx.TransportError,
    exceptions.TransportError: httpx.TransportError,
    exceptions.RequestError: httpx.TransportError,
    exceptions.DetailedPyreqwestError: httpx.TransportError,
    exceptions.PyreqwestError: httpx.TransportError,
}

# pyreqwest 0.15 calls any lost connection ConnectError and any timeout before the answer's head
# ConnectTimeoutError; only this cause (hyper-util's) shows that it was still connecting.
_CONNECTING: Final = "client error (Connect)"
_READING: Final = (
    "error reading a body from connection"  # past the first 64 KiB a cut has no class of its own
)
_WHILE_TALKING: Final[Mapping[type[httpx.RequestError], type[httpx.RequestError]]] = {
    httpx.ConnectError: httpx.ReadError,
    httpx.ConnectTimeout: httpx.ReadTimeout,
}
_TLS_CAUSE: Final = re.compile(
    r"invalid peer certificate|tls handshake|received (fatal alert|corrupt message)"
    r"|peer (is incompatible|misbehaved)"
)


def _translated(error: PyreqwestError, request: httpx.Request) -> httpx.RequestError:
    kind = next(TRANSLATION[cls] for cls in type(error).__mro__ if cls in TRANSLATION)
    found = error.details["causes"] if isinstance(error, DetailedPyreqwestError) else None
    causes = [cause["message"] for cause in found or ()]
    if kind in _WHILE_TALKING and _CONNECTING not in causes:
        kind = _WHILE_TALKING[kind]
    elif kind is httpx.ConnectError and any(map(_TLS_CAUSE.match, causes)):
        kind = TlsError
    elif kind is httpx.TransportError and _READING in causes:
        kind = httpx.RemoteProtocolError
    return kind(error.message, request=request)


class _Prepared:
    """The last request's URL and headers in pyreqwest's form; a token lives here, so no repr shows it."""

    __slots__ = ("headers", "raw", "target", "url")

    def __init__(self, request: httpx.Request) -> None:
        self.url = request.url
        self.raw = request.headers.raw
        self.target = Url(str(request.url))
        self.headers = HeaderMap()
        for name, value in request.headers.multi_items():
            self.headers.append(name, value, is_sensitive=name == "authorization")

    def fits(self, request: httpx.Request) -> bool:
        return self.raw == request.headers.raw and self.url == request.url


class _Body(httpx.AsyncByteStream):
    """An answer's body; up to 64 KiB of it is already here (pyreqwest's read buffer)."""

    def __init__(self, context: StreamRequest, response: Response, request: httpx.Request) -> None:
        self._context = context
        self._reader = response.body_reader
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while (chunk := await self._reader.read_chunk()) is not None:
                yield chunk.to_bytes()
        except PyreqwestError as error:
            raise _translated(error, self._request) from error

    async def aclose(self) -> None:
        """Stop reading; an unread rest costs the connection, never the slot."""
        await self._context.__aexit__(None, None, None)


def _readable(headers: HeaderMap) -> list[tuple[str, str]]:
    """Give the headers as pairs, leaving out those that are not text rather than losing the answer."""
    try:
        return list(headers.items())
    except ValueError:
        pairs = []
        for name in set(headers):
            try:
                pairs.append((name, headers[name]))
            except ValueError:
                continue
        return pairs


class ReqwestTransport(httpx.AsyncBaseTransport):
    """Sends ready ``httpx.Request`` objects; cheapest when URL and headers repeat.

    ``timeout_seconds`` bounds a request from waiting for a connection to the end of the answer.
    ``ca_pem`` is trusted besides the system's certificates. ``proxy`` is a URL; ``trust_env`` lets
    ``HTTPS_PROXY`` and its kin choose one. Raises UnusableCertificatesError or ValueError (proxy).
    """

    def __init__(
        self,
        *,
        concurrency: int,
        timeout_seconds: float,
        ca_pem: bytes | None = None,
        proxy: str | None = None,
        trust_env: bool = False,
        https_only: bool = False,
    ) -> None:
        def build(roots: bytes | None) -> Client:
            made = (
                ClientBuilder()
                .max_connections(concurrency)
                .pool_max_idle_per_host(concurrency)
                .pool_idle_timeout(timedelta(seconds=IDLE_SECONDS))
                .pool_timeout(timedelta(seconds=timeout_seconds / 2))
                .connect_timeout(timedelta(seconds=min(MAX_CONNECT_SECONDS, timeout_seconds / 2)))
                .timeout(timedelta(seconds=timeout_seconds))
                .follow_redirects(enable=False)
                .referer(enable=False)
                .default_cookie_store(enable=False)
                .gzip(enable=False)
                .brotli(enable=False)
                .zstd(enable=False)
                .deflate(enable=False)
                .http1_only()
                .min_tls_version("TLSv1.2")
                .https_only(enable=https_only)
            )
            if proxy is not None:
                made = made.proxy(ProxyBuilder.all(proxy))
            elif not trust_env:
                made = made.no_proxy()
            if roots is not None:
                made = made.add_root_certificate_pem(roots)
            return made.build()

        if ca_pem is not None:
            _verify_bundle(ca_pem)
        try:
            self._client = build(ca_pem)
        except BuilderError:
            # A slim image has no certificates of its own: trust then what httpx always does.
            try:
                self._client = build((ca_pem or b"") + Path(certifi.where()).read_bytes())
            except BuilderError as error:
                raise UnusableCertificatesError("its certificates cannot be used") from error
        self._prepared: _Prepared | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send, and return once the head and up to 64 KiB of the body are here. Raises httpx's exceptions."""
        prepared = self._prepared
        try:
            if prepared is None or not prepared.fits(request):
                self._prepared = prepared = _Prepared(request)
            builder = self._client.request(request.method, prepared.target).headers(prepared.headers)
        except ValueError:  # its text quotes the header
            raise httpx.LocalProtocolError("a header or the URL is unusable", request=request) from None
        try:
            stream = request.stream
            body = b"".join(stream) if isinstance(stream, httpx.ByteStream) else await request.aread()
            context = builder.body_bytes(body).build_streamed()
            response = await context.__aenter__()
        except PyreqwestError as error:
            raise _translated(error, request) from error
        return httpx.Response(
            response.status,
            headers=_readable(response.headers),
            stream=_Body(context, response, request),
        )

    async def aclose(self) -> None:
        """Close every connection; requests under way end as ``httpx.CloseError``."""
        await self._client.close()


def _verify_bundle(pem: bytes) -> None:
    """Refuse a file without a certificate: pyreqwest takes one and trusts nothing new, silently."""
    try:
        ssl.create_default_context(cadata=pem.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError) as error:
        raise UnusableCertificatesError("no certificate in the CA file") from error
