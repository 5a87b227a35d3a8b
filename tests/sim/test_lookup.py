"""Whatever becomes of their connections, replicas never go backwards and all come to what the store has."""

from __future__ import annotations

import pytest

from tests.sim.lookup import World, run

IN_A_TEST = 250


def problems(seed: int) -> list[str]:
    world = World(seed)
    run(world.live())
    return world.problems


@pytest.mark.parametrize("block", range(4))
def test_replicas_never_go_backwards_and_converge_in_all_weathers(block: int) -> None:
    for seed in range(block * IN_A_TEST, (block + 1) * IN_A_TEST):
        assert problems(seed) == [], f"seed {seed}"


@pytest.mark.soak
@pytest.mark.parametrize("block", range(400))
def test_replicas_never_go_backwards_and_converge_over_many_more_histories(block: int) -> None:
    for seed in range(10_000 + block * IN_A_TEST, 10_000 + (block + 1) * IN_A_TEST):
        assert problems(seed) == [], f"seed {seed}"
