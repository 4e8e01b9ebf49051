"""The demo as a newcomer runs it, faster: the whole script, and an account that balances or says why not."""

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
from consumer.demo import script
from consumer.demo.script import Demo
from consumer.demo.stage import Stage
from consumer.demo.view import View

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
    output = done.stdout
    for number, act in enumerate(script.ACTS, 1):
        assert f"[{number}/{len(script.ACTS)}] {act.title}" in output
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
    positions = [output.find(text) for text in order]
    assert -1 not in positions, output
    assert positions == sorted(positions)
    rows = {
        name: int(count.replace(",", ""))
        for name, count in re.findall(r"^ ?(\w[\w ]+?)  +([\d,]+) ", output, re.MULTILINE)
    }
    assert rows["registered"] > 500
    assert rows["already registered"] > 20
    assert rows["invalid"] > 20
    assert rows["unauthorized"] == rows["still queued"] == 0
    assert rows["published"] == rows["accounted for"]
    assert re.search(r"(\d+) came, \1 were replayed", output)
    assert "\x1b" not in output
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


class Forgetful(Stage):
    """A stage that loses a message which the service never saw."""

    async def finish(self) -> Any:
        """Lose one message on the way to the account."""
        self.published["lost-one"] = str(uuid.uuid4())
        return await super().finish()


async def _play(stage: Stage) -> Any:
    """Play the acts in this process; returns the account."""
    view = View(Console(file=io.StringIO()), None)
    async with stage:
        return await Demo(stage, view.show).run()


def shortened(monkeypatch: pytest.MonkeyPatch, acts: Sequence[script.Act]) -> None:
    """Play these acts only."""
    monkeypatch.setattr(script, "ACTS", tuple(acts))


async def test_a_missing_message_breaks_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message lost on purpose: the account names it."""
    shortened(monkeypatch, [script.ACTS[0], script.ACTS[-1]])
    result = await _play(Forgetful("v3", speed=SPEED))
    assert not result.balances
    assert "message lost-one is missing" in result.problems


async def test_an_act_that_times_out_breaks_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """A condition that does not hold in time is a problem, even when no journey is missing."""
    until = ("pigs fly", lambda _stage: False)
    never = script.Act("Nothing", 0.1, "It never happens.", {"valid": 5}, until=until)
    shortened(monkeypatch, [never, script.ACTS[-1]])
    monkeypatch.setattr(script, "PATIENCE_SECONDS", 0.5)
    stage = Stage("v2", speed=SPEED)
    result = await _play(stage)
    assert result.problems == ("act 'Nothing' timed out waiting until pigs fly",)
    assert result.found == result.published


async def test_an_outage_to_the_end_leaves_the_journeys_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the Registry never comes back, every journey is still queued, and the account says so."""
    shortened(monkeypatch, [script.ACTS[0], script.ACTS[6]])
    result = await _play(Stage("v3", speed=SPEED))
    assert result.problems == ()
    queued = {row.name: row.found for row in result.rows}["still queued"]
    assert queued > 20
    assert result.found == result.published


def test_the_exit_code_is_1_when_it_does_not_balance(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command's exit code follows the account."""
    shortened(monkeypatch, [script.ACTS[0], script.ACTS[-1]])
    monkeypatch.setattr("consumer.demo.stage.Stage", Forgetful)
    assert cli.main(["demo", "--speed", str(SPEED)]) == 1
    assert "The account does not balance" in capsys.readouterr().out


@pytest.mark.parametrize("speed", ["0", "1000", "-3"])
def test_a_speed_that_makes_no_sense_is_refused(speed: str) -> None:
    """Exit 2, and nothing is started."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo", f"--speed={speed}"])
    assert ended.value.code == 2
