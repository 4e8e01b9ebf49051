"""docs/runbook.md: every alert has its section, and every command works as written."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.chart import Chart
from tests.deploy.commands import Shell, shell_lines
from tests.deploy.prometheus import Prometheus
from tests.ledger import QUEUE, Ledger
from tests.local_registry import TOKEN, LocalRegistry
from tests.rabbit import RabbitNode, fresh_vhost
from tests.rabbit_setup import Installation
from tests.service import ServiceProcess
from tests.tools import missing
from tests.waiting import wait_until
from tools.chart import ROOT

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
_PARTS = ("What it means.", "What users see.", "Confirm.", "Fix.", "Replay.")


def _sections() -> dict[str, str]:
    """Each section by the anchor that its heading has."""
    _, *parts = re.split(r"^## (.+)\n", RUNBOOK, flags=re.MULTILINE)
    return {
        title.lower().replace(" ", "-"): text for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def _alerts(chart: Chart) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for group in chart.one("PrometheusRule", "pod-monitor")["spec"]["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                found.setdefault(rule["annotations"]["runbook_url"], set()).add(rule["labels"]["severity"])
    return found


def test_every_runbook_url_leads_to_a_section_and_every_section_is_led_to(chart: Chart) -> None:
    """The page exists, the anchor is a heading of it, and no section is of a removed alert."""
    anchors = set()
    for url in _alerts(chart):
        page, _, anchor = url.partition("#")
        assert (ROOT / page).read_text() == RUNBOOK
        anchors.add(anchor)
    assert anchors == set(_sections()) - {"first-look"}


def test_every_section_says_what_to_know_and_what_to_do(chart: Chart) -> None:
    """What it means, what users see, how to confirm, to fix, to replay; and how bad it is."""
    for url, severities in _alerts(chart).items():
        text = _sections()[url.partition("#")[2]]
        places = [text.index(f"**{part}**") for part in _PARTS]
        assert places == sorted(places)
        line = re.search(r"^Severity: (.+)$", text, re.MULTILINE)
        assert line is not None
        assert set(re.findall("critical|warning", line[1])) == severities, url
        confirm = text[places[2] : places[3]]
        assert shell_lines(confirm), f"{url}: nothing to confirm it with"


def test_sections_lead_to_sections_that_exist(chart: Chart) -> None:
    """An alert's name in the text is the name of an alert."""
    names = {url.partition("#")[2] for url in _alerts(chart)}
    written = set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", re.sub(r"`[^`]*`", "", RUNBOOK)))
    assert {each.lower() for each in written} - names == {"rabbitmq"} & {each.lower() for each in written}


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A service that has known trouble: dead letters, a pause; and everything that the commands ask."""
    if Installation.find() is None:
        missing("rabbitmq-server")
    directory: Path = tmp_path_factory.mktemp("runbook")
    secrets = directory / "deploy" / "local" / "secrets"
    secrets.mkdir(parents=True)
    (secrets / "REGISTRY_TOKEN").write_text(TOKEN)
    with RabbitNode() as node, fresh_vhost(node) as broker, LocalRegistry() as registry:
        settings = {
            "BROKER_URL": broker.url,
            "BROKER_QUEUE": QUEUE,
            "REGISTRY_URL": registry.url,
            "SECRETS_DIR": str(secrets),
            "AUTH_PAUSE_AFTER": "3",
        }
        with ServiceProcess(directory, settings) as service:
            service.await_ready()
            registry.accept("local-token")
            ledger = Ledger(broker)
            ledger.publish(5)
            ledger.publish(ledger.invalid(2))
            registry.revoke(TOKEN)
            ledger.publish(6)
            wait_until(lambda: service.value("paused", cause="unauthorized") == 1, 20, "it pauses")
            jobs = [{"job_name": "c", "static_configs": [{"targets": [f"127.0.0.1:{service.port}"]}]}]
            with Prometheus(directory, jobs, {"groups": []}) as prometheus:
                yield Shell(
                    directory,
                    node=node,
                    vhost=broker.vhost,
                    log=service._log,
                    environment=settings,
                    ports={8000: service.port, 9090: prometheus.port},
                )


@pytest.mark.slow
def test_every_command_works_as_it_is_written(shell: Shell) -> None:
    """In the order of the page, on a stack in the trouble that the first section is about."""
    printed = {}
    for line in shell_lines(RUNBOOK):
        done = shell.run(line)
        # `check` reports the revoked token by its exit code.
        expected = {0, 1} if line.endswith("journey-consumer check") else {0}
        assert done.returncode in expected, f"{line}\n{done.stdout}{done.stderr}"
        assert not done.stderr, f"{line}\n{done.stderr}"
        printed.setdefault(line, done.stdout)
    for line, said in printed.items():
        if "metrics | grep" in line:
            assert said.startswith("journey_consumer_"), line
        if "replay" in line:
            assert "dead letters" in said, line
    (replayed,) = (said for line, said in printed.items() if line.endswith("--reason unauthorized"))
    assert re.search(r"^ *[1-9]\d*  replayed", replayed, re.MULTILINE)  # those refused before the pause


def test_a_command_without_a_stand_in_fails(shell: Shell) -> None:
    """The shell is no yes-man."""
    assert shell.run("docker compose exec -T consumer journey-consumer no-such-command").returncode != 0
    assert shell.run("docker compose pray").returncode == 98
