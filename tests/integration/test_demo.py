"""The demo as a newcomer runs it, faster: the whole script, and books that balance or say why not."""

import io
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from consumer.commands import cli
from consumer.demo import Demo, PlainView, Stage, script
from consumer.demo.account import Message

SPEED = 8.0


def demo(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "consumer", "demo", "--speed", str(SPEED), *args],
        capture_output=True,
        text=True,
        env=os.environ | environ,
        check=False,
        timeout=100,
    )


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_the_whole_script_balances(version: str, tmp_path: Path) -> None:
    """Every act happens, nothing is left behind, and the account balances: exit 0."""
    done = demo("--api-version", version, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    for number, act in enumerate(script.ACTS, 1):
        assert f"[{number}/{len(script.ACTS)}] {act.title}" in told
    order = [
        "the Registry revokes the token",
        "service: consumption paused (unauthorized)",
        "a new token is written to the token file",
        "service: token loaded from its file",
        "service: consumption resumes (unauthorized)",
        "unauthorized journeys go back to the queue",
        "the Registry goes down",
        "service: consumption paused (unavailable)",
        "the Registry is back",
        "service: consumption resumes (unavailable)",
        "The account balances",
    ]
    positions = [told.find(text) for text in order]
    assert -1 not in positions, told
    assert positions == sorted(positions)
    rows = {
        name: int(count.replace(",", ""))
        for name, count in re.findall(r"^ ?(\w[\w ]+?)  +([\d,]+) ", told, re.MULTILINE)
    }
    assert rows["registered"] > 500
    assert rows["already registered"] > 20
    assert rows["invalid"] > 20
    assert rows["unauthorized"] == rows["still queued"] == 0
    assert rows["published"] == rows["accounted for"]
    assert re.search(r"(\d+) came, \1 were sent again", told)
    assert "\x1b" not in told
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


class Forgetful(Stage):
    """A stage on which something goes wrong that the service can not know of."""

    async def finish(self) -> Any:
        """Lose one message on the way to the account."""
        self.published.append(Message("lost-one", str(uuid.uuid4())))
        return await super().finish()


async def _play(stage: Stage, *, patience_seconds: float = 30) -> Any:
    """Play the acts in this process; returns the account."""
    view = PlainView(Console(file=io.StringIO()))
    async with stage:
        return await Demo(stage, view, speed=SPEED, patience_seconds=patience_seconds).run()


def shortened(monkeypatch: pytest.MonkeyPatch, acts: Sequence[script.Act]) -> None:
    """Play these acts only."""
    monkeypatch.setattr(script, "ACTS", tuple(acts))


async def test_a_message_that_is_nowhere_breaks_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message lost on purpose: the account names it."""
    shortened(monkeypatch, [script.ACTS[0], script.ACTS[-1]])
    result = await _play(Forgetful("v3", speed=SPEED, queue=f"demo.{uuid.uuid4()}"))
    assert not result.balances
    assert "message lost-one is nowhere" in result.problems


async def test_what_does_not_come_to_pass_breaks_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """An act that waits in vain is a problem of its own, even when no journey is missing."""
    never = script.Act(
        "Nothing", "It never happens.", 0.1, 5, until=lambda _stage: False, awaited="a miracle"
    )
    shortened(monkeypatch, [never, script.ACTS[-1]])
    stage = Stage("v2", speed=SPEED, queue=f"demo.{uuid.uuid4()}")
    result = await _play(stage, patience_seconds=0.5)
    assert result.problems == ("in the act 'Nothing' it did not come to pass: a miracle",)
    assert result.found == result.published


async def test_an_outage_to_the_end_leaves_the_journeys_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the Registry never comes back, every journey is still queued, and the account says so."""
    shortened(monkeypatch, [script.ACTS[0], script.ACTS[6]])
    result = await _play(Stage("v3", speed=SPEED, queue=f"demo.{uuid.uuid4()}"))
    assert result.problems == ()
    queued = {row.name: row.found for row in result.rows}["still queued"]
    assert queued > 20
    assert result.found == result.published


def test_the_exit_code_is_1_when_it_does_not_balance(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command's exit code follows the account."""
    shortened(monkeypatch, [script.ACTS[0], script.ACTS[-1]])
    monkeypatch.setattr("consumer.demo.stage.QUEUE", f"demo.{uuid.uuid4()}")
    monkeypatch.setattr("consumer.commands.demo.Stage", Forgetful)
    assert cli.main(["demo", "--speed", str(SPEED)]) == 1
    assert "The account does not balance" in capsys.readouterr().out


@pytest.mark.parametrize("speed", ["0", "1000", "-3"])
def test_a_speed_that_makes_no_sense_is_refused(speed: str) -> None:
    """Exit 2, and nothing is started."""
    assert cli.main(["demo", f"--speed={speed}"]) == 2
