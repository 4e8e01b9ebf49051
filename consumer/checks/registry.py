"""Findings about the Registry: reached over TLS, its clock and ours, the keys' worth.

No journey is sent. A token's worth can not be known without sending one; keys are exchanged once.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from consumer.app import build_token_source
from consumer.checks.finding import Finding, expiry, fail, ok, warn
from consumer.config import Settings
from consumer.core.outcome import Misconfigured, Unauthorized, Unavailable
from consumer.core.reply import Fault, FaultKind, Reply
from consumer.registry.client import RegistryClient

#: The Registry refuses journeys that end in its future: a clock that is ahead sends them too soon, one
#: that is behind holds them back. Both are tried again, so seconds matter little and minutes do.
SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 5.0, 60.0
_SERVER_ERRORS = 500
_FAULTS = {
    FaultKind.TLS: "the TLS handshake failed: its certificate is not accepted",
    FaultKind.CONNECT: "can not be reached: the name is unknown or nobody listens there",
    FaultKind.CONNECT_TIMEOUT: "can not be reached: no answer to connecting in time",
    FaultKind.TIMEOUT: "did not answer in time",
    FaultKind.READ: "closed the connection instead of answering",
    FaultKind.PROTOCOL: "answered with something that is not HTTP",
}


async def check_registry(settings: Settings, registry: RegistryClient) -> AsyncIterator[Finding]:
    """Look at the front page, the certificate and the clock; then try the keys, if there are any."""
    asked_at = time.time()
    answer = await registry.look()
    answered_at = time.time()
    if isinstance(answer, Fault):
        words = _FAULTS.get(answer.kind, f"can not be asked ({answer.kind.value})")
        reason = await asyncio.to_thread(_tls_reason, settings) if answer.kind is FaultKind.TLS else ""
        yield fail("registry", f"{settings.registry_url} {words}{reason}")
        return
    if answer.status >= _SERVER_ERRORS:
        yield warn("registry", f"{settings.registry_url} answers {answer.status} at the moment")
    else:
        secured = " over TLS" if settings.registry_url.startswith("https:") else ""
        yield ok("registry", f"{settings.registry_url} reachable{secured}, {answered_at - asked_at:.2f} s")
    if (ending := await asyncio.to_thread(_certificate, settings)) is not None:
        yield ending
    yield _clock(answer, (asked_at + answered_at) / 2)
    if settings.registry_access_key or settings.registry_access_key_file:
        yield await _keys(settings, registry)


def _clock(answer: Reply, ours: float) -> Finding:
    """Compare ``ours`` (epoch seconds) with the Date header, which is cut to the second."""
    try:
        theirs = parsedate_to_datetime(answer.headers.get("date", "")).timestamp() + 0.5
    except ValueError:
        return warn("clock", "the Registry's answer holds no date to compare this machine's clock with")
    skew = ours - theirs
    if abs(skew) < SKEW_WARN_SECONDS:
        return ok("clock", f"agrees with the Registry's within {SKEW_WARN_SECONDS:.0f} s")
    text = (
        f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the Registry's: set this machine's clock"
    )
    return fail("clock", text) if abs(skew) > SKEW_FAIL_SECONDS else warn("clock", text)


def _certificate(settings: Settings) -> Finding | None:
    """When the Registry's certificate ends; None when that is far away, or not to be seen from here."""
    if not settings.registry_url.startswith("https:") or settings.registry_proxy_url is not None:
        return None
    try:
        certificate = _handshake(settings)
    except OSError:  # the service reached it: it trusts more than this Python does
        return None
    return expiry("registry", ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time())


def _tls_reason(settings: Settings) -> str:
    """Python's own words on a certificate that is not accepted, which are better than the client's."""
    try:
        _handshake(settings)
    except ssl.SSLCertVerificationError as error:
        return f" ({error.verify_message})"
    except OSError:
        return ""
    return ""


def _handshake(settings: Settings) -> dict[str, Any]:
    """Connect as the service does and return the verified certificate. Blocking; raises OSError."""
    parts = urlsplit(settings.registry_url)
    context = ssl.create_default_context()
    if settings.registry_ca_file is not None:
        context.load_verify_locations(settings.registry_ca_file)
    address = (parts.hostname or "", parts.port or 443)
    with (
        socket.create_connection(address, settings.registry_timeout_seconds) as plain,
        context.wrap_socket(plain, server_hostname=parts.hostname) as secured,
    ):
        return dict(secured.getpeercert() or {})


async def _keys(settings: Settings, registry: RegistryClient) -> Finding:
    """Exchange the keys once; it is one of the five exchanges that the Registry allows a minute."""
    source = build_token_source(settings, registry)
    try:
        got = await source.token()
    finally:
        await source.aclose()
    if isinstance(got, str):
        return ok("credentials", "the Registry gives a token for the access and secret key")
    reason = got.detail if isinstance(got, Unauthorized | Unavailable | Misconfigured) else type(got).__name__
    return fail("credentials", f"no token for the access and secret key: {reason}")
