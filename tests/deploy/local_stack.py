"""The alerts of the local stack: `python -m tests.deploy.local_stack` writes them as the chart has them."""

import subprocess

import yaml

from tests.deploy.chart import CASES, CHART, MONITORING, VERSIONS, parse
from tests.tools import require_tool

ROOT = CHART.parents[1]
RULES = ROOT / "deploy" / "local" / "prometheus" / "rules.yml"
COMMAND = "python -m tests.deploy.local_stack"
_NAME = "local"


def rules() -> str:
    """What the chart would install for the release that the local stack says it is."""
    command = [require_tool("helm"), "template", _NAME, CHART, "--namespace", _NAME]
    command += ["--kube-version", VERSIONS[-1], "--values", CASES["minimal"]]
    command += ["--set", "monitoring.rules.enabled=true"]
    command += [part for api in MONITORING for part in ("--api-versions", api)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (found,) = (each["spec"] for each in parse(done.stdout) if each["kind"] == "PrometheusRule")
    return f"# Written by `{COMMAND}`.\n" + yaml.safe_dump(found, sort_keys=False, width=110)


if __name__ == "__main__":
    RULES.write_text(rules())
