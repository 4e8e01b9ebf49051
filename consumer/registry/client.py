"""The Registry over HTTP: bytes and a token in, a ``Reply`` or a ``Fault`` out.

1. The only module that drives httpx. Answers are classified elsewhere: see ``classify``.
2. Nothing that the network does raises here; each foreign exception has a row in ``FAULTS``.
3. Every exchange ends within ``timeout_seconds``, whatever the server drips, and holds at most
   ``MAX_BODY_BYTES`` of its answer.
4. Redirects are not followed (the token must not travel), nothing is retried, there are no cookies.
5. Neither token nor keys nor an exception's text leave this module.
"""

import asyncio
import json
import ssl
import zlib
from collections.abc import AsyncIterable, Mapping
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from consumer import __version__
from consumer.core.reply import Fault, FaultKind, Reply
from consumer.errors import ConfigurationError
from consumer.registry.transport import ReqwestTransport, TlsError, UnusableCertificatesError

#: What carries requests; replaced in tests.
Transport = httpx.AsyncBaseTransport

MAX_BODY_BYTES: Final = 64 * 1024
_ACCESS_TOKEN_VERSION: Final = "v3.3"  # the only version that offers the key exchange  # noqa: S105

_CLASSES: Final[Mapping[FaultKind, tuple[type[Exception], ...]]] = {
    # never sent
    FaultKind.TLS: (TlsError, ssl.SSLError),
    FaultKind.CONNECT: (httpx.ConnectError, httpx.ProxyError),
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
FAULTS: Final = {cls: kind for kind, classes in _CLASSES.items() for cls in classes}
_FOREIGN: Final = tuple(FAULTS)


def fault_of(error: Exception) -> Fault:
    """Find the row of ``FAULTS`` nearest to the exception's class; its text is dropped."""
    kind = next(FAULTS[cls] for cls in type(error).__mro__ if cls in FAULTS)
    return Fault(kind, type(error).__name__)


class RegistryClient:
    """One Registry, one version, at most ``concurrency`` requests at once.

    ``url`` is the origin (``https://host``), ``api_version`` the path's first part (``v2``, ``v3``,
    ``v3.2``, ``v3.3``). ``transport`` replaces the network in tests. Raises ConfigurationError when
    the URL, the proxy or the CA file is unusable. Must be made and used on one event loop.
    """

    def __init__(
        self,
        *,
        url: str,
        api_version: str,
        timeout_seconds: float,
        concurrency: int,
        ca_file: str | Path | None = None,
        proxy: str | None = None,
        trust_env: bool = False,
        transport: Transport | None = None,
    ) -> None:
        origin = _origin(url)
        # Our own transport keeps the deadline itself, in Rust, where it costs nothing.
        self._guard_seconds = None if transport is None else timeout_seconds
        self._origin = httpx.URL(f"{origin}/")
        self._journeys = httpx.URL(f"{origin}/{api_version}/journeys")
        self._access_token = httpx.URL(f"{origin}/{_ACCESS_TOKEN_VERSION}/auth/access_token")
        self._plain_headers = httpx.Headers(
            {
                "User-Agent": f"journey-consumer/{__version__}",
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            }
        )
        self._token = SecretStr("")
        self._token_headers = self._plain_headers
        try:
            self._transport = transport or ReqwestTransport(
                concurrency=concurrency,
                timeout_seconds=timeout_seconds,
                ca_pem=None if ca_file is None else Path(ca_file).read_bytes(),
                proxy=proxy,
                trust_env=trust_env,
                https_only=origin.startswith("https:"),
            )
        except OSError as error:
            raise ConfigurationError([f"REGISTRY_CA_FILE cannot be read: {error.strerror}"]) from error
        except UnusableCertificatesError as error:
            raise ConfigurationError([f"REGISTRY_CA_FILE: {error}"]) from error
        except ValueError:  # its text quotes the proxy's URL, which may hold a password
            raise ConfigurationError(["the proxy of the Registry is not a usable URL"]) from None

    async def post_journey(self, body: bytes, token: str) -> Reply | Fault:
        """POST one journey, byte for byte as given."""
        if token != self._token.get_secret_value():  # a new token: the only thing that ever changes
            headers = self._plain_headers.copy()
            headers["Authorization"] = f"Bearer {token}"
            self._token, self._token_headers = SecretStr(token), headers
        return await self._exchange("POST", self._journeys, self._token_headers, body)

    async def post_access_token(self, access_key: str, secret_key: str) -> Reply | Fault:
        """Exchange the keys for a short-lived token (v3.3: 201 with ``access_token``, 5 calls a minute)."""
        body = json.dumps({"access_key": access_key, "secret_key": secret_key}).encode()
        return await self._exchange("POST", self._access_token, self._plain_headers, body)

    async def get_front_page(self) -> Reply | Fault:
        """GET the front page without a token: shows ``check`` that it answers, and its ``date``."""
        return await self._exchange("GET", self._origin, self._plain_headers, b"")

    async def aclose(self) -> None:
        """Close the connections; exchanges under way end as faults."""
        await self._transport.aclose()

    async def _exchange(
        self, method: str, url: httpx.URL, headers: httpx.Headers, body: bytes
    ) -> Reply | Fault:
        # `stream` instead of `content`: no default headers are computed for each request.
        request = httpx.Request(method, url, headers=headers, stream=httpx.ByteStream(body))
        try:
            if self._guard_seconds is None:
                return await self._send(request)
            async with asyncio.timeout(self._guard_seconds):
                return await self._send(request)
        except _FOREIGN as error:
            return fault_of(error)

    async def _send(self, request: httpx.Request) -> Reply | Fault:
        response = await self._transport.handle_async_request(request)
        try:
            body, whole = await _bounded(cast("AsyncIterable[bytes]", response.stream))
        finally:
            await response.aclose()
        # Names and values as they came: httpx would guess an encoding for them at every look.
        raw = response.headers.raw
        headers = {k.lower().decode("latin-1"): v.decode("latin-1") for k, v in raw}
        if len(headers) < len(raw) and "retry-after" in headers:  # a gateway may have added its own
            headers["retry-after"] = ", ".join(response.headers.get_list("retry-after"))
        if headers.get("content-encoding", "").lower() in {"gzip", "x-gzip", "deflate"}:
            body, whole = _decompressed(body, whole=whole)  # a gateway's doing: we asked for `identity`
        if not whole and response.is_success:
            # An error's status speaks for itself; a success is believed only for its result.
            return Fault(FaultKind.TOO_LARGE)
        return Reply(response.status_code, headers, body)


async def _bounded(stream: AsyncIterable[bytes]) -> tuple[bytes, bool]:
    """Read at most MAX_BODY_BYTES; the flag says whether that was all."""
    first = b""
    async for chunk in stream:
        first = first + chunk if first else chunk
        if len(first) > MAX_BODY_BYTES:
            return first[:MAX_BODY_BYTES], False
    return first, True


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
