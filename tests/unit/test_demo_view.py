"""The demo's view: it fits, it shows every number, and it works where there is no terminal."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console
from rich.live import Live
from rich.screen import Screen

from consumer.demo.account import Account, Row
from consumer.demo.script import ACTS, Scene
from consumer.demo.stage import Now
from consumer.demo.view import View, hours, print_account, print_events, screen

NOW = Now(
    published=12_345,
    registered=11_111,
    already_registered=222,
    dead={"invalid": 333, "rejected": 0, "unauthorized": 44, "exhausted": 0},
    replayed=55,
    waiting=166,
    in_flight=32,
    paused="misconfigured",
    oldest_start=datetime.now(UTC) - timedelta(hours=23),
    mean_age_seconds=40_000.0,
    registry_up=False,
)


def scene(number: int, now: Now = NOW, events: int = 50) -> Scene:
    """The scene of one act."""
    return Scene(
        act=number,
        elapsed=754.0,
        now=now,
        rates=tuple(float(rate) for rate in range(28)),
        events=tuple((float(second), f"something happened {second}") for second in range(events)),
    )


def console(width: int = 80, height: int = 24, **options: object) -> Console:
    """A terminal of that size that keeps what is written."""
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, **options)  # type: ignore[arg-type]


def drawn(on: Console, shown: Scene) -> list[str]:
    """The lines of the screen."""
    with on.capture() as captured:
        on.print(Screen(screen(on, shown)))
    lines = captured.get().splitlines()
    return Console(file=io.StringIO(), color_system=None).render_str("\n".join(lines)).plain.splitlines()


@pytest.mark.parametrize("number", range(len(ACTS)))
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_every_act_fits_on_the_screen(number: int, width: int, height: int) -> None:
    """No line is cut, no number is missing, at the smallest usual size and at a large one."""
    on = console(width, height, color_system=None)
    lines = drawn(on, scene(number))
    text = "\n".join(lines)
    assert len(lines) == height
    assert all(len(line) <= width for line in lines)
    assert "…" not in text
    assert ACTS[number].text.split()[-1] in text
    for wanted in (
        "12,345",
        "11,111",
        "222",
        "333",
        "44",
        "55",
        "166",
        "32",
        "paused: misconfigured",
        "down",
    ):
        assert wanted in text
    assert "23 h " in text  # the tests before this one take minutes
    assert "11 h 06" in text
    assert "something happened 49" in text
    assert "12:34" in text


@pytest.mark.parametrize(("width", "height"), [(40, 10), (20, 3)])
def test_a_small_terminal_shows_the_top(width: int, height: int) -> None:
    """What does not fit is cut; nothing fails."""
    assert len(drawn(console(width, height, color_system=None), scene(3))) == height


def test_before_anything_happened() -> None:
    """The first moment has no ages and no rates; nothing breaks."""
    empty = Now(0, 0, 0, {"invalid": 0, "unauthorized": 0}, 0, 0, 0, None, None, None, registry_up=True)
    shown = Scene(0, 0.0, empty, (0.0,) * 28, ())
    text = "\n".join(drawn(console(color_system=None), shown))
    assert "yes" in text
    assert "0/s" in text


def test_a_terminal_without_unicode_gets_none() -> None:
    """Where the encoding is ASCII no character needs more."""

    class Ascii(io.StringIO):
        encoding = "ascii"

    on = Console(file=Ascii(), force_terminal=True, width=80, height=24, color_system=None)
    "\n".join(drawn(on, scene(3))).encode("ascii")


ACCOUNT = Account(3, (Row("registered", 2, 2, "in the Registry's memory"), Row("still queued", 1, None)), ())


def test_lines_without_a_terminal() -> None:
    """Plain lines: title, events with their time, numbers when an act begins; no control character."""
    stream = io.StringIO()
    view = View(Console(file=stream, width=80), None)
    for shown in (scene(0, events=1), scene(0, events=2), scene(0, events=2), scene(1, events=2)):
        view.show(shown)
    print_account(Console(file=stream, width=80), ACCOUNT)
    text = stream.getvalue()
    assert "[1/9] Journeys flow" in text
    assert text.count(" 0:00 something happened 0") == 1
    assert text.count(" 0:01 something happened 1") == 1
    assert text.count("published 12345, registered 11111") == 2  # once in five seconds, once for the new act
    assert text.index("something happened 1") < text.index("[2/9] Some payloads are invalid")
    assert "rejected" not in text
    assert "The account balances" in text
    assert "\x1b" not in text


def test_the_account_lists_every_problem_up_to_a_bound() -> None:
    """The first problems are listed, the others counted."""
    stream = io.StringIO()
    problems = tuple(f"message {number} is missing" for number in range(30))
    print_account(Console(file=stream, width=80), Account(3, ACCOUNT.rows, problems))
    text = stream.getvalue()
    assert "does not balance" in text
    assert "message 19 is missing" in text
    assert "and 10 more" in text


def test_the_live_view_leaves_the_events_on_the_terminal() -> None:
    """After the live screen, events and account are printed."""
    on = console(color_system=None)
    with Live(console=on, screen=True, auto_refresh=False) as live:
        View(on, live).show(scene(0))
    with on.capture() as captured:
        print_events(on, [(1.0, "the Registry goes down")])
        print_account(on, ACCOUNT)
    assert "0:01 the Registry goes down" in captured.get()
    assert "The account balances" in captured.get()


@pytest.mark.parametrize(("height", "rows"), [(24, 8), (60, 12)])
def test_the_list_of_events_is_as_tall_as_its_content(height: int, rows: int) -> None:
    """On a tall terminal the box ends after the last event; on a small one the oldest events are left out."""
    lines = drawn(console(120, height, color_system=None), scene(0, events=12))
    top = next(number for number, line in enumerate(lines) if "events" in line)
    shown = [line for line in lines[top:] if "something happened" in line]
    assert len(shown) == rows
    assert "something happened 11" in shown[0]
    assert lines[top + rows + 1].startswith("╰")
    assert "".join(lines[top + rows + 2 :]).strip() == ""


@pytest.mark.parametrize(("seconds", "text"), [(59, "0 min"), (3599, "59 min"), (3600, "1 h 00")])
def test_ages_are_short(seconds: float, text: str) -> None:
    """Minutes below an hour, then hours and minutes."""
    assert hours(seconds) == text
