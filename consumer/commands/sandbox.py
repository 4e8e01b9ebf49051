"""Serve a local Registry for your own tests.

It listens on loopback, remembers journeys while it runs, answers like the Registry and fails on demand.
docs/sandbox.md describes its answers, its faults and its control routes.
"""

import argparse
import asyncio
import importlib.util
import logging
import secrets
import signal
import ssl
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from consumer.commands.cli import between, iso_datetime, positive
from consumer.core.clock import utc_now
from consumer.errors import ConfigurationError, ConsumerError

if TYPE_CHECKING:
    from consumer.sandbox import Sandbox


def require_sandbox() -> None:
    """Raise ConfigurationError where the sandbox, an extra, is not installed."""
    if importlib.util.find_spec("consumer.sandbox") is None:
        raise ConfigurationError(
            ["the sandbox is not in this image: build one that has it with `docker build --target sandbox`"]
        )
    if importlib.util.find_spec("aiohttp") is None:
        raise ConfigurationError(["the sandbox needs aiohttp: pip install journey-consumer[sandbox]"])


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--port", type=_port, default=8080, help="port, 0 for any free one (default: 8080)")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add(
        "--profile",
        choices=["2023", "2025"],
        default="2025",
        help="the Registry as captured in August 2025 (default), or in July 2023",
    )
    add("--tls-certificate", metavar="FILE", help="serve https with this PEM certificate")
    add("--tls-key", metavar="FILE", help="its private key, when not in the same file")
    add("--quiet", action="store_true", help="log no requests")
    add = parser.add_argument_group("the Registry").add_argument
    add("--token", action="append", help="token to accept; repeatable (default: a new one, printed)")
    add("--claimless-token", action="append", default=[], help="token without its claims: 403; repeatable")
    add("--access-key", help="with --secret-key: accepted by POST /v3.3/auth/access_token")
    add("--secret-key")
    add(
        "--access-token-lifetime-seconds",
        type=between(0.001, 1e9),
        default=300.0,
        help="(default: %(default)s)",
    )
    add("--operator-id", type=int, default=1, help="operator of these tokens (default: 1)")
    add("--rate-limit", type=positive, default=20_000, help="requests a minute and address (default: 20000)")
    looked_up = "status look-ups, lists and corrections a minute and address (default: 2000)"
    add("--status-limit", type=positive, default=2_000, help=looked_up)
    terms = "which versions the terms of use apply to (default: v3; not with --profile 2023)"
    add("--terms", choices=["v3", "all", "off"], default="v3", help=terms)
    add("--no-v2", action="store_true", help="do not serve v2, as the server of 2025")
    verdicts = "pending journeys become ok so long after their registration (default: never)"
    add("--ok-after-seconds", type=between(0, 1e9), metavar="SECONDS", help=verdicts)
    now = "time at the start; it goes on from there"
    add("--now", type=iso_datetime, metavar="ISO-8601", help=now)
    add = parser.add_argument_group("faults from the start; POST /_sandbox/faults changes them").add_argument
    add("--latency-seconds", type=between(0, 1e6), default=0.0)
    add("--error-rate", type=between(0, 1), default=0.0, help="share of answers that are 500, 0 to 1")
    add("--maintenance", action="store_true", help="answer 503 to everything")


def _port(text: str) -> int:
    return int(between(0, 65_535)(text))


def _clock_from(first: datetime) -> Callable[[], datetime]:
    started = time.monotonic()
    return lambda: first + timedelta(seconds=time.monotonic() - started)


def _tls(args: argparse.Namespace) -> ssl.SSLContext | None:
    if args.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(args.tls_certificate, args.tls_key)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError([f"--tls-certificate: {error.strerror or error}"]) from error
    return context


def run(args: argparse.Namespace) -> int:
    require_sandbox()
    from consumer.sandbox import Profile, Sandbox  # noqa: PLC0415 - an extra

    if (args.access_key is None) != (args.secret_key is None):
        raise ConfigurationError(["--access-key and --secret-key go together"])
    generated = [] if args.token else [secrets.token_urlsafe(24)]
    sandbox = Sandbox(
        tokens=args.token or generated,
        profile=Profile(args.profile),
        claimless=args.claimless_token,
        clock=utc_now if args.now is None else _clock_from(args.now),
        access_key=args.access_key,
        secret_key=args.secret_key,
        access_token_lifetime_seconds=args.access_token_lifetime_seconds,
        operator_id=args.operator_id,
        rate_limit=args.rate_limit,
        status_limit=args.status_limit,
        terms=args.terms,
        serve_v2=not args.no_v2,
        ok_after_seconds=args.ok_after_seconds,
    )
    try:
        faults = ("latency_seconds", "error_rate", "maintenance")
        sandbox.faults.apply({name: getattr(args, name) for name in faults})
    except ValueError as error:
        raise ConfigurationError([str(error)]) from error
    _log_requests(quiet=args.quiet)
    return asyncio.run(_serve(sandbox, args, generated))


def _log_requests(*, quiet: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log = logging.getLogger("consumer.sandbox")
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False


async def _serve(sandbox: "Sandbox", args: argparse.Namespace, generated: list[str]) -> int:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    try:
        await sandbox.start(args.host, args.port, _tls(args))
    except OSError as error:
        raise ConsumerError(f"cannot listen on {args.host}:{args.port}: {error.strerror}") from error
    print(f"sandbox Registry ({args.profile}) on {sandbox.url}", flush=True)  # noqa: T201
    for token in generated:
        print(f"token: {token}", flush=True)  # noqa: T201
    await stopped.wait()
    await sandbox.stop()
    return 0
