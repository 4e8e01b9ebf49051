"""The instruments, built from the catalogue: every label set exists from the start, at 0.

Label children are bound once, here, so that the hot path is a dictionary look-up and an addition.
Holds no clock and decides nothing: callers say what happened. One object per ``CollectorRegistry``;
nothing is registered globally.
"""

import platform
from collections.abc import Iterable
from itertools import product
from typing import Any, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from consumer import __version__
from consumer.core.breaker import BreakerState
from consumer.core.outcome import (
    Early,
    Forbidden,
    Misconfigured,
    Outcome,
    PauseCause,
    Reason,
    Throttled,
    Unauthorized,
    Unavailable,
)
from consumer.core.reply import Fault, FaultKind, Reply
from consumer.metrics.catalogue import CATALOGUE, EXACT_STATUSES, PREFIX, Instrument
from consumer.metrics.refusals import refused_field

_STATES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
_FAULTS = frozenset(FaultKind)
_LEAST_STATUS, _TOP_STATUS = 200, 600
_M = TypeVar("_M", bound=MetricWrapperBase)


class _Exposed:
    """Offers one instrument to a registry without the ``_created`` series, which nobody reads.

    prometheus_client can only drop them for the whole process; this drops them for this registry.
    """

    def __init__(self, instrument: MetricWrapperBase) -> None:
        self._instrument = instrument

    def describe(self) -> Iterable[Metric]:
        return self._instrument.describe()

    def collect(self) -> Iterable[Metric]:
        for metric in self._instrument.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric


class _Maker:
    """Builds instruments by name; each catalogue entry must be asked for exactly once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._left = {entry.name: entry for entry in CATALOGUE}

    def _made(self, kind: type[_M], name: str) -> tuple[_M, Instrument]:
        entry = self._left.pop(name)
        options: dict[str, Any] = {"buckets": entry.buckets} if entry.buckets else {}
        if kind.__name__.lower() != entry.type:
            raise TypeError(f"{name} is a {entry.type}")
        made = kind(PREFIX + name, entry.meaning, tuple(entry.labels), registry=None, **options)
        self._registry.register(_Exposed(made))
        return made, entry

    def counter(self, name: str) -> Counter:
        return self._made(Counter, name)[0]

    def counters(self, name: str) -> dict[str, Counter]:
        return _children(*self._made(Counter, name))

    def counter_pairs(self, name: str) -> dict[tuple[str, str], Counter]:
        made, entry = self._made(Counter, name)
        return {
            pair: made.labels(*pair)
            for pair in cast("Iterable[tuple[str, str]]", product(*entry.labels.values()))
        }

    def gauge(self, name: str) -> Gauge:
        made, entry = self._made(Gauge, name)
        if not entry.labels:
            made.set(entry.initial)
        return made

    def gauges(self, name: str) -> dict[str, Gauge]:
        made, entry = self._made(Gauge, name)
        gauges = _children(made, entry)
        for gauge in gauges.values():
            gauge.set(entry.initial)
        return gauges

    def histogram(self, name: str) -> Histogram:
        return self._made(Histogram, name)[0]

    def finish(self) -> None:
        if self._left:
            raise TypeError(f"in the catalogue but not built: {', '.join(self._left)}")


def _children(made: _M, entry: Instrument) -> dict[str, _M]:
    """Each child by the value of the one label."""
    (values,) = entry.labels.values()
    return {value: made.labels(value) for value in values}


class Metrics:
    """All instruments of one process.

    A dictionary holds one child for each label value: ``metrics.journeys["registered"].inc()``.
    Everything may be called from any thread.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        make = _Maker(registry)
        self.journeys = make.counters("journeys_total")
        self.dead_lettered = make.counters("dead_lettered_total")
        self.refused_fields = make.counter_pairs("refused_fields_total")
        self.returned = make.counters("returned_total")
        self.deadline_missed = make.counter("deadline_missed_total")
        self.replays = make.counters("replays_total")
        self.dead_letters_oldest_deadline = make.gauges("dead_letters_oldest_deadline_timestamp_seconds")
        self.events = make.counters("events_total")
        self.deliveries = make.counter("deliveries_total")
        self.redelivered = make.counter("redelivered_total")
        self.in_flight = make.gauge("in_flight")
        self.prefetch = make.gauge("prefetch")
        self.held = make.gauge("held")
        self.settlement_duration = make.histogram("settlement_duration_seconds")
        self.registry_requests = make.counters("registry_requests_total")
        self.registry_request_duration = make.histogram("registry_request_duration_seconds")
        self.retries = make.counters("retries_total")
        self.limiter_wait_seconds = make.counter("limiter_wait_seconds_total")
        self.rate_limit_remaining = make.gauge("rate_limit_remaining")
        self.journey_age = make.histogram("journey_age_at_registration_seconds")
        self.oldest_pending_start = make.gauge("oldest_pending_start_timestamp_seconds")
        self.last_success = make.gauge("last_success_timestamp_seconds")
        self.last_delivery = make.gauge("last_delivery_timestamp_seconds")
        self.paused = make.gauges("paused")
        self.breaker_state = make.gauges("breaker_state")
        self.breaker_transitions = make.counter_pairs("breaker_transitions_total")
        self.broker_connected = make.gauges("broker_connected")
        self.broker_blocked = make.gauge("broker_blocked")
        self.reconnects = make.counters("reconnects_total")
        self.broker_cancels = make.counter("broker_cancels_total")
        self.publish_failures = make.counters("publish_failures_total")
        self.publishes_unconfirmed = make.gauge("publishes_unconfirmed")
        self.token_loaded = make.gauge("token_loaded_timestamp_seconds")
        self.token_accepted = make.gauge("token_accepted")
        self.token_expiry = make.gauge("token_expiry_timestamp_seconds")
        self.loop_heartbeat = make.gauge("loop_heartbeat_timestamp_seconds")
        self.build_info = make.gauge("build_info")
        self.build_info.labels(__version__, platform.python_version()).set(1)
        make.finish()
        ProcessCollector(registry=registry)  # process_cpu_seconds_total, process_resident_memory_bytes, ...
        self._breakers = dict.fromkeys(PauseCause, BreakerState.CLOSED)
        # One look-up on the hot path: every status to its counter.
        self._by_status = {
            status: self.registry_requests[_code(status)] for status in range(_LEAST_STATUS, _TOP_STATUS)
        }

    def request(self, answer: Reply | Fault, seconds: float) -> None:
        """Count one submission and its duration."""
        self.registry_request_duration.observe(seconds)
        if isinstance(answer, Reply):
            other = self.registry_requests[FaultKind.OTHER]
            self._by_status.get(answer.status, other).inc()
        else:
            self.registry_requests[answer.kind].inc()

    def retry(self, outcome: Outcome) -> None:
        """Count that a journey is tried again in this process because of ``outcome``."""
        self.retries[retry_reason(outcome)].inc()

    def dead_letter(self, reason: Reason, detail: str) -> None:
        """Count a dead letter, and when its payload was refused the field that ``detail`` names."""
        self.dead_lettered[reason].inc()
        if reason in (Reason.INVALID, Reason.REJECTED):
            self.refused_fields[reason, refused_field(detail)].inc()

    def breaker(self, cause: PauseCause, state: BreakerState) -> None:
        """Note a breaker's state; a change counts as a transition, and all but CLOSED pauses."""
        if self._breakers[cause] is state:
            return
        self._breakers[cause] = state
        self.breaker_state[cause].set(_STATES[state])
        self.breaker_transitions[cause, state].inc()
        self.paused[cause].set(state is not BreakerState.CLOSED)


def _code(status: int) -> str:
    """Return the label of a status: itself when it has a meaning of its own, else its class."""
    if status in EXACT_STATUSES:
        return str(status)
    return f"{status // 100}xx"


def retry_reason(outcome: Outcome) -> str:
    """Return the label of ``retries_total`` for the outcome that is tried again."""
    match outcome:
        case Unavailable(status=None, detail=detail):
            return detail if detail in _FAULTS else FaultKind.OTHER
        case Unavailable(status=408):
            return "408"
        case Unavailable(status=int(status)):
            return {2: "no_result", 5: "5xx"}.get(status // 100, FaultKind.OTHER)
        case Throttled() | Early() | Unauthorized() | Forbidden() | Misconfigured():
            return type(outcome).__name__.lower()
        case _:
            raise ValueError(f"{type(outcome).__name__} is final: it is never tried again")
