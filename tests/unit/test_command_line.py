"""Mistakes on the command line: one sentence each, exit code 2, nothing of Python's inside."""

import argparse
import importlib
from collections.abc import Iterator

import pytest

from consumer.commands import cli


def parsers(name: str) -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """The parsers of a command and its subcommands, with what is typed to reach them."""
    parser = cli.OneSentenceParser(prog=name)
    importlib.import_module(f"consumer.commands.{name.replace('-', '_')}").configure(parser)
    yield [name], parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from (([name, each], made) for each, made in action.choices.items())


def mistakes() -> Iterator[list[str]]:
    """A wrong value for each option that does not take every value, and unknown options."""
    for name in cli.COMMANDS:
        for typed, parser in parsers(name):
            yield [*typed, "--no-such-option"]
            for action in parser._actions:
                if action.option_strings and (action.choices or action.type) and action.dest != "audit":
                    yield [*typed, action.option_strings[-1], "no-such-value"]


FREE = {"--audit", "--archive", "--out", "--apply", "--mapping"}  # files


@pytest.mark.parametrize("typed", [each for each in mistakes() if each[-2] not in FREE], ids=" ".join)
def test_a_mistake_is_one_sentence(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(typed)
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("journey-consumer")
    assert err.count("\n") == 1
    assert not {"<", ">", "usage:", "Traceback"} & set(err.replace("(", " ").split())
    assert "<" not in err


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (
            ["dead-letters", "list", "--reason", "401"],
            "unauthorized, forbidden, expired, exhausted, delivery-limit; a status is --status (--help)",
        ),
        (["sandbox", "--port", "99999"], "argument --port: must be from 0 to 65535"),
        (["sandbox", "--access-token-lifetime-seconds", "nan"], "must be from 0.001 to 1000000000"),
        (["publish", "--generate", "0"], "argument --generate: must be at least 1"),
        (["demo", "--speed", "nan"], "argument --speed: must be from 0.1 to 50"),
        (["nonsense"], "argument COMMAND: invalid choice"),
    ],
)
def test_it_says_what_the_value_may_be(
    typed: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(typed)
    assert sentence in capsys.readouterr().err
