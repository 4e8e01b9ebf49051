"""Several releases in one namespace, other pods around, Prometheus, and the network."""

import itertools
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.chart import Chart, Object, parse, pods
from tools.chart import CASES, CHART, VERSIONS

RELEASES = (
    "proofs",
    "journey-consumer",
    "proofs-journey-consumer",
    "a" * 52 + "b",
    "a" * 52 + "c",
    "a" * 36 + "-journey-consumer",
)


def _identities(objects: list[Object]) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in objects}


def _matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


@pytest.mark.parametrize("case", ["keda", "declare-job", "network-policy", "service-monitor", "hpa"])
def test_releases_in_one_namespace_do_not_collide(chart: Chart, case: str) -> None:
    """No two share the name of an object, however long or alike their own names are."""
    found = {release: chart.objects(case, release=release) for release in RELEASES}
    for one, other in itertools.combinations(RELEASES, 2):
        assert not _identities(found[one]) & _identities(found[other]), (one, other)
    for objects in found.values():
        assert len(_identities(objects)) == len(objects)
        for _, name in _identities(objects):
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name)


@pytest.mark.parametrize("case", CASES)
def test_a_selector_takes_the_pods_of_its_own_release_only(chart: Chart, case: str) -> None:
    """Neither another release's pods nor the check and the job count as the service."""
    mine = dict(pods(chart.objects(case)))
    theirs = dict(pods(chart.objects(case, release="other")))
    service = mine["Deployment/proofs-journey-consumer"]["metadata"]["labels"]
    for each in chart.objects(case):
        selector = each.get("spec", {}).get("selector")
        if selector is None:
            continue
        labels = selector if each["kind"] == "Service" else selector["matchLabels"]
        assert _matches(labels, service), each["kind"]
        others = [
            pod["metadata"]["labels"] for name, pod in mine.items() if not name.startswith("Deployment")
        ]
        others += [pod["metadata"]["labels"] for pod in theirs.values()]
        assert not [pod for pod in others if _matches(labels, pod)], each["kind"]


def test_labels_of_the_operator_cannot_break_a_selector(chart: Chart) -> None:
    """Ours win where both name the same label."""
    values = (
        "{commonLabels: {app.kubernetes.io/instance: x}, podLabels: {app.kubernetes.io/component: other}}"
    )
    deployment = chart.one("Deployment", "minimal", values)
    assert _matches(
        deployment["spec"]["selector"]["matchLabels"], deployment["spec"]["template"]["metadata"]["labels"]
    )


# --- Prometheus ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "kind", "endpoints"),
    [
        ("pod-monitor", "PodMonitor", "podMetricsEndpoints"),
        ("service-monitor", "ServiceMonitor", "endpoints"),
    ],
)
def test_metrics_carry_the_same_job_however_they_come_in(
    chart: Chart, case: str, kind: str, endpoints: str
) -> None:
    """Rules and dashboards select them by job; releases are distinguished by the label release."""
    monitor = chart.one(kind, case)
    (endpoint,) = monitor["spec"][endpoints]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    assert endpoint["relabelings"][:2] == [
        {"targetLabel": "job", "replacement": "journey-consumer"},
        {"targetLabel": "release", "replacement": "proofs"},
    ]
    kinds = {each["kind"] for each in chart.objects(case)}
    assert len(kinds & {"PodMonitor", "ServiceMonitor"}) == 1
    assert ("Service" in kinds) == (kind == "ServiceMonitor")


def test_a_service_monitor_finds_every_pod_through_its_service(chart: Chart) -> None:
    """Also a pod that is not ready: that one is of interest."""
    service, monitor = chart.one("Service", "service-monitor"), chart.one("ServiceMonitor", "service-monitor")
    assert _matches(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert [port["name"] for port in service["spec"]["ports"]] == ["http"]


@pytest.mark.parametrize("case", ["minimal", "pod-monitor", "service-monitor"])
def test_a_cluster_without_the_operator_is_not_asked_for_its_objects(chart: Chart, case: str) -> None:
    """Without the CRDs an install would fail as a whole; without a cluster one can insist."""
    found = chart.objects(case, apis=())
    assert not [each for each in found if each["apiVersion"].startswith("monitoring.coreos.com")]
    insisting = chart.objects(case, "monitoring: {skipMissingCrds: false}", apis=())
    assert _identities(insisting) == _identities(chart.objects(case))


def test_the_notes_say_the_next_step_and_what_was_left_out(chart: Chart, tmp_path: Path) -> None:
    """The release's own names are in the commands."""
    # Helm shows notes only of an installed release: here an object of a copied chart holds them.
    copied = shutil.copytree(CHART, tmp_path / "journey-consumer")
    text = (copied / "templates" / "NOTES.txt").read_text()
    (copied / "templates" / "_notes.tpl").write_text('{{- define "notes" -}}' + text + "{{- end -}}")
    (copied / "templates" / "notes.yaml").write_text('{kind: Notes, text: {{ include "notes" . | toJson }}}')

    def notes(case: str) -> str:
        return str(chart.one("Notes", case, chart=copied, apis=())["text"])

    minimal = notes("minimal")
    assert "helm test proofs --namespace mobility --logs" in minimal
    assert "At most 2 pods share the Registry's limit: 10000 requests per minute each." in minimal
    assert "kubectl rollout status --namespace mobility deploy/proofs-journey-consumer" in minimal
    assert "It is not monitored" in minimal
    assert "WARNING" not in minimal
    watched = notes("pod-monitor")
    assert "It is not monitored" not in watched
    for kind in ("PodMonitor", "PrometheusRule"):
        assert f"this cluster has no CRD for {kind}: it was left out" in watched
    assert "kubectl exec --namespace mobility deploy/" in notes("single")


# --- Network ------------------------------------------------------------------------------


def test_the_network_policy_lets_pass_what_is_needed_and_nothing_else(chart: Chart) -> None:
    """In: the metrics port. Out: DNS, the broker, the Registry, and what the operator adds."""
    spec = chart.one("NetworkPolicy", "network-policy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    metrics, further = spec["ingress"]
    assert metrics["ports"] == [{"port": 8000, "protocol": "TCP"}]
    assert metrics["from"][0]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "monitoring"
    }
    assert further == {"from": [{"podSelector": {}}]}
    dns, broker, registry, proxy = spec["egress"]
    assert dns == {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
    assert broker["ports"] == [{"port": 5671, "protocol": "TCP"}]
    assert broker["to"] == [{"podSelector": {"matchLabels": {"app": "rabbitmq"}}}]
    assert registry == {"ports": [{"port": 443, "protocol": "TCP"}]}
    assert proxy["ports"] == [{"port": 3128, "protocol": "TCP"}]
    for _, pod in pods(chart.objects("network-policy")):
        assert _matches(spec["podSelector"]["matchLabels"], pod["metadata"]["labels"])


def test_no_network_policy_unless_asked_for(chart: Chart) -> None:
    """A cluster with another idea of policies is left alone."""
    assert "NetworkPolicy" not in {each["kind"] for each in chart.objects("minimal")}


# --- Umbrella -----------------------------------------------------------------------------


@pytest.mark.parametrize("enabled", [True, False])
def test_another_chart_can_depend_on_it(chart: Chart, tmp_path: Path, enabled: bool) -> None:  # noqa: FBT001
    """As a dependency with a condition, and with globals passed down."""
    umbrella = tmp_path / "umbrella"
    shutil.copytree(CHART, umbrella / "charts" / "journey-consumer")
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    (umbrella / "Chart.yaml").write_text(
        "{apiVersion: v2, name: umbrella, version: 1.0.0, dependencies: [{name: journey-consumer,"
        f" version: {version}, condition: journey-consumer.enabled}}]}}"
    )
    values = yaml.safe_load(CASES["minimal"].read_text()) | {"enabled": enabled}
    (umbrella / "values.yaml").write_text(
        yaml.safe_dump({"global": {"region": "fr"}, "journey-consumer": values})
    )
    command = [chart.helm, "template", "all", umbrella, "--kube-version", VERSIONS[-1]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kinds = {each["kind"] for each in parse(done.stdout)}
    assert ("Deployment" in kinds) is enabled
