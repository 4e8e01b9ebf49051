"""Any values, and any name of a release: a sentence, or objects that an API server takes.

The schemas check the shape of objects; what they do not say about names, labels and amounts is checked here.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.deploy import crds
from tests.deploy.chart import Chart, Object, parse, pods, walk
from tools.chart import VERSIONS, Refused

LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
#: Names that Helm takes, and that YAML would read as something else or Kubernetes would not take everywhere.
RELEASES = ("123", "true", "null", "1e3", "0x1f", "no", "a.b", "journey-consumer", "x" * 53)
_LABELS = ("labels", "matchLabels", "nodeSelector")
_SENTENCE = re.compile(r"These values do not work together:\n- |don't meet the specifications of the schema")

_LONG = "x" * 64
_TEXTS = (
    "",
    "x",
    "UPPER",
    "x-",
    "a b",
    "1abc",
    "true",
    "null",
    "1e3",
    "a.b",
    "é",
    "x" * 64,
    '"',
    "{{ fail }}",
)
_NUMBERS = (0, 1, 2, -1, 1.5, 100000000, None)
_ZONE = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
#: Values by the paths that may have them: good, odd and impossible ones.
_POOLS: dict[tuple[Any, ...], str] = {
    _TEXTS: (
        "nameOverride fullnameOverride priorityClassName schedulerName broker.existingSecret "
        "registry.token.key serviceAccount.name queue.name podLabels.team commonLabels.team "
        "nodeSelector.disk podAnnotations.note monitoring.rules.alertLabels.team "
        "monitoring.rules.runbookUrl image.tag"
    ),
    _NUMBERS: (
        "replicas terminationGracePeriodSeconds drainTimeoutSeconds broker.prefetch registry.concurrency "
        "autoscaling.minReplicas autoscaling.maxReplicas probes.liveness.timeoutSeconds revisionHistoryLimit"
    ),
    (0, "50%", None, "x"): "podDisruptionBudget.minAvailable podDisruptionBudget.maxUnavailable",
    (0, 1, "0%", "25%", None): (
        "updateStrategy.rollingUpdate.maxSurge updateStrategy.rollingUpdate.maxUnavailable"
    ),
    ("1Gi", "1000M", "128Mi", 1, 0.5, "x", None): (
        "resources.requests.memory resources.limits.memory resources.limits.cpu"
    ),
    ("1m", "90s", "1m30s", "soon"): "monitoring.podMonitor.interval monitoring.podMonitor.scrapeTimeout",
    (True, False): (
        "monitoring.podMonitor.enabled monitoring.serviceMonitor.enabled monitoring.rules.enabled "
        "monitoring.dashboards.enabled"
    ),
    (None,): "networkPolicy monitoring autoscaling settings probes",
    ("Recreate", "RollingUpdate", None): "updateStrategy.type",
    ("none", "hpa", "keda", None): "autoscaling.type",
    ("http://x", "https://x/prefix", "https://x/v3", "x"): "registry.url",
    ('job="rabbitmq"', "job=rabbitmq", 'a="b",c=~"d|e"', "}"): "monitoring.rules.brokerMatchers",
    ("/vault/secrets", "relative", ""): "secrets.directory",
}
_CHOICES: dict[str, tuple[Any, ...]] = {
    **{path: pool for pool, paths in _POOLS.items() for path in paths.split()},
    "extraVolumes": ([{"name": "secrets", "emptyDir": {}}], [{"name": "a", "emptyDir": {}}], [{}], None),
    "topologySpreadConstraints": ([], [_ZONE, _ZONE], [{"maxSkew": 0}]),
}


@st.composite
def _values(draw: st.DrawFn) -> str:
    """Some values of the chart, each good, odd or impossible."""
    tree: dict[str, Any] = {}
    for path in draw(st.lists(st.sampled_from(sorted(_CHOICES)), min_size=1, max_size=5, unique=True)):
        node, steps = tree, path.split(".")
        for step in steps[:-1]:
            inner = node.setdefault(step, {})
            node = inner if isinstance(inner, dict) else {}
        node[steps[-1]] = draw(st.sampled_from(_CHOICES[path]))
    return yaml.safe_dump(tree, allow_unicode=True)


def problems(objects: list[Object]) -> Iterator[str]:
    """What an API server refuses although the schemas allow it."""
    for each in objects:
        yield from _wrong_names(each)
        if each["kind"] == "Deployment":
            yield from _wrong_strategy(each["spec"]["strategy"])
        for node in walk(each):
            if isinstance(node, dict) and _seconds(node.get("scrapeTimeout")) > _seconds(
                node.get("interval")
            ):
                yield "scrapeTimeout above interval"
    for where, pod in pods(objects):
        yield from (f"{where}: {problem}" for problem in _wrong_pod(pod["spec"]))


def _wrong_names(each: Object) -> Iterator[str]:
    kind, name = each["kind"], each["metadata"]["name"]
    pattern, longest = (SERVICE, 63) if kind == "Service" else (SUBDOMAIN, 253)
    if not isinstance(name, str) or not pattern.fullmatch(name) or len(name) > longest:
        yield f"{kind}: name {name!r}"
    if kind == "PrometheusRule":
        return  # the labels of rules are Prometheus' own
    fields = (node.get(field) for node in walk(each) if isinstance(node, dict) for field in _LABELS)
    for key, value in (item for labels in fields if isinstance(labels, dict) for item in labels.items()):
        if not isinstance(value, str) or not LABEL.fullmatch(value) or len(value) > 63:
            yield f"{kind}: {key}={value!r}"


def _wrong_strategy(strategy: Object) -> Iterator[str]:
    rolling = strategy.get("rollingUpdate")
    if rolling and strategy["type"] == "Recreate":
        yield "Recreate with rollingUpdate"
    if rolling and all(str(rolling.get(key)) in {"0", "0%"} for key in ("maxSurge", "maxUnavailable")):
        yield "no pod can be replaced"


def _wrong_pod(spec: Object) -> Iterator[str]:
    constraints = spec.get("topologySpreadConstraints", ())
    for names in (
        [each["name"] for each in spec.get("volumes", ())],
        [each["name"] for each in spec["containers"]],
        [(each["topologyKey"], each["whenUnsatisfiable"]) for each in constraints],
    ):
        if len(set(names)) < len(names):
            yield f"twice in {names}"
    for container, resource in itertools.product(spec["containers"], ("memory", "cpu")):
        resources = container.get("resources", {})
        request, limit = (resources.get(key, {}).get(resource) for key in ("requests", "limits"))
        if request is not None and limit is not None and _amount(request) > _amount(limit):
            yield f"requests {request} of {resource}, limit {limit}"


def _seconds(text: Any) -> int:
    units = {"s": 1, "m": 60}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([sm])", str(text)))


def _amount(value: Any) -> float:
    found = re.fullmatch(r"([\d.]+)(m|M|G|Mi|Gi)?", str(value))
    assert found is not None
    factor = {None: 1.0, "m": 1e-3, "M": 1e6, "G": 1e9, "Mi": 2.0**20, "Gi": 2.0**30}[found[2]]
    return float(found[1]) * factor


def _validate(objects: list[Object]) -> None:
    for each in objects:
        if each["apiVersion"].partition("/")[0] in crds.MODULES:
            crds.validate(each)
        else:
            kubernetes_validate.validate(each, VERSIONS[-1].rpartition(".")[0], strict=True)
    assert not list(problems(objects))


@given(_values())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=True,
)
def test_any_values_give_a_sentence_or_good_objects(chart: Chart, values: str) -> None:
    """Never a template's own error, never an object that the API server refuses."""
    try:
        objects = parse(chart.text("minimal", values))
    except Refused as refused:
        assert _SENTENCE.search(str(refused)), f"{values}\n{refused}"  # noqa: PT017
        return
    _validate(objects)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("case", ["minimal", "keda", "pod-monitor"])
def test_any_name_of_a_release_gives_good_objects(chart: Chart, release: str, case: str) -> None:
    """Helm takes names that YAML reads as numbers or booleans: they stay texts."""
    _validate(chart.objects(case, release=release))


def test_a_name_that_no_service_may_have_is_told(chart: Chart) -> None:
    """A Service is the only object whose name must begin with a letter."""
    with pytest.raises(Refused, match="is not possible for a Service"):
        chart.text("service-monitor", release="123")
