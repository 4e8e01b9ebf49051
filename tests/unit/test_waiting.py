"""Deadlines, the fake clock and missing tools: the helpers that every test relies on."""

import asyncio
import time
from collections.abc import Awaitable
from datetime import timedelta

import pytest

from tests.clock import START, FakeClock
from tests.tools import require_tool
from tests.waiting import await_until, wait_until


def test_waiting_returns_the_first_true_value() -> None:
    """The predicate's value comes back as soon as it is true."""
    values = iter([0, None, "", "there"])
    assert wait_until(lambda: next(values), 5) == "there"


def test_waiting_gives_up_at_the_deadline_and_says_what_it_saw() -> None:
    """The error names what was awaited, the time and the last value."""
    started = time.monotonic()
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: three waited for \(last seen: 0\)"):
        wait_until(lambda: 0, 0.05, lambda: "three waited for")
    assert time.monotonic() - started < 2


async def test_waiting_on_the_loop_takes_functions_and_coroutines() -> None:
    """Both kinds are polled, and the loop runs meanwhile."""
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await await_until(event.is_set, 5)

    async def answer() -> int:
        return 42

    def later() -> Awaitable[int]:
        return answer()

    assert await await_until(later, 5) == 42
    with pytest.raises(AssertionError, match="the sea to part"):
        await await_until(lambda: False, 0.02, "the sea to part")


async def test_the_fake_clock_moves_only_when_it_is_advanced() -> None:
    """Monotonic and wall time move together; sleeping passes at once and is remembered."""
    clock = FakeClock()
    before = clock()
    assert (clock(), clock.now(), clock.time()) == (before, START, START.timestamp())
    clock.advance(60)
    await clock.sleep(2.5)
    assert clock() == before + 62.5
    assert clock.now() == START + timedelta(seconds=62.5)
    assert clock.slept == [2.5]


@pytest.mark.parametrize(("ci", "ending"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_missing_tool_skips_but_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, ending: type[BaseException]
) -> None:
    """Without the tool the test says so: skipped on a desk, failed in continuous integration."""
    monkeypatch.setenv("CI", ci)
    with pytest.raises(ending, match="no-such-tool is not installed"):
        require_tool("no-such-tool")
    assert require_tool("sh").endswith("/sh")
