"""The Registry over HTTP: bytes and a token in, a ``Reply`` or a ``Fault`` out.

1. The only module that drives httpx. Answers are classified elsewhere: see ``classify``. Keys, and everything
   through a proxy, travel over httpx's own transport, the rest over ours.
2. Nothing that the network does raises here; each foreign exception has a row in ``FAULTS``.
3. Every exchange ends within ``timeout_seconds``, whatever the server drips, and holds at most
   ``MAX_BODY_BYTES`` of its answer.
4. The status of an error is told although its body was cut; a success is believed only when it is whole.
5. Redirects are not followed (the token must not travel), nothing is retried, there are no cookies, and the
   proxies of the environment are not used.
6. Neither token nor keys nor an exception's text leave this module.
"""

import asyncio
import contextlib
import json
import re
import ssl
import zlib
from collections.abc import AsyncIterable, Mapping
from typing import Final, cast
from urllib.parse import quote, urlsplit

import httpx
from pydantic import SecretStr

from consumer import __version__
from consumer.core.reply import Fault, FaultKind, Reply
from consumer.errors import ConfigurationError
from consumer.registry.tls import Tls
from consumer.registry.transport import (
    IDLE_SECONDS,
    MAX_CONNECT_SECONDS,
    ClientCertificateError,
    DirectTransport,
    TlsError,
    tls_error,
)

#: What carries requests; replaced in tests.
Transport = httpx.AsyncBaseTransport

MAX_BODY_BYTES: Final = 64 * 1024
_ACCESS_TOKEN_VERSION: Final = "v3.3"  # the only version that offers the key exchange  # noqa: S105

_CLASSES: Final[Mapping[FaultKind, tuple[type[Exception], ...]]] = {
    # never sent
    FaultKind.TLS: (TlsError, ClientCertificateError, ssl.SSLError),
    FaultKind.CONNECT: (httpx.ConnectError,),
    FaultKind.PROXY: (httpx.ProxyError,),
    FaultKind.CONNECT_TIMEOUT: (httpx.ConnectTimeout,),
    FaultKind.POOL_TIMEOUT: (httpx.PoolTimeout,),
    # perhaps processed; TimeoutError is our own deadline
    FaultKind.TIMEOUT: (TimeoutError, httpx.TimeoutException, httpx.ReadTimeout, httpx.WriteTimeout),
    FaultKind.READ: (httpx.NetworkError, httpx.ReadError, httpx.WriteError, httpx.CloseError, OSError),
    FaultKind.PROTOCOL: (httpx.ProtocolError, httpx.RemoteProtocolError, httpx.DecodingError),
    # only a bug here or in the client raises these
    FaultKind.OTHER: (
        *(httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL),
        *(httpx.CookieConflict, httpx.StreamError, httpx.StreamConsumed, httpx.StreamClosed),
        *(httpx.ResponseNotRead, httpx.RequestNotRead, httpx.HTTPStatusError),
        *(httpx.TransportError, httpx.RequestError, httpx.HTTPError),
    ),
}
#: The headers of an answer that anything here reads; the others are not decoded for each journey.
_READ: Final = {
    name.encode("ascii"): name
    for name in (
        *("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "ratelimit-policy"),
        *("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
        *("date", "retry-after", "content-encoding"),
    )
}
_KEPT_BY_THE_TRANSPORT: Final = contextlib.nullcontext()  # the deadline
FAULTS: Final = {cls: kind for kind, classes in _CLASSES.items() for cls in classes}
_FOREIGN: Final = tuple(FAULTS)


_HANDSHAKE: Final = (FaultKind.CONNECT, FaultKind.TLS)
_PROXY_STATUS: Final = re.compile(r"([1-5][0-9]{2})\b")


def fault_of(error: Exception) -> Fault:
    """Find the row of ``FAULTS`` nearest to the exception's class; its text is dropped.

    httpx tells a failed TLS handshake by the cause of a ConnectError only, and a proxy's answer to CONNECT by
    the text of a ProxyError only, which begins with the status.
    """
    kind = next(FAULTS[cls] for cls in type(error).__mro__ if cls in FAULTS)
    if kind is FaultKind.PROXY and (status := _PROXY_STATUS.match(str(error))):
        return Fault(kind, status[1])
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, TlsError):
        if isinstance(cause, ssl.SSLError):
            told = tls_error(cause)
            if kind in _HANDSHAKE or isinstance(told, ClientCertificateError):
                return Fault(FaultKind.TLS, type(told).__name__)
        cause = cause.__cause__ or cause.__context__
    return Fault(kind, type(error).__name__)


class RegistryClient:
    """One Registry, one version, at most ``concurrency`` requests at once.

    ``url`` is the origin (``https://host``), ``api_version`` the path's first part (``v2``, ``v3``,
    ``v3.2``, ``v3.3``). ``transport`` replaces the network in tests. Raises ConfigurationError when
    the URL, the proxy or a certificate's file is unusable. Must be made and used on one event loop.
    """

    def __init__(
        self,
        *,
        url: str,
        api_version: str,
        timeout_seconds: float,
        concurrency: int,
        connection_seconds: float = 60.0,
        tls: Tls | None = None,
        proxy: str | None = None,
        transport: Transport | None = None,
    ) -> None:
        origin = _origin(url)
        self._origin = httpx.URL(f"{origin}/")
        self._journeys = httpx.URL(f"{origin}/{api_version}/journeys")
        self._access_token = httpx.URL(f"{origin}/{_ACCESS_TOKEN_VERSION}/auth/access_token")
        self._plain_headers = httpx.Headers(
            {
                "Host": self._origin.netloc.decode("ascii"),
                "User-Agent": f"journey-consumer/{__version__}",
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            }
        )
        self._token = SecretStr("")
        self._token_headers = self._plain_headers
        self._timeout_seconds = timeout_seconds
        connecting = min(MAX_CONNECT_SECONDS, timeout_seconds / 2)
        timeout = httpx.Timeout(timeout_seconds, connect=connecting, pool=timeout_seconds / 2)
        self._extensions = {"timeout": timeout.as_dict()}
        self._tls = (
            Tls() if tls is None and transport is None else tls
        )  # nothing is read for a test's transport
        self._direct: DirectTransport | None = None
        self._transport = transport or httpx_transport(concurrency, self._tls, proxy)
        if transport is None and proxy is None:
            self._direct = DirectTransport(
                origin=self._origin,
                concurrency=concurrency,
                timeout_seconds=timeout_seconds,
                connection_seconds=connection_seconds,
                max_body_bytes=MAX_BODY_BYTES,
                tls=self._tls,
            )

    async def post_journey(self, body: bytes, token: str) -> Reply | Fault:
        """POST one journey, byte for byte as given."""
        return await self._exchange_directly("POST", self._journeys, self._authorized(token), body)

    async def get_journey(self, journey_id: str, token: str) -> Reply | Fault:
        """GET what the Registry knows of a journey (v3.2, v3.3; 2,000 calls a minute)."""
        # A lone surrogate is an id like any other; dots alone would be another route.
        encoded = quote(journey_id, safe="", errors="surrogatepass")
        if not encoded.strip("."):
            encoded = encoded.replace(".", "%2E")
        url = self._journeys.copy_with(raw_path=self._journeys.raw_path + f"/{encoded}".encode("ascii"))
        return await self._exchange("GET", url, self._authorized(token), b"")

    def _authorized(self, token: str) -> httpx.Headers:
        if token != self._token.get_secret_value():  # a new token: the only thing that ever changes
            headers = self._plain_headers.copy()
            headers["Authorization"] = f"Bearer {token}"
            self._token, self._token_headers = SecretStr(token), headers
        return self._token_headers

    async def post_access_token(self, access_key: str, secret_key: str) -> Reply | Fault:
        """Exchange the keys for a short-lived token (v3.3: 201 with ``access_token``, 5 calls a minute)."""
        body = json.dumps({"access_key": access_key, "secret_key": secret_key}).encode()
        return await self._exchange("POST", self._access_token, self._plain_headers, body)

    async def get_front_page(self) -> Reply | Fault:
        """GET the front page without a token: shows ``check`` that it answers, and its ``date``."""
        return await self._exchange_directly("GET", self._origin, self._plain_headers, b"")

    async def aclose(self) -> None:
        """Close the connections; exchanges under way end as faults."""
        if self._direct is not None:
            await self._direct.aclose()
        await self._transport.aclose()

    async def _exchange_directly(
        self, method: str, url: httpx.URL, headers: httpx.Headers, body: bytes
    ) -> Reply | Fault:
        if self._direct is None:
            return await self._exchange(method, url, headers, body)
        # Neither `content` nor a length: the transport adds what else would be computed for each request.
        request = httpx.Request(method, url, headers=headers, stream=httpx.ByteStream(body))
        return await self._send(self._direct, request, _KEPT_BY_THE_TRANSPORT)

    async def _exchange(
        self, method: str, url: httpx.URL, headers: httpx.Headers, body: bytes
    ) -> Reply | Fault:
        headers = headers.copy()
        headers["Content-Length"] = str(len(body))
        stream = httpx.ByteStream(body)
        request = httpx.Request(method, url, headers=headers, stream=stream, extensions=self._extensions)
        if self._tls is not None:
            self._tls.refresh()
        return await self._send(self._transport, request, asyncio.timeout(self._timeout_seconds))

    async def _send(
        self,
        transport: Transport,
        request: httpx.Request,
        deadline: contextlib.AbstractAsyncContextManager[object],
    ) -> Reply | Fault:
        response, body, cut = None, b"", None
        try:
            async with deadline:
                response = await transport.handle_async_request(request)
                if isinstance(response.stream, httpx.ByteStream):
                    body = b"".join(response.stream)
                else:
                    async for chunk in cast("AsyncIterable[bytes]", response.stream):
                        body = body + chunk if body else chunk
                        if len(body) > MAX_BODY_BYTES:
                            break
        except _FOREIGN as error:
            cut = error
        finally:
            if response is not None and not isinstance(response.stream, httpx.ByteStream):
                await response.aclose()
        return _reply(response, body, cut)


def httpx_transport(concurrency: int, tls: Tls | None, proxy: str | None = None) -> httpx.AsyncHTTPTransport:
    """Httpx's own transport with our limits. Raises ConfigurationError when the proxy's URL is unusable."""
    limits = httpx.Limits(
        max_connections=concurrency, max_keepalive_connections=concurrency, keepalive_expiry=IDLE_SECONDS
    )
    try:
        verify = tls.context if tls is not None else True
        return httpx.AsyncHTTPTransport(verify=verify, trust_env=False, limits=limits, proxy=proxy)
    except (ValueError, httpx.InvalidURL):  # its text quotes the proxy's URL, which may hold a password
        raise ConfigurationError(["the proxy of the Registry is not a usable URL"]) from None


def _reply(response: httpx.Response | None, body: bytes, cut: Exception | None) -> Reply | Fault:
    """What has come of an answer; an error's status speaks for itself."""
    if cut is not None and (response is None or response.is_success):
        return fault_of(cut)
    if response is None:
        raise TypeError("neither an answer nor an exception")
    whole = len(body) <= MAX_BODY_BYTES
    body = body[:MAX_BODY_BYTES]
    headers: dict[str, str] = {}
    for name, value in response.headers.raw:  # as they came: httpx would guess an encoding at every look
        if (key := _READ.get(name.lower())) is not None:
            headers[key] = value.decode("latin-1")
    if "retry-after" in headers:  # a gateway may have added its own
        headers["retry-after"] = ", ".join(response.headers.get_list("retry-after"))
    if headers.get("content-encoding", "").lower() in {"gzip", "x-gzip", "deflate"}:
        body, whole = _decompressed(body, whole=whole)  # a gateway's doing: we asked for `identity`
    if not whole and response.is_success:
        return Fault(FaultKind.TOO_LARGE)
    return Reply(response.status_code, headers, body)


def _decompressed(body: bytes, *, whole: bool) -> tuple[bytes, bool]:
    """Decompress at most MAX_BODY_BYTES, of a bounded body what there is; what is not zlib's stays."""
    decoder = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
    try:
        decoded = decoder.decompress(body, MAX_BODY_BYTES)
    except zlib.error:
        return body, whole
    return decoded, whole and decoder.eof


def _origin(url: str) -> str:
    """Give scheme, host and path without a trailing slash; the text of a refusal never quotes the URL."""
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in {"http", "https"}
            and parts.hostname
            and parts.port != 0
            and not (parts.username or parts.password or parts.query or parts.fragment)
            and httpx.URL(url).host
        )
    except (ValueError, httpx.InvalidURL):
        usable = False
    if not usable:
        raise ConfigurationError(["REGISTRY_URL must be http(s)://host without user, query or fragment"])
    return url.rstrip("/")
