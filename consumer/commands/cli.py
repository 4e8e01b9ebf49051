"""The command line: one table of commands, each in its own module.

Only the chosen command's module is imported, so that `run` carries neither the sandbox's
web server nor the terminal view in its memory.
"""

import argparse
import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from consumer import __version__
from consumer.errors import ConfigurationError, ConsumerError

EXIT_OK, EXIT_FAILED, EXIT_UNUSABLE = 0, 1, 2

COMMANDS: dict[str, str] = {
    "run": "Run the service: take journeys from the queue and register them.",
    "demo": "Watch journeys flow, fail, wait and recover, on embedded parts, in about a minute.",
    "check": "Check everything that can be known before starting; touches no message.",
    "declare": "Declare the queues that are missing, for a service whose user may not.",
    "validate": "Validate JSON Lines of payloads with the Registry's own rules.",
    "publish": "Publish JSON Lines to a queue (persistent, confirmed), for trying things out.",
    "sandbox": "Serve a local Registry for tests: faithful answers, faults on demand.",
    "dead-letters": "See the dead letters and send them again.",
    "schema": "Print the JSON Schema of a payload.",
    "asyncapi": "Print the AsyncAPI document of the queue, for the teams that publish on it.",
}


class Command(Protocol):
    """What a module in ``consumer.commands`` offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the return value is the exit code."""


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="journey-consumer",
        description="Delivers carpool journeys from a message queue to the Registry of carpooling proofs.",
        epilog=f"commands:\n{listing}\n\n`journey-consumer COMMAND --help` tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 it failed, 2 unusable as asked."""
    _prepare_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = _overview().parse_args(arguments[:1]).command
    module = cast("Command", importlib.import_module(f"consumer.commands.{name.replace('-', '_')}"))
    parser = argparse.ArgumentParser(
        prog=f"journey-consumer {name}",
        description=getattr(module, "__doc__", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    try:
        code = module.run(parser.parse_args(arguments[1:]))
        sys.stdout.flush()
        return code  # noqa: TRY300
    except ConfigurationError as error:
        for problem in error.problems:
            print(f"journey-consumer: {problem}", file=sys.stderr)  # noqa: T201
        return EXIT_UNUSABLE
    except ConsumerError as error:
        print(f"journey-consumer: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    except BrokenPipeError:  # the reader of our output left; nothing of ours is wrong
        _forget_output()
        return EXIT_FAILED
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("journey-consumer: the result cannot be written: the disk is full", file=sys.stderr)  # noqa: T201
        _forget_output()
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def _prepare_streams() -> None:
    """Let standard streams that we were started without lead nowhere, and take any letter.

    Otherwise the next file or connection would take their place, and receive what is printed. Python has
    None for them, and keeps it in ``sys.__stdout__`` and ``sys.__stderr__``.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an id may hold letters that the terminal has not
            stream.reconfigure(errors="backslashreplace")


def _forget_output() -> None:
    """Let Python not try, and complain, once more at its end."""
    with contextlib.suppress(io.UnsupportedOperation):  # not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
