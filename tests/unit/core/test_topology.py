"""The queues as plain data: names, arguments and bindings."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.outcome import DeadLetter, Disposition, Reason
from consumer.core.topology import DELIVERY_LIMIT, QueueSpec, Topology, Value, losses, refusal

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


MAIN, DEAD, DELAY = TOPOLOGY.main, SUPPORT["journeys.dead-letter.invalid"], SUPPORT["journeys.retry.60s"]
OURS = TOPOLOGY.dead_letter_exchange


@pytest.mark.parametrize(
    ("spec", "found", "lost"),
    [
        (MAIN, {"x-max-length": 5, "x-overflow": None, "x-dead-letter-exchange": None},
         "it is bounded (max-length 5), beyond which the oldest messages are dropped"),
        (MAIN, {"x-max-length": 5, "x-overflow": "drop-head"},
         f"beyond which the oldest messages are moved to the exchange {OURS!r}"),
        (MAIN, {"x-max-length-bytes": 5}, "(max-length-bytes 5), beyond which publishes are refused"),
        (DEAD, {"x-max-length": 5}, "beyond which the oldest messages are dropped"),
        (MAIN, {"x-message-ttl": 1500}, f"wait longer than 1.5 s are moved to the exchange {OURS!r}"),
        (DEAD, {"x-message-ttl": 1500}, "messages that wait longer than 1.5 s are dropped"),
        (DELAY, {"x-message-ttl": None}, "messages never return from it"),
        (DELAY, {"x-message-ttl": 5}, "messages expire at other times"),
        (DEAD, {"x-queue-type": "stream"}, "it is a stream, from which nothing is ever removed"),
        (MAIN, {"x-max-priority": 5}, "it is used as it is"),
    ],
)  # fmt: skip
def test_a_difference_costs_what_it_costs_this_queue(
    spec: QueueSpec, found: dict[str, Value], lost: str
) -> None:
    """The same argument drops, moves or refuses, by the other arguments."""
    assert any(lost in each for each in losses(spec, found))


def test_a_classic_queue_is_not_blamed_for_what_only_a_quorum_queue_has() -> None:
    """It counts no deliveries: its missing dead-letter route loses nothing more."""
    found: dict[str, Value] = dict.fromkeys(("x-queue-type", *MAIN.arguments))
    (lost,) = losses(MAIN, found)
    assert lost.startswith("it is no quorum queue")


_NAMES = st.sampled_from((*MAIN.arguments, "x-expires", "durable", "auto_delete", "x-y"))
_VALUES = st.none() | st.integers() | st.sampled_from(("?", "stream", "classic"))


@given(st.dictionaries(_NAMES, _VALUES, min_size=1))
def test_every_difference_has_words_and_only_a_stream_or_auto_delete_is_refused(
    found: dict[str, Value],
) -> None:
    assert losses(MAIN, found)
    assert (refusal(found) is not None) == (found.get("x-queue-type") == "stream" or "auto_delete" in found)
