"""The parts of a dashboard: selectors, panels, rows, their JSON, and the queries that both dashboards have.

Knows Grafana's model and the names of the variables; not what a panel is about. A limit is named by the
value of the chart that alerts use too: the JSON holds its default, and the chart inserts the operator's.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tools.chart import CHART

PREFIX = "journey_consumer_"
SCHEMA_VERSION = 39  # Grafana 10.2 and newer
WIDTH = 24
#: In every link; the chart replaces it with ``monitoring.rules.runbookUrl``.
RUNBOOK = "docs/runbook.md"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
THRESHOLDS: dict[str, float] = _VALUES["monitoring"]["rules"]["thresholds"]

_OURS = 'job=~"$job",instance=~"$instance",namespace=~"$namespace",release=~"$release"'
_BROKER = 'job=~"$broker_job",vhost=~"$vhost"'
MAIN_QUEUE = 'queue="$queue"'
DELAY_QUEUES = 'queue=~"${queue:regex}\\\\.retry\\\\..+"'
DEAD_LETTER_QUEUES = 'queue=~"${queue:regex}\\\\.dead-letter\\\\..+"'


def own(metric: str, *matchers: str) -> str:
    """Return a selector of one of the service's metrics, named without prefix."""
    return f"{PREFIX}{metric}{{{','.join((_OURS, *matchers))}}}"


def process(metric: str) -> str:
    """Return a selector of a metric of the process."""
    return f"process_{metric}{{{_OURS}}}"


def broker(metric: str, queues: str) -> str:
    """Return a selector of RabbitMQ's metric of queues, from /metrics/per-object or /metrics/detailed."""
    return f'{{__name__=~"rabbitmq_(detailed_)?{metric}",{_BROKER},{queues}}}'


@dataclass(frozen=True, slots=True)
class Limit:
    """A threshold of the chart; ``plus`` is 1 where "more than N" of a count means N + 1."""

    value: str
    plus: int = 0

    @property
    def default(self) -> float:
        """The chart's default."""
        return THRESHOLDS[self.value] + self.plus


Step = tuple[float | Limit | None, str]
OK: tuple[Step, ...] = ((None, "green"),)


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. ``queries`` are (expression, legend); the three texts become its description.

    ``idle`` is shown instead of "No data" where no data is normal; ``text``: "name" shows legends, no values.
    """

    title: str
    unit: str
    meaning: str
    normal: str
    otherwise: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    steps: tuple[Step, ...] = ()
    names: tuple[tuple[str, str, str], ...] = ()  # value, text, colour
    least: float | None = None
    most: float | None = None
    decimals: int | None = None
    bars: bool = False
    interval: str | None = None
    idle: str | None = None
    text: str = "auto"

    @property
    def description(self) -> str:
        """The text behind the panel's info icon."""
        return f"{self.meaning}\n\n**Normal:** {self.normal}\n\n**Otherwise:** {self.otherwise}"

    def json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """Return the panel as Grafana's model has it."""
        targets = [self._target(i, *query) for i, query in enumerate(self.queries)]
        panel = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": self._options(),
            "targets": targets,
            "links": [
                {"title": f"Runbook: {alert}", "url": f"{RUNBOOK}#{alert.lower()}", "targetBlank": True}
                for alert in re.findall(r"[Rr]unbook, ([A-Z]\w+)", self.otherwise)
            ],
        }
        return panel | ({"interval": self.interval} if self.interval else {})

    def _target(self, index: int, expression: str, legend: str) -> dict[str, Any]:
        target = {
            "refId": chr(ord("A") + index),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": expression,
            "legendFormat": legend,
            "range": self.kind == "timeseries",
            "instant": self.kind != "timeseries",
        }
        return target | ({"interval": self.interval} if self.interval else {})

    def _defaults(self) -> dict[str, Any]:
        steps = [
            {"color": color, "value": at.default if isinstance(at, Limit) else at}
            for at, color in self.steps or OK
        ]
        mappings = [
            {"type": "value", "options": {value: {"index": i, "text": text, "color": color}}}
            for i, (value, text, color) in enumerate(self.names)
        ]
        defaults: dict[str, Any] = {
            "unit": self.unit,
            "color": {"mode": "thresholds" if self.kind == "stat" else "palette-classic"},
            "thresholds": {"mode": "absolute", "steps": steps},
            "mappings": mappings,
        }
        bounds = {"min": self.least, "max": self.most, "decimals": self.decimals, "noValue": self.idle}
        defaults |= {name: value for name, value in bounds.items() if value is not None}
        if self.kind == "timeseries":
            defaults["custom"] = {
                "drawStyle": "bars" if self.bars else "line",
                "fillOpacity": 60 if self.bars else 8,
                "lineWidth": 1,
                "showPoints": "never",
                "spanNulls": False,
                "stacking": {"mode": "normal" if self.bars else "none", "group": "A"},
                "thresholdsStyle": {"mode": "line" if self.steps else "off"},
            }
        return defaults

    def _options(self) -> dict[str, Any]:
        if self.kind == "stat":
            return {
                "colorMode": "background" if self.steps or self.names else "value",
                "graphMode": "none",
                "justifyMode": "auto",
                "textMode": self.text,
                "orientation": "auto",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            }
        return {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }

    def limits(self) -> list[dict[str, Any] | None]:
        """Return for each step the value of the chart that it is, if it is one."""
        return [
            {"value": at.value, "plus": at.plus} if isinstance(at, Limit) else None for at, _ in self.steps
        ]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard: rows of panels, laid out in the order given. Those in ``collapsed`` are closed."""

    uid: str
    title: str
    description: str
    since: str
    refresh: str
    rows: Sequence[tuple[str, Sequence[Panel]]]
    collapsed: frozenset[str] = frozenset()

    def placed(self) -> Iterator[tuple[Panel | str, int, int, int]]:
        """Yield each row's title and each panel with its number and position."""
        number = y = 0
        for title, panels in self.rows:
            number += 1
            yield title, number, 0, y
            below = y + 1
            y, x, tallest = below, 0, 0
            for panel in panels:
                if x + panel.width > WIDTH:
                    x, y, tallest = 0, y + tallest, 0
                number += 1
                yield panel, number, x, y
                x, tallest = x + panel.width, max(tallest, panel.height)
            y = below if title in self.collapsed else y + tallest

    def json(self) -> dict[str, Any]:
        """Return the dashboard as Grafana imports it."""
        panels: list[dict[str, Any]] = []
        for each, number, x, y in self.placed():
            if isinstance(each, str):
                panels.append(_row(each, number, y, collapsed=each in self.collapsed))
            else:  # the panels of a closed row are in it
                row = panels[-1].get("panels") if panels[-1].get("collapsed") else None
                (panels if row is None else row).append(each.json(number, x, y))
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["journey-consumer"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,
            "timezone": "browser",
            "time": {"from": self.since, "to": "now"},
            "refresh": self.refresh,
            "links": [
                {
                    "type": "link",
                    "title": "Runbook",
                    "url": RUNBOOK,
                    "icon": "doc",
                    "targetBlank": True,
                },
                {
                    "type": "dashboards",
                    "title": "Journey consumer",
                    "tags": ["journey-consumer"],
                    "asDropdown": False,
                    "includeVars": True,
                    "keepTime": True,
                    "targetBlank": False,
                },
            ],
            "annotations": {"list": []},
            "templating": {"list": list(_variables())},
            "panels": panels,
        }

    def limits(self) -> dict[str, list[dict[str, Any] | None]]:
        """Return by panel number which steps are values of the chart."""
        return {
            str(number): each.limits()
            for each, number, _, _ in self.placed()
            if isinstance(each, Panel) and any(each.limits())
        }


def _row(title: str, number: int, y: int, *, collapsed: bool) -> dict[str, Any]:
    return {
        "id": number,
        "type": "row",
        "title": title,
        "collapsed": collapsed,
        "panels": [],
        "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "refresh": 1,
        "hide": 0,
        "includeAll": False,
        "multi": False,
    }
    info, release = f"{PREFIX}build_info", 'namespace=~"$namespace",release=~"$release"'
    queues = f'{{__name__=~"rabbitmq_(detailed_)?queue_messages",{MAIN_QUEUE}}}'
    yield _query("namespace", "Namespace", f"label_values({info}, namespace)", everything=".*")
    yield _query(
        "release", "Release", f'label_values({info}{{namespace=~"$namespace"}}, release)', everything=".*"
    )
    yield _query("job", "Job", f"label_values({info}{{{release}}}, job)")
    yield _query("instance", "Instance", f'label_values({info}{{{release},job=~"$job"}}, instance)')
    text = _VALUES["queue"]["name"]
    yield {
        "name": "queue",
        "label": "Queue",
        "type": "textbox",
        "query": text,
        "current": {"text": text, "value": text},
        "options": [{"selected": True, "text": text, "value": text}],
        "hide": 0,
    }
    yield _query("broker_job", "Broker job", f"label_values({queues}, job)", everything=".*")
    yield _query("vhost", "Virtual host", f"label_values({queues}, vhost)", everything=".*")


def _query(name: str, label: str, query: str, everything: str = ".+") -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": f"Variable-{name}"},
        "definition": query,
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": everything,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "hide": 0,
        "regex": "",
        "skipUrlSync": False,
    }


# --- what both dashboards ask: the promised ratio, the time left ------------------------------------

RATE = "[$__rate_interval]"
RED_ABOVE_0: tuple[Step, ...] = ((None, "green"), (1, "red"))
TIME_LEFT: tuple[Step, ...] = (
    (None, "red"),
    (Limit("timeLeftCriticalSeconds"), "orange"),
    (Limit("timeLeftWarningSeconds"), "green"),
)
IN_TIME: tuple[Step, ...] = ((None, "red"), (Limit("objective"), "green"))
_LOST = own("journeys_total", 'outcome=~"unauthorized|forbidden|expired|exhausted"')
_ENTITLED = own("journeys_total", 'outcome!~"invalid|rejected"')
_REGISTERED = own("journey_age_at_registration_seconds_count")
_REGISTERED_IN_TIME = own("journey_age_at_registration_seconds_bucket", 'le="86400.0"')
#: The same ratio as the error budget's alerts: what was not lost and not late, of what could be registered.
IN_TIME_RATIO = (
    f"1 - (sum(increase({_LOST}[$__range])) + sum(increase({_REGISTERED}[$__range]))"
    f" - sum(increase({_REGISTERED_IN_TIME}[$__range])))"
    f" / (sum(increase({_ENTITLED}[$__range])) > 0)"
)
TIME_LEFT_QUERY = f"86400 - (time() - min({own('oldest_pending_start_timestamp_seconds')} > 0))"


def quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    """Return the median, the 95th and the 99th percentile of a histogram."""
    buckets = f"sum by (le) (rate({own(metric + '_bucket')}{RATE}))"
    return tuple((f"histogram_quantile({q}, {buckets})", f"p{q * 100:g}") for q in (0.5, 0.95, 0.99))


def stat(title: str, unit: str, words: tuple[str, str, str], query: str, **more: object) -> Panel:
    """Return a panel of one number; ``words`` are its meaning, what is normal and what to do otherwise."""
    legend = str(more.pop("legend", ""))
    size = {"kind": "stat", "width": 4, "height": 4} | more
    return Panel(title, unit, *words, ((query, legend),), **size)  # type: ignore[arg-type]
