"""The alerts as the chart renders them, held to `rule_cases` by `promtool test rules`."""

import copy
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.chart import Chart
from tests.deploy.rule_cases import CASES
from tests.deploy.rule_series import HEALTHY, MINUTES, Case, always, ours, rising
from tests.tools import require_tool
from tools.chart import CHART, Refused

_PLAIN = "monitoring: {rules: {thresholds: {timeLeftCriticalSeconds: 14400, stalledFor: 15m}}}"


@pytest.fixture(scope="module")
def rules(chart: Chart) -> list[dict[str, Any]]:
    """Every rule of the rendered PrometheusRule, with the thresholds of the chart."""
    groups = chart.one("PrometheusRule", "pod-monitor", _PLAIN)["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def alerts(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The alerts among them."""
    return [rule for rule in rules if "alert" in rule]


def _promtool(directory: Path, spec: Any, tests: list[dict[str, Any]]) -> str:
    """Run the tests on the rules; return what promtool says against them, nothing when all hold."""
    (directory / "rules.yml").write_text(yaml.safe_dump(spec))
    content = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
    (directory / "tests.yml").write_text(yaml.safe_dump(content))
    command = [require_tool("promtool"), "test", "rules", "tests.yml"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _test(name: str, series: dict[str, str], **expected: Any) -> dict[str, Any]:
    inputs = [{"series": key, "values": values} for key, values in series.items()]
    return {"name": name, "interval": "1m", "input_series": inputs, **expected}


def _firing(cases: Iterable[Case]) -> list[dict[str, Any]]:
    """One test for all cases that see the same series."""
    tests: dict[str, dict[str, Any]] = {}
    for case in cases:
        selected = ",".join(filter(None, [f'alertname="{case.alert}"', 'alertstate="firing"', case.which]))
        test = tests.setdefault(str(case.series), _test(case.what, case.series, promql_expr_test=[]))
        test["promql_expr_test"].append(
            {
                "expr": f"min(ALERTS{{{selected}}})",
                "eval_time": f"{case.at}m",
                "exp_samples": [{"labels": "{}", "value": 1}] if case.fires else [],
            }
        )
    return list(tests.values())


def _only(rules: list[dict[str, Any]], alert: str) -> dict[str, Any]:
    """The rendered rules of one alert, with those that it builds on: thousands of minutes take their time."""
    kept = [rule for rule in rules if rule.get("alert") == alert]
    recorded = [rule for rule in rules if any(rule.get("record", "?") in each["expr"] for each in kept)]
    return {"groups": [{"name": alert, "rules": recorded + kept}]}


@pytest.mark.parametrize("alert", sorted({case.alert for case in CASES}))
def test_each_alert_fires_beyond_its_boundary_only(
    rules: list[dict[str, Any]], tmp_path: Path, alert: str
) -> None:
    """Every case, on the rules as they are rendered."""
    cases = [case for case in CASES if case.alert == alert]
    assert _promtool(tmp_path, _only(rules, alert), _firing(cases)) == ""


def test_no_alert_fires_or_waits_in_a_healthy_release(chart: Chart, tmp_path: Path) -> None:
    """Not one of them is even pending."""
    spec = chart.one("PrometheusRule", "pod-monitor", _PLAIN)["spec"]
    asked = [
        {"expr": "ALERTS", "eval_time": f"{minute}m", "exp_samples": []} for minute in range(0, MINUTES, 5)
    ]
    assert _promtool(tmp_path, spec, [_test("healthy", HEALTHY, promql_expr_test=asked)]) == ""


def test_the_cases_cover_every_alert_in_each_of_its_forms(alerts: list[dict[str, Any]]) -> None:
    """One that fires and one that does not, for each severity and each window."""
    for rule in alerts:
        labels = rule["labels"]
        forms = [
            case
            for case in CASES
            if case.alert == rule["alert"]
            and all(
                labels.get(key, value) == value for key, value in re.findall(r'(\w+)="([^"]+)"', case.which)
            )
        ]
        assert {case.fires for case in forms} == {True, False}, rule["alert"]
    assert {case.alert for case in CASES} == {rule["alert"] for rule in alerts}


def test_a_wrong_expectation_is_noticed(rules: list[dict[str, Any]], tmp_path: Path) -> None:
    """The harness would fail on a rule that does not do what a case says."""
    wrong = Case("JourneysTokenRejected", "never", 60, fires=True)
    assert "FAILED" in _promtool(tmp_path, _only(rules, "JourneysTokenRejected"), _firing([wrong]))


def test_what_the_pager_shows_says_how_much_time_is_left(rules: list[dict[str, Any]], tmp_path: Path) -> None:
    """Labels and annotations of a page, word for word."""
    spec = _only(rules, "JourneysDeadlineAtRisk")
    page = {
        "exp_labels": {
            "namespace": "mobility",
            "release": "proofs",
            "severity": "critical",
            "team": "mobility",
        },
        "exp_annotations": {
            "summary": "Journeys are about to become too old to be registered.",
            "description": "3h 20m 0s are left until the oldest journey that the consumer has received is "
            "24 hours old; then the Registry refuses it, and its proof is lost. The queue can hold older "
            "ones.",
            "runbook_url": "docs/runbook.md#journeysdeadlineatrisk",
        },
    }
    later = copy.deepcopy(page)
    text = page["exp_annotations"]["description"]
    later["exp_annotations"]["description"] = text.replace("3h 20m 0s", "0s")
    series = HEALTHY | {ours("oldest_pending_start_timestamp_seconds"): always(60, 1600)}
    asked = [
        {"eval_time": "1241m", "alertname": "JourneysDeadlineAtRisk", "exp_alerts": [page]},
        {"eval_time": "1500m", "alertname": "JourneysDeadlineAtRisk", "exp_alerts": [later]},
    ]
    assert _promtool(tmp_path, spec, [_test("page", series, alert_rule_test=asked)]) == ""


def test_a_refused_dead_letter_names_its_queue_and_the_cause(
    rules: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Nobody has to look up which queue is full."""
    series = HEALTHY | {ours("dead_letters_refused_total", 'reason="invalid",cause="nacked"'): rising(20)}
    labels = {"namespace": "mobility", "release": "proofs", "severity": "warning", "team": "mobility"}
    page = {
        "exp_labels": labels | {"reason": "invalid", "cause": "nacked"},
        "exp_annotations": {
            "summary": "The broker refuses dead letters for journeys.completed.dead-letter.invalid: nacked.",
            "description": "For ten minutes publishes to the queue were nacked (nacked: its length limit? "
            "returned: no such queue?). Its dead letters wait and are tried again; all other journeys go on.",
            "runbook_url": "docs/runbook.md#journeysdeadletterrefused",
        },
    }
    asked = {"eval_time": "20m", "alertname": "JourneysDeadLetterRefused", "exp_alerts": [page]}
    spec = _only(rules, "JourneysDeadLetterRefused")
    assert _promtool(tmp_path, spec, [_test("page", series, alert_rule_test=[asked])]) == ""


def test_every_alert_says_what_how_bad_and_where_to_read_on(alerts: list[dict[str, Any]]) -> None:
    """Mixin style: a sentence, a paragraph, a page of the runbook, a severity, and whose it is."""
    for rule in alerts:
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["description"].endswith(".")
        assert "{{" not in rule["annotations"]["runbook_url"]
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["labels"]["release"] == "proofs"
        assert rule["labels"]["namespace"] == "mobility"
        assert rule["labels"]["team"] == "mobility"
    identities = Counter((r["alert"], tuple(sorted(r["labels"].items()))) for r in alerts)
    assert identities.most_common(1)[0][1] == 1


def test_the_alerts_of_the_guide_are_there(alerts: list[dict[str, Any]]) -> None:
    """The list, and one more for what does not pass by itself."""
    assert {rule["alert"] for rule in alerts} == {
        "JourneysTokenRejected",
        "JourneysTokenExpires",
        "JourneysPublisherStuck",
        "JourneysBrokerMetricsAbsent",
        "JourneysDeadlineAtRisk",
        "JourneysDeadlineMissed",
        "JourneysDeadLettering",
        "JourneysDeadLetterDeadlineNear",
        "JourneysDeadLetterQueueNotEmpty",
        "JourneysDeadLetterRefused",
        "JourneysRegistryUnavailable",
        "JourneysRegistryMisconfigured",
        "JourneysThrottled",
        "JourneysConsumerAbsent",
        "JourneysDisconnected",
        "JourneysStalled",
        "JourneysQueueHasNoConsumers",
        "JourneysQueueGrowing",
        "JourneysErrorBudgetBurn",
    }


def test_each_alert_can_be_switched_off_by_its_name(chart: Chart, alerts: list[dict[str, Any]]) -> None:
    """In all its forms, and no other one; all together leave what is recorded."""
    names = sorted({rule["alert"] for rule in alerts})
    for off in [[name] for name in names] + [names]:
        values = yaml.safe_dump({"monitoring": {"rules": {"disabled": off}}})
        groups = chart.one("PrometheusRule", "pod-monitor", values)["spec"]["groups"]
        kept = [rule for group in groups for rule in group["rules"]]
        assert {rule["alert"] for rule in kept if "alert" in rule} == set(names) - set(off)
        assert sum("record" in rule for rule in kept) == 8
        assert all(group["rules"] for group in groups)


def test_a_name_that_no_alert_has_cannot_be_switched_off(chart: Chart, alerts: list[dict[str, Any]]) -> None:
    """A misspelt one would go on ringing; the schema has all names, and no others."""
    with pytest.raises(Refused, match="disabled"):
        chart.objects("pod-monitor", "monitoring: {rules: {disabled: [Tired]}}")
    monitoring = json.loads((CHART / "values.schema.json").read_text())["properties"]["monitoring"]
    disabled = monitoring["properties"]["rules"]["properties"]["disabled"]
    assert set(disabled["items"]["enum"]) == {rule["alert"] for rule in alerts}


def test_every_alert_links_to_the_dashboard_if_its_address_is_given(chart: Chart) -> None:
    """One value, because only the operator knows where Grafana is."""
    values = "monitoring: {rules: {dashboardUrl: 'https://grafana.example/d/journeys'}}"
    groups = chart.one("PrometheusRule", "pod-monitor", values)["spec"]["groups"]
    for rule in (each for group in groups for each in group["rules"] if "alert" in each):
        assert rule["annotations"]["dashboard_url"] == "https://grafana.example/d/journeys"


def test_no_text_promises_what_cannot_be_known(alerts: list[dict[str, Any]]) -> None:
    """What waits in the queue unseen can be lost already."""
    for rule in alerts:
        assert not re.search(
            r"\byet\b|nothing is lost|none is lost|no journey is lost", str(rule["annotations"])
        )


@pytest.mark.parametrize(
    "queue", ["journeys.completed", 'odd "name" \\ with: #everything', "été", "{{ .x }}"]
)
def test_any_name_of_a_queue_makes_valid_rules(chart: Chart, tmp_path: Path, queue: str) -> None:
    """Quoted where it is compared, escaped where it is part of a pattern."""
    values = yaml.safe_dump({"queue": {"name": queue}})
    spec = chart.one("PrometheusRule", "pod-monitor", values)["spec"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(spec))
    command = [require_tool("promtool"), "check", "rules", str(tmp_path / "rules.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
