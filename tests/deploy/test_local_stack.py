"""compose.yaml and deploy/local: all that can be known of them without Docker. And the pages beside them."""

import argparse
import importlib
import json
import math
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumer.config import load
from consumer.config.settings import REGISTRY_LIMIT_PER_MINUTE
from tests.deploy.chart import Chart
from tests.deploy.commands import shell_lines
from tests.tools import require_tool
from tools.chart import CHART, LOCAL_RULES, ROOT, local_rules

STACK: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
LOCAL = ROOT / "deploy" / "local"
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("local-stack", "runbook", "capacity", "alertmanager")]


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(f"consumer.commands.{command.replace('-', '_')}").configure(parser)
    return parser


def _mounts(service: str) -> dict[str, Path]:
    """Target to source."""
    found = {}
    for mount in SERVICES[service].get("volumes", ()):
        source, target, mode = mount.split(":")
        assert mode == "ro"
        found[target] = ROOT / source
    return found


def test_the_header_says_that_it_was_not_run() -> None:
    """It must not pass for tested."""
    header = (ROOT / "compose.yaml").read_text().partition("name:")[0]
    assert "has not been run" in header
    assert "has not been run" in (ROOT / "docs" / "local-stack.md").read_text()


def test_everything_that_is_mounted_exists_and_nothing_listens_outside() -> None:
    """Docker would make an empty directory of what does not exist."""
    for name, service in SERVICES.items():
        for source in _mounts(name).values():
            assert source.exists(), source
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), "the passwords are defaults"
        assert re.fullmatch(r"[\w/-]+:(v?\d+(\.\d+)+(-management)?|local)", service["image"])
        assert set(service.get("depends_on", ())) <= set(SERVICES)


def test_the_service_accepts_its_environment() -> None:
    """As the process would read it, token from the mounted directory included."""
    (secrets,) = _mounts("consumer").values()
    settings = load({**SERVICES["consumer"]["environment"], "SECRETS_DIR": str(secrets)})
    assert settings.registry_token_file == secrets / "REGISTRY_TOKEN"
    assert settings.registry_url == f"http://registry:{_option('--port')}"
    assert settings.broker_urls[0].startswith("amqp://guest:guest@rabbitmq:5672/")
    assert settings.warnings == (
        "REGISTRY_URL is plain http: token and journeys travel in the clear",
        "BROKER_URL is amqp:// to another machine: password and journeys travel in the clear",
    )
    assert f"{settings.http_port}" in SERVICES["consumer"]["ports"][0].split(":")
    assert settings.broker_queue == yaml.safe_load((CHART / "values.yaml").read_text())["queue"]["name"]


def _option(name: str) -> str:
    command = SERVICES["registry"]["command"]
    return str(command[command.index(name) + 1])


def test_the_images_are_built_from_stages_of_the_dockerfile() -> None:
    """The service's image has no sandbox: the Registry needs the stage that has it."""
    assert SERVICES["consumer"]["build"] == "."
    assert SERVICES["registry"]["build"] == {"context": ".", "target": "sandbox"}
    assert re.search(r"^FROM .* AS sandbox$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert SERVICES["registry"]["image"] != SERVICES["consumer"]["image"]


def test_the_commands_are_commands_and_the_tokens_are_one() -> None:
    """`run`, and a sandbox that accepts the token of the consumer's secrets."""
    assert SERVICES["consumer"]["command"] == ["run"]
    name, *arguments = SERVICES["registry"]["command"]
    parsed = _parser(name).parse_args(arguments)
    assert parsed.token == [(LOCAL / "secrets" / "REGISTRY_TOKEN").read_text()]
    assert parsed.host == "0.0.0.0"  # noqa: S104 inside the container


def test_the_rules_are_those_of_the_chart() -> None:
    """For a release `local` in a namespace `local`."""
    assert LOCAL_RULES.read_text() == local_rules(), "run `make generate`"


def test_promtool_accepts_prometheus_files() -> None:
    """The rules too, which it names."""
    command = [require_tool("promtool"), "check", "config", LOCAL / "prometheus" / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "32 rules found" in done.stdout


def test_prometheus_scrapes_services_of_the_stack_under_the_labels_of_the_rules() -> None:
    """The job and labels that the alerts select."""
    configuration = yaml.safe_load((LOCAL / "prometheus" / "prometheus.yml").read_text())
    jobs = {each["job_name"]: each for each in configuration["scrape_configs"]}
    (consumer,) = jobs["journey-consumer"]["static_configs"]
    assert consumer == {"targets": ["consumer:8000"], "labels": {"namespace": "local", "release": "local"}}
    assert 'job="journey-consumer",namespace="local",release="local"' in LOCAL_RULES.read_text()
    ((rabbitmq,),) = (each["targets"] for each in jobs["rabbitmq"]["static_configs"])
    assert rabbitmq.partition(":")[0] in SERVICES
    assert "rabbitmq_prometheus" in (LOCAL / "rabbitmq" / "enabled_plugins").read_text()


def test_grafana_is_given_the_data_source_and_both_dashboards() -> None:
    """Provisioning, mounts and Prometheus' own port agree."""
    mounts = _mounts("grafana")
    (source,) = yaml.safe_load((LOCAL / "grafana/datasources/prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((LOCAL / "grafana/dashboards/journeys.yaml").read_text())["providers"]
    shown = {
        target: file for target, file in mounts.items() if target.startswith(provider["options"]["path"])
    }
    assert {json.loads(file.read_text())["uid"] for file in shown.values()} == {
        "journey-consumer-service",
        "journey-consumer-business",
    }


# --- Pages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_exist(page: Path) -> None:
    """Each subcommand and each of its options, and each port, file and container of the stack."""
    published = {port.split(":")[1] for service in SERVICES.values() for port in service["ports"]}
    for line in shell_lines(page.read_text()):
        for container, rest in re.findall(r"docker compose exec -T (\w+) (.*)", line):
            assert container in SERVICES
            if container == "consumer":
                program, command, *arguments = shlex.split(rest)
                assert program == "journey-consumer"
                _parser(command).parse_args(arguments)
        for port in re.findall(r"localhost:(\d+)", line):
            assert port in published, line
        for file in re.findall(r"^printf .* > (\S+)$", line):
            assert (ROOT / file).exists(), line
        for body in re.findall(r"-d '(.*?)'", line):
            json.loads(body)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    """Files of this repository."""
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_example_for_alertmanager_names_alerts_and_labels_that_exist(chart: Chart) -> None:
    """JourneysTokenRejected inhibits what follows from it, and nothing inhibits the deadline."""
    groups = chart.one("PrometheusRule", "pod-monitor")["spec"]["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGES[3].read_text(), re.DOTALL)
    example = yaml.safe_load(block)
    named = {name for each in re.findall(r'alertname=~?"([^"]+)"', block) for name in each.split("|")}
    assert named < {rule["alert"] for rule in alerts}
    inhibited = {
        name
        for rule in example["inhibit_rules"]
        for each in re.findall(r'alertname=~?"([^"]+)"', " ".join(rule["target_matchers"]))
        for name in each.split("|")
    }
    assert not inhibited & {
        "JourneysDeadlineAtRisk",
        "JourneysDeadlineMissed",
        "JourneysDeadLetterDeadlineNear",
    }
    for rule in example["inhibit_rules"]:
        assert {"namespace", "release"} <= set(rule["equal"])
        # Whose alerts have no reason, or no such label, are equal in that.
        fixed = set(rule["equal"]) - {"alertname", "reason"}
        assert all(fixed <= set(alert["labels"]) for alert in alerts)
    (superfluous,) = (rule for rule in example["inhibit_rules"] if "alertname" in rule["equal"])
    assert "reason" in superfluous["equal"], (
        "JourneysDeadLetterDeadlineNear: a page of one reason, a warning of another"
    )
    token = example["inhibit_rules"][0]
    assert "JourneysTokenRejected" in token["source_matchers"][0]
    assert "JourneysDeadLettering" in token["target_matchers"][0]
    receivers = {each["name"] for each in example["receivers"]}
    assert {
        example["route"]["receiver"],
        *(route["receiver"] for route in example["route"]["routes"]),
    } == receivers


def test_the_tables_about_capacity_are_reckoned() -> None:
    """From the limit and the default concurrency."""
    text = PAGES[2].read_text()
    limit = REGISTRY_LIMIT_PER_MINUTE / 60
    concurrency = yaml.safe_load((CHART / "values.yaml").read_text())["registry"]["concurrency"]
    pods = re.findall(r"^\| ([\d.]+) s \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    assert len(pods) == 5
    for seconds, rate, needed in pods:
        one = concurrency / float(seconds)
        assert (round(one), math.ceil(limit / one)) == (int(rate), int(needed))
    backlogs = re.findall(r"^\| ([\d,]+) \| (\d+) min \| (\d+) min \| (\d+) min \|$", text, re.MULTILINE)
    assert len(backlogs) == 3
    for backlog, *minutes in backlogs:
        size = int(backlog.replace(",", ""))
        expected = [math.ceil(round(size / (limit - consumer) / 60, 6)) for consumer in (0, 50, 200)]
        assert list(map(int, minutes)) == expected
    left = 9 * 3600 * 200
    assert f"{left:,}" in text
    assert f"{left / (limit - 200) / 3600:.1f} hours" in text
