"""Checks this machine: the settings, the token or the keys, a running service or the port for one."""

import asyncio
import re
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from consumer.checks import Finding, fail, ok, warn
from consumer.config import Settings
from consumer.registry.secret import UnusableSecretError, read_secret
from consumer.registry.tokens import StaticToken

_FILES = ("registry_token_file", "registry_access_key_file", "registry_secret_key_file")
_READYZ_SECONDS, _LONGEST_ANSWER = 3.0, 4096
_READY = re.compile(
    r"ready(?:; consumption paused: (?P<cause>[a-z_]{1,40}))?|not ready: (?P<obstacle>[a-z -]{1,80})",
    re.ASCII,
)
_PAUSES = {
    "unauthorized": ", the Registry refuses the token",
    "forbidden": ", the Registry accepts the token for no journey",
    "misconfigured": ", the Registry does not serve this address or version, or there is no token",
    "unavailable": ", the Registry does not answer as it should",
}
_UNUSABLE = {
    "unreadable": "cannot be read",
    "empty": "is empty",
    "invalid": "does not hold a token or key alone: visible ASCII without spaces, at most 8 kB",
}


def check_configuration(settings: Settings) -> Iterator[Finding]:
    """The settings were loaded, so they are usable; their warnings are findings."""
    registry = f"{settings.registry_url} ({settings.registry_api_version})"
    yield ok("configuration", f"valid; from the queue {settings.broker_queue!r} to {registry}")
    for sentence in settings.warnings:
        yield warn("configuration", sentence)


def check_credentials(settings: Settings) -> Iterator[Finding]:
    """The token or the keys can be read, by their owner only; not whether the Registry accepts them."""
    for name in _FILES:
        path = getattr(settings, name)
        if path is not None:
            yield from _file(name.upper(), path)
    if settings.registry_token is not None:
        yield _expiry("REGISTRY_TOKEN", settings.registry_token.get_secret_value())


def _file(name: str, path: Path) -> Iterator[Finding]:
    try:
        secret = read_secret(path)
        mode = path.stat().st_mode
    except UnusableSecretError as error:
        yield fail("credentials", f"{name}: {path} {_UNUSABLE[error.code]}")
        return
    except OSError as error:
        yield fail("credentials", f"{name}: {path}: {error.strerror}")
        return
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        what = f"{'changed' if mode & stat.S_IWOTH else 'read'} by every user of this machine"
        yield warn("credentials", f"{name}: {path} can be {what} ({stat.filemode(mode)})")
    yield _expiry(name, secret)


def _expiry(name: str, secret: str) -> Finding:
    """A token's own expiry; a key, and most tokens, have none that can be read."""
    expires_at = StaticToken(secret).held.expires_at
    if expires_at is None:
        return ok("credentials", f"{name}: readable")
    days = (expires_at - time.time()) / 86_400
    if days <= 0:
        return fail("credentials", f"{name}: the token has expired")
    return ok("credentials", f"{name}: readable, expires in {days:.1f} days")


async def check_service(settings: Settings) -> AsyncIterator[Finding]:
    """The port of /metrics and the probes is free, or the service that holds it is ready and not paused."""
    host, port = settings.http_host, settings.http_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            refused = error.strerror
        else:
            yield ok("http", f"{host}:{port} is free for /metrics, /livez and /readyz")
            return
    said = _READY.fullmatch(await _readyz({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port))  # noqa: S104
    if said is None:
        yield warn(
            "http", f"{host}:{port} cannot be used now ({refused}), and no service of ours answers there"
        )
    elif (cause := said["cause"]) is not None:
        yield fail(
            "service", f"the service that runs here has paused consumption: {cause}{_PAUSES.get(cause, '')}"
        )
    elif (obstacle := said["obstacle"]) is not None:
        yield fail("service", f"the service that runs here is not ready: {obstacle}")
    else:
        yield ok("service", "the service that runs here is ready and consumes")


async def _readyz(host: str, port: int) -> str:
    """The text of ``/readyz``; empty when there is none in time."""
    try:
        async with asyncio.timeout(_READYZ_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
                answer = await reader.read(_LONGEST_ANSWER)
                while not reader.at_eof() and len(answer) < _LONGEST_ANSWER:
                    answer += await reader.read(_LONGEST_ANSWER)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return ""
    return answer.partition(b"\r\n\r\n")[2].decode("ascii", "replace").strip()
