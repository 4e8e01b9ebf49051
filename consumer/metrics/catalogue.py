"""Every metric of the service: name, type, labels with all their values, meaning, and what to do.

The instruments are built from it (``instruments``), docs/metrics.md is generated from it, and alert rules
and dashboards are checked against it. Names carry the prefix ``journey_consumer_``, base units, ``_total``
on counters. A timestamp is given instead of an age: the age is ``time() - x``, which stays right when the
process hangs. Labels have closed sets of values: a text from outside never becomes one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Literal

from consumer.core.breaker import BreakerState
from consumer.core.outcome import Outcome, PauseCause, Proof, Reason, Unavailable
from consumer.core.reply import FaultKind
from schemas import field_paths

PREFIX = "journey_consumer_"

FAULTS = tuple(kind.value for kind in FaultKind)
REASONS = tuple(reason.value for reason in Reason)
OUTCOMES = ("registered", "already_registered", *REASONS)
PAUSE_CAUSES = tuple(cause.value for cause in PauseCause)
CONNECTIONS = ("consume", "publish")
RETRY_REASONS = (
    *(*FAULTS, "408", "5xx", "no_result"),
    *("throttled", "early", "unauthorized", "forbidden", "misconfigured"),
)

_EXACT_STATUSES = (200, 201, 400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504)
CODES = (*map(str, _EXACT_STATUSES), "2xx", "3xx", "4xx", "5xx", *FAULTS)

# Counted with the place or travel pass that they are parts of; apart they would be a third of all series.
_PARTS = frozenset({"lat", "lon", "insee", "literal", "country", "name", "user_id"})
_PATHS = frozenset(
    path for path in (*field_paths("v2"), *field_paths("v3")) if path.rpartition(".")[2] not in _PARTS
)
# payload: the refusal has no path (not JSON, too large, an error of the Registry that names no field).
# other: the path starts with no field of the models.
REFUSED_FIELDS = (*sorted(_PATHS), "payload", "other")


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
    # --- Results: counted after the broker accepted the settlement, so that metrics and queues agree
    _counter(
        "journeys_total",
        "Journeys with a final outcome, counted when their delivery was settled.",
        "registered and already_registered are successes; all others are in their dead-letter queues.",
        outcome=OUTCOMES,
    ),
    _counter(
        "already_registered_total",
        "Journeys that ended as already_registered: never sent by us before (first_attempt), sent before and "
        "counted by the Registry's status (verified), or sent before and no status to be had (unverified).",
        "unverified: the status route failed, or the version (v2) has none. Some may have been refused for "
        "the terms of use: look up their ids, in the log. first_attempt: published twice, or corrected.",
        proof=tuple(proof.value for proof in Proof),
    ),
    _counter(
        "dead_lettered_total",
        "Journeys confirmed into a dead-letter queue, by reason.",
        "Fix the cause of that reason, then replay its queue.",
        reason=REASONS,
    ),
    _counter(
        "refused_fields_total",
        "Journeys dead-lettered as invalid (by our validation) or rejected (by the Registry), by the first "
        "field that was refused, without list indexes.",
        "A field that rises: its values changed at their source, or the Registry's rule did. payload: "
        "refused as a whole, or with an error that names no field.",
        reason=(Reason.INVALID.value, Reason.REJECTED.value),
        field=REFUSED_FIELDS,
    ),
    _counter(
        "returned_total",
        "Deliveries settled without a final outcome: published to a delay queue (delayed), republished to "
        "the end of our queue (returned), or left unacknowledged (released).",
        "delayed grows while the Registry fails; released only at shutdown or after a lost connection.",
        kind=("delayed", "returned", "released"),
    ),
    _counter(
        "deadline_missed_total",
        "Journeys dead-lettered more than 24 hours after their start.",
        "Must stay 0: each is a lost proof. See age, backlog and pauses for the cause.",
    ),
    _counter(
        "replays_total",
        "Final outcomes of replayed dead letters, by outcome.",
        "registered and already_registered: the replay worked. Others are dead letters again: see why.",
        outcome=OUTCOMES,
    ),
    _gauge(
        "dead_letters_oldest_deadline_timestamp_seconds",
        "The nearest deadline among the dead letters of a reason that can still be registered (of those too "
        "late when none can), as of the last read; 0: none, NaN: the queue could not be read.",
        "Less than a few hours ahead: fix the cause and replay now. In the past: all that were read are "
        "too late.",
        reason=(*REASONS, "delivery-limit"),
        initial=nan,
    ),
    _counter(
        "events_total",
        "Outcome events (EVENTS_EXCHANGE), by result.",
        "unrouted: no queue is bound for that outcome. dropped: the exchange is missing or slow.",
        result=("published", "unrouted", "dropped"),
    ),
    # --- Consumption -------------------------------------------------------------------------
    _counter("deliveries_total", "Messages received from the broker.", "Its rate is the consumption rate."),
    _counter(
        "redelivered_total",
        "Messages received that the broker had delivered before.",
        "A few after each restart or reconnection; a steady rate: connections keep breaking.",
    ),
    _gauge(
        "in_flight",
        "Deliveries received and not yet settled.",
        "At most the prefetch; at the prefetch for long: the Registry is slow, or consumption is paused.",
    ),
    _gauge("prefetch", "Most deliveries that the broker may send ahead.", "0 while consumption is paused."),
    _gauge(
        "held",
        "Deliveries in flight that wait for a pause to end, for a retry or for their journey's end.",
        "0 in normal operation.",
    ),
    _histogram(
        "settlement_duration_seconds",
        "Time from receiving a delivery to settling it.",
        "Follows the Registry's response time; retries and holds take minutes.",
        *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 1800.0),
    ),
    # --- Registry ----------------------------------------------------------------------------
    _counter(
        "registry_requests_total",
        "Submissions by answer: the status, the class of other statuses, or the kind of fault.",
        "200, 201 and 409 are successes. For the rest see the table of outcomes.",
        code=CODES,
    ),
    _histogram(
        "registry_request_duration_seconds",
        "Time from sending a journey to its answer or fault.",
        "Near REGISTRY_TIMEOUT_SECONDS: the Registry is overloaded, or a proxy delays requests.",
        *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    ),
    _counter(
        "retries_total",
        "Retries in this process, by the reason of the failure before.",
        "A burst is normal when the Registry restarts; a steady rate is an outage or a bad network.",
        reason=RETRY_REASONS,
    ),
    _counter(
        "limiter_wait_seconds_total",
        "Time that submissions waited for the rate limiter.",
        "Grows while a backlog is processed: the limit is fully used.",
    ),
    _gauge(
        "rate_limit_remaining",
        "Requests left in the Registry's current window, from its last answer; NaN before the first.",
        "Near 0: replicas or other tools behind the same address share the limit.",
        initial=nan,
    ),
    # --- Deadline ----------------------------------------------------------------------------
    _histogram(
        "journey_age_at_registration_seconds",
        "Time from a journey's start to its registration; the Registry accepts 24 hours.",
        "Most in the lower buckets; beyond 12 hours the deadline is at risk.",
        *(60.0, 300.0, 900.0, 1800.0),
        *(hours * 3600.0 for hours in (1, 2, 4, 8, 12, 18, 22, 24)),
    ),
    _gauge(
        "oldest_pending_start_timestamp_seconds",
        "Start of the oldest journey that this process has received and not finished: in flight, in a delay "
        "queue, or back in the queue; 0: none.",
        "time() minus this is the age to compare with 24 hours. Not known: what was never delivered to it, "
        "as in a pause the queue behind the probes.",
    ),
    _gauge(
        "last_success_timestamp_seconds",
        "When a journey was last registered or found registered; 0: never.",
        "Old while deliveries arrive: check the answers, the breaker and the token.",
    ),
    _gauge(
        "last_delivery_timestamp_seconds",
        "When the broker last delivered a message; 0: never.",
        "Old while the queue is not empty: consumption is paused or stalled.",
    ),
    # --- Pauses ------------------------------------------------------------------------------
    _gauge(
        "paused",
        "1 while this cause pauses consumption or publishing.",
        "unauthorized, forbidden: the token. misconfigured: address or version. unavailable: the Registry. "
        "throttled: the rate limit. publisher: the broker does not confirm.",
        cause=(*PAUSE_CAUSES, "publisher", "throttled"),
    ),
    _gauge(
        "breaker_state",
        "State of the circuit breaker: 0 closed, 1 half-open (probing), 2 open.",
        "0 in normal operation; it closes by itself when a probe succeeds.",
        cause=PAUSE_CAUSES,
    ),
    _counter(
        "breaker_transitions_total",
        "Changes of a circuit breaker's state.",
        "Opens and closes often: the Registry is at its limit, or the threshold is too low.",
        cause=PAUSE_CAUSES,
        to=tuple(state.value for state in BreakerState),
    ),
    # --- Broker ------------------------------------------------------------------------------
    _gauge(
        "broker_connected",
        "1 while the connection is open and usable.",
        "0 for longer than a broker restart: address, permissions, network; see the log.",
        connection=CONNECTIONS,
    ),
    _gauge(
        "broker_blocked",
        "1 while the broker blocks publishing (memory or disk alarm).",
        "Clear the broker's alarm; until then deliveries that need a publish are not acknowledged.",
    ),
    _counter(
        "reconnects_total",
        "Connections that were lost.",
        "A few when the broker restarts; a steady rate: the network or the heartbeats.",
        connection=CONNECTIONS,
    ),
    _counter(
        "broker_cancels_total",
        "Consumers that the broker cancelled (queue deleted, leader moved).",
        "Check whether the queue was deleted. The service declares and consumes again.",
    ),
    _counter(
        "publish_failures_total",
        "Publishes of dead letters, delayed and republished deliveries that were not confirmed; each is "
        "retried.",
        "returned: the queue or exchange is missing. nacked: a queue limit. timeout, connection: the broker. "
        "unencodable: headers that AMQP cannot encode, published without them.",
        kind=("nacked", "returned", "connection", "timeout", "unencodable"),
    ),
    _counter(
        "dead_letters_refused_total",
        "Publishes of dead letters that the broker refused, by reason and cause; each is tried again.",
        "nacked: the dead-letter queue of that reason is at its length limit. returned: it does not exist. "
        "timeout: it confirms nothing, without a quorum.",
        reason=REASONS,
        cause=("nacked", "returned", "timeout"),
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
        "0: install a valid token. Consumption resumes by itself; unauthorized dead letters are replayed.",
        initial=nan,
    ),
    _gauge(
        "token_expiry_timestamp_seconds",
        "When the token in use expires; 0: never, or unknown.",
        "In the past: replace it; with access keys the exchange fails, or nothing was sent since.",
    ),
    # --- Process -----------------------------------------------------------------------------
    _gauge(
        "loop_heartbeat_timestamp_seconds",
        "When the event loop last ran its heartbeat, which also runs while paused or disconnected.",
        "Old: the process hangs; the liveness probe restarts it.",
    ),
    _counter(
        "log_lines_lost_total",
        "Log lines that could not be written to standard output.",
        "Must stay 0: the disk behind the log is full, or its reader is slow, stuck or gone.",
    ),
    _gauge(
        "build_info",
        "Always 1; version of the service and of Python in the labels.",
        "Shows which version runs where.",
        version=(),
        python=(),
    ),
)


def status_code(status: int) -> str:
    """Return the status itself when it has a meaning of its own, else its class; "other" if not HTTP."""
    if status in _EXACT_STATUSES:
        return str(status)
    return f"{status // 100}xx" if 2 <= status // 100 <= 5 else FaultKind.OTHER  # noqa: PLR2004


def retry_reason(outcome: Outcome) -> str:
    """Return the member of ``RETRY_REASONS``. Raises ValueError for an outcome that is never retried."""
    match outcome:
        case Unavailable(status=None, detail=detail):
            return detail if detail in FAULTS else FaultKind.OTHER
        case Unavailable(status=408):
            return "408"
        case Unavailable(status=int(status)):
            return {2: "no_result", 5: "5xx"}.get(status // 100, FaultKind.OTHER)
    reason = type(outcome).__name__.lower()
    if reason not in RETRY_REASONS:
        raise ValueError(f"{reason} is final: it is never retried")
    return reason


def refused_field(detail: str) -> str:
    """Return the member of ``REFUSED_FIELDS`` that ``code at field.path`` names.

    Indexes do not count; a path that goes deeper than the set is counted as its nearest parent in the set.
    """
    path = ".".join(part for part in detail.partition(" at ")[2].split(".") if not part.isdigit())
    if not path:
        return "payload"
    while path and path not in _PATHS:
        path = path.rpartition(".")[0]
    return path or "other"
