"""Waiting for something to become true, with a deadline; no test sleeps for a fixed time."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_INTERVAL_SECONDS = 0.02


def _timed_out(message: str | Callable[[], object], timeout: float, last: object) -> AssertionError:
    text = message if isinstance(message, str) else message()
    return AssertionError(f"not within {timeout:g} s: {text} (last seen: {last!r})")


def wait_until(
    predicate: Callable[[], T],
    timeout: float = 10.0,
    message: str | Callable[[], object] = "the condition",
    *,
    interval: float = _INTERVAL_SECONDS,
) -> T:
    """Poll ``predicate`` until it is true and return its value; AssertionError after ``timeout`` seconds.

    ``message`` says what was awaited; a callable is called at the deadline, to say what is there instead.
    """
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() >= deadline:
            raise _timed_out(message, timeout, value)
        time.sleep(interval)
    return value


async def await_until(
    predicate: Callable[[], T | Awaitable[T]],
    timeout: float = 10.0,  # noqa: ASYNC109 - the deadline spans many polls, none of which may be cancelled
    message: str | Callable[[], object] = "the condition",
    *,
    interval: float = _INTERVAL_SECONDS,
) -> T:
    """Do as ``wait_until`` on the event loop; ``predicate`` may be a function or a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        answer = predicate()
        value: T = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() >= deadline:
            raise _timed_out(message, timeout, value)
        await asyncio.sleep(interval)
