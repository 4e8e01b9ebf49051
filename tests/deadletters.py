"""Journeys that died, and ``journey-consumer dead-letters`` as a process of its own.

The journeys are of version 3 and named ``j-<number>``. ``registered_once`` asserts where all of them are in
the end, by the queues and the Registry.
"""

import json
import os
import pty
import random
import select
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from consumer.publishing import samples
from tests.broker import Broker
from tests.ledger import TOPOLOGY, Ledger
from tests.local_registry import LocalRegistry
from tests.service import ServiceProcess
from tests.waiting import wait_until

QUEUE = TOPOLOGY.queue
INVALID = TOPOLOGY.dead_letter_queue("invalid")
UNAUTHORIZED = TOPOLOGY.dead_letter_queue("unauthorized")
#: How the two sorts died.
BROKEN: dict[str, Any] = {"x-reason": "invalid", "x-detail": "out_of_range at passenger.seats"}
REFUSED: dict[str, Any] = {
    "x-reason": "unauthorized",
    "x-detail": "token_refused",
    "x-status": 401,
    "x-last-failure": "2026-01-01T00:00:00.000Z",
}
#: A command that repairs what ``broken`` broke.
REPAIR = 'sed \'s/"seats": 9/"seats": 3/\''


def journey(number: int, *, hours_ago: float = 2.0, seats: int = 1) -> dict[str, Any]:
    """A journey that started so long ago."""
    payload = samples.journey("v3", random.Random(number), datetime.now(UTC))
    start = datetime.now(UTC) - timedelta(hours=hours_ago)
    for place, moment in (("start", start), ("end", start + timedelta(minutes=40))):
        payload[place]["datetime"] = moment.isoformat(timespec="seconds")
    payload["operator_journey_id"] = f"j-{number}"
    payload["passenger"]["seats"] = seats
    return payload


def broken(number: int) -> dict[str, Any]:
    """A journey with more seats than a car has."""
    return journey(number, seats=9)


def put(broker: Broker, queue: str, *payloads: dict[str, Any], **headers: Any) -> dict[str, bytes]:
    """Lay them into ``queue`` as dead letters; returns their bodies by journey id."""
    bodies = {payload["operator_journey_id"]: samples.encode(payload) for payload in payloads}
    broker.publish_all(((body, headers) for body in bodies.values()), queue)
    return bodies


def ids(broker: Broker, queue: str) -> list[str]:
    """The journeys that lie ready in ``queue``, in its order; one that lies there twice is told twice."""
    return [json.loads(message.body)["operator_journey_id"] for message in broker.messages(queue)]


def environment(broker: Broker, **more: str) -> dict[str, str]:
    """What the command and the service are told of this broker."""
    settings = {"BROKER_URL": broker.url, "BROKER_QUEUE": QUEUE, "REGISTRY_API_VERSION": "v3"}
    return {**os.environ, **settings, "RETRY_DELAYS_SECONDS": "1,2", **more}


def typed(broker: Broker, *args: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run ``dead-letters ARGS`` to its end; ``more`` are variables of its environment."""
    return subprocess.run(
        command(*args),
        env=environment(broker, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def started(broker: Broker, *args: str, **more: str) -> "Iterator[subprocess.Popen[str]]":
    """Start ``dead-letters ARGS``, to be interrupted; killed at the end, also when the test fails before."""
    with subprocess.Popen(
        command(*args),
        env=environment(broker, **more),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # otherwise leaving the context would wait for as long as it takes


def command(*args: str) -> list[str]:
    """What is typed."""
    return [sys.executable, "-m", "consumer", "dead-letters", *args]


def registered_once(
    broker: Broker, run: Callable[..., ServiceProcess], sandbox: LocalRegistry, expected: Mapping[str, bytes]
) -> int:
    """Let the service take what was sent again; show that the Registry has each of ``expected`` (id to body).

    Each is accepted once, whatever lies twice in the queue is answered 409, and nothing is left in any queue.
    Returns how many were repeated.
    """
    ledger = Ledger(broker, version="v3")
    for journey_id, body in expected.items():
        ledger.note(journey_id, body)
    waiting = ids(broker, QUEUE)
    service = run(broker, registry_api_version="v3", registry_rate_per_minute="1000000")
    ledger.await_settled(60)
    assert service.terminate() == 0
    assert ledger.balance(sandbox).registered == set(expected)
    repeated = len(waiting) - len(expected)
    answered = Counter({201: len(expected)}) + Counter({409: repeated})
    asked = sandbox.requests_by_status.get(200, 0)  # for the status, after a 409
    assert sandbox.requests_by_status == answered + Counter({200: asked})
    assert asked <= repeated
    return repeated


def only_json(text: str) -> dict[str, Any]:
    """The one JSON document that ``text`` is; ValueError when it is anything else."""
    told: dict[str, Any] = json.loads(text)
    return told


class Terminal:
    """The command on a terminal of its own, as a person sees it."""

    def __init__(self, broker: Broker, *args: str, columns: int = 80, **more: str) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, columns))
        self.process = subprocess.Popen(
            command(*args), env=environment(broker, **more), stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        self.shown = ""

    def read_until(self, words: str, timeout: float = 20.0) -> None:
        """Wait until ``words`` are on the screen."""
        wait_until(lambda: words in self.read(), timeout, lambda: f"{words!r} in {self.shown!r}")

    def read(self) -> str:
        """Everything that was on the screen by now."""
        while select.select([self._ours], [], [], 0)[0]:
            try:
                self.shown += os.read(self._ours, 65_536).decode(errors="replace")
            except OSError:  # the other side has been closed
                break
        return self.shown

    def type(self, keys: str) -> None:
        """Press these keys."""
        os.write(self._ours, keys.encode())

    def wait(self, timeout: float = 30.0) -> int:
        """Read until the command has ended; returns its exit code."""

        def ended() -> bool:
            self.read()
            return self.process.poll() is not None

        wait_until(ended, timeout, lambda: f"the end, after {self.shown!r}")
        self.read()
        return self.process.wait()

    def close(self) -> None:
        """Leave nothing behind."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def on_terminal(broker: Broker, *args: str, columns: int = 80, **more: str) -> Iterator[Terminal]:
    """Start ``dead-letters ARGS`` on a terminal, so wide."""
    terminal = Terminal(broker, *args, columns=columns, **more)
    try:
        yield terminal
    finally:
        terminal.close()
