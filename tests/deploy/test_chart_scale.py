"""How many pods, each one's share of the Registry's limit, and how they come and go."""

import pytest

from tests.deploy.chart import Chart
from tools.chart import CASES

LIMIT = 20_000


@pytest.mark.parametrize("case", CASES)
def test_all_pods_together_stay_within_the_limit(chart: Chart, case: str) -> None:
    """The most pods there can be, those of a roll-out included, times the rate of each."""
    objects = chart.objects(case)
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    pods = deployment["spec"].get("replicas")
    for each in objects:
        if each["kind"] == "HorizontalPodAutoscaler":
            pods = each["spec"]["maxReplicas"]
        if each["kind"] == "ScaledObject":
            pods = each["spec"]["maxReplicaCount"]
    strategy = deployment["spec"]["strategy"]
    surge = {"surge": 2}.get(case, 0)  # 25 % of 6, rounded up as Kubernetes does
    if case != "surge" and strategy["type"] == "RollingUpdate":
        assert strategy["rollingUpdate"]["maxSurge"] == 0
    rate = int(chart.settings(case)["REGISTRY_RATE_PER_MINUTE"])
    assert LIMIT - 2 * pods < (pods + surge) * rate <= LIMIT or case == "tuned"
    assert (pods + surge) * rate <= LIMIT


@pytest.mark.parametrize(
    ("values", "rate"),
    [
        ("{}", 10_000),
        ("{replicas: 1}", 20_000),
        ("{replicas: 3}", 6_666),
        ("{registry: {ratePerMinute: 9000}, replicas: 4}", 2_250),
        ("{registry: {ratePerPod: 300}}", 300),
        ("{replicas: 2, updateStrategy: {rollingUpdate: {maxSurge: 1}}}", 6_666),
        ("{replicas: 3, updateStrategy: {rollingUpdate: {maxSurge: 50%}}}", 4_000),
        ("{replicas: 3, updateStrategy: {rollingUpdate: {maxSurge: null}}}", 5_000),
        ("{autoscaling: {type: hpa, maxReplicas: 8}}", 2_500),
        ("{replicas: 1, registry: {url: https://sandbox.example, ratePerMinute: 2000000}}", 2_000_000),
    ],
)
def test_the_share_of_a_pod_follows_from_the_total(chart: Chart, values: str, rate: int) -> None:
    """The chart divides; 25 % is the default surge of a Deployment."""
    assert chart.settings("minimal", values)["REGISTRY_RATE_PER_MINUTE"] == str(rate)


@pytest.mark.parametrize("case", CASES)
def test_replicas_are_named_only_when_nothing_else_chooses_them(chart: Chart, case: str) -> None:
    """An upgrade must not reset what an autoscaler has chosen."""
    kinds = {each["kind"] for each in chart.objects(case)}
    scaled = bool(kinds & {"HorizontalPodAutoscaler", "ScaledObject"})
    assert scaled == (case in {"hpa", "hpa-metrics", "keda"})
    assert ("replicas" in chart.one("Deployment", case)["spec"]) is not scaled


def test_keda_counts_what_waits_and_what_is_under_way(chart: Chart) -> None:
    """Through the management API: over amqp, unacknowledged messages would be invisible."""
    spec = chart.one("ScaledObject", "keda")["spec"]
    assert spec["scaleTargetRef"] == {"name": "proofs-journey-consumer"}
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (1, 6)
    (trigger,) = spec["triggers"]
    assert trigger == {
        "type": "rabbitmq",
        "metadata": {
            "protocol": "http",
            "host": "https://rabbitmq.broker.svc:15671/management/",  # KEDA cuts what follows the last slash
            "vhostName": "mobility",
            "queueName": "journeys.completed",
            "mode": "QueueLength",
            "value": "2000000",
            "excludeUnacknowledged": "false",
        },
        "authenticationRef": {"name": "proofs-journey-consumer"},
    }
    authentication = chart.one("TriggerAuthentication", "keda")
    assert authentication["metadata"]["name"] == "proofs-journey-consumer"
    assert authentication["spec"]["secretTargetRef"] == [
        {"parameter": "username", "name": "broker-monitoring", "key": "username"},
        {"parameter": "password", "name": "broker-monitoring", "key": "password"},
        {"parameter": "ca", "name": "broker-monitoring", "key": "ca.crt"},
        {"parameter": "tls", "name": "broker-monitoring", "key": "tls"},
    ]
    assert spec["fallback"] == {"failureThreshold": 3, "replicas": 2}
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior == {"scaleDown": {"stabilizationWindowSeconds": 600}}
    assert not {"pollingInterval", "cooldownPeriod"} & spec.keys()  # they act at zero pods only


def test_hpa_follows_the_processor_or_a_metric_of_ones_own(chart: Chart) -> None:
    """The list of metrics replaces the default."""
    spec = chart.one("HorizontalPodAutoscaler", "hpa")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 5)
    assert spec["scaleTargetRef"]["name"] == "proofs-journey-consumer"
    assert spec["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 80}
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 600
    (metric,) = chart.one("HorizontalPodAutoscaler", "hpa-metrics")["spec"]["metrics"]
    assert metric["type"] == "External"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("{}", True),
        ("{replicas: 1}", False),
        ("{replicas: 0}", False),
        ("{replicas: 3}", True),
        ("{podDisruptionBudget: {enabled: false}}", False),
        ("{autoscaling: {type: hpa, maxReplicas: 1}}", False),
        ("{autoscaling: {type: hpa, maxReplicas: 2}}", True),
    ],
)
def test_a_disruption_budget_exists_when_there_can_be_two_pods(
    chart: Chart,
    values: str,
    expected: bool,  # noqa: FBT001
) -> None:
    """For a single pod it would only keep nodes from being drained."""
    found = [each for each in chart.objects("minimal", values) if each["kind"] == "PodDisruptionBudget"]
    assert bool(found) is expected
    for each in found:
        assert each["spec"]["maxUnavailable"] == 1
        assert each["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize(
    ("values", "grace"),
    [
        ("{}", 45),
        ("{drainTimeoutSeconds: 60, registry: {timeoutSeconds: 20}}", 90),
        ("{drainTimeoutSeconds: 0.5, registry: {timeoutSeconds: 0.6}}", 12),
        ("{terminationGracePeriodSeconds: 35}", 35),
    ],
)
def test_a_pod_is_given_time_to_drain(chart: Chart, values: str, grace: int) -> None:
    """At least the drain and one request; ten seconds more unless set otherwise."""
    spec = chart.one("Deployment", "minimal", values)["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == grace


def test_pods_restart_for_a_changed_setting_only(chart: Chart) -> None:
    """Neither a rotated Secret (its name stays) nor a new version of the chart alone changes the pods."""

    def template(values: str) -> str:
        return str(chart.one("Deployment", "minimal", values)["spec"]["template"])

    assert template("{logs: {level: DEBUG}}") != template("{}")
    assert template("{monitoring: {podMonitor: {enabled: true}}}") == template("{}")
    assert "helm.sh/chart" not in template("{}")


def test_pods_are_spread_by_their_own_selector(chart: Chart) -> None:
    """The selector is added where it is missing; one that is given stays."""
    zone, host = chart.one("Deployment", "placement")["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert zone["labelSelector"] == chart.one("Deployment", "placement")["spec"]["selector"]
    assert host["labelSelector"] == {"matchLabels": {"team": "mobility"}}


def test_probes_ask_the_service_itself_without_a_shell(chart: Chart) -> None:
    """Live and ready are different questions, asked over HTTP on the metrics port."""
    (container,) = chart.one("Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": 8000, "protocol": "TCP"}]
    for probe, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "http"}
