import math
import subprocess
import typing

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from consumer.core.breaker import BreakerState
from consumer.core.outcome import (
    AlreadyRegistered,
    Early,
    Expired,
    Forbidden,
    Invalid,
    Misconfigured,
    Outcome,
    PauseCause,
    Reason,
    Registered,
    Rejected,
    Throttled,
    Unauthorized,
    Unavailable,
)
from consumer.core.reply import Fault, FaultKind, Reply
from consumer.metrics import CATALOGUE, PREFIX, Instrument, Metrics
from consumer.metrics.catalogue import retry_reason
from tests.tools import require_tool


@pytest.fixture
def registry() -> CollectorRegistry:
    """Return a registry of the test's own."""
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    """Return the instruments on that registry."""
    return Metrics(registry)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """Return a sample as a scrape would see it."""
    return registry.get_sample_value(PREFIX + name, labels)


def test_promtool_has_nothing_to_say(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Names, types, units and help texts are as Prometheus wants them."""
    metrics.request(Reply(201), 0.1)
    promtool = require_tool("promtool")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=generate_latest(registry), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    "entry", [entry for entry in CATALOGUE if entry.name != "build_info"], ids=lambda e: e.name
)
@pytest.mark.usefixtures("metrics")
def test_every_label_set_exists_at_zero_from_the_start(
    entry: Instrument, registry: CollectorRegistry
) -> None:
    """A counter that is born at 1 is invisible to `increase()`; an absent series fires no alert."""
    (metric,) = (
        m for m in registry.collect() if m.name in (f"{PREFIX}{entry.name}", f"{PREFIX}{entry.name}"[:-6])
    )
    assert metric.type == entry.type
    assert metric.documentation == entry.meaning
    expected = math.prod(len(values) for values in entry.labels.values())
    samples = [s for s in metric.samples if not s.name.endswith(("_bucket", "_sum"))]
    assert len(samples) == expected
    for sample in samples:
        assert sample.value == entry.initial or (math.isnan(sample.value) and math.isnan(entry.initial))
        assert all(sample.labels[label] in values for label, values in entry.labels.items())
    if entry.type == "histogram":
        bounds = [float(s.labels["le"]) for s in metric.samples if s.name.endswith("_bucket")]
        assert bounds == [*entry.buckets, math.inf]


@pytest.mark.usefixtures("metrics")
def test_only_catalogued_metrics_are_exposed(registry: CollectorRegistry) -> None:
    """What is not in the catalogue is not in the docs either; only the process's own metrics are besides."""
    names = {line.split()[2] for line in generate_latest(registry).decode().splitlines() if "# TYPE" in line}
    ours = {name for name in names if not name.startswith("process_")}
    assert ours == {PREFIX + entry.name for entry in CATALOGUE}
    assert "process_resident_memory_bytes" in names


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda e: e.name)
def test_names_follow_the_conventions(entry: Instrument) -> None:
    """Counters end in _total and nothing else does; every entry says what it means and what to do."""
    assert entry.name.endswith("_total") == (entry.type == "counter")
    assert ("timestamp" in entry.name) == entry.name.endswith("_timestamp_seconds")
    assert bool(entry.buckets) == (entry.type == "histogram")
    assert entry.meaning
    assert entry.remedy


def test_two_processes_in_one_test_do_not_share_counters() -> None:
    """One registry, one set of instruments: nothing is global."""
    first, second = CollectorRegistry(), CollectorRegistry()
    Metrics(first).journeys["registered"].inc()
    Metrics(second)
    assert value(first, "journeys_total", outcome="registered") == 1
    assert value(second, "journeys_total", outcome="registered") == 0


def test_every_reason_of_a_dead_letter_has_its_counters(metrics: Metrics) -> None:
    """A new reason without a counter would be an exception at settlement."""
    assert set(metrics.dead_lettered) == set(Reason)
    assert set(metrics.journeys) == {"registered", "already_registered", *Reason}


@pytest.mark.parametrize("status", range(200, 600))
def test_every_status_is_counted_under_itself_or_its_class(
    status: int, registry: CollectorRegistry, metrics: Metrics
) -> None:
    """An unforeseen status is counted, and makes no new series."""
    before = len(list(generate_latest(registry).splitlines()))
    metrics.request(Reply(status), 0.2)
    own = value(registry, "registry_requests_total", code=str(status))
    group = value(registry, "registry_requests_total", code=f"{status // 100}xx")
    assert (own, group) in [(1, 0), (None, 1)]
    assert value(registry, "registry_request_duration_seconds_count") == 1
    assert len(list(generate_latest(registry).splitlines())) == before


@pytest.mark.parametrize("kind", FaultKind)
def test_every_fault_is_counted_under_its_kind(
    kind: FaultKind, registry: CollectorRegistry, metrics: Metrics
) -> None:
    """No answer is an answer of its own."""
    metrics.request(Fault(kind), 0.2)
    assert value(registry, "registry_requests_total", code=kind.value) == 1


@pytest.mark.parametrize("status", [0, 100, 199, 600, 999])
def test_a_status_beyond_http_is_counted_as_other(
    status: int, registry: CollectorRegistry, metrics: Metrics
) -> None:
    """A broken server or proxy must not end the delivery's task with a KeyError."""
    metrics.request(Reply(status), 0.2)
    assert value(registry, "registry_requests_total", code="other") == 1


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        *((Unavailable(kind.value), kind.value) for kind in FaultKind),
        (Unavailable("no_result", 200), "no_result"),
        (Unavailable("teapot", 418), "other"),
        (Unavailable("something new"), "other"),
        (Unavailable("timeout", 408), "408"),
        (Unavailable("server error", 503), "5xx"),
        (Throttled(3.0), "throttled"),
        (Early(), "early"),
        (Unauthorized(401, ""), "unauthorized"),
        (Forbidden(403, ""), "forbidden"),
        (Misconfigured(404, ""), "misconfigured"),
    ],
)
def test_every_outcome_that_is_tried_again_has_a_reason(
    outcome: Outcome, reason: str, registry: CollectorRegistry, metrics: Metrics
) -> None:
    """A retry is counted under a closed set of reasons."""
    metrics.retry(outcome)
    assert value(registry, "retries_total", reason=reason) == 1


FINAL = (
    Registered(201),
    AlreadyRegistered(409),
    Invalid("x"),
    Rejected(400, "x"),
    Expired(422, "x"),
)


@pytest.mark.parametrize("outcome", FINAL)
def test_a_final_outcome_is_no_reason_to_try_again(outcome: Outcome) -> None:
    """Counting a retry of a final outcome would be a bug of the caller."""
    with pytest.raises(ValueError, match="final"):
        retry_reason(outcome)


def test_every_outcome_is_either_final_or_has_a_retry_reason() -> None:
    """The two tests above forget no outcome."""
    retried = {Unavailable, Throttled, Early, Unauthorized, Forbidden, Misconfigured}
    assert retried | {type(outcome) for outcome in FINAL} == set(typing.get_args(Outcome))


def test_a_breaker_s_state_is_shown_once_per_change(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Repeated reports of the same state are no transitions; everything but closed pauses."""
    cause = PauseCause.UNAVAILABLE
    for state in (
        BreakerState.CLOSED,
        BreakerState.OPEN,
        BreakerState.OPEN,
        BreakerState.HALF_OPEN,
        BreakerState.OPEN,
    ):
        metrics.breaker(cause, state)
    assert value(registry, "breaker_state", cause=cause) == 2
    assert value(registry, "paused", cause=cause) == 1
    assert value(registry, "breaker_transitions_total", cause=cause, to="open") == 2
    assert value(registry, "breaker_transitions_total", cause=cause, to="half_open") == 1
    metrics.breaker(cause, BreakerState.CLOSED)
    assert value(registry, "breaker_state", cause=cause) == 0
    assert value(registry, "paused", cause=cause) == 0
    assert value(registry, "breaker_transitions_total", cause=cause, to="closed") == 1
    assert value(registry, "paused", cause=PauseCause.UNAUTHORIZED) == 0
