"""The queues as plain data: names, arguments and bindings."""

from typing import get_args

import pytest

from consumer.core.outcome import DeadLetter, Disposition, Reason
from consumer.core.topology import DELIVERY_LIMIT, Topology

TOPOLOGY = Topology("journeys", delays_seconds=(60, 300))
SUPPORT = {spec.name: spec for spec in TOPOLOGY.support()}


@pytest.mark.parametrize("reason", [*Reason, DELIVERY_LIMIT])
def test_every_reason_has_a_queue_of_its_own(reason: str) -> None:
    """A dead letter without a queue would stay unroutable."""
    spec = SUPPORT[TOPOLOGY.dead_letter_queue(reason)]
    assert spec.name == f"journeys.dead-letter.{reason}"
    assert spec.bindings == ((TOPOLOGY.dead_letter_exchange, reason),)


def test_there_are_queues_for_nothing_else() -> None:
    """One for each reason and one for each delay."""
    assert len(SUPPORT) == len(Reason) + 1 + 2


def test_reasons_are_those_of_dead_letters() -> None:
    """The reason of a dead letter is the only thing that names a queue."""
    assert DeadLetter in get_args(Disposition)
    assert DeadLetter.__annotations__["reason"] in (Reason, "Reason")


@pytest.mark.parametrize("seconds", [60, 300])
def test_a_delay_queue_gives_back_to_our_queue(seconds: int) -> None:
    """What expires returns through the default exchange, at least once."""
    spec = SUPPORT[TOPOLOGY.delay_queue(seconds)]
    assert spec.name == f"journeys.retry.{seconds}s"
    assert spec.bindings == ()
    assert spec.arguments == {
        "x-queue-type": "quorum",
        "x-message-ttl": seconds * 1000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "journeys",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def test_the_main_queue_has_a_net_under_it() -> None:
    """An explicit limit, and a dead-letter route for what kills the process that often."""
    arguments = TOPOLOGY.main.arguments
    assert arguments["x-delivery-limit"] == 20
    assert arguments["x-dead-letter-exchange"] == TOPOLOGY.dead_letter_exchange
    assert arguments["x-dead-letter-routing-key"] == DELIVERY_LIMIT
    assert arguments["x-dead-letter-strategy"] == "at-least-once"


def test_dead_letters_are_not_lost_by_being_looked_at() -> None:
    """Every look counts as a delivery: the limit of RabbitMQ 4 must not apply to a queue that is read."""
    for reason in Reason:
        assert SUPPORT[TOPOLOGY.dead_letter_queue(reason)].arguments["x-delivery-limit"] >= 10**9


def test_all_queues_survive_a_lost_node() -> None:
    """Quorum queues only."""
    assert {spec.arguments["x-queue-type"] for spec in (TOPOLOGY.main, *SUPPORT.values())} == {"quorum"}


def test_the_operators_exchange_is_bound_and_nothing_else() -> None:
    """Without an exchange there is no binding; the default exchange reaches the queue by its name."""
    assert TOPOLOGY.main.bindings == ()
    bound = Topology("journeys", exchange="trips", routing_key="completed.*")
    assert bound.main.bindings == (("trips", "completed.*"),)
