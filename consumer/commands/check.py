"""Check settings, broker and Registry, and the service that runs on this machine; touches no message.

Reads the same settings as `run`: see `journey-consumer run --help`. Declares nothing, sends no journey;
access and secret key are exchanged once. The Registry is asked for a journey that does not exist,
which proves the version and, from v3 on, the token. Exit code 0: the service can start, or consumes (there
may be warnings); 1: a check failed; 2: the configuration is unusable.
"""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator

from rich.console import Console
from rich.text import Text

from consumer.app import build_registry_client
from consumer.checks import Finding, Level
from consumer.checks.broker import check_broker
from consumer.checks.local import check_configuration, check_credentials, check_service
from consumer.checks.registry import check_registry
from consumer.config import Settings, load

_STYLES = {Level.OK: "green", Level.NOTE: "cyan", Level.WARN: "yellow", Level.FAIL: "bold red"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: REGISTRY_TOKEN_FILE=/run/token journey-consumer check"


def run(_args: argparse.Namespace) -> int:
    return asyncio.run(_print(_findings(load(os.environ))))


async def _findings(settings: Settings) -> AsyncIterator[Finding]:
    for finding in (*check_configuration(settings), *check_credentials(settings)):
        yield finding
    async for finding in check_service(settings):
        yield finding
    for finding in await asyncio.to_thread(lambda: list(check_broker(settings))):
        yield finding
    registry = build_registry_client(settings)
    try:
        async for finding in check_registry(settings, registry):
            yield finding
    finally:
        await registry.aclose()


async def _print(findings: AsyncIterator[Finding]) -> int:
    console = Console(soft_wrap=True, highlight=False)
    failed = False
    async for finding in findings:
        failed |= finding.level is Level.FAIL
        level = (f"{finding.level:<6}", _STYLES[finding.level])
        console.print(Text.assemble(level, f"{finding.subject:<15}", finding.text))
    return 1 if failed else 0
