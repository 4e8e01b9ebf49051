"""Every case of ci/, for several Kubernetes versions, against the schemas of who will receive it."""

import subprocess

import jsonschema
import kubernetes_validate
import pytest

from tests.deploy import crds
from tests.deploy.chart import Chart, Object
from tools import chart as chart_files
from tools.chart import CASES, CHART, VERSIONS

every_case = pytest.mark.parametrize("case", CASES)


@every_case
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_what_kubernetes_of_that_version_expects(
    chart: Chart, case: str, version: str
) -> None:
    """Strictly: a field that Kubernetes does not know would be dropped without a word."""
    for each in chart.objects(case, version=version):
        if each["apiVersion"].partition("/")[0] not in crds.MODULES:
            kubernetes_validate.validate(each, version.rpartition(".")[0], strict=True)


@every_case
def test_every_custom_object_is_what_its_operator_expects(chart: Chart, case: str) -> None:
    """KEDA's and the Prometheus operator's own schemas, unknown fields refused."""
    for each in chart.objects(case):
        if each["apiVersion"].partition("/")[0] in crds.MODULES:
            crds.validate(each)


@every_case
def test_helm_lint_finds_nothing(chart: Chart, case: str) -> None:
    """Warnings count as errors."""
    command = [chart.helm, "lint", "--strict", CHART, "--values", CASES[case]]
    command += ["--kube-version", VERSIONS[-1]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 chart(s) failed" in done.stdout
    assert "Fail:" not in done.stderr


@every_case
def test_all_objects_live_in_the_release_and_carry_its_labels(chart: Chart, case: str) -> None:
    """Nothing is cluster-wide, nothing grants a right, nothing is a Secret."""
    for each in chart.objects(case):
        assert each["kind"] not in {"Secret", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "journey-consumer"
        assert labels["app.kubernetes.io/instance"] == "proofs"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/version"] == "0.1.0"


@pytest.mark.parametrize(
    "wrong",
    [
        {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "spec": {"scaleTargetRef": {"name": "x", "misspelt": "y"}, "triggers": []},
        },
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "spec": {"selector": {}, "podMetricsEndpoints": [{"misspelt": "http"}]},
        },
    ],
    ids=["keda", "prometheus"],
)
def test_the_strict_schemas_do_refuse(wrong: Object) -> None:
    """The check of custom objects would fail on a misspelt field, deep inside too."""
    with pytest.raises(jsonschema.ValidationError, match="misspelt"):
        crds.validate(wrong)


@pytest.mark.parametrize("case", chart_files.GOLDEN)
def test_the_rendering_is_the_golden_one(chart: Chart, case: str) -> None:
    """A change of what is installed shows in a review."""
    written = chart_files.GOLDEN[case].read_text()
    assert chart.text(case) == written, "run `make generate` and read the difference"


def test_the_readme_lists_the_values_as_they_are() -> None:
    """Each value with its default and its meaning, generated from values.yaml."""
    assert chart_files.readme() == chart_files.README.read_text(), "run `make generate`"
