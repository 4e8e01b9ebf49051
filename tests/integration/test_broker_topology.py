"""Queues and exchanges that are missing, vanish, or are the operator's own."""

import pytest

from tests.broker import Broker
from tests.integration.conftest import Run
from tests.ledger import QUEUE, TOPOLOGY, Ledger
from tests.local_registry import LocalRegistry
from tests.service import ServiceProcess
from tests.waiting import wait_until

INVALID_QUEUE = TOPOLOGY.dead_letter_queue("invalid")


def _hangs(ledger: Ledger, service: ServiceProcess, count: int) -> None:
    """Wait until nothing but these ``count`` messages waits, and none of them is settled."""
    wait_until(lambda: service.value("in_flight") == count, 15, lambda: f"in flight: {count}")
    assert ledger.waiting() == count
    assert service.value("dead_lettered_total", reason="invalid") == 0


def test_dead_letter_exchange_deleted(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """A publish to a missing exchange costs the connection; with the next one it is declared again."""
    service = run(vhost)
    service.await_ready()
    ledger = Ledger(vhost)
    vhost.delete_exchange(TOPOLOGY.dead_letter_exchange)
    bad = ledger.publish(ledger.invalid(20))
    good = ledger.publish(20)
    ledger.await_settled()
    account = ledger.balance(sandbox)
    assert (account.registered, account.dead) == (set(good), {"invalid": set(bad)})


def test_dead_letter_exchange_deleted_and_not_ours_to_declare(
    run: Run, vhost: Broker, sandbox: LocalRegistry
) -> None:
    """Without permission to declare, dead letters wait unacknowledged until the operator declares it."""
    ledger = Ledger(vhost)
    ledger.declare()
    service = run(vhost, broker_declare="false")
    service.await_ready()
    vhost.delete_exchange(TOPOLOGY.dead_letter_exchange)
    bad = ledger.publish(ledger.invalid(20))
    good = ledger.publish(20)
    wait_until(lambda: len(sandbox.journeys) == len(good), 15, "registrations go on")
    _hangs(ledger, service, len(bad))
    wait_until(
        lambda: any("dead-letter" in line.get("reason", "") for line in service.log_lines("cannot publish")),
        15,
        "the log names what is missing",
    )
    ledger.declare()
    ledger.await_settled()
    assert ledger.balance(sandbox).dead == {"invalid": set(bad)}


def test_dead_letter_queue_deleted(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """An unroutable dead letter is returned by the broker; the queue is declared again and it arrives."""
    service = run(vhost)
    service.await_ready()
    ledger = Ledger(vhost)
    vhost.delete_queue(INVALID_QUEUE)
    bad = ledger.publish(ledger.invalid(20))
    ledger.await_settled()
    assert ledger.balance(sandbox).dead == {"invalid": set(bad)}
    assert service.value("publish_failures_total", kind="returned") >= 1


def test_dead_letter_queue_deleted_and_not_ours_to_declare(
    run: Run, vhost: Broker, sandbox: LocalRegistry
) -> None:
    """A returned publish is never followed by an acknowledgement, however often it is tried."""
    ledger = Ledger(vhost)
    ledger.declare()
    service = run(vhost, broker_declare="false")
    service.await_ready()
    vhost.delete_queue(INVALID_QUEUE)
    bad = ledger.publish(ledger.invalid(20))
    returned = lambda: service.value("publish_failures_total", kind="returned")  # noqa: E731
    wait_until(lambda: returned() >= 2 * len(bad), 15, "each was returned, and tried again")
    _hangs(ledger, service, len(bad))
    good = ledger.publish(20)
    wait_until(lambda: len(sandbox.journeys) == len(good), 15, "registrations go on")
    ledger.declare()
    ledger.await_settled()
    assert ledger.balance(sandbox).dead == {"invalid": set(bad)}


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_dead_letter_queue_at_its_length_limit(
    run: Run, vhost: Broker, sandbox: LocalRegistry, kind: str
) -> None:
    """Good journeys go on, the log names the queue, and when the limit is lifted all dead letters arrive."""
    ledger = Ledger(vhost)
    ledger.declare()
    vhost.delete_queue(INVALID_QUEUE)
    vhost.declare(INVALID_QUEUE, arguments={"x-queue-type": kind})
    with vhost.channel() as channel:
        channel.queue_bind(INVALID_QUEUE, TOPOLOGY.dead_letter_exchange, "invalid")
    limit = '{"max-length": 5, "overflow": "reject-publish"}'
    vhost.node.ctl("set_policy", "--vhost", vhost.vhost, "--apply-to", "queues", "full", INVALID_QUEUE, limit)
    service = run(vhost, broker_prefetch="128")
    service.await_ready()
    bad = ledger.publish(ledger.invalid(300))
    good = ledger.publish(200)
    wait_until(lambda: len(sandbox.journeys) == len(good), 20, lambda: f"registered: {len(sandbox.journeys)}")
    (line, *_) = service.log_lines("a dead letter is refused")
    assert (line["queue"], line["reason"]) == (INVALID_QUEUE, "nacked: length limit?")
    assert service.value("dead_letters_refused_total", reason="invalid", cause="nacked") > 0
    wait_until(lambda: service.value("in_flight") <= 32, 10, "a quarter of the prefetch waits at most")
    vhost.node.ctl("clear_policy", "--vhost", vhost.vhost, "full")
    ledger.await_settled()
    account = ledger.balance(sandbox)
    assert (account.registered, account.dead) == (set(good), {"invalid": set(bad)})


def test_missing_queue_that_is_not_ours_to_declare(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """The service is live and not ready, says what is missing, and picks up when it appears."""
    service = run(vhost, broker_declare="false")
    reason = wait_until(lambda: service.log_lines("broker unreachable"), 10, "it says so")[0]["reason"]
    assert "does not exist and BROKER_DECLARE is false" in reason
    assert (service.live, service.ready) == (True, False)
    assert vhost.queue_depths() == {}
    ledger = Ledger(vhost)
    ledger.declare()
    service.await_ready()
    ledger.publish([*ledger.journeys(20), *ledger.invalid(5)])
    ledger.await_settled()
    ledger.balance(sandbox)


def test_operators_classic_queue_is_used_as_it_is(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """A queue with other arguments is neither redeclared nor refused, and its dead letters are ours."""
    arguments = {"x-max-length": 100_000, "x-message-ttl": 86_400_000}
    vhost.declare(QUEUE, arguments=arguments)
    service = run(vhost)
    service.await_ready()
    ledger = Ledger(vhost)
    bad = ledger.publish(ledger.invalid(10))
    good = ledger.publish(50)
    ledger.await_settled()
    account = ledger.balance(sandbox)
    assert (account.registered, account.dead) == (set(good), {"invalid": set(bad)})
    vhost.declare(QUEUE, arguments=arguments)  # 406 if one argument had changed
    assert service.terminate() == 0
    vhost.delete_queue(QUEUE)


def test_queue_is_bound_to_the_operators_exchange(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """What the operator publishes with a matching key comes; a dead letter tells where it came from."""
    with vhost.channel() as channel:
        channel.exchange_declare("operator.events", "topic", durable=True, auto_delete=False)
    service = run(vhost, broker_exchange="operator.events", broker_routing_key="journey.#")
    service.await_ready()
    ledger = Ledger(vhost)
    messages = [*ledger.journeys(10), *ledger.invalid(1)]
    ledger.publish(messages, exchange="operator.events", routing_key="journey.completed.fr")
    ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 10
    (dead,) = vhost.messages(INVALID_QUEUE)
    assert dead.headers["x-original-exchange"] == "operator.events"
    assert dead.headers["x-original-routing-key"] == "journey.completed.fr"


def test_missing_operators_exchange_is_awaited(run: Run, vhost: Broker, sandbox: LocalRegistry) -> None:
    """The operator's exchange is never declared by us: until it is there the service is not ready."""
    service = run(vhost, broker_exchange="operator.events", broker_routing_key="journey.#")
    wait_until(lambda: service.log_lines("broker unreachable"), 10, "it says so")
    assert not service.ready
    with vhost.channel() as channel:
        channel.exchange_declare("operator.events", "topic", durable=True, auto_delete=False)
    service.await_ready()
    ledger = Ledger(vhost)
    ledger.publish(10, exchange="operator.events", routing_key="journey.x")
    ledger.await_settled()
    assert len(ledger.balance(sandbox).registered) == 10


def test_refused_credentials_are_not_the_end(run: Run, vhost: Broker) -> None:
    """A wrong password is a broker that is away: live, not ready, and the password is not in the log."""
    wrong = vhost.url.replace("guest:guest", "guest:a-wrong-secret")
    service = run(vhost, broker_url=wrong)
    wait_until(lambda: service.log_lines("broker unreachable"), 10, "it says so")
    assert (service.live, service.ready) == (True, False)
    assert "a-wrong-secret" not in service.log()
