"""The invariants of the simulation hold for the first seeds; ``make simulate`` runs any number of them."""

import logging

import pytest

from tests.simulation.world import ViolationError, World, simulate

SEEDS = 300


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_no_seed_violates_an_invariant(first: int, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing lost, no good journey dead-lettered for an outage, all of them in time, all bad ones ended."""
    caplog.set_level(logging.CRITICAL)
    for seed in range(first, first + 20):
        simulate(seed)


def test_a_violation_is_found_and_told_with_its_trace(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A world that loses its first journey fails, and says which seed and what happened."""
    caplog.set_level(logging.CRITICAL)
    where = World._where

    def losing(world: World) -> dict[str, list[str]]:
        world.journeys["j0"].registered_at = None
        return {journey: queues for journey, queues in where(world).items() if journey != "j0"}

    monkeypatch.setattr(World, "_where", losing)
    with pytest.raises(ViolationError, match=r"(?s)seed 2: j0 .* is lost.*all faults are over"):
        simulate(2)
