"""The corridor end to end: the real process, a real queue, a local Registry, every journey accounted for."""

from tests.broker import Broker
from tests.integration.conftest import Run
from tests.ledger import Ledger
from tests.local_registry import LocalRegistry


def test_journeys_reach_the_registry_and_the_rest_its_dead_letter_queue(
    run: Run, vhost: Broker, sandbox: LocalRegistry
) -> None:
    """Valid journeys are registered byte for byte, invalid ones dead-lettered; both sides count alike."""
    service = run(vhost)
    service.await_ready()
    ledger = Ledger(vhost)
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
