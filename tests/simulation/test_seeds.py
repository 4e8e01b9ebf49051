"""The invariants of the simulation hold for the first seeds; ``make simulate`` runs any number of them."""

import logging

import pytest

from tests.simulation.account import ViolationError
from tests.simulation.mutations import MUTATIONS, found
from tests.simulation.world import World, simulate

SEEDS = 300


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_no_seed_violates_an_invariant(first: int, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing lost, no good journey dead-lettered for an outage, all of them in time, all bad ones ended."""
    caplog.set_level(logging.CRITICAL)
    for seed in range(first, first + 20):
        simulate(seed)


@pytest.mark.parametrize(
    "name",
    [
        "a gateway's answers are the Registry's",
        "what the database refuses is an outage",
        "the same journeys probe again and again",
        "refused dead letters hold the whole window",
        "a wait of an hour is one of a minute",
        "a void delivery is acknowledged",
    ],
)
def test_a_defect_that_is_put_back_is_found(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Those that few seeds find; ``make simulate ARGS=--mutations`` tries all of ``MUTATIONS``."""
    caplog.set_level(logging.CRITICAL)
    assert name in MUTATIONS
    assert found(name, seeds=12) is not None


def test_a_violation_is_found_and_told_with_its_trace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A world that loses its first journey fails, and says which seed and what happened."""
    caplog.set_level(logging.CRITICAL)
    where = World.where

    def losing(world: World) -> dict[str, list[str]]:
        world.journeys["j0"].registered_at = None
        return {journey: queues for journey, queues in where(world).items() if journey != "j0"}

    monkeypatch.setattr(World, "where", losing)
    with pytest.raises(ViolationError, match=r"(?s)seed 2: j0 .* is lost.*all faults are over"):
        simulate(2)
