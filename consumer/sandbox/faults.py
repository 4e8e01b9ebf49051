"""The faults that an operator can set, and for how many requests.

Knows the settings and their limits; ``server`` applies them. They are set as attributes or from a JSON
object, with the same names; an object with a wrong name or value changes nothing.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

Drop = Literal["before_read", "before_answer"]


class _Rule(NamedTuple):
    """Which values of a field are allowed, and in words what they must be."""

    allows: Callable[[Any], bool]
    text: str


def _number(most: float, text: str) -> _Rule:
    return _Rule(lambda value: type(value) in {int, float} and 0 <= value <= most, f"a number {text}")


def _whole(least: int, most: int) -> _Rule:
    text = f"a whole number from {least} to {most}"
    return _Rule(lambda value: type(value) is int and least <= value <= most, text)


def _or_null(rule: _Rule) -> _Rule:
    return _Rule(lambda value: value is None or rule.allows(value), f"null or {rule.text}")


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()


def _are_labels(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(label, str) for label in value)


def _is_throttle(value: Any) -> bool:
    return isinstance(value, Throttle) or (isinstance(value, dict) and _problem(Throttle, value) is None)


def _problem(kind: type[Any], settings: Mapping[str, Any]) -> str | None:
    """The first setting that is no field of ``kind`` or breaks the field's rule."""
    hints = get_type_hints(kind, include_extras=True)
    for name, value in settings.items():
        if name not in hints:
            return f"{name}: no such fault"
        rule = hints[name].__metadata__[0]
        if not rule.allows(value):
            return f"{name}: must be {rule.text}"
    return None


_FLAG = _Rule(lambda value: isinstance(value, bool), "true or false")
_SECONDS = _number(sys.float_info.max, "of seconds, 0 or more")
_DROP = _Rule(lambda value: value in get_args(Drop), "before_read or before_answer")


@dataclass(slots=True)
class Throttle:
    """Answer 429; the headers that name the wait can be left out."""

    retry_after_seconds: Annotated[int, _whole(0, 86_400)] = 60
    with_headers: Annotated[bool, _FLAG] = True


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

    latency_seconds: Annotated[float, _SECONDS] = 0.0
    error_rate: Annotated[float, _number(1, "from 0 to 1")] = 0.0
    error_status: Annotated[int, _whole(400, 599)] = 500
    maintenance: Annotated[bool, _FLAG] = False
    throttle: Annotated[Throttle | None, _or_null(_Rule(_is_throttle, "an object with its fields"))] = None
    drop_connection: Annotated[Drop | None, _or_null(_DROP)] = None
    close_idle_seconds: Annotated[float | None, _or_null(_SECONDS)] = None
    timeout_408: Annotated[bool, _FLAG] = False
    redirect: Annotated[str | None, _or_null(_Rule(_is_address, "an address"))] = None
    not_found: Annotated[bool, _FLAG] = False
    garbage: Annotated[bool, _FLAG] = False
    huge_answer_bytes: Annotated[int, _whole(0, 1 << 30)] = 0
    slow_drip_seconds: Annotated[float, _SECONDS] = 0.0
    terms_violation_labels: Annotated[Sequence[str], _Rule(_are_labels, "a list of labels")] = ()


@dataclass(slots=True)
class Faults(Fault):
    """The faults in force. Those set ``for_next`` requests replace the lasting ones for so long."""

    passing: Fault | None = None
    passing_count: int = 0

    def apply(self, settings: Mapping[str, Any], *, count: Any = None) -> None:
        """Set faults until further notice, or for the next ``count`` requests only.

        Raises ValueError, having changed nothing, when a name or a value is wrong.
        """
        if (problem := _problem(Fault, settings)) is not None:
            raise ValueError(problem)
        values = dict(settings)
        if isinstance(values.get("throttle"), dict):
            values["throttle"] = Throttle(**values["throttle"])
        if count is not None:
            rule = _whole(1, 1_000_000_000)
            if not rule.allows(count):
                raise ValueError(f"count: must be {rule.text}")
            self.passing, self.passing_count = Fault(**values), count
            return
        for name, value in values.items():
            setattr(self, name, value)

    def for_next(self, count: int, **settings: Any) -> None:
        """Apply these faults, and only these, to the next ``count`` requests."""
        self.apply(settings, count=count)

    def take(self) -> Fault:
        if self.passing is None:
            return self
        fault = self.passing
        self.passing_count -= 1
        if self.passing_count == 0:
            self.passing = None
        return fault

    def clear(self) -> None:
        self.passing, self.passing_count = None, 0
        for each in fields(Fault):
            setattr(self, each.name, each.default)
