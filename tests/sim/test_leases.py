"""Whatever becomes of their connections, hosts and gateways come to the leases that they need."""

from __future__ import annotations

import pytest

from tests.sim.leases import World
from tests.sim.lookup import run

IN_A_TEST = 10


def problems(seed: int) -> list[str]:
    world = World(seed)
    run(world.live())
    return world.problems


@pytest.mark.parametrize("block", range(4))
def test_leases_are_had_when_they_are_wanted_and_returned_when_not_in_all_weathers(block: int) -> None:
    for seed in range(block * IN_A_TEST, (block + 1) * IN_A_TEST):
        assert problems(seed) == [], f"seed {seed}"


@pytest.mark.soak
@pytest.mark.parametrize("block", range(100))
def test_leases_are_had_and_returned_over_many_more_histories(block: int) -> None:
    for seed in range(10_000 + block * IN_A_TEST, 10_000 + (block + 1) * IN_A_TEST):
        assert problems(seed) == [], f"seed {seed}"
