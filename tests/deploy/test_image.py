"""The image: what is in it, and that the service runs in it as a cluster would run it, and drains."""

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest

import consumer
from consumer.publishing import samples
from consumer.sandbox import Sandbox
from tests.broker import Broker
from tests.deploy.chart import Chart
from tests.deploy.image import ROOT, Container, Image, built
from tests.rabbit import RabbitNode, fresh_vhost
from tests.rabbit_setup import Installation
from tests.tools import missing
from tests.waiting import await_until

TOKEN = "an.invented.token"
QUEUE = "journeys.completed"
MEGABYTES = 70  # what the image adds to its base; docs/install.md states it
#: The first run makes a Debian and downloads the dependencies; later ones take seconds.
SLOW = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The image that the Dockerfile describes."""
    with built() as image:
        yield image


@pytest.fixture(scope="module")
def vhost() -> Iterator[Broker]:
    """A virtual host of a private broker."""
    if Installation.find() is None:
        missing("rabbitmq-server")
    with RabbitNode() as node, fresh_vhost(node) as broker:
        yield broker


@pytest.fixture
def secrets(tmp_path: Path, vhost: Broker, image: Image) -> Path:
    """A directory of secrets as the kubelet lays it out: links to a dated directory."""
    (data := tmp_path / "secrets" / "..2026_11_23").mkdir(parents=True)
    for name, content in (("BROKER_URL", vhost.url), ("REGISTRY_TOKEN", TOKEN)):
        (data / name).write_text(content)
        (data / name).chmod(0o440)
        os.chown(data / name, 0, int(image.config["User"].partition(":")[2]))
        (data.parent / name).symlink_to(f"..data/{name}")
    (data.parent / "..data").symlink_to(data.name)
    return data.parent


def _get(url: str) -> int:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code
    except httpx.TransportError:
        return 0


def _started_by_the_chart(chart: Chart, kind: str, **settings: str) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of the chart's container, with what is different on this machine."""
    found = chart.one(kind)
    pod = found["spec"]["template"] if kind == "Deployment" else found
    (container,) = pod["spec"]["containers"]
    return container["args"], chart.settings() | settings


def test_hadolint_has_nothing_to_say() -> None:
    """Neither an error nor a hint."""
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_the_version_of_the_image_is_that_of_the_package() -> None:
    """The default of the build argument, which ends up in a label."""
    assert f"ARG VERSION={consumer.__version__}\n" in (ROOT / "Dockerfile").read_text()


def test_locks_pin_every_dependency_by_hash_and_name_no_index() -> None:
    """The image holds what was reviewed, wherever it is built."""
    for name in ("run", "sqs", "sandbox", "build"):
        text = (ROOT / "requirements" / f"{name}.lock").read_text()
        pinned = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert pinned
        assert all("==" in line and line.endswith("\\") for line in pinned)
        assert "://" not in text
        assert "--index" not in text


class TestBuilt:
    """What only a built image shows."""

    pytestmark = SLOW

    def test_it_is_described_and_starts_as_the_chart_expects(self, image: Image, chart: Chart) -> None:
        """Numeric user, exec form, port, labels."""
        pod = chart.one("Deployment")["spec"]["template"]["spec"]
        security = pod["securityContext"]
        assert image.config["User"] == f"{security['runAsUser']}:{security['runAsGroup']}"
        assert image.config["Entrypoint"] == ["journey-consumer"]
        assert image.config["Cmd"] == pod["containers"][0]["args"] == ["run"]
        assert list(image.config["ExposedPorts"]) == ["8000/tcp"]
        labels = image.config["Labels"]
        assert labels["org.opencontainers.image.version"] == consumer.__version__
        assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
        assert {
            f"org.opencontainers.image.{each}" for each in ("title", "description", "revision")
        } <= labels.keys()

    def test_it_holds_the_service_and_nothing_else(self, image: Image) -> None:
        """No pip, no tests, no extras, no sources beside the package; every module is compiled; small."""
        found = image.installed()
        assert {"consumer", "schemas", "kombu"} <= found
        assert not {"pip", "setuptools", "pytest", "tests", "aiohttp", "boto3"} & found
        assert not {"sandbox", "demo"} & {path.name for path in (image.packages / "consumer").iterdir()}
        assert not (image.root / "src").exists()
        _assert_compiled(image, "consumer", "schemas", "kombu", "pydantic", "amqp")
        assert image.size() < MEGABYTES * 1e6, image.size()

    @pytest.mark.parametrize("command", ["sandbox", "demo"])
    def test_the_sandbox_is_not_in_it(self, image: Image, command: str, tmp_path: Path) -> None:
        """Exit 2 and one sentence that names the image which has it."""
        with Container(image, [command], {}, tmp_path) as container:
            assert container.wait(30) == 2, container.output
            assert container.output == (
                "journey-consumer: the sandbox is not in this image: build one that has it with "
                "`docker build --target sandbox`\n"
            )

    async def test_the_sandbox_has_its_own_image(self, tmp_path: Path) -> None:
        """`--target sandbox` starts the sandbox; its modules are compiled too."""
        with built("sandbox") as image:
            assert image.config["Cmd"] == ["sandbox", "--host", "0.0.0.0"]  # noqa: S104 inside the container
            assert list(image.config["ExposedPorts"]) == ["8080/tcp"]
            assert "aiohttp" in image.installed()
            _assert_compiled(image, "consumer", "aiohttp")
            port = _free_port()
            with Container(image, [*image.config["Cmd"], "--port", port], {}, tmp_path) as container:
                await await_until(
                    lambda: _get(f"http://127.0.0.1:{port}/_sandbox/state") == 200,
                    30,
                    lambda: container.output,
                )

    def test_the_image_for_sqs_has_boto3(self) -> None:
        """`--build-arg LOCK=sqs` installs the dependencies of `[sqs]`, and no others."""
        with built(LOCK="sqs") as image:
            assert "boto3" in image.installed()
            assert "aiohttp" not in image.installed()

    def test_nothing_in_it_belongs_to_the_user_it_runs_as(self, image: Image) -> None:
        """The service could not change itself, even if the root were writable."""
        user, _, group = image.config["User"].partition(":")
        for path in image.program.rglob("*"):
            status = path.lstat()
            assert status.st_uid != int(user), path
            assert status.st_gid != int(group), path
            assert path.is_symlink() or not status.st_mode & 0o002, path

    async def test_it_drains_under_load_as_process_1(
        self, image: Image, chart: Chart, vhost: Broker, secrets: Path
    ) -> None:
        """Numeric user, read-only root, no capability; SIGTERM: nothing is lost, nothing is sent twice."""
        bodies = _journeys(2000)
        async with Sandbox(tokens=[TOKEN]) as sandbox:
            sandbox.faults.latency_seconds = 0.3
            port = _free_port()
            args, environ = _started_by_the_chart(
                chart, "Deployment", REGISTRY_URL=sandbox.url, HTTP_PORT=port, HTTP_HOST="127.0.0.1"
            )
            with Container(image, args, environ, secrets) as container:
                await await_until(
                    lambda: _get(f"http://127.0.0.1:{port}/readyz") == 200, 30, lambda: container.output
                )
                _assert_confined(container.process, image)
                vhost.publish_all([(body, {}) for body in bodies.values()], QUEUE)
                await await_until(lambda: len(sandbox.journeys) > 200, 30, lambda: container.output)
                container.process.terminate()
                await await_until(lambda: not _alive(container), 30, lambda: container.output)
                assert container.wait(5) == 0, container.output
                drained = [line for line in container.output.splitlines() if '"drained"' in line]
            registered = set(sandbox.journeys)
            left = {json.loads(seen.body)["journey_id"] for seen in vhost.take(QUEUE)}
            assert json.loads(drained[0])["unfinished"] == 0
            assert registered | left == set(bodies)
            assert not registered & left
            assert left, "the signal came too late to prove anything"
            assert len(sandbox.requests) == len(registered)

    async def test_the_check_of_helm_test_passes_in_it(
        self, image: Image, chart: Chart, secrets: Path
    ) -> None:
        """The command of the chart's test pod, in the image, with the chart's settings."""
        async with Sandbox(tokens=[TOKEN]) as sandbox:
            args, environ = _started_by_the_chart(
                chart, "Pod", REGISTRY_URL=sandbox.url, HTTP_PORT=_free_port()
            )
            with Container(image, args, environ, secrets) as container:
                await await_until(lambda: not _alive(container), 30, lambda: container.output)
                assert container.wait(5) == 0, container.output
                assert "FAIL" not in container.output
                assert TOKEN not in container.output


def _assert_compiled(image: Image, *packages: str) -> None:
    for name in packages:
        for module in (image.packages / name).rglob("*.py"):
            assert list((module.parent / "__pycache__").glob(f"{module.stem}.cpython-*.pyc")), module


def _free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def _journeys(count: int) -> dict[str, bytes]:
    """Valid journeys by their id."""
    rng, now = random.Random(7), datetime.now(UTC)
    made = (samples.journey("v2", rng, now) for _ in range(count))
    return {samples.journey_id(each): samples.encode(each) for each in made}


def _alive(container: Container) -> bool:
    try:
        container.wait(0)
    except subprocess.TimeoutExpired:
        return True
    return False


def _assert_confined(process: psutil.Process, image: Image) -> None:
    """What the kernel says of the process."""
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
    )
    user, _, group = image.config["User"].partition(":")
    assert status["NSpid"].split()[-1] == "1"
    assert set(status["Uid"].split()) == {user}
    assert set(status["Gid"].split()) == {group}
    assert status["Groups"].split() == []
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {0}
    assert status["NoNewPrivs"] == "1"
    mounts = [line.split() for line in Path(f"/proc/{process.pid}/mountinfo").read_text().splitlines()]
    (root,) = (mount for mount in mounts if mount[4] == "/")
    assert "ro" in root[5].split(",")
