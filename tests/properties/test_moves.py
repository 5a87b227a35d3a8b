"""VMs move between hosts, whoever learns of it when: no frame is doubled, goes round or is lost."""

from __future__ import annotations

import random
from collections import Counter

import hypothesis
import pytest
from hypothesis import strategies as st

from gateway.forwarding.drops import DropReason
from tests.fuzz.mutation import INPUTS
from tests.properties.moves import Moves, Vm

STEPS = 60

# From its host to the gateway and on to a host; from there it may go round while all hosts' records differ.
_FIRST_CROSSINGS = 2


def play(chance: random.Random) -> Moves:
    """Let chance choose what happens next, and at the end let all of it come to rest."""
    world = Moves(chance, hosts=chance.randint(2, 4))
    under_way: dict[Vm, tuple[str, bool]] = {}
    for _ in range(STEPS):
        fate = chance.random()
        running = [vm for vm in world.vms if world.place[vm] is not None]
        if fate < 0.1 and running:
            _pause(chance, world, chance.choice(running), under_way)
        elif fate < 0.2 and under_way:
            _resume(chance, world, chance.choice(list(under_way)), under_way)
        elif fate < 0.45 and running:
            sender = chance.choice(running)
            world.talk(sender, chance.choice(world.peers(sender)))
        elif fate < 0.75 and world.flights:
            world.land(chance.choice(world.flights))
        elif fate < 0.9:
            world.learn(chance.choice(sorted(world.pa)))
        elif world.claims and chance.random() < 0.7:
            world.claim()
        elif world.wanted and chance.random() < 0.7:
            world.lease()
        elif world.lessons:
            world.teach()
        world.now += 0.001
    for vm in list(under_way):
        _resume(chance, world, vm, under_way)
    world.settle()
    return world


def _pause(chance: random.Random, world: Moves, vm: Vm, under_way: dict[Vm, tuple[str, bool]]) -> None:
    target = chance.choice([host for host in world.hosts if host != world.place[vm]])
    is_orchestrated = chance.random() < 0.5
    world.pause(vm)
    if is_orchestrated:
        world.commit(vm, target)
    under_way[vm] = target, is_orchestrated


def _resume(chance: random.Random, world: Moves, vm: Vm, under_way: dict[Vm, tuple[str, bool]]) -> None:
    target, is_orchestrated = under_way.pop(vm)
    if is_orchestrated:
        # Whoever moves it waits until the two hosts know.
        for name in world.hosts:
            world.learn_all(name)
    world.resume(vm, target, announces=not is_orchestrated)


def check(world: Moves) -> None:
    lost = 0
    for trace in world.traces.values():
        assert trace.crossings <= _FIRST_CROSSINGS + 2 * len(world.hosts), "it goes round"
        if not trace.delivered:
            # Its VM has come back to where it had just been sent on from.
            assert trace.crossings > 2, "lost, though it waited no longer than it may"
            lost += 1
    assert world.drops()[DropReason.HOLD_EXPIRED] == lost, "lost and not counted, or counted and not lost"
    for vm in world.vms:
        assert world.recorded(vm) == world.place[vm], "the record is wrong in the end"
    before = set(world.traces)
    world.now += 100.0
    # By now the link has asked anew: an old host that heard late of a VM may have announced it last.
    world.believed.clear()
    for node in world.nodes.values():
        node.expire(world.now)
        assert not len(node.waiting)
        assert not len(node.moves.holding)
        assert not len(node.moves.redirects)
    for vm in world.vms:
        for peer in world.peers(vm):
            world.talk(vm, peer)
            world.settle()
    for mark in world.traces.keys() - before:
        assert world.traces[mark].delivered == 1, "lost although everybody knows everything"


@hypothesis.given(chance=st.randoms(use_true_random=False))
def test_moving_vms_get_each_frame_once_and_none_goes_round(chance: random.Random) -> None:
    check(play(chance))


def run(seed: int, worlds: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for number in range(worlds):
        try:
            world = play(random.Random(f"{seed} {number}"))
            seen["redirected"] += sum(node.moves.redirects.packets for node in world.nodes.values())
            seen["taught"] += world.taught
            check(world)
            seen["sent"] += len(world.traces)
            seen["through two hosts"] += sum(trace.crossings > 2 for trace in world.traces.values())
            seen.update(world.drops())
            seen.update(world.seen)
        except Exception as failure:
            failure.add_note(f'check(play(random.Random("{seed} {number}")))')
            raise
    return seen


def test_hardly_a_frame_is_lost_in_many_histories() -> None:
    seen = run(7637, INPUTS // 200)

    rewritten = "rewritten", "waited for news", "after a moved VM, by its host's own address"
    for what in ("sent", "redirected", "taught", "through two hosts", *rewritten):
        assert seen[what] > 0, what
    assert seen[DropReason.HOLD_EXPIRED] < seen["sent"] / 1000


@pytest.mark.soak
def test_hardly_a_frame_is_lost_in_a_long_run() -> None:
    run(2890, INPUTS // 10)
