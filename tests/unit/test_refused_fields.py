"""Under which field a refused journey is counted: always one of a closed set, and the nearest that fits."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

import schemas
from consumer.core.outcome import Reason
from consumer.metrics import PREFIX, Metrics
from consumer.metrics.catalogue import REFUSED_FIELDS, refused_field

_WORDS = sorted({word for path in REFUSED_FIELDS for word in path.split(".")})
_LIKE_PATHS = st.lists(st.sampled_from(_WORDS) | st.integers(0, 19).map(str), max_size=6).map(".".join)
_LIKE_DETAILS = st.builds("{} at {}".format, st.text(max_size=8), _LIKE_PATHS)


@pytest.mark.parametrize(
    ("detail", "field"),
    [
        ("bad_format at driver.identity.phone", "driver.identity.phone"),
        ("out_of_range at incentives.3.amount", "incentives.amount"),
        ("-32602 at passenger.payments.12.siret", "passenger.payments.siret"),
        ("missing at driver.identity", "driver.identity"),
        ("wrong_type at incentives.0", "incentives"),
        ("ends_in_future at end.datetime", "end.datetime"),
        # Parts are counted with the whole; what only the Registry knows, with its nearest parent.
        ("out_of_range at start.lat", "start"),
        ("missing at driver.end.country", "driver.end"),
        ("not_allowed_value at driver.identity.travel_pass.name", "driver.identity.travel_pass"),
        ("-32602 at driver.identity.driving_license", "driver.identity"),
        ("-32602 at incentive_counterparts.0.target", "incentive_counterparts"),
        ("-32602 at application_timestamp", "other"),
        ("not_json", "payload"),
        ("unknown_key", "payload"),
        ("-32422 too_close_trips", "payload"),
        ("http_422", "payload"),
        ("", "payload"),
    ],
)
def test_a_detail_names_its_field(detail: str, field: str) -> None:
    """Details of our validation, of the policy and of the Registry's answers."""
    assert refused_field(detail) == field


@given(st.text() | _LIKE_DETAILS)
@example("x at +33600000000")
@example("x at driver.+33600000000")
@example(" at ...")
@example("x at other")
@example("x at payload")
def test_every_detail_is_counted_under_a_known_field(detail: str) -> None:
    """Whatever the text, no value of a payload can become a label, and nothing is raised."""
    assert refused_field(detail) in REFUSED_FIELDS


@given(_LIKE_DETAILS)
def test_a_field_is_at_or_above_the_path(detail: str) -> None:
    """Never a sibling or a child; `other` only when even the first part is unknown."""
    field = refused_field(detail)
    path = ".".join(part for part in detail.partition(" at ")[2].split(".") if not part.isdigit())
    if field == "other":
        assert path.partition(".")[0] not in REFUSED_FIELDS[:-2]
    elif field != "payload":
        assert f"{path}.".startswith(f"{field}.")


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_every_field_of_the_models_is_counted_under_itself_or_its_parent(version: schemas.Version) -> None:
    """A field that is added to a model has its label."""
    for path in schemas.field_paths(version):
        assert refused_field(f"missing at {path}") in (path, path.rpartition(".")[0])


def test_the_set_stays_small() -> None:
    """Each member is two series of every pod."""
    assert len(set(REFUSED_FIELDS)) == len(REFUSED_FIELDS) <= 75
    assert REFUSED_FIELDS[-2:] == ("payload", "other")


@pytest.mark.parametrize("reason", Reason)
def test_only_refused_payloads_have_a_field(reason: Reason) -> None:
    """A dead letter for another reason is not the fault of a field."""
    registry = CollectorRegistry()
    Metrics(registry).dead_letter(reason, "503 at driver.revenue")
    name = f"{PREFIX}refused_fields_total"
    found = [
        sample
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name and sample.value
    ]
    refused = reason in ("invalid", "rejected")
    assert [(s.labels, s.value) for s in found] == (
        [({"reason": reason.value, "field": "driver.revenue"}, 1)] if refused else []
    )
    assert registry.get_sample_value(f"{PREFIX}dead_lettered_total", {"reason": reason.value}) == 1
