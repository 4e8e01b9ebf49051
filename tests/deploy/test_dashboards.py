"""The dashboards as they are shipped and as the chart installs them; `test_observability` asks them."""

import copy
import json
import re
from typing import Any

import pytest
import yaml

from consumer.metrics import CATALOGUE, PREFIX
from tests.deploy.chart import Chart
from tests.deploy.dashboard_rules import RULES, Json, panels, queries
from tests.deploy.promql import exposed, family, names
from tools.chart import CHART
from tools.dashboards import DASHBOARDS, FOLDER, files

every_dashboard = pytest.mark.parametrize("name", DASHBOARDS)

_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"}
_LOW = """
queue: {name: "a.b"}
monitoring:
  rules:
    thresholds: {timeLeftWarningSeconds: 7201, timeLeftCriticalSeconds: 3601, objective: 0.9,
                 deadLettersPerHour: 77, deadLetterTimeLeftSeconds: 1801, deadLettersWaiting: 6,
                 backlogMessages: 55}
"""


def _shipped(name: str) -> Json:
    found: Json = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def _installed(chart: Chart, name: str, values: str = "", **how: Any) -> tuple[Json, Json]:
    (found,) = (
        each
        for each in chart.objects("pod-monitor", values, **how)
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].endswith(f"-dashboard-{name}")
    )
    (text,) = found["data"].values()
    return found, json.loads(text)


def _excluded(rule: str) -> set[str]:
    exclusions = yaml.safe_load((FOLDER / ".lint").read_text())["exclusions"]
    return {entry["panel"] for entry in exclusions.get(rule, {"entries": []})["entries"]}


def _steps(dashboard: Json, title: str) -> list[float | None]:
    (panel,) = (each for each in panels(dashboard) if each["title"] == title)
    return [step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]]


@every_dashboard
@pytest.mark.parametrize("rule", RULES)
def test_the_rules_of_the_dashboard_linter_hold(name: str, rule: str) -> None:
    """All 17; what is excluded is excluded for the linter too, by panel and with a reason."""
    assert [each for each in RULES[rule](_shipped(name)) if each[0] not in _excluded(rule)] == []


def test_nothing_is_excluded_from_a_rule_without_need() -> None:
    """Each exclusion names a panel that does break the rule, because the broker is another job."""
    for rule in yaml.safe_load((FOLDER / ".lint").read_text())["exclusions"]:
        broken = {title for name in DASHBOARDS for title, _ in RULES[rule](_shipped(name))}
        assert broken == _excluded(rule)


_VARIABLES = ("templating", "list")
_FIRST_QUERY = ("panels", 1, "targets", 0, "expr")


@pytest.mark.parametrize(
    ("rule", "path", "wrong"),
    [
        ("template-datasource-rule", (*_VARIABLES, 0, "label"), "Source"),
        ("template-job-rule", (*_VARIABLES, 3, "allValue"), ".*"),
        ("template-instance-rule", (*_VARIABLES, 4, "multi"), False),
        ("template-label-promql-rule", (*_VARIABLES, 3, "query", "query"), "label_values(x{, job)"),
        ("template-on-time-change-reload-rule", (*_VARIABLES, 3, "refresh"), 1),
        ("panel-datasource-rule", ("panels", 1, "datasource", "uid"), "prometheus"),
        ("panel-title-description-rule", ("panels", 1, "description"), ""),
        ("panel-units-rule", ("panels", 1, "fieldConfig", "defaults", "unit"), "journeys"),
        ("panel-no-targets-rule", ("panels", 1, "targets"), []),
        ("target-logql-rule", ("panels", 1, "targets", 0, "datasource", "type"), "loki"),
        ("target-logql-auto-rule", ("panels", 1, "targets", 0, "datasource", "type"), "loki"),
        ("target-promql-rule", _FIRST_QUERY, "sum(x{}"),
        ("target-rate-interval-rule", _FIRST_QUERY, 'sum(rate(x{job="a"}[5m]))'),
        ("target-job-rule", _FIRST_QUERY, 'x{job="a",instance=~"$instance"}'),
        ("target-instance-rule", _FIRST_QUERY, 'x{job=~"$job"}'),
        ("target-counter-agg-rule", _FIRST_QUERY, 'sum(x_total{job=~"$job"})'),
        ("uneditable-dashboard", ("editable",), True),
    ],
)
def test_each_rule_notices_what_it_is_about(rule: str, path: tuple[Any, ...], wrong: Any) -> None:
    """One change that breaks the rule, and no rule goes without."""
    dashboard = copy.deepcopy(_shipped("service"))
    node: Any = dashboard
    for step in path[:-1]:
        node = node[step]
    before = set(RULES[rule](dashboard))
    node[path[-1]] = wrong
    assert set(RULES[rule](dashboard)) - before


def test_the_dashboards_are_what_the_program_writes() -> None:
    """The JSON is not edited by hand."""
    generated = files()
    assert {path: path.read_text() for path in generated} == generated, "run `make generate`"
    assert {path.name for path in FOLDER.iterdir()} == {path.name for path in generated} | {".lint"}


@every_dashboard
def test_every_panel_says_what_it_means_what_is_normal_and_what_to_do(name: str) -> None:
    """Three sentences at least, no two panels alike, and no two in one place."""
    shipped = list(panels(_shipped(name)))
    for panel in shipped:
        meaning, normal, otherwise = panel["description"].split("\n\n")
        assert meaning.endswith(".")
        assert normal.startswith("**Normal:** ")
        assert otherwise.startswith("**Otherwise:** ")
    assert len({panel["title"] for panel in shipped}) == len(shipped)
    everything = [*shipped, *(each for each in _shipped(name)["panels"] if each["type"] == "row")]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken = set()
    for panel in _shipped(name)["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_first_row_answers_what_somebody_asks_at_night() -> None:
    """In time, what is wrong, what waits, the dead letters and the nearest of them; never "No data"."""
    row, *first = _shipped("service")["panels"][:7]
    assert (row["type"], row["collapsed"]) == ("row", False)
    asked = ["Time left", "What is wrong", "Journeys waiting", "Dead letters", "Nearest dead letter"]
    assert [panel["title"] for panel in first] == [*asked, "Registered in time"]
    assert {panel["gridPos"]["y"] for panel in first} == {1}
    assert all(panel["fieldConfig"]["defaults"]["noValue"] and panel["links"] for panel in first)


def test_closed_rows_are_last_and_hold_their_panels() -> None:
    """What nobody needs at night is one line each."""
    rows = [panel for panel in _shipped("service")["panels"] if panel["type"] == "row"]
    assert [row["title"] for row in rows if row["collapsed"]] == [row["title"] for row in rows[-3:]]
    assert all(bool(row["panels"]) is row["collapsed"] for row in rows)


@every_dashboard
def test_the_links_lead_to_the_runbook(chart: Chart, name: str) -> None:
    """The operator's address replaces ours, in the dashboard's links and in each panel's."""
    values = "monitoring: {rules: {runbookUrl: 'https://wiki.example/runbook'}}"
    _, installed = _installed(chart, name, values)
    assert installed["links"][0]["url"] == "https://wiki.example/runbook"
    anchors = {f"#{rule['alert'].lower()}" for rule in _alerts(chart)}
    for panel in panels(installed):
        for link in panel["links"]:
            assert link["url"].removeprefix("https://wiki.example/runbook") in anchors


def _alerts(chart: Chart) -> list[Any]:
    groups = chart.one("PrometheusRule", "pod-monitor")["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_descriptions_name_only_alerts_that_exist(chart: Chart) -> None:
    """What stands behind the word "Runbook" leads somewhere."""
    rules = chart.one("PrometheusRule", "pod-monitor")["spec"]["groups"]
    alerts = {rule["alert"] for group in rules for rule in group["rules"] if "alert" in rule}
    for name in DASHBOARDS:
        for panel in panels(_shipped(name)):
            for sentence in re.findall(r"[Rr]unbook, ([A-Za-z, ]+)", panel["description"]):
                first = re.findall(r"\b[A-Z]\w+[A-Z]\w+\b|\bStalled\b|\bDisconnected\b", sentence)
                assert first, sentence
                assert set(first) <= alerts


# --- Metrics --------------------------------------------------------------------------------


def _expressions(chart: Chart) -> list[str]:
    groups = chart.one("PrometheusRule", "pod-monitor")["spec"]["groups"]
    asked = [rule["expr"] for group in groups for rule in group["rules"]]
    return asked + [query for name in DASHBOARDS for _, query in queries(_shipped(name))]


def test_no_query_names_a_metric_that_does_not_exist(chart: Chart) -> None:
    """Panels and alerts ask for what the service, its process and the rules themselves expose."""
    groups = chart.one("PrometheusRule", "pod-monitor")["spec"]["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
    for expression in _expressions(chart):
        found = names(expression)
        assert found, expression
        for name in found:
            known = name in exposed() | _PROCESS | recorded
            assert known or name.startswith("rabbitmq_(detailed_)?queue_"), name


def test_no_query_asks_for_a_label_value_that_does_not_exist(chart: Chart) -> None:
    """A misspelt outcome, code, cause or reason would never match."""
    labels = {entry.name: entry.labels for entry in CATALOGUE}
    seen = 0
    for expression in _expressions(chart):
        for name, label, value in re.findall(
            rf'{PREFIX}(\w+){{[^{{}}]*?,(\w+)(?:=~|!~|=)"([^"$]+)"}}', expression
        ):
            if label in (known := labels.get(family(PREFIX + name), {})):
                assert set(value.split("|")) <= set(known[label]), (name, label, value)
                seen += 1
    assert seen > 10


def test_every_metric_is_shown(chart: Chart) -> None:
    """What is measured is looked at, in a panel or by an alert."""
    used = {family(name) for expression in _expressions(chart) for name in names(expression)}
    assert {entry.name for entry in CATALOGUE} - used == set()


# --- In the chart ------------------------------------------------------------------------------


@every_dashboard
def test_the_sidecar_finds_the_dashboard_and_its_folder(chart: Chart, name: str) -> None:
    """Label and annotation of Grafana's sidecar."""
    found, _ = _installed(chart, name)
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "Journey consumer"}


@every_dashboard
def test_an_installed_dashboard_is_the_shipped_one_opened_on_its_release(chart: Chart, name: str) -> None:
    """With the default thresholds nothing else differs."""
    values = (
        "monitoring: {rules: {runbookUrl: docs/runbook.md, thresholds: {timeLeftCriticalSeconds: 14400}}}"
    )
    _, installed = _installed(chart, name, values)
    shipped = _shipped(name)
    assert installed["panels"] == shipped["panels"]
    current = {each["name"]: each["current"]["value"] for each in installed["templating"]["list"][1:]}
    assert current["namespace"] == ["mobility"]
    assert current["release"] == ["proofs"]
    assert current["queue"] == "journeys.completed"
    assert installed["title"] == f"{shipped['title']} (mobility/proofs)"


def test_two_releases_share_a_grafana(chart: Chart) -> None:
    """No two dashboards have the same uid, title or file."""
    seen: list[tuple[str, ...]] = []
    for release in ("proofs", "proofs-2"):
        for name in DASHBOARDS:
            found, dashboard = _installed(chart, name, release=release)
            (file,) = found["data"]
            assert len(dashboard["uid"]) <= 40  # Grafana's limit
            seen.append((file, dashboard["uid"], dashboard["title"]))
    for column in zip(*seen, strict=True):
        assert len(set(column)) == 4


def test_panels_show_the_thresholds_that_alerts_have(chart: Chart) -> None:
    """The same values of the chart go into both, also when the operator changes them."""
    rules = yaml.safe_dump(chart.one("PrometheusRule", "pod-monitor", _LOW)["spec"])
    for name in DASHBOARDS:
        _, installed = _installed(chart, name, _LOW)
        for panel in installed["panels"]:
            assert (
                panel.get("fieldConfig", {}).get("defaults", {}).get("thresholds") or panel["type"] == "row"
            )
        limit = {"service": "Time left of the oldest journey", "business": "Time left"}[name]
        assert _steps(installed, limit) == [None, 3601, 7201]
        assert _steps(installed, "Dead letters waiting") == [None, 7]
    _, service = _installed(chart, "service", _LOW)
    assert _steps(service, "Registered in time") == [None, 0.9]
    assert _steps(service, "Dead letters of the last hour, by reason") == [None, 77]
    assert _steps(service, "Nearest deadline among dead letters, by reason") == [None, 1801]
    assert _steps(service, "Messages in the queue") == [None, 55]
    for threshold in ("< 3601", "< 7201", "< 1801", "(1 - 0.9)", "> 77", "> 6", "> 55"):
        assert threshold in re.sub(r"\s+", " ", rules), threshold


def test_every_numeric_threshold_of_the_chart_is_in_a_panel() -> None:
    """An operator sees each limit of an alert; the volume guard is none."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())["monitoring"]["rules"]["thresholds"]
    limits = json.loads((FOLDER / "thresholds.json").read_text())
    shown = {step["value"] for each in limits.values() for steps in each.values() for step in steps if step}
    numeric = {name for name, value in values.items() if not isinstance(value, str)}
    assert numeric - shown == {"minimumJourneysPerHour"}
