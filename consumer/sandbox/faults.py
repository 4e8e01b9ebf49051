"""The faults that an operator can set, and for how many requests.

Knows the settings and their limits; ``server`` applies them. They are set as attributes or from a JSON
object, with the same names; an object with a wrong name or value changes nothing.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_type_hints

Drop = Literal["before_read", "before_answer"]

_MAX_ANSWER_BYTES = 1 << 30


@dataclass(slots=True)
class Throttle:
    """Answer 429; the headers that name the wait can be left out."""

    retry_after_seconds: int = 60
    with_headers: bool = True


def _number(value: Any, most: float, meaning: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"must be a number {meaning}")
    return float(value)


def _seconds(value: Any) -> float:
    return _number(value, sys.float_info.max, "of seconds, 0 or more")


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


def _throttle(value: Any) -> Throttle | None:
    if value is None or isinstance(value, Throttle):
        return value
    if not isinstance(value, dict) or not value.keys() <= {"retry_after_seconds", "with_headers"}:
        raise ValueError("must be null or an object with retry_after_seconds and with_headers")
    return Throttle(
        _whole(value.get("retry_after_seconds", 60), 0, 86_400), _flag(value.get("with_headers", True))
    )


def _drop(value: Any) -> Any:
    if value is not None and value not in get_args(Drop):
        raise ValueError("must be null, before_read or before_answer")
    return value


def _address(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and value.isascii() and value.isprintable()):
        raise ValueError("must be null or an address")
    return value


def _labels(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(label, str) for label in value):
        raise ValueError("must be a list of labels")
    return tuple(value)


@dataclass(slots=True)
class Fault:
    """One set of faults; the defaults do nothing.

    ``latency_seconds``: the journey is stored at once and answered that much later.
    ``error_rate``: the share of requests answered ``error_status``, nothing stored.
    ``drop_connection``: close the socket before reading, or after storing instead of answering.
    ``close_idle_seconds``: close a kept-alive connection after that long, without notice.
    ``timeout_408``: store, then answer 408. ``redirect``: the address to redirect to.
    ``garbage``: 200 with a page instead of JSON, nothing stored. ``huge_answer_bytes``: the
    answer is padded to that size. ``slow_drip_seconds``: one byte of it at that interval.
    ``terms_violation_labels``: refuse valid journeys with these labels.
    """

    latency_seconds: Annotated[float, _seconds] = 0.0
    error_rate: Annotated[float, lambda value: _number(value, 1, "from 0 to 1")] = 0.0
    error_status: Annotated[int, lambda value: _whole(value, 400, 599)] = 500
    maintenance: Annotated[bool, _flag] = False
    throttle: Annotated[Throttle | None, _throttle] = None
    drop_connection: Annotated[Drop | None, _drop] = None
    close_idle_seconds: Annotated[float | None, _optional_seconds] = None
    timeout_408: Annotated[bool, _flag] = False
    redirect: Annotated[str | None, _address] = None
    not_found: Annotated[bool, _flag] = False
    garbage: Annotated[bool, _flag] = False
    huge_answer_bytes: Annotated[int, lambda value: _whole(value, 0, _MAX_ANSWER_BYTES)] = 0
    slow_drip_seconds: Annotated[float, _seconds] = 0.0
    terms_violation_labels: Annotated[tuple[str, ...], _labels] = ()


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    checks = {name: hint.__metadata__[0] for name, hint in get_type_hints(Fault, include_extras=True).items()}
    checked = {}
    for name, value in settings.items():
        if name not in checks:
            raise ValueError(f"{name}: no such fault")
        try:
            checked[name] = checks[name](value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return checked


@dataclass(slots=True)
class Faults(Fault):
    """The faults in force. Those set ``for_next`` requests replace the lasting ones for so long."""

    passing: Fault | None = None
    passing_count: int = 0

    def apply(self, settings: Mapping[str, Any], *, count: Any = None) -> None:
        """Set faults until further notice, or for the next ``count`` requests only.

        Raises ValueError, having changed nothing, when a name or a value is wrong.
        """
        checked = _checked(settings)
        if count is not None:
            self.passing_count = _whole(count, 1, 1_000_000_000)
            self.passing = Fault(**checked)
            return
        for name, value in checked.items():
            setattr(self, name, value)

    def for_next(self, count: int, **settings: Any) -> None:
        """Apply these faults, and only these, to the next ``count`` requests."""
        self.apply(settings, count=count)

    def take(self) -> Fault:
        """The faults of the request that has just arrived."""
        if self.passing is None:
            return self
        fault = self.passing
        self.passing_count -= 1
        if self.passing_count == 0:
            self.passing = None
        return fault

    def clear(self) -> None:
        """Switch every fault off."""
        self.passing, self.passing_count = None, 0
        for each in fields(Fault):
            setattr(self, each.name, each.default)
