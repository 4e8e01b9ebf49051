"""The account of ``make soak`` and ``make cluster`` finds what is lost, doubled or stuck."""

from tests.broker import Broker
from tests.integration.conftest import Run
from tests.ledger import TOPOLOGY, Ledger
from tests.local_registry import LocalRegistry
from tests.soak.report import Arrivals, Footprint, count
from tests.waiting import wait_until


def test_a_journey_that_disappeared_is_lost(vhost: Broker, sandbox: LocalRegistry) -> None:
    """What was confirmed and is in no queue and not registered fails the account."""
    ledger = Ledger(vhost)
    ledger.declare()
    gone = ledger.publish(3)
    vhost.purge(TOPOLOGY.queue)
    kept = ledger.publish(2)
    account = count(ledger, sandbox)
    assert (account.lost, account.at["queued"], account.passed) == (sorted(gone), len(kept), False)


def test_a_dead_letter_that_is_there_twice_is_counted(vhost: Broker, sandbox: LocalRegistry) -> None:
    """It is not lost and fails nothing: at least once is the promise."""
    ledger = Ledger(vhost)
    ledger.declare()
    (bad,) = ledger.invalid(1)
    for _ in range(2):
        ledger.publish([bad], routing_key=TOPOLOGY.dead_letter_queue("invalid"))
    account = count(ledger, sandbox)
    assert (account.twice, account.in_two, account.passed) == (1, 0, True)
    assert account.at == {"invalid": 1}


def test_registrations_and_the_gap_between_them_are_seen(
    vhost: Broker, sandbox: LocalRegistry, serve: Run
) -> None:
    """The gap is the time between two registrations, the footprint that of the service's process."""
    ledger = Ledger(vhost)
    service = serve(vhost)
    with Arrivals(sandbox) as arrivals:
        for number in (1, 2):
            ledger.publish(1)
            wait_until(lambda n=number: len(arrivals.times) == 1 + n, 20, "it is registered, and seen")
        start, first, second = arrivals.times
        assert arrivals.longest_gap(first, second) == second - first
        assert arrivals.first_after(start) == first - start
        assert arrivals.first_after(second) is None
    footprint = Footprint(service)
    footprint.sample()
    assert [mb > 20 and files > 3 for _, mb, files in footprint.over_time()] == [True] * 5
