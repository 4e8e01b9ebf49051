"""What the soak and the cluster run print: the account of every journey, memory and descriptors over time."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import psutil

from consumer.sandbox import Sandbox
from tests.ledger import Ledger
from tests.service import ServiceProcess


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def table(head: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a Markdown table."""
    for row in (head, ["---"] * len(head), *rows):
        say(f"| {' | '.join(map(str, row))} |")


@dataclass(slots=True)
class Count:
    """Where the confirmed journeys are at the end; each is counted in ``at`` once for each place."""

    published: int
    at: Counter[str]
    lost: list[str]
    in_two: int
    """Registered and a dead letter, or dead for two reasons: a loss between confirm and acknowledgement."""
    twice: int
    """In one dead-letter queue more than once, for the same reason."""
    changed: int
    again: int
    """Submissions of a journey that the Registry already had."""

    @property
    def passed(self) -> bool:
        return not self.lost and not self.changed and not self.at["queued"]


def count(ledger: Ledger, registry: Sandbox) -> Count:
    """Take the account from the queues and the Registry's memory."""
    places, changed = ledger.places(registry)
    return Count(
        published=len(ledger.published),
        at=Counter(place for found in places.values() for place in found),
        lost=sorted(ledger.published.keys() - places.keys()),
        in_two=sum(len(found) > 1 for found in places.values()),
        twice=sum(max(found.values()) > 1 for found in places.values()),
        changed=len(changed),
        again=sum(each.times_seen - 1 for each in registry.journeys.values()),
    )


class Arrivals:
    """When the number of registered journeys grew, in monotonic seconds, after that of the start.

    A thread of its own watches.
    """

    def __init__(self, registry: Sandbox) -> None:
        self._registry = registry
        self._ends = threading.Event()
        self.times: list[float] = [time.monotonic()]
        self._thread = threading.Thread(target=self._watch, name="arrivals", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        last = 0
        while not self._ends.wait(0.02):
            if (registered := len(self._registry.journeys)) > last:
                last = registered
                self.times.append(time.monotonic())

    def first_after(self, moment: float) -> float | None:
        """Seconds from ``moment`` to the next registration, if there was one."""
        return next((each - moment for each in list(self.times) if each > moment), None)

    def longest_gap(self, start: float, end: float) -> float:
        """The longest time without a registration that ended or began between the two moments."""
        times = [each for each in list(self.times) if each <= end]
        gaps = (after - before for before, after in itertools.pairwise([*times, end]) if after > start)
        return max(gaps, default=0.0)


@dataclass(slots=True)
class Footprint:
    """Resident MB and open descriptors of one service process over the run."""

    service: ServiceProcess
    started: float = field(default_factory=time.monotonic)
    samples: list[tuple[float, float, int]] = field(default_factory=list)

    def sample(self) -> str:
        process = psutil.Process(self.service.pid)
        taken = (time.monotonic() - self.started, process.memory_info().rss / 1e6, process.num_fds())
        self.samples.append(taken)
        return f"{taken[1]:.0f} MB, {taken[2]} descriptors"

    def over_time(self, steps: int = 5) -> list[tuple[float, float, int]]:
        """Return ``steps`` samples at even distances, the first and the last among them."""
        last = len(self.samples) - 1
        return [self.samples[round(last * step / (steps - 1))] for step in range(steps)]
