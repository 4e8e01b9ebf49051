"""Every metric of the service: name, type, labels with all their values, meaning, and what to do.

Data only: the instruments are built from it (``instruments``), docs/metrics.md is generated from it,
and alert rules and dashboards are checked against it. Names carry the prefix ``journey_consumer_``,
base units, ``_total`` on counters. Label values are closed sets; none is an id. A timestamp is given
instead of an age: the age is ``time() - x``, and stays right when the process hangs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Literal

from consumer.core.breaker import BreakerState
from consumer.core.outcome import PauseCause, Reason
from consumer.core.reply import FaultKind
from consumer.metrics.refusals import REFUSED_FIELDS

PREFIX = "journey_consumer_"
EXACT_STATUSES = (200, 201, 400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504)

_FAULTS = tuple(kind.value for kind in FaultKind)
_REASONS = tuple(reason.value for reason in Reason)
_CAUSES = tuple(cause.value for cause in PauseCause)
_CODES = (*map(str, EXACT_STATUSES), "2xx", "3xx", "4xx", "5xx", *_FAULTS)
_RETRY_REASONS = (
    *_FAULTS,
    "408",
    "5xx",
    "no_result",
    "throttled",
    "early",
    "unauthorized",
    "forbidden",
    "misconfigured",
)
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric. ``labels`` maps each label to all its values; none given: set once, at start."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    meaning: str
    remedy: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    initial: float = 0.0


def _counter(name: str, meaning: str, remedy: str, **labels: tuple[str, ...]) -> Instrument:
    return Instrument(name, "counter", meaning, remedy, labels)


def _gauge(
    name: str, meaning: str, remedy: str, *, initial: float = 0.0, **labels: tuple[str, ...]
) -> Instrument:
    return Instrument(name, "gauge", meaning, remedy, labels, initial=initial)


def _histogram(name: str, meaning: str, remedy: str, *buckets: float) -> Instrument:
    return Instrument(name, "histogram", meaning, remedy, buckets=buckets)


CATALOGUE: tuple[Instrument, ...] = (
    # --- Fates: counted when the broker was told, so that metrics and queues agree ---------
    _counter(
        "journeys_total",
        "Journeys with a final fate, counted when their delivery was settled.",
        "registered and already_registered are successes; every other outcome lies in its dead-letter queue.",
        outcome=("registered", "already_registered", *_REASONS),
    ),
    _counter(
        "dead_lettered_total",
        "Journeys confirmed into a dead-letter queue, by reason.",
        "Look at the queue of that reason; mend the cause, then replay it.",
        reason=_REASONS,
    ),
    _counter(
        "refused_fields_total",
        "Journeys dead-lettered as invalid (by our validation) or rejected (by the Registry), by the first "
        "field that was refused, without list indexes.",
        "A field that rises: its values changed at their source, or the Registry's rule did. payload: "
        "refused as a whole, or by terms that name no field.",
        reason=(Reason.INVALID.value, Reason.REJECTED.value),
        field=REFUSED_FIELDS,
    ),
    _counter(
        "returned_total",
        "Deliveries without a final fate: sent to a delay queue, to the end of our queue, or left untouched.",
        "delayed grows while the Registry fails; released only at shutdown or after a lost connection.",
        kind=("delayed", "returned", "released"),
    ),
    _counter(
        "deadline_missed_total",
        "Journeys dead-lettered more than 24 hours after their start.",
        "Must stay 0: each is a proof lost for good. Find out what held it (age, backlog, pauses).",
    ),
    _counter(
        "replays_total",
        "Final fates of journeys that were dead letters before and were sent again, by outcome.",
        "registered and already_registered are what a replay is for; others lie dead again: look why.",
        outcome=("registered", "already_registered", *_REASONS),
    ),
    _gauge(
        "dead_letters_oldest_deadline_timestamp_seconds",
        "The nearest deadline among the dead letters of a reason that can still be saved (of the lost ones "
        "when none can), as of the last look; 0: none, NaN: nobody could look.",
        "Less than a few hours ahead: mend the cause and replay now. In the past: all that was seen is lost.",
        reason=(*_REASONS, "delivery-limit"),
        initial=nan,
    ),
    _counter(
        "events_total",
        "Outcome events (EVENTS_EXCHANGE), by what became of them.",
        "unrouted: no queue is bound for that outcome. dropped: the exchange is missing or slow.",
        result=("published", "unrouted", "dropped"),
    ),
    # --- Intake ------------------------------------------------------------------------------
    _counter("deliveries_total", "Messages received from the broker.", "Its rate is the intake."),
    _counter(
        "redelivered_total",
        "Messages received that the broker had delivered before.",
        "A few after each restart or reconnection; a steady rate means that connections keep breaking.",
    ),
    _gauge(
        "in_flight",
        "Deliveries taken and not yet settled.",
        "At most the prefetch; at the prefetch for long: the Registry is slow or paused.",
    ),
    _gauge("prefetch", "Most deliveries that the broker may send ahead.", "0 while consumption is paused."),
    _gauge(
        "held",
        "Deliveries that wait in this process for a pause, a retry or their journey's end.",
        "0 in quiet times.",
    ),
    _histogram(
        "settlement_duration_seconds",
        "Time from receiving a delivery to settling it.",
        "Follows the Registry's answer time; retries and waiting show as minutes.",
        *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 1800.0),
    ),
    # --- Registry ----------------------------------------------------------------------------
    _counter(
        "registry_requests_total",
        "Submissions by answer: the status, the class of other statuses, or why there was no answer.",
        "200, 201 and 409 are successes. For the rest see the table of outcomes.",
        code=_CODES,
    ),
    _histogram(
        "registry_request_duration_seconds",
        "Time from sending a journey to its answer or fault.",
        "Near REGISTRY_TIMEOUT_SECONDS: the Registry is overloaded or a proxy holds requests back.",
        *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    ),
    _counter(
        "retries_total",
        "Submissions tried again in this process, by the reason of the failure before.",
        "A burst is normal when the Registry restarts; a steady rate is an outage or a bad network.",
        reason=_RETRY_REASONS,
    ),
    _counter(
        "limiter_wait_seconds_total",
        "Time that submissions waited for the rate limit.",
        "Grows while a backlog is worked off: the limit is used to the full.",
    ),
    _gauge(
        "rate_limit_remaining",
        "Requests left in the Registry's current window, as its last answer said; NaN before the first.",
        "Near 0: replicas or other tools behind the same address share the limit.",
        initial=nan,
    ),
    # --- Deadline ----------------------------------------------------------------------------
    _histogram(
        "journey_age_at_registration_seconds",
        "Time from a journey's start to its registration; the Registry accepts 24 hours.",
        "Most in the lower buckets; beyond 12 hours the deadline is at risk.",
        *(60.0, 300.0, 900.0, 1800.0),
        *(hours * _HOUR for hours in (1, 2, 4, 8, 12, 18, 22, 24)),
    ),
    _gauge(
        "oldest_pending_start_timestamp_seconds",
        "Start of the oldest journey that is taken and not settled; 0: none.",
        "time() minus this is the age to watch against 24 hours.",
    ),
    _gauge(
        "last_success_timestamp_seconds",
        "When a journey was last registered or found registered; 0: never.",
        "Old while deliveries arrive: look at the answers, the breaker and the token.",
    ),
    _gauge(
        "last_delivery_timestamp_seconds",
        "When the broker last delivered a message; 0: never.",
        "Old while the queue is not empty: consumption is paused or stalled.",
    ),
    # --- Pauses ------------------------------------------------------------------------------
    _gauge(
        "paused",
        "1 while this cause holds consumption or publishing back.",
        "unauthorized, forbidden: the token. misconfigured: address or version. unavailable: the Registry. "
        "throttled: the rate limit. publisher: the broker does not confirm.",
        cause=(*_CAUSES, "publisher", "throttled"),
    ),
    _gauge(
        "breaker_state",
        "State of the circuit breaker: 0 closed, 1 half-open (probing), 2 open.",
        "0 in quiet times; it closes by itself when a probe succeeds.",
        cause=_CAUSES,
    ),
    _counter(
        "breaker_transitions_total",
        "Changes of a circuit breaker's state.",
        "Often open and closed again: the Registry is at its limit, or the threshold is too low.",
        cause=_CAUSES,
        to=tuple(state.value for state in BreakerState),
    ),
    # --- Broker ------------------------------------------------------------------------------
    _gauge(
        "broker_connected",
        "1 while the connection is open and usable.",
        "0 for longer than a broker restart: address, permissions, network; the log says why.",
        connection=("consume", "publish"),
    ),
    _gauge(
        "broker_blocked",
        "1 while the broker blocks publishing (memory or disk alarm).",
        "Mend the broker's alarm; nothing is acknowledged meanwhile that needs a publish.",
    ),
    _counter(
        "reconnects_total",
        "Connections that were lost.",
        "A few when the broker restarts; a steady rate is a network or heartbeat trouble.",
        connection=("consume", "publish"),
    ),
    _counter(
        "broker_cancels_total",
        "Times the broker ended our subscription (queue deleted, leader moved).",
        "Was the queue deleted? The service declares and subscribes again.",
    ),
    _counter(
        "publish_failures_total",
        "Publishes of dead letters and returns that were not confirmed; each is tried again.",
        "returned: the queue or exchange is missing. nacked: a queue limit. timeout, connection: the broker. "
        "unencodable: headers that AMQP cannot carry, republished without them.",
        kind=("nacked", "returned", "connection", "timeout", "unencodable"),
    ),
    _gauge(
        "publishes_unconfirmed",
        "Publishes that wait for the broker's confirm.",
        "Stays high: the broker is slow or blocked.",
    ),
    # --- Token -------------------------------------------------------------------------------
    _gauge(
        "token_loaded_timestamp_seconds",
        "When the token in use was loaded; 0: never.",
        "Older than the last rotation: the new token has not reached the file.",
    ),
    _gauge(
        "token_accepted",
        "1 when the Registry accepted the token at its last use, 0 when not; NaN before the first use.",
        "0: put a valid token in place; consumption resumes by itself, and so do unauthorized dead letters.",
        initial=nan,
    ),
    _gauge(
        "token_expiry_timestamp_seconds",
        "When the token in use expires; 0: it does not, or does not say.",
        "In the past: the key exchange does not succeed.",
    ),
    # --- Process -----------------------------------------------------------------------------
    _gauge(
        "loop_heartbeat_timestamp_seconds",
        "When the event loop last ran its heartbeat; it ticks also while paused or disconnected.",
        "Old: the process hangs; the liveness probe restarts it.",
    ),
    _gauge(
        "build_info",
        "Always 1; version of the service and of Python in the labels.",
        "Shows which version runs where.",
        version=(),
        python=(),
    ),
)
