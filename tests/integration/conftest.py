"""A real broker for the integration tests: one node for all, a second one for those that break it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.broker import Broker
from tests.ledger import QUEUE, TOPOLOGY, Ledger
from tests.local_registry import TOKEN, LocalRegistry
from tests.rabbit import RabbitNode, fresh_vhost
from tests.rabbit_setup import Installation
from tests.service import ServiceProcess
from tests.sqs import SqsServer, running
from tests.tools import missing


@pytest.fixture(autouse=True)
def _folder_of_its_own(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests of dead letters leave their audit lines in a folder of their own."""
    if "dead_letter" in request.module.__name__:
        monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
        monkeypatch.chdir(tmp_path)


def _node(**options: bool) -> RabbitNode:
    if Installation.find() is None:
        missing("rabbitmq-server")
    return RabbitNode(**options)


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitNode]:
    """The node that all tests share, with a TLS listener; no test may stop, alarm or reconfigure it."""
    with _node(tls=True) as node:
        yield node


@pytest.fixture
def vhost(rabbitmq: RabbitNode) -> Iterator[Broker]:
    """A virtual host of the shared node for this test alone."""
    with fresh_vhost(rabbitmq) as broker:
        yield broker


@pytest.fixture
def broker(vhost: Broker) -> Broker:
    """A virtual host with our queues; modules may override it."""
    Ledger(vhost).declare()
    return vhost


@pytest.fixture(scope="session")
def _breakable() -> Iterator[RabbitNode]:
    with _node() as node:
        yield node


@pytest.fixture
def own_rabbitmq(_breakable: RabbitNode) -> RabbitNode:
    """A running node that this test may stop, kill, restart or alarm; no other test uses it meanwhile."""
    _breakable.repair()
    return _breakable


@pytest.fixture
def own_vhost(own_rabbitmq: RabbitNode) -> Iterator[Broker]:
    """A virtual host of the node that may be broken, for this test alone."""
    with fresh_vhost(own_rabbitmq) as broker:
        yield broker


@pytest.fixture(scope="session")
def sqs() -> Iterator[SqsServer]:
    """An SQS over real HTTP that all tests share; each uses queues of its own."""
    with running() as server:
        yield server


# --- the whole service: a process between a real broker and a local Registry --------------------


@pytest.fixture
def sandbox() -> Iterator[LocalRegistry]:
    """A local Registry that knows ``TOKEN``, on a loop of its own."""
    with LocalRegistry() as registry:
        yield registry


class Run(Protocol):
    """Starts a service on this broker; settings by lower-case name, ``queue`` is ``journeys``."""

    def __call__(self, broker: Broker, **settings: str | None) -> ServiceProcess:
        """Start it; it ends with the test."""


@pytest.fixture
def run(tmp_path: Path, sandbox: LocalRegistry) -> Iterator[Run]:
    """Start the service against ``sandbox`` on a broker of the test's choice."""
    token_file = tmp_path / "token"
    token_file.write_text(TOKEN)
    with contextlib.ExitStack() as stack:

        def start(broker: Broker, **settings: str | None) -> ServiceProcess:
            wanted = {
                "BROKER_URL": broker.url,
                "BROKER_QUEUE": QUEUE,
                "REGISTRY_URL": sandbox.url,
                "REGISTRY_TOKEN_FILE": str(token_file),
            }
            wanted |= {name.upper(): value for name, value in settings.items()}
            return stack.enter_context(ServiceProcess(tmp_path, wanted))

        yield start


@pytest.fixture
def ledger(vhost: Broker) -> Ledger:
    """What is published to the test's queue, which is there before the service."""
    vhost.declare(QUEUE, arguments=TOPOLOGY.main.arguments)
    return Ledger(vhost)


@pytest.fixture
def serve(run: Run) -> Run:
    """Start the service and wait until it takes deliveries."""

    def start(broker: Broker, **settings: str | None) -> ServiceProcess:
        service = run(broker, **settings)
        service.await_ready()
        return service

    return start
