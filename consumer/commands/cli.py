"""The command line: one table of commands, each in its own module.

A command's module has ``configure``, which adds its arguments, and ``run``, which returns the exit code.
Only the chosen one is imported, so that `run` has neither the sandbox's web server nor the terminal view in
its memory.
"""

import argparse
import contextlib
import errno
import importlib
import io
import math
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import NoReturn

from consumer import __version__
from consumer.config import Settings, load, near_misses
from consumer.errors import ConfigurationError, ConsumerError

EXIT_FAILED, EXIT_UNUSABLE = 1, 2

COMMANDS: dict[str, str] = {
    "run": "Run the service: consume journeys from the queue and register them.",
    "demo": "Run a demonstration of about a minute with embedded broker and Registry.",
    "check": "Check settings, broker and Registry before a start; reads no message.",
    "declare": "Declare the missing queues, for a service whose user lacks the permission.",
    "validate": "Validate payloads with the Registry's own rules.",
    "publish": "Publish journeys to a queue (persistent, confirmed), for trials.",
    "sample": "Print invented journeys, as a publisher sends them.",
    "sandbox": "Serve a local Registry for tests: the Registry's answers, faults on demand.",
    "dead-letters": "List, replay, edit and discard dead letters.",
    "schema": "Print the JSON Schema of a payload.",
    "asyncapi": "Print the AsyncAPI document of the queue, for its publishers.",
}


def iso_datetime(text: str) -> datetime:
    """The type of ``--now``; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(["--now is not an ISO 8601 date and time"]) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def load_settings(environ: Mapping[str, str], reads: Collection[str]) -> Settings:
    """Load what a command reads, and warn of misspelt settings; what else is odd, `run` and `check` say."""
    settings = load(environ, reads)
    for sentence in near_misses(environ, reads):
        print(f"warning: {sentence}", file=sys.stderr)  # noqa: T201
    return settings


class OneSentenceParser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_UNUSABLE, f"{self.prog}: {message} (--help)\n")


def positive(text: str) -> int:
    """A whole number from 1 on, as argparse wants it."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def between(least: float, most: float) -> Callable[[str], float]:
    """Make the argparse type of a number between two bounds."""

    def checked(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:  # also refuses nan
            raise argparse.ArgumentTypeError(f"must be from {least:g} to {most:.0f}")
        return value

    return checked


def _overview() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser = OneSentenceParser(
        prog="journey-consumer",
        description="Delivers carpool journeys from a message queue to the Registry of carpooling proofs.",
        epilog=f"commands:\n{listing}\n\n`journey-consumer COMMAND --help` describes a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 success, 1 failure, 2 wrong arguments or settings."""
    _prepare_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = _overview().parse_args(arguments[:1]).command
    module = importlib.import_module(f"consumer.commands.{name.replace('-', '_')}")
    parser = OneSentenceParser(
        prog=f"journey-consumer {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    try:
        code: int = module.run(parser.parse_args(arguments[1:]))
        sys.stdout.flush()
        return code  # noqa: TRY300
    except ConfigurationError as error:
        for problem in error.problems:
            print(f"journey-consumer: {problem}", file=sys.stderr)  # noqa: T201
        return EXIT_UNUSABLE
    except ConsumerError as error:
        print(f"journey-consumer: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_FAILED
    except BrokenPipeError:  # the reader of our output closed the pipe; no error of ours
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
    """Open missing standard streams on the null device, and let all of them take any character.

    Otherwise the next file or connection would get their descriptor, and what is printed. Python has
    None for them, and keeps it in ``sys.__stdout__`` and ``sys.__stderr__``.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor: this one
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an id may hold characters that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")


def _forget_output() -> None:
    """Keep Python from flushing, and failing, once more at its exit."""
    with contextlib.suppress(io.UnsupportedOperation):  # not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
