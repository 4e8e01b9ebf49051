"""A real broker for the integration tests: one node for all, a second one for those that break it."""

from collections.abc import Iterator

import pytest

from tests.broker import Broker
from tests.rabbit import RabbitNode, fresh_vhost
from tests.rabbit_setup import server_path
from tests.tools import missing


def _node(**options: bool) -> RabbitNode:
    if server_path() is None:
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


@pytest.fixture(scope="session")
def _breakable() -> Iterator[RabbitNode]:
    with _node() as node:
        yield node


@pytest.fixture
def own_rabbitmq(_breakable: RabbitNode) -> RabbitNode:
    """A running node that this test may stop, kill, restart or alarm; no other test uses it meanwhile."""
    _breakable.mend()
    return _breakable


@pytest.fixture
def own_vhost(own_rabbitmq: RabbitNode) -> Iterator[Broker]:
    """A virtual host of the node that may be broken, for this test alone."""
    with fresh_vhost(own_rabbitmq) as broker:
        yield broker
