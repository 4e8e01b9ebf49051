"""The instruments, built from the catalogue: every label set exists from the start, at 0.

Label children are bound once, here, so that the hot path is a dictionary look-up and an addition.
Holds no clock and decides nothing: callers say what happened. One object per ``CollectorRegistry``;
nothing is registered globally.
"""

import platform
from itertools import product
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase, disable_created_metrics

from consumer import __version__
from consumer.core.breaker import BreakerState
from consumer.core.outcome import Outcome, PauseCause, Reason
from consumer.core.reply import Fault, Reply
from consumer.metrics.catalogue import CATALOGUE, PREFIX, refused_field, retry_reason, status_code

_STATES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
_M = TypeVar("_M", bound=MetricWrapperBase)


class _Maker:
    """Builds instruments by their names in the catalogue; the registry refuses to build one twice."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._entries = {entry.name: entry for entry in CATALOGUE}

    def one(self, kind: type[_M], name: str) -> _M:
        entry = self._entries[name]
        options: dict[str, Any] = {"buckets": entry.buckets} if entry.buckets else {}
        made = kind(PREFIX + name, entry.meaning, tuple(entry.labels), registry=self._registry, **options)
        if isinstance(made, Gauge) and not entry.labels:
            made.set(entry.initial)
        return made

    def each(self, kind: type[_M], name: str) -> dict[str, _M]:
        """Return the children by the value of the one label."""
        made, (values,) = self.one(kind, name), self._entries[name].labels.values()
        children = {value: made.labels(value) for value in values}
        for child in children.values():
            if isinstance(child, Gauge):
                child.set(self._entries[name].initial)
        return children

    def pairs(self, kind: type[_M], name: str) -> dict[tuple[str, str], _M]:
        """Return the children by the values of the two labels."""
        made, (first, second) = self.one(kind, name), self._entries[name].labels.values()
        return {pair: made.labels(*pair) for pair in product(first, second)}


class Metrics:
    """All instruments of one process.

    A dictionary holds one child for each label value: ``metrics.journeys["registered"].inc()``.
    Everything may be called from any thread.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        # No _created series; prometheus_client cannot leave them out of one registry only.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        make = _Maker(registry)
        self.journeys = make.each(Counter, "journeys_total")
        self.already_registered = make.each(Counter, "already_registered_total")
        self.dead_lettered = make.each(Counter, "dead_lettered_total")
        self.refused_fields = make.pairs(Counter, "refused_fields_total")
        self.returned = make.each(Counter, "returned_total")
        self.deadline_missed = make.one(Counter, "deadline_missed_total")
        self.replays = make.each(Counter, "replays_total")
        self.dead_letters_oldest_deadline = make.each(Gauge, "dead_letters_oldest_deadline_timestamp_seconds")
        self.events = make.each(Counter, "events_total")
        self.deliveries = make.one(Counter, "deliveries_total")
        self.redelivered = make.one(Counter, "redelivered_total")
        self.in_flight = make.one(Gauge, "in_flight")
        self.prefetch = make.one(Gauge, "prefetch")
        self.held = make.one(Gauge, "held")
        self.settlement_duration = make.one(Histogram, "settlement_duration_seconds")
        self.registry_requests = make.each(Counter, "registry_requests_total")
        self.registry_request_duration = make.one(Histogram, "registry_request_duration_seconds")
        self.retries = make.each(Counter, "retries_total")
        self.limiter_wait_seconds = make.one(Counter, "limiter_wait_seconds_total")
        self.rate_limit_remaining = make.one(Gauge, "rate_limit_remaining")
        self.journey_age = make.one(Histogram, "journey_age_at_registration_seconds")
        self.oldest_pending_start = make.one(Gauge, "oldest_pending_start_timestamp_seconds")
        self.last_success = make.one(Gauge, "last_success_timestamp_seconds")
        self.last_delivery = make.one(Gauge, "last_delivery_timestamp_seconds")
        self.paused = make.each(Gauge, "paused")
        self.breaker_state = make.each(Gauge, "breaker_state")
        self.breaker_transitions = make.pairs(Counter, "breaker_transitions_total")
        self.broker_connected = make.each(Gauge, "broker_connected")
        self.broker_blocked = make.one(Gauge, "broker_blocked")
        self.reconnects = make.each(Counter, "reconnects_total")
        self.broker_cancels = make.one(Counter, "broker_cancels_total")
        self.publish_failures = make.each(Counter, "publish_failures_total")
        self.dead_letters_refused = make.pairs(Counter, "dead_letters_refused_total")
        self.publishes_unconfirmed = make.one(Gauge, "publishes_unconfirmed")
        self.token_loaded = make.one(Gauge, "token_loaded_timestamp_seconds")
        self.token_accepted = make.one(Gauge, "token_accepted")
        self.token_expiry = make.one(Gauge, "token_expiry_timestamp_seconds")
        self.loop_heartbeat = make.one(Gauge, "loop_heartbeat_timestamp_seconds")
        self.log_lines_lost = make.one(Counter, "log_lines_lost_total")
        self.build_info = make.one(Gauge, "build_info")
        self.build_info.labels(__version__, platform.python_version()).set(1)
        ProcessCollector(registry=registry)  # process_cpu_seconds_total, process_resident_memory_bytes, ...
        self._breakers = dict.fromkeys(PauseCause, BreakerState.CLOSED)

    def request(self, answer: Reply | Fault, seconds: float) -> None:
        self.registry_request_duration.observe(seconds)
        code = status_code(answer.status) if isinstance(answer, Reply) else answer.kind
        self.registry_requests[code].inc()

    def retry(self, outcome: Outcome) -> None:
        self.retries[retry_reason(outcome)].inc()

    def dead_letter(self, reason: Reason, detail: str) -> None:
        """Count a dead letter, and when its payload was refused the field that ``detail`` names."""
        self.dead_lettered[reason].inc()
        if reason in (Reason.INVALID, Reason.REJECTED):
            self.refused_fields[reason, refused_field(detail)].inc()

    def breaker(self, cause: PauseCause, state: BreakerState) -> None:
        """Set a breaker's state; a change counts as a transition, and all states but CLOSED pause."""
        if self._breakers[cause] is state:
            return
        self._breakers[cause] = state
        self.breaker_state[cause].set(_STATES[state])
        self.breaker_transitions[cause, state].inc()
        self.paused[cause].set(state is not BreakerState.CLOSED)
