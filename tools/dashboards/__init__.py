"""The Grafana dashboards, as a program: JSON is what an operator imports and what the chart installs.

`grafana` is Grafana's model, `service` and `business` are the panels. Besides the dashboards a file names
the thresholds in them that are values of the chart.
"""

import json
from pathlib import Path
from typing import Any

from tools.chart import CHART
from tools.dashboards.business import BUSINESS
from tools.dashboards.service import SERVICE

FOLDER = CHART / "dashboards"
DASHBOARDS = {"service": SERVICE, "business": BUSINESS}


def files() -> dict[Path, str]:
    contents = {f"{name}.json": dashboard.json() for name, dashboard in DASHBOARDS.items()}
    contents["thresholds.json"] = {name: dashboard.limits() for name, dashboard in DASHBOARDS.items()}
    return {FOLDER / name: _text(content) for name, content in contents.items()}


def _text(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
