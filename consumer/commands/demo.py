"""Watch journeys flow, fail, wait and recover, on embedded parts, in about a minute.

The real service between kombu's in-memory broker and a local sandbox Registry, all in this process: nothing
is installed, nothing leaves this machine. On a terminal a live screen, elsewhere plain lines. At the end
every journey is accounted for. Exit code 1: the account does not balance.
"""

import argparse
import asyncio
import signal
from contextlib import nullcontext

from rich.console import Console
from rich.live import Live

from consumer.commands.cli import between
from consumer.commands.sandbox import require_sandbox

_KILLED = 128  # shells add the number of the signal to it


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--speed", type=between(0.1, 50), default=1.0, metavar="X", help="play X times as fast"
    )
    parser.add_argument(
        "--api-version", choices=["v2", "v3"], default="v3", help="form of the journeys (default: v3)"
    )
    parser.add_argument("--plain", action="store_true", help="print lines instead of the live screen")


def run(args: argparse.Namespace) -> int:
    require_sandbox()
    return asyncio.run(_run(args))


async def _run(args: argparse.Namespace) -> int:
    """Play; a signal cancels, so that the temporary folder is removed."""
    playing, caught = asyncio.ensure_future(_play(args)), list[int]()

    def stop(number: int) -> None:
        caught.append(number)
        playing.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await playing
    except asyncio.CancelledError:
        if not caught:
            raise
        return _KILLED + caught[0]


async def _play(args: argparse.Namespace) -> int:
    from consumer.demo import script, stage, view  # noqa: PLC0415 - an extra

    console = Console()
    is_live = console.is_terminal and not console.is_dumb_terminal and not args.plain
    live = Live(console=console, screen=True, auto_refresh=False) if is_live else None
    async with stage.Stage(args.api_version, speed=args.speed) as parts:
        with live or nullcontext():
            demo = script.Demo(parts, view.View(console, live).show)
            account = await demo.run()
    if is_live:
        view.print_events(console, demo.events)
    view.print_account(console, account)
    return 0 if account.balances else 1
