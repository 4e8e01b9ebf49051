"""Send dead letters again, once what killed them is mended.

`replay` moves the dead letters of one reason from `<queue>.dead-letter.<reason>` back to the main queue:
each is published and confirmed before it is removed, so an interruption loses nothing. Settings: BROKER_URL,
BROKER_QUEUE, BROKER_CA_FILE as for `run`.
"""

import argparse
import asyncio
import os

from consumer.broker.dial import is_amqp
from consumer.broker.tap import AmqpTap, Tap, VirtualTap
from consumer.config import Settings, load
from consumer.deadletters import replay
from consumer.errors import ConfigurationError
from consumer.publishing import Target, connect, dialer_of
from consumer.topology import Topology


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    again = commands.add_parser("replay", help="move dead letters back to the main queue")
    reasons = Topology(queue="").dead_letter_reasons
    again.add_argument("--reason", required=True, choices=reasons, metavar="R", help=", ".join(reasons))
    again.add_argument("--limit", type=int, metavar="N", help="at most so many, the oldest first")
    again.set_defaults(action=_replay)


def run(args: argparse.Namespace) -> int:
    """Do what the subcommand says."""
    environ = {name: value for name, value in os.environ.items() if name.startswith(("BROKER_", "SECRETS_"))}
    settings = load(environ, authentication=False)
    return int(args.action(args, settings))


def _replay(args: argparse.Namespace, settings: Settings) -> int:
    if args.limit is not None and args.limit < 1:
        raise ConfigurationError(["--limit must be at least 1"])
    return asyncio.run(_move(settings, args.reason, args.limit))


async def _move(settings: Settings, reason: str, limit: int | None) -> int:
    topology = Topology(queue=settings.broker_queue)
    publisher = await connect(settings, Target("", topology.queue))
    try:
        tap = _tap(settings, topology.dead_letter_queue(reason))
        result = await replay(tap, publisher, topology.queue, limit=limit)
    finally:
        await publisher.close()
    print(f"{result.moved} of {result.waiting} dead letters ({reason}) moved to {topology.queue!r}")  # noqa: T201
    return 0


def _tap(settings: Settings, queue: str) -> Tap:
    if is_amqp(settings.broker_urls[0]):
        return AmqpTap(dialer_of(settings), queue)
    return VirtualTap(settings.broker_urls[0], queue)
