"""Values that cannot work are refused before anything is installed; a sentence says what to change."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.deploy.chart import Chart, nested
from tools.chart import CHART

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
#: Mappings whose keys are not the chart's: labels, variables, pieces of Kubernetes objects.
OPEN = {
    ("settings",),
    ("podSecurityContext",),
    ("securityContext",),
    ("nodeSelector",),
    ("affinity",),
    ("annotations",),
    ("podAnnotations",),
    ("podLabels",),
    ("commonLabels",),
    ("serviceAccount", "annotations"),
    ("autoscaling", "hpa", "behavior"),
    ("monitoring", "podMonitor", "labels"),
    ("monitoring", "serviceMonitor", "labels"),
    ("monitoring", "rules", "labels"),
    ("monitoring", "rules", "alertLabels"),
    ("monitoring", "dashboards", "labels"),
    ("monitoring", "dashboards", "annotations"),
    ("autoscaling", "keda", "behavior"),
    ("secrets", "volume"),
    ("dnsConfig",),
    ("resources", "requests"),
    ("resources", "limits"),
}


def _mappings(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(node, dict) and path not in OPEN:
        yield path
        for key, value in node.items():
            yield from _mappings(value, (*path, key))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ("image: {repository: ''}", "image.repository is not set: build the image"),
        ("broker: {existingSecret: ''}", "broker.existingSecret is not set: name the Secret"),
        ("registry: {token: {existingSecret: ''}}", "no credentials of the Registry are named: set"),
        (
            "registry: {apiVersion: v3.3, accessKeys: {existingSecret: keys}}",
            "registry.token.existingSecret and registry.accessKeys.existingSecret are both set: keep one",
        ),
        (
            "registry: {token: {existingSecret: ''}, accessKeys: {existingSecret: keys}}",
            "registry.accessKeys needs registry.apiVersion v3.3",
        ),
        ("queue: {declare: job}", "queue.declareJob.existingSecret"),
        (
            "{replicas: 2, registry: {ratePerPod: 10001}}",
            (
                "2 pods (surge included) times registry.ratePerPod (10001) exceed registry.ratePerMinute "
                "(20000): lower registry.ratePerPod to 10000, or leave it null"
            ),
        ),
        (
            "{replicas: 2, updateStrategy: {rollingUpdate: {maxSurge: 1}}, registry: {ratePerPod: 10000}}",
            "lower registry.ratePerPod to 6666",
        ),
        (
            "{autoscaling: {type: hpa, maxReplicas: 5}, registry: {ratePerPod: 4001}}",
            "lower registry.ratePerPod to 4000",
        ),
        (
            "registry: {ratePerMinute: 20001}",
            "exceeds the 20000 requests per minute that the Registry allows",
        ),
        (
            "registry: {ratePerMinute: 30000, url: 'https://api.covoiturage.beta.gouv.fr/'}",
            "exceeds the 20000 requests per minute",
        ),
        (
            "{replicas: 3, registry: {ratePerMinute: 2}}",
            "less than one request per minute for each of 3 pods",
        ),
        (
            "terminationGracePeriodSeconds: 34",
            (
                "terminationGracePeriodSeconds (34) is shorter than drainTimeoutSeconds plus "
                "registry.timeoutSeconds (35)"
            ),
        ),
        ("{terminationGracePeriodSeconds: 45, drainTimeoutSeconds: 35.5}", "(46)"),
        (
            "monitoring: {podMonitor: {enabled: true}, serviceMonitor: {enabled: true}}",
            "monitoring.podMonitor and monitoring.serviceMonitor are both enabled",
        ),
        (
            "autoscaling: {type: hpa, minReplicas: 5, maxReplicas: 4}",
            "autoscaling.minReplicas (5) exceeds autoscaling.maxReplicas (4): lower the one or raise",
        ),
        ("{replicas: 2, autoscaling: {type: hpa}}", 'replicas is set, but autoscaling.type is "hpa": remove'),
        ("autoscaling: {type: hpa, minReplicas: 0}", "autoscaling.minReplicas must be at least 1"),
        (
            "autoscaling: {type: keda, keda: {existingSecret: x}}",
            "autoscaling.keda.managementUrl is not set",
        ),
        (
            "autoscaling: {type: keda, keda: {managementUrl: 'http://rabbitmq:15672'}}",
            "autoscaling.keda.existingSecret is not set",
        ),
        (
            "autoscaling: {type: keda, keda: {managementUrl: 'https://r', existingSecret: x, caKey: ca.crt}}",
            "autoscaling.keda.caKey and autoscaling.keda.tlsKey belong together",
        ),
        (
            (
                "autoscaling: {type: keda, "
                "keda: {managementUrl: 'http://r', existingSecret: x, fallback: {replicas: 2}}}"
            ),
            "autoscaling.keda.fallback needs failureThreshold and replicas",
        ),
        ("secrets: {directory: /vault/secrets}", "keep one of both ways"),
        ("registry: {url: 'http://registry.example'}", "registry.url is plain http"),
        ("registry: {url: 'https://registry.example/v3.3/journeys'}", "has a version or a route"),
        (
            "monitoring: {podMonitor: {enabled: true, interval: 30s, scrapeTimeout: 1m}}",
            "monitoring.podMonitor.scrapeTimeout (1m) exceeds its interval (30s)",
        ),
        (
            "podDisruptionBudget: {minAvailable: 1, maxUnavailable: 50%}",
            "podDisruptionBudget.maxUnavailable and podDisruptionBudget.minAvailable are both set: keep one",
        ),
        (
            "updateStrategy: {rollingUpdate: {maxSurge: 0%, maxUnavailable: 0}}",
            "updateStrategy.rollingUpdate has 0 for both maxSurge and maxUnavailable",
        ),
        (
            "resources: {requests: {memory: 1Gi}, limits: {memory: 1000M}}",
            "resources.requests.memory (1Gi) exceeds resources.limits.memory (1000M)",
        ),
        ("resources: {requests: {cpu: 2}, limits: {cpu: 1500m}}", "resources.requests.cpu (2) exceeds"),
        (
            (
                "topologySpreadConstraints: ["
                "{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}, "
                "{maxSkew: 2, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]"
            ),
            "topologySpreadConstraints has zone DoNotSchedule twice",
        ),
        ("extraVolumes: [{name: secrets, emptyDir: {}}]", 'the name "secrets" twice, or it is one of'),
        ("extraVolumeMounts: [{name: cache, mountPath: /x}]", 'the volume "cache", which extraVolumes does'),
        (
            (
                "{extraVolumes: [{name: a, emptyDir: {}}], "
                "extraVolumeMounts: [{name: a, mountPath: /run/secrets/journey-consumer/}]}"
            ),
            "extraVolumeMounts mounts /run/secrets/journey-consumer twice, or it is one of the chart's own",
        ),
        ("extraContainers: [{name: consumer, image: x}]", 'the name "consumer" twice, or it is the chart'),
        ("extraEnv: [{name: A, value: a}, {name: A, value: b}]", "extraEnv sets A twice"),
        ("dnsPolicy: None", 'dnsPolicy "None" needs dnsConfig.nameservers'),
        (
            "eventMapping: {name: v2-to-v3.3, existingConfigMap: mapping}",
            "eventMapping.name and eventMapping.existingConfigMap are both set",
        ),
        ("queue: {routingKey: a.b}", "queue.routingKey needs queue.exchange"),
        ("queue: {exchange: trips, declare: never}", "queue.exchange has no effect"),
        ("broker: {prefetch: 10}", "broker.prefetch must be at least registry.concurrency"),
        (
            "extraEnv: [{name: REGISTRY_TOKEN, value: t}]",
            "extraEnv sets REGISTRY_TOKEN: name its Secret under broker or registry",
        ),
        (
            "extraEnv: [{name: REGISTRY_RATE_PER_MINUTE, value: '20000'}]",
            "extraEnv sets REGISTRY_RATE_PER_MINUTE: set the value it belongs to",
        ),
        (
            "extraEnv: [{name: DEAD_LETTERS_LOOK_SECONDS, value: '60'}]",
            "extraEnv sets DEAD_LETTERS_LOOK_SECONDS: set the value it belongs to",
        ),
    ],
)
def test_a_contradiction_is_told_in_a_sentence(chart: Chart, values: str, sentence: str) -> None:
    """Each names the values involved and what to do."""
    assert sentence in chart.refusal("minimal", values)


def test_all_contradictions_are_told_at_once(chart: Chart) -> None:
    """One run reports all problems."""
    reported = chart.refusal(
        "minimal", "{image: {repository: ''}, broker: {prefetch: 1}, queue: {declare: job}}"
    )
    assert reported.count("\n- ") == 3


@pytest.mark.parametrize("path", list(_mappings(VALUES)), ids=".".join)
def test_a_misspelt_value_is_refused(chart: Chart, path: tuple[str, ...]) -> None:
    """At every level: a value that does not exist would otherwise have no effect."""
    assert "mistyped" in chart.refusal("minimal", nested((*path, "mistyped"), "x"))


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ("settings: {REGISTRY_TOKEN: t}", "settings"),
        ("settings: {REGISTRY_RATE_PER_MINUTE: 20000}", "settings"),
        ("settings: {DEAD_LETTERS_LOOK_SECONDS: 60}", "settings"),
        ("settings: {EVENTS_EXCHANGE: outcomes}", "settings"),
        ("deadLetters: {returnUnauthorized: 'no'}", "deadLetters.returnUnauthorized"),
        ("deadLetters: {returnPerSecond: 0}", "deadLetters.returnPerSecond"),
        ("deadLetters: {lookSeconds: 86401}", "deadLetters.lookSeconds"),
        (f"events: {{exchange: {'x' * 256}}}", "events.exchange"),
        ("replicas: two", "replicas"),
        ("replicas: -1", "replicas"),
        ("queue: {name: amq.gen-1}", "queue.name"),
        ("queue: {declare: always}", "queue.declare"),
        ("registry: {url: 'https://user:password@api.example'}", "registry.url"),
        ("registry: {apiVersion: v4}", "registry.apiVersion"),
        ("autoscaling: {type: vpa}", "autoscaling.type"),
        ("autoscaling: {keda: {managementUrl: 'http://user:password@rabbitmq:15672'}}", "managementUrl"),
        ("image: {digest: 'sha256:12'}", "image.digest"),
        ("updateStrategy: {rollingUpdate: {maxSurge: many}}", "updateStrategy"),
        ("monitoring: {rules: {thresholds: {stalledFor: soon}}}", "stalledFor"),
        ("monitoring: {rules: {brokerMatchers: job=rabbitmq}}", "brokerMatchers"),
        ("monitoring: {rules: {alertLabels: {a-b: x}}}", "alertLabels"),
        ("networkPolicy: null", "networkPolicy is required"),
        ("registry: null", "registry is required"),
        ("logs: {level: null}", "level is required"),
        ("fullnameOverride: UPPER", "fullnameOverride"),
        ("fullnameOverride: x-", "fullnameOverride"),
        ("nameOverride: 1abc", "nameOverride"),
        ("podLabels: {team: a b}", "podLabels"),
        ("commonLabels: {'a b': c}", "commonLabels"),
        (f"podLabels: {{team: {'x' * 64}}}", "podLabels"),
        ("serviceAccount: {name: a..b}", "serviceAccount.name"),
        ("resources: {limits: {memory: lots}}", "resources.limits.memory"),
        ("resources: {limit: {}}", "limit"),
        ("topologySpreadConstraints: [{topologyKey: zone}]", "maxSkew is required"),
        ("extraVolumes: [{name: A_B}]", "extraVolumes"),
        ("extraObjects: [{kind: ConfigMap}]", "apiVersion is required"),
    ],
)
def test_a_value_out_of_bounds_is_refused(chart: Chart, values: str, path: str) -> None:
    """The schema says which value it is."""
    assert path in chart.refusal("minimal", values)


@pytest.mark.parametrize("values", ["global: {any: {depth: 1}}", "enabled: true", "enabled: false"])
def test_what_an_umbrella_chart_passes_is_let_through(chart: Chart, values: str) -> None:
    """Helm hands `global` and the condition's value to every subchart."""
    assert chart.objects("minimal", values) == chart.objects("minimal")


def test_the_open_mappings_are_those_of_the_schema() -> None:
    """The list above cannot hide a mapping that ought to be closed."""
    for path in OPEN:
        node = copy.copy(VALUES)
        for step in path:
            node = node[step]
        assert isinstance(node, dict), path
