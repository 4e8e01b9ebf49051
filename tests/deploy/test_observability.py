"""Every query of both dashboards and every alert, evaluated by a real Prometheus that watched a real run."""

import json
from collections.abc import Iterator

import pytest

from tests.deploy.chart import Chart
from tests.deploy.dashboard_rules import queries
from tests.deploy.promql import names, with_variables
from tests.deploy.scenario import NAMESPACE, RELEASE, VALUES, Observed, observed
from tests.ledger import QUEUE
from tests.rabbit_setup import Installation
from tests.tools import missing
from tools.dashboards import DASHBOARDS, FOLDER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

#: Queries that rightly return nothing in this run, each with the reason.
EMPTY = {
    "Token expires in": "a token from a file does not say when it expires; only exchanged ones do",
}
#: Alerts that need not fire in this run.
NOT_FIRED = {
    ("JourneysDeadlineAtRisk", "warning"): "both limits are the same here, and one alert fires at a time",
    ("JourneysTokenExpires", "warning"): "a token from a file without a date",
    (
        "JourneysPublisherStuck",
        "critical",
    ): "the publisher is stuck for a moment only, when its connection is cut",
    ("JourneysBrokerMetricsAbsent", "warning"): "RabbitMQ is scraped from the beginning",
    (
        "JourneysDisconnected",
        "warning",
    ): "means that one pod is disconnected while another is not; here is one pod",
}
VARIABLES = {
    "namespace": NAMESPACE,
    "release": RELEASE,
    "job": "journey-consumer",
    "instance": ".+",
    "queue": QUEUE,
    "vhost": ".*",
    "__rate_interval": "5s",
    "__range": "10m",
}
_BROKER_JOBS = ("rabbitmq-detailed", "rabbitmq-per-object")


def _queries() -> Iterator[tuple[str, str]]:
    for name in DASHBOARDS:
        yield from queries(json.loads((FOLDER / f"{name}.json").read_text()))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, chart: Chart) -> Iterator[Observed]:
    """The run; it takes about a minute."""
    if Installation.find() is None:
        missing("rabbitmq-server")
    with observed(tmp_path_factory.mktemp("observed"), chart) as found:
        yield found


@pytest.mark.parametrize("job", _BROKER_JOBS)
def test_every_query_of_the_dashboards_returns_data(run: Observed, job: str) -> None:
    """Each parses and has had a value that is a number; with RabbitMQ scraped in either way."""
    empty = {
        (title, query)
        for title, query in _queries()
        if job == _BROKER_JOBS[0] or "$broker_job" in query
        if not run.values(with_variables(query, VARIABLES | {"broker_job": job}))
    }
    assert {title for title, _ in empty} == (set(EMPTY) if job == _BROKER_JOBS[0] else set()), empty


def test_every_variable_of_the_dashboards_finds_what_it_offers(run: Observed) -> None:
    """Each variable's query is asked for its label over the run."""
    for name in DASHBOARDS:
        for variable in json.loads((FOLDER / f"{name}.json").read_text())["templating"]["list"]:
            if variable["type"] == "query":
                selector, label = variable["definition"].removeprefix("label_values(")[:-1].rsplit(", ", 1)
                query = with_variables(selector, VARIABLES)
                series = run.prometheus.during(query, run.start, run.end)
                assert {each["metric"][label] for each in series}, variable["name"]


def test_every_alert_had_a_reason_to_fire(run: Observed, chart: Chart) -> None:
    """Each expression, with thresholds that a minute of trouble reaches, returned something."""
    not_fired = set()
    for group in chart.one("PrometheusRule", "minimal", VALUES, release=RELEASE)["spec"]["groups"]:
        for rule in group["rules"]:
            if not run.values(rule["expr"]):
                not_fired.add((rule.get("alert", rule.get("record")), rule["labels"].get("severity")))
    assert not_fired <= set(NOT_FIRED)


def test_prometheus_evaluated_the_rules_without_a_failure(run: Observed) -> None:
    """Also what is recorded, and the templates of the annotations."""
    groups = run.prometheus.rules()
    assert [rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"] == []


def test_every_name_that_a_query_uses_is_a_series_of_the_run(run: Observed) -> None:
    """A panel of a metric that is not exposed would always be empty."""
    for _, query in _queries():
        for name in names(query):
            assert run.values(f'count({{__name__=~"{name}"}})'), name
