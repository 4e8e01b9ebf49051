"""The corridor end to end: the real process, a real queue, a local Registry, every journey accounted for."""

import pytest

from consumer.publishing.samples import Version
from tests.broker import Broker
from tests.integration.conftest import Run
from tests.ledger import Ledger
from tests.local_registry import LocalRegistry


@pytest.mark.parametrize(("version", "served"), [("v2", "v2"), ("v3", "v3.3")])
def test_journeys_reach_the_registry_and_the_rest_its_dead_letter_queue(
    run: Run, vhost: Broker, sandbox: LocalRegistry, version: Version, served: str
) -> None:
    """Valid journeys are registered byte for byte, invalid ones dead-lettered; both sides count alike."""
    service = run(vhost, registry_api_version=served)
    service.await_ready()
    ledger = Ledger(vhost, version=version)
    good = ledger.publish(100)
    bad = ledger.publish(ledger.invalid(20))
    ledger.await_settled()
    account = ledger.balance(sandbox)
    assert account.registered == set(good)
    assert account.dead == {"invalid": set(bad)}
    assert service.value("journeys_total", outcome="registered") == 100
    assert service.value("dead_lettered_total", reason="invalid") == 20
    assert service.terminate() == 0
    assert len(service.log_lines("settled")) == 120
