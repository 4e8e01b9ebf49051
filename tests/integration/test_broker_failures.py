"""The broker dies, restarts, is cut off, blocks or takes the queue away: the service recovers by itself."""

import pytest

from tests.broker import Broker
from tests.integration.conftest import Run
from tests.ledger import QUEUE, Ledger
from tests.local_registry import TOKEN, LocalRegistry
from tests.proxy import Proxy
from tests.rabbit import RabbitNode
from tests.service import ServiceProcess
from tests.waiting import wait_until

# Dead letters can be there twice after each of these: a crash between confirm and acknowledgement.


def _lost_and_back(service: ServiceProcess, losses: int) -> None:
    """Readiness is a fifth of a second late: count the losses instead."""
    lost, up = ("reconnects_total", "broker_connected")
    wait_until(lambda: service.value(lost, connection="consume") == losses, 10, f"loss number {losses}")
    wait_until(lambda: service.value(up, connection="consume") == 1, 20, "connected again")


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_broker_goes_and_comes_back_under_load(
    run: Run, own_rabbitmq: RabbitNode, own_vhost: Broker, sandbox: LocalRegistry, how: str
) -> None:
    """A crash and an operator's restart in the middle of the load cost nothing but time."""
    service = run(own_vhost)
    service.await_ready()
    ledger = Ledger(own_vhost)
    with ledger.load(share_invalid=0.3):
        ledger.await_published(150)
        if how == "kill":
            own_rabbitmq.kill()
        else:
            own_rabbitmq.stop()
        wait_until(lambda: not service.ready, 10, "not ready without a broker")
        assert service.live
        own_rabbitmq.start()
        service.await_ready(40)
        ledger.await_published(len(ledger.published) + 100)
    ledger.await_settled(60)
    account = ledger.balance(sandbox, repeated=True)
    assert account.dead.keys() == {"invalid"}
    assert service.value("reconnects_total", connection="consume") == 1
    assert service.value("broker_connected", connection="publish") == 1


def test_connections_cut_under_load(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """Resets of both connections, several times, lose nothing; what comes again is found registered."""
    sandbox.faults.latency_seconds = 0.05
    with Proxy("127.0.0.1", vhost.node.port) as proxy:
        service = run(vhost, broker_url=vhost.url_at(proxy.port))
        service.await_ready()
        ledger = Ledger(vhost)
        with ledger.load(share_invalid=0.3):
            for losses in range(1, 5):
                ledger.await_published(len(ledger.published) + 60)
                wait_until(lambda: service.value("in_flight") > 0, 20, "something is in flight")
                proxy.cut()
                _lost_and_back(service, losses)
        ledger.await_settled(60)
        account = ledger.balance(sandbox, repeated=True)
        assert account.dead.keys() == {"invalid"}
        assert service.value("redelivered_total") > 0
        assert service.value("journeys_total", outcome="already_registered") > 0


def test_connection_black_holed_under_load(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """When the network swallows everything the heartbeat notices, and all goes on when it is healed."""
    with Proxy("127.0.0.1", vhost.node.port) as proxy:
        service = run(vhost, broker_url=vhost.url_at(proxy.port), broker_heartbeat_seconds="5")
        service.await_ready()
        ledger = Ledger(vhost)
        with ledger.load(most=300, share_invalid=0.3):
            ledger.await_published(60)
            proxy.blackhole()
            wait_until(lambda: not service.ready, 25, "the heartbeat finds the connection dead")
            assert service.live
            proxy.blackhole(on=False)
            service.await_ready(40)
        ledger.await_settled(60)
        ledger.balance(sandbox, repeated=True)
        assert service.value("reconnects_total", connection="consume") >= 1


def test_queue_deleted_under_the_consumer(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """The broker cancels the consumer; the queue is declared again and consumed."""
    service = run(vhost)
    service.await_ready()
    ledger = Ledger(vhost)
    ledger.publish(20)
    ledger.await_settled()
    vhost.delete_queue(QUEUE)
    wait_until(lambda: service.value("broker_cancels_total") == 1, 10, "the cancel is noticed")
    wait_until(lambda: vhost.consumers(QUEUE) == 1, 20, "the queue is there again, and consumed")
    ledger.publish(20)
    ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 40


def test_memory_alarm_during_a_storm_of_dead_letters(
    run: Run, own_rabbitmq: RabbitNode, own_vhost: Broker, sandbox: LocalRegistry
) -> None:
    """A blocked publisher holds dead letters back and nothing else: registrations go on, nothing is lost."""
    ledger = Ledger(own_vhost)
    ledger.declare()
    good = ledger.publish(60)
    bad = ledger.publish(ledger.invalid(60))
    good += ledger.publish(60)
    own_rabbitmq.set_memory_alarm(on=True)
    service = run(own_vhost)
    wait_until(lambda: len(sandbox.journeys) == len(good), 30, lambda: f"{len(sandbox.journeys)} registered")
    wait_until(lambda: service.value("broker_blocked") == 1, 10, "the publisher is blocked")
    wait_until(lambda: ledger.waiting() == len(bad), 10, "registered journeys are acknowledged, no other")
    assert service.value("dead_lettered_total", reason="invalid") == 0
    assert service.ready
    own_rabbitmq.set_memory_alarm(on=False)
    ledger.await_settled()
    assert ledger.balance(sandbox).dead == {"invalid": set(bad)}
    assert service.value("broker_blocked") == 0
    assert service.value("publish_failures_total", kind="timeout") == 0


def test_memory_alarm_on_a_running_service(
    run: Run, own_rabbitmq: RabbitNode, own_vhost: Broker, sandbox: LocalRegistry
) -> None:
    """The token is revoked, the alarm comes: unauthorized dead letters wait and arrive after it."""
    service = run(own_vhost, auth_pause_after="1000")
    service.await_ready()
    ledger = Ledger(own_vhost)
    ledger.publish([*ledger.invalid(5), *ledger.journeys(1)])  # it has published and registered before
    ledger.await_settled()
    sandbox.faults.latency_seconds = 1.0  # long enough for the alarm to be on before the answers come
    sandbox.revoke(TOKEN)
    refused = ledger.publish(50)
    wait_until(lambda: service.value("in_flight") == 50, 10, "all are at the Registry")
    own_rabbitmq.set_memory_alarm(on=True)
    wait_until(lambda: service.value("broker_blocked") == 1, 10, "the publisher is blocked")
    own_rabbitmq.set_memory_alarm(on=False)
    ledger.await_settled()
    assert ledger.balance(sandbox).dead["unauthorized"] == set(refused)


def test_fail_over_between_two_addresses(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """The first address is dead at the start; the second dies later while the first has come back."""
    ledger = Ledger(vhost)
    with Proxy("127.0.0.1", vhost.node.port) as first, Proxy("127.0.0.1", vhost.node.port) as second:
        first.refuse()
        service = run(vhost, broker_url=f"{vhost.url_at(first.port)};{vhost.url_at(second.port)}")
        service.await_ready()
        ledger.publish(50)
        ledger.await_settled()
        assert second.connections == 2
        first.refuse(on=False)
        second.refuse()
        second.cut()
        wait_until(lambda: first.connections == 2, 20, "both connections are at the first address")
        service.await_ready()
        ledger.publish([*ledger.journeys(50), *ledger.invalid(10)])
        ledger.await_settled()
    ledger.balance(sandbox, repeated=True)
