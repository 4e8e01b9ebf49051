"""Watch journeys flow, fail, wait and recover, on embedded parts, in about a minute.

The real service between kombu's in-memory broker and a local sandbox Registry, all in this process: nothing
is installed, nothing leaves this machine. On a terminal a live view, elsewhere plain lines. At the end every
journey is accounted for. Exit code 1: the account does not balance.
"""

import argparse
import asyncio
import signal

from rich.console import Console

from consumer.demo import Demo, PlainView, RichView, Stage
from consumer.errors import ConfigurationError

_KILLED = 128  # the shells' way of saying which signal it was


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="play X times as fast")
    parser.add_argument(
        "--api-version", choices=["v2", "v3"], default="v3", help="form of the journeys (default: v3)"
    )
    parser.add_argument("--plain", action="store_true", help="lines instead of the live view")


def run(args: argparse.Namespace) -> int:
    """Play the demo; 0 when the account balances."""
    if not 0.1 <= args.speed <= 50:  # noqa: PLR2004
        raise ConfigurationError(["--speed must be from 0.1 to 50"])
    return asyncio.run(_play(args))


async def _play(args: argparse.Namespace) -> int:
    """Play; a signal ends it in order, so that the temporary folder goes as well."""
    playing = asyncio.ensure_future(_play_on(args))
    loop, caught = asyncio.get_running_loop(), list[int]()

    def stop(number: signal.Signals) -> None:
        caught.append(number)
        playing.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        return await playing
    except asyncio.CancelledError:
        if not caught:
            raise
        return _KILLED + caught[0]


async def _play_on(args: argparse.Namespace) -> int:
    console = Console()
    live = console.is_terminal and not console.is_dumb_terminal and not args.plain
    view = RichView(console) if live else PlainView(console)
    async with Stage(args.api_version, speed=args.speed) as stage:
        with view:
            account = await Demo(stage, view, speed=args.speed).run()
    view.summary(account)
    return 0 if account.balances else 1
