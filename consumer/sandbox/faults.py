"""The faults an operator can ask of the sandbox, and for how many requests.

Knows the knobs and their rules; applies none of them (``app`` does). Knobs are set in process
as attributes or from a JSON object, with the same names; a name or a value that makes no sense
is refused as a whole and changes nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Drop = Literal["before_read", "before_answer"]

_MAX_ANSWER_BYTES = 1 << 30


@dataclass(slots=True)
class Throttle:
    """Answer 429; the headers that say for how long can be left out."""

    retry_after_seconds: int = 60
    with_headers: bool = True


@dataclass(slots=True)
class Knobs:
    """One set of faults; the defaults do nothing.

    ``latency_seconds``: the answer is decided at once and sent that much later.
    ``error_rate``: the share of requests answered ``error_status``, nothing stored.
    ``drop_connection``: close the socket before reading, or after storing instead of answering.
    ``close_idle_seconds``: close a kept-alive connection after that long, without a word.
    ``timeout_408``: store, then answer 408. ``redirect``: the address to redirect to.
    ``garbage``: 200 with a page instead of JSON, nothing stored. ``huge_answer_bytes``: the
    answer is padded to that size. ``slow_drip_seconds``: one byte of it at that interval.
    ``terms_violation_labels``: refuse valid journeys with these labels.
    """

    latency_seconds: float = 0.0
    error_rate: float = 0.0
    error_status: int = 500
    maintenance: bool = False
    throttle: Throttle | None = None
    drop_connection: Drop | None = None
    close_idle_seconds: float | None = None
    timeout_408: bool = False
    redirect: str | None = None
    not_found: bool = False
    garbage: bool = False
    huge_answer_bytes: int = 0
    slow_drip_seconds: float = 0.0
    terms_violation_labels: tuple[str, ...] = ()


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError("must be a number of seconds, 0 or more")
    return float(value)


def _optional_seconds(value: Any) -> float | None:
    return None if value is None else _seconds(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004 -- one error for all wrong values
    return value


def _whole(value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"must be a whole number from {least} to {most}")
    return value


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError("must be a number from 0 to 1")
    return float(value)


def _throttle(value: Any) -> Throttle | None:
    if value is None or isinstance(value, Throttle):
        return value
    if not isinstance(value, dict) or not value.keys() <= {"retry_after_seconds", "with_headers"}:
        raise ValueError("must be null or an object with retry_after_seconds and with_headers")
    return Throttle(
        _whole(value.get("retry_after_seconds", 60), 0, 86_400), _flag(value.get("with_headers", True))
    )


def _drop(value: Any) -> Drop | None:
    if value is not None and value not in get_args(Drop):
        raise ValueError("must be null, before_read or before_answer")
    return value  # type: ignore[no-any-return]


def _address(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and value.isascii() and value.isprintable()):
        raise ValueError("must be null or an address")
    return value


def _labels(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(label, str) for label in value):
        raise ValueError("must be a list of labels")
    return tuple(value)


_RULES = {
    "latency_seconds": _seconds,
    "error_rate": _rate,
    "error_status": lambda value: _whole(value, 400, 599),
    "maintenance": _flag,
    "throttle": _throttle,
    "drop_connection": _drop,
    "close_idle_seconds": _optional_seconds,
    "timeout_408": _flag,
    "redirect": _address,
    "not_found": _flag,
    "garbage": _flag,
    "huge_answer_bytes": lambda value: _whole(value, 0, _MAX_ANSWER_BYTES),
    "slow_drip_seconds": _seconds,
    "terms_violation_labels": _labels,
}


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    checked = {}
    for name, value in settings.items():
        rule = _RULES.get(name)
        if rule is None:
            raise ValueError(f"{name}: no such fault")
        try:
            checked[name] = rule(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return checked


@dataclass(slots=True)
class Faults(Knobs):
    """The faults in force. Those set ``for_next`` requests take the place of the lasting ones."""

    passing: Knobs | None = None
    passing_count: int = 0

    def apply(self, settings: Mapping[str, Any], *, count: Any = None) -> None:
        """Turn knobs: for good, or for the next ``count`` requests only.

        Raises ValueError, having changed nothing, when a name or a value is wrong.
        """
        checked = _checked(settings)
        if count is not None:
            self.passing_count = _whole(count, 1, 1_000_000_000)
            self.passing = Knobs(**checked)
            return
        for name, value in checked.items():
            setattr(self, name, value)

    def for_next(self, count: int, **settings: Any) -> None:
        """Apply these faults, and only these, to the next ``count`` requests."""
        self.apply(settings, count=count)

    def take(self) -> Knobs:
        """The faults of the request that has just arrived."""
        if self.passing is None:
            return self
        knobs = self.passing
        self.passing_count -= 1
        if self.passing_count == 0:
            self.passing = None
        return knobs

    def clear(self) -> None:
        """Behave again."""
        self.passing, self.passing_count = None, 0
        for knob in fields(Knobs):
            setattr(self, knob.name, knob.default)
