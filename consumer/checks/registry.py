"""Checks the Registry: TLS, its clock and ours, the access and secret key, the token and the version.

No journey is sent: one that does not exist is asked for; keys are exchanged once.
"""

import asyncio
import socket
import ssl
import time
import uuid
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from consumer.app import build_tls, build_token_source
from consumer.checks import Finding, expiry, fail, note, ok, warn
from consumer.config import Settings
from consumer.core.outcome import Forbidden, Misconfigured, Outcome, Unauthorized, Unavailable
from consumer.core.reply import Fault, FaultKind, Reply
from consumer.registry.classify import NO_CLIENT_CERTIFICATE, classify
from consumer.registry.client import RegistryClient
from consumer.registry.jsonrpc import parse, read_error
from consumer.registry.transport import ClientCertificateError

#: The Registry refuses journeys that end in its future: with a clock that is ahead they are sent too soon,
#: with one that is behind they are held. Both are retried, so that only minutes matter.
SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 5.0, 60.0
_SERVER_ERRORS, _NOT_FOUND = 500, 404
_NO_SUCH_JOURNEY = {"-32504", "404"}
_NO_CERTIFICATE = (
    "wants a client certificate, and REGISTRY_CLIENT_CERT_FILE and REGISTRY_CLIENT_KEY_FILE "
    "name none that it accepts"
)
_FAULTS = {
    FaultKind.TLS: "the TLS handshake failed: its certificate is not accepted",
    FaultKind.PROXY: "is not reached: the proxy of REGISTRY_PROXY_URL did not connect",
    FaultKind.CONNECT: "cannot be reached: unknown host name, or no server listens on this address and port",
    FaultKind.CONNECT_TIMEOUT: "cannot be reached: connecting timed out",
    FaultKind.TIMEOUT: "did not answer in time",
    FaultKind.READ: "closed the connection instead of answering",
    FaultKind.PROTOCOL: "did not answer with HTTP",
}


async def check_registry(settings: Settings, registry: RegistryClient) -> AsyncIterator[Finding]:
    """The front page, the certificate and the clock; then the keys, if there are any, and the token."""
    asked_at = time.time()
    answer = await registry.get_front_page()
    answered_at = time.time()
    if isinstance(answer, Fault):
        yield fail("registry", f"{settings.registry_url} {await _fault(settings, answer)}")
        return
    if isinstance(said := classify(answer), Unavailable) and said.detail == NO_CLIENT_CERTIFICATE:
        yield fail("registry", f"{settings.registry_url} {_NO_CERTIFICATE}")
        return
    if answer.status >= _SERVER_ERRORS:
        yield warn("registry", f"{settings.registry_url} answers {answer.status} now")
    else:
        secured = " over TLS" if settings.registry_url.startswith("https:") else ""
        yield ok("registry", f"{settings.registry_url} reachable{secured}, {answered_at - asked_at:.2f} s")
    if settings.registry_url.startswith("https:") and settings.registry_proxy_url is None:
        certificate = await asyncio.to_thread(_handshake, settings)
        if isinstance(certificate, dict):
            for finding in expiry("registry", certificate):
                yield finding
    yield _clock(answer, (asked_at + answered_at) / 2)
    source = build_token_source(settings, registry)
    try:
        token = await source.token()
    finally:
        await source.aclose()
    if settings.registry_access_key or settings.registry_access_key_file:
        yield _keys(token)
    if isinstance(token, str):  # else that was a finding
        yield await _token(settings.registry_api_version, registry, token)


async def _fault(settings: Settings, fault: Fault) -> str:
    if fault.kind is FaultKind.PROXY and fault.detail.isdecimal():
        wanted = ": it wants user and password in REGISTRY_PROXY_URL" if fault.detail == "407" else ""
        return f"is not reached: the proxy answered {fault.detail} instead of connecting{wanted}"
    if fault.detail == ClientCertificateError.__name__:
        return _NO_CERTIFICATE
    text = _FAULTS.get(fault.kind, f"cannot be reached ({fault.kind.value})")
    if fault.kind is FaultKind.TLS:  # the HTTP client does not give OpenSSL's reason
        refused = await asyncio.to_thread(_handshake, settings)
        if isinstance(refused, ssl.SSLCertVerificationError):
            return f"{text} ({refused.verify_message})"
    return text


def _clock(answer: Reply, ours: float) -> Finding:
    """Compare ``ours`` (epoch seconds) with the Date header, which is truncated to the second."""
    try:
        theirs = parsedate_to_datetime(answer.headers.get("date", "")).timestamp() + 0.5
    except ValueError:
        return warn("clock", "not compared: the Registry's answer has no date")
    skew = ours - theirs
    if abs(skew) < SKEW_WARN_SECONDS:
        return ok("clock", f"agrees with the Registry's within {SKEW_WARN_SECONDS:.0f} s")
    text = (
        f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the Registry's: set this machine's clock"
    )
    return fail("clock", text) if abs(skew) > SKEW_FAIL_SECONDS else warn("clock", text)


def _handshake(settings: Settings) -> dict[str, Any] | OSError:
    """The Registry's verified certificate, or why there is none. Blocking."""
    parts = urlsplit(settings.registry_url)
    address = (parts.hostname or "", parts.port or 443)
    try:
        with (
            socket.create_connection(address, settings.registry_timeout_seconds) as plain,
            build_tls(settings).context.wrap_socket(plain, server_hostname=parts.hostname) as secured,
        ):
            return dict(secured.getpeercert() or {})
    except OSError as error:
        return error


def _keys(got: str | Outcome) -> Finding:
    """The keys were exchanged once; the Registry allows five exchanges a minute."""
    if isinstance(got, str):
        return ok("credentials", "the Registry issues a token for the access and secret key")
    reason = got.detail if isinstance(got, Unauthorized | Unavailable | Misconfigured) else type(got).__name__
    return fail("credentials", f"no token for the access and secret key: {reason}")


async def _token(version: str, registry: RegistryClient, token: str) -> Finding:
    """Ask for a journey that does not exist: only with a good token the Registry says that it does not."""
    unknown = "whether the token is accepted cannot be known"
    answer = await registry.get_journey(str(uuid.uuid4()), token)
    not_found = answer if isinstance(answer, Reply) and answer.status == _NOT_FOUND else None
    if version == "v2" and (not_found is None or not_found.body.strip()):  # an empty 404: not served at all
        return note("credentials", f"{unknown}: v2 has no way to ask")
    if not_found is not None:
        error = read_error(_NOT_FOUND, parse(not_found.body))
        if error is not None and error.label in _NO_SUCH_JOURNEY:
            return ok("credentials", f"the Registry accepts the token, and serves {version}")
    match outcome := classify(answer):
        case Unauthorized():
            return fail("credentials", f"the Registry refuses the token ({outcome.status}, {outcome.detail})")
        case Forbidden():
            which = f"({outcome.status}, {outcome.detail})"
            return fail("credentials", f"the Registry does not allow this token what it is for {which}")
        case Misconfigured():
            wrong = f"({outcome.detail}): REGISTRY_API_VERSION or REGISTRY_URL is wrong"
            return fail("registry", f"{version} is not served there {wrong}")
    if isinstance(answer, Reply):
        now = f"the Registry answers {answer.status}"
    else:
        now = f"it {_FAULTS.get(answer.kind, answer.kind.value)}"
    return warn("credentials", f"{unknown} now: {now}")
