"""``dead-letters edit`` with a person's editor: what the editor is given, and what happens to the file."""

import json
import shlex
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.broker import Broker
from tests.deadletters import BROKEN, INVALID, QUEUE, broken, ids, on_terminal, only_json, put, typed
from tests.waiting import wait_until

#: An editor that notes what it was given, then does ``{work}`` with the lines of the file.
EDITOR = """
import json, os, pathlib, stat, sys
path = pathlib.Path(sys.argv[-1])
modes = [oct(stat.S_IMODE(each.stat().st_mode)) for each in (path, path.parent)]
pathlib.Path({noted!r}).write_text(json.dumps(dict(args=sys.argv[1:], modes=modes)))
lines = [json.loads(line) for line in path.read_text().splitlines()]
{work}
path.write_text("".join(json.dumps(line) + "\\n" for line in lines))
"""
SEATS = 'for line in lines: line["payload"]["passenger"]["seats"] = {}'

MakeEditor = Callable[..., str]


@pytest.fixture
def broker(broker: Broker) -> Broker:
    """With three invalid dead letters."""
    put(broker, INVALID, *map(broken, range(3)), **BROKEN)
    return broker


@pytest.fixture
def editor(tmp_path: Path) -> MakeEditor:
    """Make an editor that does ``work``; what is typed to start it."""

    def make(work: str, name: str = "editor") -> str:
        script = tmp_path / f"{name}.py"
        script.write_text(EDITOR.format(work=work, noted=str(tmp_path / f"{name}.json")))
        return shlex.join([sys.executable, str(script)])

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where temporary files go."""
    made = tmp_path / "temporary"
    made.mkdir()
    return made


def noted(tmp_path: Path, name: str = "editor") -> dict[str, Any]:
    """What the editor noted."""
    return only_json((tmp_path / f"{name}.json").read_text())


def await_untouched(broker: Broker) -> None:
    """All three are where they were, and nothing was sent."""
    wait_until(lambda: broker.depth(INVALID) == (3, 0), 10, "all are given back")
    assert broker.depth(QUEUE).total == 0


def edited(broker: Broker, *args: str, **more: str) -> tuple[int, str]:
    """Type ``edit ARGS`` on a terminal; returns the exit code and what was on the screen."""
    with on_terminal(broker, "edit", *args, columns=500, **more) as terminal:
        return terminal.wait(), terminal.shown.replace("\r\n", "\n")


def the_file(folder: Path) -> Path:
    """The one file that was left behind, readable by its owner alone."""
    (file,) = folder.glob("dead-letters-*/*")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    return file


def test_what_the_editor_saved_is_sent(
    broker: Broker, editor: MakeEditor, folder: Path, tmp_path: Path
) -> None:
    """The file is for its owner alone, and gone with its backup once all of it was sent."""
    work = SEATS.format(3) + "\npath.with_name(path.name + '~').write_text('a backup')"
    code, shown = edited(broker, EDITOR=editor(work), TMPDIR=str(folder))
    assert code == 0, shown
    assert "3 dead letters, 3 selected\n  3  edited and sent\n" in shown
    assert noted(tmp_path)["modes"] == ["0o600", "0o700"]
    sent = broker.messages(QUEUE)
    assert {json.loads(message.body)["passenger"]["seats"] for message in sent} == {3}
    assert {message.headers["x-edited"] for message in sent} == {"passenger.seats"}
    wait_until(lambda: broker.depth(INVALID).total == 0, 10, "they are gone")
    assert not list(folder.iterdir())


def test_visual_wins_and_arguments_are_kept(broker: Broker, editor: MakeEditor, tmp_path: Path) -> None:
    """As with ``code --wait``: the arguments come first, the file last; EDITOR is the second choice."""
    visual = editor(SEATS.format(3), "visual") + " --wait 'two words'"
    assert edited(broker, VISUAL=visual, EDITOR=editor(SEATS.format(4)))[0] == 0
    assert noted(tmp_path, "visual")["args"][:2] == ["--wait", "two words"]
    assert len(noted(tmp_path, "visual")["args"]) == 3
    assert not (tmp_path / "editor.json").exists()
    assert {json.loads(message.body)["passenger"]["seats"] for message in broker.messages(QUEUE)} == {3}


def test_an_editor_that_fails_sends_nothing(broker: Broker, editor: MakeEditor, folder: Path) -> None:
    """What was edited until then is kept, and where it is is said."""
    work = f"{SEATS.format(3)}\npath.write_text(json.dumps(lines[0])); sys.exit(3)"
    code, shown = edited(broker, EDITOR=editor(work), TMPDIR=str(folder))
    assert code == 1
    assert "the editor exited with 3; nothing was sent" in shown
    assert f"is in {the_file(folder)}, with personal data" in shown
    await_untouched(broker)


@pytest.mark.parametrize("work", ["pass", "sys.exit(3)", "path.unlink(); sys.exit(0)"])
def test_what_was_not_edited_leaves_no_file(
    broker: Broker, editor: MakeEditor, folder: Path, work: str
) -> None:
    """Saved as it was, given up, or deleted in the editor."""
    shown = edited(broker, EDITOR=editor(work), TMPDIR=str(folder))[1]
    assert "personal data" not in shown
    assert not list(folder.iterdir())
    await_untouched(broker)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_editor_is_open_leaves_no_file(
    broker: Broker, editor: MakeEditor, folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """As when the connection to the machine is lost."""
    waiting = editor("import time; time.sleep(60)")
    with on_terminal(broker, "edit", EDITOR=waiting, TMPDIR=str(folder)) as terminal:
        wait_until((tmp_path / "editor.json").exists, 20, lambda: terminal.shown)
        terminal.process.send_signal(number)
        assert terminal.wait() == 128 + number
    assert not list(folder.iterdir())
    await_untouched(broker)


@pytest.mark.parametrize("named", ["/no/such/editor", "vi 'never closed", "' '"])
def test_without_an_editor_nothing_is_read(broker: Broker, folder: Path, named: str) -> None:
    code, shown = edited(broker, EDITOR=named, TMPDIR=str(folder))
    assert code == 2
    assert shown.count("\n") == 1
    assert "there is no editor" in shown
    assert "--pipe" in shown
    assert not list(folder.iterdir())


def test_without_a_terminal_no_editor_is_opened(
    broker: Broker, editor: MakeEditor, folder: Path, tmp_path: Path
) -> None:
    """In a script an editor would wait for keys that nobody presses."""
    done = typed(broker, "edit", EDITOR=editor(SEATS.format(3)), TMPDIR=str(folder))
    assert done.returncode == 2
    assert "an editor needs a terminal" in done.stderr
    assert not (tmp_path / "editor.json").exists()
    assert not list(folder.iterdir())


def test_a_line_that_is_still_invalid_leaves_the_file(
    broker: Broker, editor: MakeEditor, folder: Path
) -> None:
    """What is valid goes; the rest stays in its queue and in the file, which can be edited and applied."""
    work = 'for line, seats in zip(lines, (1, 0, 2)): line["payload"]["passenger"]["seats"] = seats'
    code, shown = edited(broker, EDITOR=editor(work), TMPDIR=str(folder))
    assert code == 1
    file = the_file(folder)
    assert str(file) in shown
    assert "still invalid as v3: j-1: out_of_range at passenger.seats" in shown
    assert ids(broker, QUEUE) == ["j-0", "j-2"]
    wait_until(lambda: broker.depth(INVALID) == (1, 0), 10, "the invalid one stays")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1]["payload"]["passenger"]["seats"] = 4
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert typed(broker, "edit", "--apply", str(file)).returncode == 0
    assert ids(broker, QUEUE) == ["j-0", "j-2", "j-1"]


def test_what_was_saved_is_never_lost_with_an_error(broker: Broker, editor: MakeEditor, folder: Path) -> None:
    """The queue is gone when the editor closes: a person's work is still in the file, which is named."""
    work = (
        SEATS.format(3) + "\nimport amqp\n"
        f"c = amqp.Connection('127.0.0.1:{broker.node.port}', virtual_host='{broker.vhost}')\n"
        f"c.connect(); c.channel().queue_delete({QUEUE!r}); c.close()"
    )
    code, shown = edited(broker, EDITOR=editor(work), TMPDIR=str(folder))
    assert code == 1
    file = the_file(folder)
    assert {json.loads(line)["payload"]["passenger"]["seats"] for line in file.read_text().splitlines()} == {
        3
    }
    assert str(file) in shown
    wait_until(lambda: broker.depth(INVALID) == (3, 0), 10, "all are given back")


def test_a_file_that_was_torn_sends_nothing(broker: Broker, editor: MakeEditor, folder: Path) -> None:
    """A line that is no JSON any more is named by its place, and nothing of the others is sent."""
    code, shown = edited(
        broker, EDITOR=editor("path.write_text('{\"key\": '); sys.exit(0)"), TMPDIR=str(folder)
    )
    assert code == 1
    assert f"{the_file(folder)} at byte 0 is not a JSON object" in shown
    await_untouched(broker)


def test_a_dry_run_sends_nothing_and_keeps_the_work(broker: Broker, editor: MakeEditor, folder: Path) -> None:
    """It only judges; the file with what was edited stays, to be applied."""
    code, shown = edited(broker, "--dry-run", EDITOR=editor(SEATS.format(3)), TMPDIR=str(folder))
    assert code == 0
    assert "  3  would be sent\n" in shown
    await_untouched(broker)
    file = the_file(folder)
    assert str(file) in shown
    assert typed(broker, "edit", "--apply", str(file)).returncode == 0
    assert sorted(ids(broker, QUEUE)) == ["j-0", "j-1", "j-2"]


def test_nothing_to_edit_opens_no_editor(
    broker: Broker, editor: MakeEditor, folder: Path, tmp_path: Path
) -> None:
    """It says that nothing was selected, and leaves no file."""
    code, shown = edited(broker, "--journey", "j-9", EDITOR=editor(SEATS.format(3)), TMPDIR=str(folder))
    assert code == 0
    assert "3 dead letters, 0 selected\n" in shown
    assert not (tmp_path / "editor.json").exists()
    assert not list(folder.iterdir())
