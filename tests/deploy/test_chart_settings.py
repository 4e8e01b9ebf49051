"""What the chart sets is what the service accepts: checked by the service's own loading of settings."""

import json
from pathlib import Path

import pytest
import yaml

import consumer
from consumer.config import ALL, TOPOLOGY, Settings, load
from tests.deploy.chart import Chart, Object, ours, pods
from tools.chart import CASES, CHART

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
#: By reference only: files in the directory of secrets.
BY_REFERENCE = {
    "BROKER_URL",
    "REGISTRY_TOKEN",
    "REGISTRY_TOKEN_FILE",
    "REGISTRY_ACCESS_KEY",
    "REGISTRY_ACCESS_KEY_FILE",
    "REGISTRY_SECRET_KEY",
    "REGISTRY_SECRET_KEY_FILE",
    "REGISTRY_PROXY_URL",
}
CONTENT = {
    "BROKER_URL": "amqps://user:secret@rabbitmq:5671/mobility",
    "REGISTRY_TOKEN": "an.invented.token",
    "REGISTRY_ACCESS_KEY": "access",
    "REGISTRY_SECRET_KEY": "secret",
    "REGISTRY_PROXY_URL": "http://proxy:3128",
}


def _in_the_pod(pod: Object, variables: dict[str, str], root: Path) -> dict[str, str]:
    """Lay out the pod's files below ``root``; return the environment with their paths moved there."""
    container = ours(pod)
    where = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", ())}
    by_others = root / variables.get("SECRETS_DIR", "/none").lstrip("/")  # a CSI driver, a Vault agent
    if "projected" not in str(pod["spec"].get("volumes")):
        by_others.mkdir(parents=True)
        for name in ("BROKER_URL", "REGISTRY_TOKEN"):
            (by_others / name).write_text(CONTENT[name])
    for volume in pod["spec"].get("volumes", ()):
        if volume["name"] not in where:
            continue  # of another container
        directory = root / where[volume["name"]].lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        for source in volume.get("projected", {}).get("sources", ()):
            for item in source["secret"]["items"]:
                (directory / item["path"]).write_text(CONTENT[item["path"]])
        if "configMap" in volume:
            for name in ("ca.crt", "bundle.pem"):
                (directory / name).write_text("a certificate")
            (directory / "mapping.yaml").write_text("operator_journey_id: id")
    variables |= {each["name"]: each["value"] for each in container.get("env", ())}
    moved = {"SECRETS_DIR", "BROKER_CA_FILE", "REGISTRY_CA_FILE", "EVENT_MAPPING_FILE"}
    return {name: f"{root}{value}" if name in moved else value for name, value in variables.items()}


@pytest.mark.parametrize("case", CASES)
def test_the_service_accepts_what_the_chart_sets(chart: Chart, case: str, tmp_path: Path) -> None:
    """Every pod's environment and files go through the service's own checks, without a warning."""
    for name, pod in pods(chart.objects(case)):
        container = ours(pod)
        given = dict(chart.settings(case)) if "envFrom" in container else {}
        environ = _in_the_pod(pod, given, tmp_path / name)
        settings = load(environ, TOPOLOGY if container["args"] == ["declare"] else ALL)
        assert settings.warnings == (), name
        assert settings.broker_addresses == ("amqps://rabbitmq:5671/mobility",), name
        if container["args"] == ["run"] and case not in {"access-keys", "event-mapping"}:
            assert settings.registry_token is None, "the token must be read from its file"
            assert str(settings.registry_token_file).endswith("/REGISTRY_TOKEN")


def test_every_setting_of_the_service_can_be_reached(chart: Chart) -> None:
    """By a value of its own, by reference or under `settings`, and by one way only."""
    every = {name.upper() for name in Settings.model_fields}
    further = set(SCHEMA["properties"]["settings"]["propertyNames"]["enum"])
    owned = {name for case in CASES for name in chart.settings(case)} - {"SECRETS_DIR"}
    own_values = owned - further
    assert further | own_values | BY_REFERENCE == every
    assert not BY_REFERENCE & (further | own_values)


def test_defaults_of_the_chart_are_those_of_the_service(chart: Chart) -> None:
    """Who reads docs/configuration.md must not be surprised in the cluster."""
    fields = Settings.model_fields
    for name, value in chart.settings("minimal", "replicas: 1").items():
        if name != "SECRETS_DIR":
            default = fields[name.lower()].default
            shown = str(default).lower() if isinstance(default, bool) else str(default)
            assert type(default)(value) == default if isinstance(default, float) else value == shown, name


def test_numbers_arrive_as_they_were_written(chart: Chart) -> None:
    """YAML's large numbers must not turn into 1e+06, nor fractions be cut."""
    settings = chart.settings(
        "minimal",
        "{drainTimeoutSeconds: 12.25, settings: {EARLY_BOUND_SECONDS: 604800, BREAKER_PROBE_SECONDS: 0.5,"
        " REGISTRY_ALLOW_HTTP: true, HOLD_LIMIT_SECONDS: 1000000}}",
    )
    assert settings["DRAIN_TIMEOUT_SECONDS"] == "12.25"
    assert settings["EARLY_BOUND_SECONDS"] == "604800"
    assert settings["BREAKER_PROBE_SECONDS"] == "0.5"
    assert settings["REGISTRY_ALLOW_HTTP"] == "true"
    assert settings["HOLD_LIMIT_SECONDS"] == "1000000"


def test_what_becomes_of_dead_letters_and_outcomes_has_values_of_its_own(chart: Chart) -> None:
    """They arrive under the names that the service reads; without an exchange no event is published."""
    settings = chart.settings("tuned")
    assert settings["DEAD_LETTERS_RETURN_UNAUTHORIZED"] == "false"
    assert settings["DEAD_LETTERS_RETURN_PER_SECOND"] == "2.5"
    assert settings["DEAD_LETTERS_LOOK_SECONDS"] == "60"
    assert settings["EVENTS_EXCHANGE"] == "outcomes"
    assert "EVENTS_EXCHANGE" not in chart.settings("minimal")
    assert chart.settings("minimal", "deadLetters: {lookSeconds: 0}")["DEAD_LETTERS_LOOK_SECONDS"] == "0"


def test_who_may_not_declare_only_verifies(chart: Chart) -> None:
    """When the service does not declare, it binds nothing either."""
    assert chart.settings("minimal")["BROKER_DECLARE"] == "true"
    for case in ("declare-job", "declare-never"):
        settings = chart.settings(case)
        assert settings["BROKER_DECLARE"] == "false"
        assert not {"BROKER_EXCHANGE", "BROKER_ROUTING_KEY"} & settings.keys()


def test_dead_letters_are_trusted_where_our_own_job_made_their_queues(chart: Chart) -> None:
    """The service's user lacks the permission to inspect; without a declaring service the operator knows."""
    name = "DEAD_LETTERS_UNVERIFIED"
    assert chart.settings("declare-job")[name] == "true"
    assert chart.settings("declare-job", f"settings: {{{name}: false}}")[name] == "false"
    assert name not in chart.settings("minimal")
    assert name not in chart.settings("declare-never")
    assert chart.settings("declare-never", f"settings: {{{name}: true}}")[name] == "true"


def test_the_job_declares_before_the_service_needs_the_queues(chart: Chart) -> None:
    """A hook before install and upgrade: it may refer to nothing that the chart makes."""
    job = chart.one("Job", "declare-job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["declare"]
    assert "envFrom" not in container
    assert "serviceAccountName" not in pod
    environ = {each["name"]: each["value"] for each in container["env"]}
    assert environ["BROKER_DECLARE"] == "true"
    assert (environ["BROKER_QUEUE"], environ["BROKER_EXCHANGE"]) == ("trips.done", "trips")


def test_the_chart_installs_the_version_it_belongs_to(chart: Chart) -> None:
    """The image's tag defaults to the chart's appVersion, which is the package's version."""
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert described["appVersion"] == consumer.__version__

    def image(case: str) -> str:
        (container,) = chart.one("Deployment", case)["spec"]["template"]["spec"]["containers"]
        return str(container["image"])

    assert image("minimal") == f"registry.example/journey-consumer:{consumer.__version__}"
    assert image("placement") == "registry.example/journey-consumer:0.1.0-fr"
    assert image("single") == f"registry.example/journey-consumer@sha256:{'a1' * 32}"


def test_what_is_added_reaches_the_pod(chart: Chart) -> None:
    """Containers, host names, DNS, timings, objects: a closed schema must not force a fork of the chart."""
    spec = chart.one("Deployment", "extras")["spec"]
    pod = spec["template"]["spec"]
    assert spec["revisionHistoryLimit"] == 3
    assert (pod["runtimeClassName"], pod["schedulerName"], pod["dnsPolicy"]) == (
        "gvisor",
        "my-scheduler",
        "None",
    )
    assert pod["dnsConfig"] == {"nameservers": ["10.0.0.10"]}
    assert pod["hostAliases"] == [{"ip": "10.0.0.5", "hostnames": ["rabbitmq.internal"]}]
    assert [each["name"] for each in pod["containers"]] == ["consumer", "forwarder"]
    assert [each["name"] for each in pod["initContainers"]] == ["wait"]
    container = ours(spec["template"])
    assert container["image"] == "mirror.example/mobility/journey-consumer:0.1.0"
    assert {"secretRef": {"name": "opentelemetry"}} in container["envFrom"]
    probe = {"httpGet": {"path": "/livez", "port": "http"}, "periodSeconds": 10, "failureThreshold": 3}
    assert container["livenessProbe"] == {**probe, "timeoutSeconds": 5}
    assert container["startupProbe"]["periodSeconds"] == 5
    assert chart.one("PodDisruptionBudget", "extras")["spec"]["minAvailable"] == "50%"
    (added,) = (each for each in chart.objects("extras") if each["metadata"]["name"].endswith("-more"))
    assert added["data"] == {"queue": "journeys.completed"}


def test_secrets_may_be_files_of_somebody_else(chart: Chart) -> None:
    """A Vault agent's directory needs no volume; a CSI volume takes the place of the Secrets."""
    agent, driver = (
        chart.one("Deployment", case)["spec"]["template"] for case in ("secrets-directory", "secrets-volume")
    )
    assert chart.settings("secrets-directory")["SECRETS_DIR"] == "/vault/secrets"
    assert "volumes" not in agent["spec"]
    (volume,) = driver["spec"]["volumes"]
    assert volume["csi"]["driver"] == "secrets-store.csi.k8s.io"
    assert chart.settings("secrets-volume")["SECRETS_DIR"] == "/run/secrets/journey-consumer"
