"""The README's table of outcomes is what the service does, and its commands are commands that exist."""

import argparse
import importlib
import itertools
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from consumer.app import build_breakers
from consumer.commands import cli
from consumer.config import load
from consumer.core.breaker import BreakerState
from consumer.core.outcome import (
    Acknowledge,
    DeadLetter,
    Decision,
    Delay,
    Early,
    Invalid,
    Misconfigured,
    Outcome,
    PauseCause,
    RetrySoon,
)
from consumer.core.policy import Policy, Situation, decide, verdict
from consumer.core.reply import Fault, FaultKind, Reply
from consumer.registry.classify import classify
from tests import pages

README = pages.ROOT / "README.md"
ANSWERS = pages.ROOT / "tests" / "samples" / "answers"
ROWS = {row["outcome"]: row for row in pages.table(README, "outcome")}
NOW = datetime(2026, 11, 23, 16, tzinfo=UTC)
POLICY = Policy()


def row_of_class(kind: type) -> str:
    """Return the name of the row of a class of outcomes: its name in words."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__).lower()


def row_of(outcome: Outcome) -> str:
    """Return the name of an outcome's row."""
    return row_of_class(type(outcome))


def recorded(path: Path) -> Outcome:
    """Return what a recorded answer of the Registry means."""
    sample = json.loads(path.read_text())
    body = sample["body"] if isinstance(sample["body"], str) else json.dumps(sample["body"])
    return classify(Reply(int(path.stem), sample["headers"], body.encode()))


def examples() -> dict[str, list[Outcome]]:
    """Return outcomes for each row: of all recorded answers, all faults, and what is never sent."""
    outcomes = [recorded(path) for path in sorted(ANSWERS.glob("*/*.json"))]
    outcomes += [classify(Fault(kind)) for kind in FaultKind]
    outcomes += [Invalid("missing at driver"), Early(None), Misconfigured(0, "token_file_unreadable")]
    return {row: list(found) for row, found in itertools.groupby(sorted(outcomes, key=row_of), row_of)}


EXAMPLES = examples()


def test_every_outcome_has_a_row() -> None:
    """The table names all outcomes, and nothing else."""
    assert ROWS.keys() == EXAMPLES.keys() == {row_of_class(kind) for kind in Outcome.__args__}


# --- when ---------------------------------------------------------------------------------------


def named(row: str) -> set[str]:
    """Return the statuses, and the classes of statuses, that a row names."""
    return {text for text in pages.code(ROWS[row]["when"]) if re.fullmatch(r"[1-5](\d\d|xx)", text)}


@pytest.mark.parametrize("status", range(200, 600))
def test_a_bare_status_is_in_the_row_that_names_it(status: int) -> None:
    """An answer in the Registry's own shape: its status is named by its row, or else its class is."""
    row = row_of(classify(Reply(status, {}, b'{"error": {"data": "x"}}')))
    by_number = [name for name in ROWS if str(status) in named(name)]
    assert by_number == [row] or (not by_number and f"{status // 100}xx" in named(row))


def test_a_class_of_statuses_is_named_where_it_leads() -> None:
    """`2xx` leads to two rows, with and without a result; every other class to one."""
    rows = {kind: [name for name in ROWS if f"{kind}xx" in named(name)] for kind in "2345"}
    assert rows == {
        "2": ["registered", "unavailable"],
        "3": ["misconfigured"],
        "4": ["rejected"],
        "5": ["unavailable"],
    }


# --- what follows -------------------------------------------------------------------------------


def word(decision: Decision) -> str:
    """Return the words by which the table says a decision."""
    match decision:
        case Acknowledge():
            return "acknowledge"
        case DeadLetter(reason=reason):
            return f"dead letter `{reason}`"
        case RetrySoon():
            return "retry"
        case Delay():
            return "delay queue"
        case _:
            raise AssertionError(decision)


def situations() -> Iterator[Situation]:
    """Return the first attempt and the last, before and past the deadline, paused and not, early and late."""
    for attempts, here, delayed_retries, pausing, left, ends in itertools.product(
        (1, POLICY.max_attempts),
        (1, POLICY.attempts_per_delivery),
        (0, len(POLICY.delays_seconds)),
        (None, PauseCause.UNAVAILABLE),
        (timedelta(hours=23), -timedelta(hours=1)),
        (-timedelta(hours=1), timedelta(seconds=10), timedelta(hours=1), timedelta(days=2)),
    ):
        yield Situation(
            attempts=attempts,
            attempts_here=here,
            delayed_retries=delayed_retries,
            now=NOW,
            deadline=NOW + left,
            ends_at=NOW + ends,
            pausing=pausing,
        )


@pytest.mark.parametrize("row", ROWS)
def test_what_follows(row: str) -> None:
    """Everything that can follow from an outcome is in its row, and nothing else is."""
    told = set(re.findall(r"dead letter `\w+`|acknowledge|retry|delay queue", ROWS[row]["what follows"]))
    follows = {
        word(decide(outcome, situation, POLICY)) for outcome in EXAMPLES[row] for situation in situations()
    }
    assert follows == told


@pytest.mark.parametrize("row", ROWS)
def test_what_pauses(row: str) -> None:
    """The cause in the last column is the one that the outcome speaks for, after so many journeys."""
    cell = ROWS[row]["pauses consumption"]
    causes = {cause for outcome in EXAMPLES[row] for cause, works in verdict(outcome).items() if not works}
    assert {f"`{cause}`" for cause in causes} == set(re.findall(r"^`\w+`", cell))
    thresholds = {"BREAKER_THRESHOLD": "7", "AUTH_PAUSE_AFTER": "9"}
    breakers = build_breakers(load({"REGISTRY_TOKEN": "t", **thresholds}))
    for cause in causes:
        needed = next(
            (int(n) for name, n in thresholds.items() if f"after `{name}` journeys in a row" in cell), 1
        )
        assert needed > 1 or "at once" in cell
        for number in range(1, needed + 1):
            assert breakers[cause].state is BreakerState.CLOSED
            breakers[cause].failure(f"journey-{number}", float(number), 0.0)
        assert breakers[cause].state is BreakerState.OPEN


# --- commands -----------------------------------------------------------------------------------


def typed() -> Iterator[tuple[str, list[str]]]:
    """Return every command of ours in a fenced block, as words, with the page that has it."""
    for page in pages.pages():
        for block in pages.fenced(page, "sh", "console"):
            text = re.sub(r"<<'(\w+)'.*?^\1$", "", block.replace("\\\n", " "), flags=re.DOTALL | re.MULTILINE)
            for line in text.splitlines():
                lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
                lexer.whitespace_split = True
                for inside, words in itertools.groupby(
                    lexer, lambda part: part not in {"|", ";", "&&", "||", "&"}
                ):
                    if inside:
                        command = list(itertools.dropwhile(lambda part: "=" in part, words))
                        if command and command[0] in {"journey-consumer", "make"}:
                            yield page.name, command


def mentioned() -> Iterator[tuple[str, list[str]]]:
    """Return every command of ours in the text."""
    for page in pages.pages():
        for text in pages.code(pages.prose(page)):
            if text.startswith(("journey-consumer ", "make ")):
                yield page.name, text.split()


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of one command, as the command line makes it."""
    assert command in cli.COMMANDS, command
    parser = argparse.ArgumentParser(prog=command)
    importlib.import_module(f"consumer.commands.{command.replace('-', '_')}").configure(parser)
    return parser


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return all options of a parser and its subcommands, and the subcommands' names."""
    found = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                found |= {name} | options(below)
    return found


def targets() -> set[str]:
    """Return the targets of the Makefile that have a description."""
    return set(re.findall(r"^([a-z0-9-]+):.*## ", (pages.ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_commands_of_the_pages_are_found() -> None:
    """A reader of blocks that finds nothing would make the next tests pass."""
    found = [words for _, words in typed()]
    assert ["make", "demo"] in found
    assert ["journey-consumer", "dead-letters", "replay", "--reason", "unauthorized"] in found
    assert ["make", "bench"] in [words for _, words in mentioned()]


@pytest.mark.parametrize(("page", "words"), sorted({(p, shlex.join(w)) for p, w in typed()}))
def test_what_a_page_lets_you_type_can_be_typed(page: str, words: str) -> None:  # noqa: ARG001 - names the case
    """Every command in a fenced block is accepted by its own parser, or is a make target."""
    program, *arguments = shlex.split(words)
    if program == "make":
        assert arguments[0] in targets()
    elif arguments[0] not in {"--help", "--version"}:
        parser_of(arguments[0]).parse_args(arguments[1:])


@pytest.mark.parametrize(("page", "words"), sorted({(p, " ".join(w)) for p, w in mentioned()}))
def test_what_a_page_mentions_exists(page: str, words: str) -> None:  # noqa: ARG001 - names the case
    """Command, options and target in running text exist; arguments may be left out."""
    program, first, *rest = words.split()
    if program == "make":
        assert first in targets()
    elif first not in {"--help", "--version", "COMMAND"}:
        known = options(parser_of(first))
        assert {part.partition("=")[0] for part in rest if part.startswith("-")} <= known


@pytest.mark.parametrize("target", ["demo", "test", "lock", "test-rabbitmq4"])
def test_make_says_what_it_downloads_before_it_does(target: str) -> None:
    """Source and size of each; a dry run prints the commands in their order."""
    commands = subprocess.run(
        ["make", "--dry-run", "--always-make", "RABBITMQ4=/tmp/none", target],
        cwd=pages.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    said = [index for index, line in enumerate(commands) if re.search("make: downloading .* from ", line)]
    done = [
        index
        for index, line in enumerate(commands)
        if re.search(r"--require-hashes|install --quiet uv|debootstrap --variant", line)
    ]
    assert len(said) == len(done) > 0
    assert all(before < after for before, after in zip(said, done, strict=True))
