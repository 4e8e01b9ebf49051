"""Restricted pod security field by field, and secrets that never leave their files."""

import pytest

from tests.deploy.chart import Chart, Object, ours, pods, walk
from tools.chart import CASES

every_case = pytest.mark.parametrize("case", CASES)
SECRET_SETTINGS = {
    "BROKER_URL",
    "REGISTRY_TOKEN",
    "REGISTRY_ACCESS_KEY",
    "REGISTRY_SECRET_KEY",
    "REGISTRY_PROXY_URL",
}


def _secrets(pod: Object) -> dict[str, tuple[str, str]]:
    """Setting -> (Secret, key), of the directory of secrets, when Secrets fill it."""
    (volume,) = (each for each in pod["spec"]["volumes"] if each["name"] == "secrets")
    return {
        item["path"]: (source["secret"]["name"], item["key"])
        for source in volume.get("projected", {"sources": ()})["sources"]
        for item in source["secret"]["items"]
    }


@every_case
def test_every_pod_keeps_to_the_restricted_standard(chart: Chart, case: str) -> None:
    """The service, the check of `helm test` and the job that declares queues alike."""
    found = list(pods(chart.objects(case)))
    assert found
    for name, pod in found:
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        assert case == "extras" or "initContainers" not in spec, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        if case != "openshift":
            for key in ("runAsUser", "runAsGroup", "fsGroup"):
                assert spec["securityContext"][key] == 65532, name
        assert all(
            set(volume) - {"name"} <= {"projected", "configMap", "emptyDir", "csi"}
            for volume in spec.get("volumes", ())
        )
        container = ours(pod)
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["privileged"] is False, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["runAsNonRoot"] is True, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert "hostPort" not in str(container.get("ports")), name


@every_case
def test_no_pod_holds_a_token_of_the_cluster_or_hears_of_its_neighbours(chart: Chart, case: str) -> None:
    """No token is mounted, no variables of Services are injected (they could be taken for settings)."""
    for name, pod in pods(chart.objects(case)):
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert pod["spec"]["enableServiceLinks"] is False, name
    for each in chart.objects(case):
        if each["kind"] == "ServiceAccount":
            assert each["automountServiceAccountToken"] is False


@every_case
def test_secrets_come_as_a_directory_that_follows_rotation(chart: Chart, case: str) -> None:
    """Neither a variable nor a subPath mount would change when the Secret does."""
    objects = chart.objects(case)
    assert not [
        node for node in walk(objects) if isinstance(node, dict) and {"subPath", "secretKeyRef"} & node.keys()
    ]
    for name, pod in pods(objects):
        container = ours(pod)
        assert not SECRET_SETTINGS & {each["name"] for each in container.get("env", ())}, name
        secret_variables = [each for each in container.get("envFrom", ()) if "secretRef" in each]
        assert case == "extras" or not secret_variables, name
        mounts = [each for each in container.get("volumeMounts", ()) if each["name"] == "secrets"]
        if case == "secrets-directory":  # an agent writes the files
            assert mounts == [], name
            continue
        directory = "/run/secrets/journey-consumer"
        assert mounts == [{"name": "secrets", "mountPath": directory, "readOnly": True}], name
        assert _secrets(pod).keys() <= SECRET_SETTINGS, name
    assert not SECRET_SETTINGS & chart.settings(case).keys()


def test_each_secret_is_the_file_that_the_service_reads(chart: Chart) -> None:
    """Names and keys of the operator's Secrets become the names of the service's settings."""

    def secrets(case: str) -> dict[str, tuple[str, str]]:
        return _secrets(chart.one("Deployment", case)["spec"]["template"])

    broker = {"BROKER_URL": ("broker-address", "url")}
    token = {"REGISTRY_TOKEN": ("registry-token", "token")}
    assert secrets("minimal") == broker | token
    assert secrets("tuned") == {
        "BROKER_URL": ("broker-address", "address"),
        "REGISTRY_TOKEN": ("registry-token", "application"),
    }
    assert secrets("access-keys") == broker | {
        "REGISTRY_ACCESS_KEY": ("registry-keys", "access"),
        "REGISTRY_SECRET_KEY": ("registry-keys", "secret"),
    }
    assert secrets("certificates-and-proxy") == broker | token | {
        "REGISTRY_PROXY_URL": ("proxy-address", "url")
    }


def test_the_declaring_user_is_known_to_the_job_alone(chart: Chart) -> None:
    """The service's pods never hold the right to declare, nor the job the Registry's token."""
    found = dict(pods(chart.objects("declare-job")))
    assert _secrets(found["Job/proofs-journey-consumer-declare"]) == {"BROKER_URL": ("broker-admin", "url")}
    assert "broker-admin" not in str(found["Deployment/proofs-journey-consumer"])
    assert "broker-admin" not in str(found["Pod/proofs-journey-consumer-check"])


def test_the_platform_may_choose_the_user(chart: Chart) -> None:
    """A key set to null is left out, so that OpenShift assigns its own numbers."""
    for _, pod in pods(chart.objects("openshift")):
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["spec"]["securityContext"].keys()


def test_the_check_runs_under_the_same_conditions_as_the_service(chart: Chart) -> None:
    """`helm test` would prove little with other rights, secrets, certificates or settings."""
    for case in ("minimal", "certificates-and-proxy", "placement", "openshift"):
        found = dict(pods(chart.objects(case)))
        check, service = (
            found["Pod/proofs-journey-consumer-check"],
            found["Deployment/proofs-journey-consumer"],
        )
        for key in ("securityContext", "volumes", "serviceAccountName", "nodeSelector", "imagePullSecrets"):
            assert check["spec"].get(key) == service["spec"].get(key), key
        ours, theirs = check["spec"]["containers"][0], service["spec"]["containers"][0]
        for key in ("image", "securityContext", "envFrom", "env", "volumeMounts"):
            assert ours.get(key) == theirs.get(key), key
        assert ours["args"] == ["check"]
        assert check["metadata"]["annotations"]["helm.sh/hook"] == "test"
