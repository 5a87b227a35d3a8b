"""Both sides begin something at the same time, and each single message is lost, late or repeated.

It always comes to one pair for each set of selectors, known to both sides, by
one IKE SA; and unless somebody deletes, not one packet is lost on the way there.
"""

from __future__ import annotations

import itertools
import random

import pytest

from tests.sim.collisions import ARRIVALS, LATENCY, PAIRS, Act, Fate, collide, fated, named

MESSAGES = 9
"""More are not sent in any of these before everything has settled."""


def _check(acts: tuple[Act, Act], offset: float, fates: list[Fate]) -> None:
    found = {}
    for number, fate in itertools.product(range(MESSAGES), fates):
        problems = collide(acts, offset, fated(number, fate)).problems()
        if problems:
            found[number, fate] = problems
    assert not found


@pytest.mark.parametrize("acts", PAIRS, ids=named)
def test_what_collides_settles_without_loss(acts: tuple[Act, Act]) -> None:
    for offset in (0.0, 0.005, 0.02, 0.025, 0.045):
        assert collide(acts, offset, lambda _number: (LATENCY,)).problems() == []


@pytest.mark.parametrize("acts", PAIRS, ids=named)
def test_what_collides_settles_whichever_message_is_lost_or_late(acts: tuple[Act, Act]) -> None:
    _check(acts, 0.0, [Fate.LOST, Fate.LATE, Fate.VERY_LATE])


@pytest.mark.soak
@pytest.mark.parametrize("offset", [0.005, 0.02, 0.03, 0.045, 0.3])
@pytest.mark.parametrize("acts", PAIRS, ids=named)
def test_what_nearly_collides_settles_whichever_message_is_lost_or_late(
    acts: tuple[Act, Act], offset: float
) -> None:
    _check(acts, offset, list(Fate))


def _settles_in_bad_weather(seed: int) -> None:
    chance = random.Random(seed)

    def fate(number: int) -> tuple[float, ...]:
        # Rough for a while; then it clears up, as nothing settles while messages are lost for ever.
        if number > 40:
            return (LATENCY,)
        if chance.random() < 0.25:
            return ARRIVALS[chance.choice(list(Fate))]
        return (chance.uniform(0.005, 0.2),)

    acts = (chance.choice(list(Act)), chance.choice(list(Act)))
    world = collide(acts, chance.choice((0.0, 0.01, 0.05, 0.5)), fate, seed=seed)
    assert world.problems() == [], f"seed {seed}: {named(acts)}"


def test_child_sa_made_anew_is_sent_by_while_another_still_waits_for_its_deletion() -> None:
    _settles_in_bad_weather(34080)


@pytest.mark.parametrize("block", range(4))
def test_what_collides_settles_in_bad_weather(block: int) -> None:
    for seed in range(100 * block, 100 * block + 60):
        _settles_in_bad_weather(seed)


@pytest.mark.soak
@pytest.mark.parametrize("block", range(40))
def test_what_collides_settles_in_all_weathers(block: int) -> None:
    for seed in range(1000 * block, 1000 * block + 1000):
        _settles_in_bad_weather(seed)
