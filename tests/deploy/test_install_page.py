"""docs/install.md: its commands install, its numbers are those of the chart and the image."""

import os
import re
import shlex
import subprocess

import httpx
import yaml

from tests.deploy.chart import Chart, parse, pods
from tests.deploy.image import ROOT
from tests.deploy.test_image import MEGABYTES
from tests.rabbit import RabbitNode
from tests.tools import require_tool
from tools.chart import CASES, CHART, VERSIONS

PAGE = (ROOT / "docs" / "install.md").read_text()


def _commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def test_the_install_command_renders_and_names_the_secrets_that_the_page_makes(chart: Chart) -> None:
    """As written, with `template` in place of `install`, which needs a cluster."""
    (install,) = (each for each in _commands() if each[:2] == ["helm", "install"])
    command = [chart.helm, "template", *install[2:], "--kube-version", VERSIONS[-1]]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    (pod,) = (pod for name, pod in pods(parse(done.stdout)) if name.startswith("Deployment"))
    wanted = {
        (source["secret"]["name"], item["key"])
        for volume in pod["spec"]["volumes"]
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    }
    made = {
        (each[4], argument.removeprefix("--from-file=").partition("=")[0])
        for each in _commands()
        if each[:4] == ["kubectl", "create", "secret", "generic"]
        for argument in each
        if argument.startswith("--from-file=")
    }
    assert wanted == made
    (container,) = pod["spec"]["containers"]
    (build,) = (each for each in _commands() if each[:2] == ["docker", "build"])
    assert container["image"] == build[build.index("--tag") + 1]


def test_every_value_that_the_page_names_exists() -> None:
    """A value that was renamed must be renamed here too."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    named = re.findall(r"`((?:[a-zA-Z]+\.)+[a-zA-Z_]+)", PAGE)
    for path in {each for each in named if each.partition(".")[0] in values}:
        node = values
        for step in path.split("."):
            if node == values["settings"]:
                break
            assert step in node, path
            node = node[step]


def test_the_numbers_of_the_page_are_those_that_hold(chart: Chart) -> None:
    """Size, user, version of Kubernetes, limit."""
    security = chart.one("Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert f"less than {MEGABYTES} MB" in PAGE
    assert f"user {security['runAsUser']}" in PAGE
    described = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert described["kubeVersion"] == ">=1.27.0-0"
    assert "Kubernetes 1.27 or newer" in PAGE
    assert "20,000 requests a minute" in PAGE


def test_the_yaml_of_the_page_is_that_of_the_tested_case() -> None:
    """The lines for OpenShift are rendered by the tests of the chart."""
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    case = yaml.safe_load(CASES["openshift"].read_text())
    assert yaml.safe_load(block)["podSecurityContext"] == case["podSecurityContext"]


def test_the_user_of_the_page_may_ask_the_management_api() -> None:
    """What KEDA asks; without the empty permission the API answers 401, whatever the tag."""
    require_tool("rabbitmq-server")
    lines = [each for each in _commands() if each[0] == "rabbitmqctl"]
    with RabbitNode(plugins=("rabbitmq_management",)) as node:
        environment = {**os.environ, **node._environment}
        address = f"http://127.0.0.1:{node.ports.management}/api/queues/%2F/journeys"
        answers = []
        for line in lines:
            command = [each.replace("$KEDA_PASSWORD", "scale") for each in line[1:]]
            subprocess.run([*node.ctl_command, "--node", node._name, *command], env=environment, check=True)
            answers.append(httpx.get(address, auth=("keda", "scale")).status_code)
    assert answers == [401, 401, 404]  # there is no such queue; the user may ask
