"""The 17 rules of grafana/dashboard-linter, each as a function from a dashboard to what is wrong with it.

Written from the linter's documentation, for where the linter itself cannot be installed. Exclusions are not
applied here: they are in the `.lint` file beside the dashboards, which the linter reads too.
"""

import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from tests.deploy.promql import selectors, with_variables
from tests.tools import require_tool

Json = dict[str, Any]
Problem = tuple[str, str]  # panel or variable, what is wrong
Rule = Callable[[Json], Iterator[Problem]]

#: Of the units that Grafana knows, those that we have use for.
UNITS = {"none", "short", "percentunit", "s", "bytes", "bool_yes_no", "reqps", "ops"}
_VALUES = {"__rate_interval": "5m", "__range": "1h"}


def panels(dashboard: Json) -> Iterator[Json]:
    """Every panel that shows data, those in closed rows too."""
    for panel in dashboard["panels"]:
        yield from panel["panels"] if panel["type"] == "row" else [panel]


def variables(dashboard: Json, kind: str) -> list[Json]:
    """The variables of one type."""
    return [each for each in dashboard["templating"]["list"] if each["type"] == kind]


def queries(dashboard: Json) -> Iterator[tuple[str, str]]:
    """Every query as (title of its panel, expression)."""
    yield from (
        (panel["title"], target["expr"]) for panel in panels(dashboard) for target in panel["targets"]
    )


def parsable(dashboard: Json, text: str) -> str:
    """The text with a value for each variable that the dashboard has; the linter does the same."""
    names = {each["name"]: each["name"] for each in dashboard["templating"]["list"]}
    return with_variables(text, names | _VALUES)


def _datasource_variable(dashboard: Json) -> Iterator[Problem]:
    found = variables(dashboard, "datasource")
    if [(each["name"], each["label"]) for each in found] != [("datasource", "Data source")]:
        yield "datasource", "there is not one variable `datasource` with the label `Data source`"


def _filter_variable(name: str) -> Rule:
    def rule(dashboard: Json) -> Iterator[Problem]:
        expected = {
            "label": name.title(),
            "type": "query",
            "multi": True,
            "allValue": ".+",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
        }
        found = [each for each in dashboard["templating"]["list"] if each["name"] == name]
        if not found or {key: found[0].get(key) for key in expected} != expected:
            yield name, f"is not {expected}"

    return rule


def _label_queries(dashboard: Json) -> Iterator[Problem]:
    for each in variables(dashboard, "query"):
        match = re.fullmatch(r"(label_values)\((.+), \w+\)", each["query"]["query"])
        if match is None or _refused({each["name"]: parsable(dashboard, match[2])}):
            yield each["name"], "is not label_values(selector, label)"


def _reload(dashboard: Json) -> Iterator[Problem]:
    yield from (
        (v["name"], "does not follow the time") for v in variables(dashboard, "query") if v["refresh"] != 2
    )


def _panel_datasource(dashboard: Json) -> Iterator[Problem]:
    for panel in panels(dashboard):
        for holder in (panel, *panel["targets"]):
            if holder.get("datasource", {}).get("uid") != "${datasource}":
                yield panel["title"], "does not use the variable"


def _words(dashboard: Json) -> Iterator[Problem]:
    for panel in dashboard["panels"]:
        if not panel.get("title") or (panel["type"] != "row" and not panel.get("description")):
            yield str(panel["id"]), "lacks a title or a description"


def _units(dashboard: Json) -> Iterator[Problem]:
    for panel in panels(dashboard):
        if panel["fieldConfig"]["defaults"].get("unit") not in UNITS:
            yield panel["title"], "lacks a valid unit"


def _targets(dashboard: Json) -> Iterator[Problem]:
    yield from ((panel["title"], "asks nothing") for panel in panels(dashboard) if not panel["targets"])


def _no_loki(dashboard: Json) -> Iterator[Problem]:
    """Both rules about LogQL hold where none is written."""
    for panel in panels(dashboard):
        if any(target["datasource"].get("type") != "prometheus" for target in panel["targets"]):
            yield panel["title"], "asks something else than Prometheus"


def _promql(dashboard: Json) -> Iterator[Problem]:
    asked = {
        f"{title} {i}": parsable(dashboard, query) for i, (title, query) in enumerate(queries(dashboard))
    }
    if refused := _refused(asked):
        yield "queries", refused


def _refused(expressions: dict[str, str]) -> str:
    """What promtool says against these expressions; nothing when all parse."""
    rules = [
        {"record": f"checked:{number}", "expr": expression}
        for number, expression in enumerate(expressions.values())
    ]
    content = yaml.safe_dump({"groups": [{"name": "checked", "rules": rules}]})
    command = [require_tool("promtool"), "check", "rules", "/dev/stdin"]
    done = subprocess.run(command, input=content, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _rate_interval(dashboard: Json) -> Iterator[Problem]:
    for title, query in queries(dashboard):
        for function, window in re.findall(r"\b(i?rate)\([^()\[]*(?:\([^()]*\))?[^()\[]*\[([^\]]+)\]", query):
            if window != "$__rate_interval":
                yield title, f"{function} over {window}"


def _matcher(label: str) -> Rule:
    def rule(dashboard: Json) -> Iterator[Problem]:
        for title, query in queries(dashboard):
            for name, matchers in selectors(query):
                if matchers.get(label) != ("=~", f"${label}"):
                    yield title, f"{name} without {label}"

    return rule


def _counters(dashboard: Json) -> Iterator[Problem]:
    for title, query in queries(dashboard):
        for match in re.finditer(r"(.{9})\b\w+_total\{[^{}]*\}(\[?)", " " * 9 + query):
            if not match[2] or not re.search(r"\b(i?rate|increase)\($", match[1]):
                yield title, "shows a counter as it is"


def _fixed(dashboard: Json) -> Iterator[Problem]:
    if dashboard.get("editable") is not False:
        yield dashboard["title"], "can be edited, and the change would be lost"


RULES: dict[str, Rule] = {
    "template-datasource-rule": _datasource_variable,
    "template-job-rule": _filter_variable("job"),
    "template-instance-rule": _filter_variable("instance"),
    "template-label-promql-rule": _label_queries,
    "template-on-time-change-reload-rule": _reload,
    "panel-datasource-rule": _panel_datasource,
    "panel-title-description-rule": _words,
    "panel-units-rule": _units,
    "panel-no-targets-rule": _targets,
    "target-logql-rule": _no_loki,
    "target-logql-auto-rule": _no_loki,
    "target-promql-rule": _promql,
    "target-rate-interval-rule": _rate_interval,
    "target-job-rule": _matcher("job"),
    "target-instance-rule": _matcher("instance"),
    "target-counter-agg-rule": _counters,
    "uneditable-dashboard": _fixed,
}
