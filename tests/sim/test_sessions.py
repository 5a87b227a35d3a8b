"""What collides between real sessions settles as it does between their child SAs alone."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.sim.collisions import ARRIVALS, LATENCY, PAIRS, Act, Fate, fated, named
from tests.sim.sessions import collide


@pytest.mark.parametrize("acts", PAIRS, ids=named)
def test_what_collides_settles_whichever_message_is_lost(acts: tuple[Act, Act]) -> None:
    assert collide(acts, 0.0, lambda _number: (LATENCY,)).problems() == []
    found = {}
    for number in range(6):
        problems = collide(acts, 0.0, fated(number, Fate.LOST)).problems()
        if problems:
            found[number] = problems
    assert not found


@pytest.mark.soak
@pytest.mark.parametrize("offset", [0.0, 0.01, 0.02, 0.03, 0.3])
@pytest.mark.parametrize("acts", PAIRS, ids=named)
def test_what_collides_settles_whatever_becomes_of_each_message(acts: tuple[Act, Act], offset: float) -> None:
    found = {}
    for number, fate in itertools.product(range(9), Fate):
        problems = collide(acts, offset, fated(number, fate)).problems()
        if problems:
            found[number, fate] = problems
    assert not found


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3000))
def test_what_collides_settles_in_all_weathers(seed: int) -> None:
    chance = random.Random(seed)

    def fate(number: int) -> tuple[float, ...]:
        # Rough for a while, but never so that a session has to give up.
        if number > 30:
            return (LATENCY,)
        if chance.random() < 0.2:
            return ARRIVALS[chance.choice(list(Fate))]
        return (chance.uniform(0.005, 0.2),)

    acts = (chance.choice(list(Act)), chance.choice(list(Act)))
    world = collide(acts, chance.choice((0.0, 0.01, 0.05, 0.5)), fate, seed=seed)
    assert world.problems() == [], named(acts)
