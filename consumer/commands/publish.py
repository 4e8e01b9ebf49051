"""Publish journeys to a queue, for trying things out.

FILE holds JSON Lines, one JSON document, or an array. Each line is published unchanged: persistent,
mandatory, confirmed by the broker; what is no JSON object only with --raw. JSON Lines may be larger than
memory; `-` reads standard input. The broker is BROKER_URL (with BROKER_CA_FILE), or --broker-url. Exit
code 0: the broker confirmed every line.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from consumer.commands.cli import load_settings, positive
from consumer.config import BROKER, Settings
from consumer.errors import ConfigurationError, ConsumerError
from consumer.publishing.documents import Documents, is_object
from consumer.publishing.publish import Sender, Target, connect, generated_lines, read_lines, show_progress


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="JSON Lines, a JSON document or an array; - for standard input",
    )
    parser.add_argument("--queue", metavar="Q", help="queue to publish to (default: BROKER_QUEUE)")
    parser.add_argument("--exchange", metavar="E", help="publish to this exchange instead")
    parser.add_argument("--routing-key", metavar="K", help="with --exchange (default: the queue's name)")
    parser.add_argument(
        "--broker-url", metavar="URL", help="(default: BROKER_URL, which hides the password from `ps`)"
    )
    parser.add_argument("--raw", action="store_true", help="publish each line of FILE, whatever it is")
    group = parser.add_argument_group("instead of FILE")
    group.add_argument(
        "--generate", type=positive, metavar="N", help="publish N invented journeys that have just ended"
    )
    group.add_argument("--api-version", choices=["v2", "v3"], default="v2", help="their form (default: v2)")


def run(args: argparse.Namespace) -> int:
    if (args.file is None) == (args.generate is None):
        raise ConfigurationError(["publish needs either FILE (- for standard input) or --generate N"])
    if args.routing_key is not None and args.exchange is None:
        raise ConfigurationError(["--routing-key needs --exchange: a queue is addressed by its name"])
    options = {"BROKER_URL": args.broker_url, "BROKER_QUEUE": args.queue}
    given = {name: value for name, value in options.items() if value is not None}
    settings = load_settings({**os.environ, **given}, BROKER)
    queue = settings.broker_queue
    target = Target(args.exchange or "", (args.routing_key or queue) if args.exchange else queue)
    return asyncio.run(_publish(args, settings, target))


async def _publish(args: argparse.Namespace, settings: Settings, target: Target) -> int:
    size, lines = _source(args)
    link = await connect(settings, target)
    sender, started = Sender(link, target), time.monotonic()
    progress = asyncio.create_task(
        show_progress(sender, lambda: link.blocked, total_bytes=size, total_lines=args.generate)
    )
    try:
        as_they_are = args.raw or args.generate is not None
        async for number, line in _documents(lines, raw=as_they_are):
            await sender.send(line, number)
        await sender.finish()
    except _NotAnObjectError:
        await sender.finish()  # what came before it
        raise
    finally:
        progress.cancel()
        await asyncio.wait([progress])  # it removes the bar
        await link.close()
    count, seconds = sender.confirmed_lines, max(time.monotonic() - started, 0.001)
    print(f"{count} confirmed, published to {target} in {seconds:.1f} s ({count / seconds:,.0f}/s)")  # noqa: T201
    return 0


class _NotAnObjectError(ConsumerError):
    pass


async def _documents(lines: AsyncIterator[bytes], *, raw: bool) -> AsyncIterator[tuple[int, bytes]]:
    """Number the documents. Raises ConsumerError for what is no JSON object, unless ``raw``."""
    documents, number = Documents(), 0
    async for line in lines:
        number += 1
        if not raw:
            for found in documents.feed(line):
                yield _checked(*found)
        elif line.strip():
            yield number, line
    for found in documents.end():
        yield _checked(*found)


def _checked(number: int, document: bytes) -> tuple[int, bytes]:
    if not is_object(document):
        raise _NotAnObjectError(
            f"line {number} is not a JSON object; nothing from it on was published (--raw publishes all)"
        )
    return number, document


def _source(args: argparse.Namespace) -> tuple[int | None, AsyncIterator[bytes]]:
    """The lines, and how many bytes they are when that is known."""
    if args.generate is not None:
        return None, generated_lines(args.api_version, args.generate)
    if args.file == "-":
        return None, read_lines(sys.stdin.fileno())
    try:
        descriptor = os.open(args.file, os.O_RDONLY)
    except OSError as error:
        raise ConfigurationError([f"FILE cannot be read: {error.strerror}"]) from None
    return Path(args.file).stat().st_size or None, read_lines(descriptor)
