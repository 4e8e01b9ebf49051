"""What the generator writes: the dashboards, and which of their thresholds are values of the chart."""

import json
from pathlib import Path
from typing import Any

from tests.deploy.chart import CHART
from tests.deploy.dashboards.business import BUSINESS
from tests.deploy.dashboards.service import SERVICE

COMMAND = "python -m tests.deploy.dashboards"
FOLDER = CHART / "dashboards"
DASHBOARDS = {"service": SERVICE, "business": BUSINESS}


def _text(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


FILES: dict[Path, str] = {
    **{FOLDER / f"{name}.json": _text(dashboard.json()) for name, dashboard in DASHBOARDS.items()},
    FOLDER / "thresholds.json": _text({name: dashboard.limits() for name, dashboard in DASHBOARDS.items()}),
}
