"""No frame leaves its routing domain, whatever the tenants are like and whatever is thrown at them."""

from __future__ import annotations

import random
from collections import Counter

import hypothesis
import pytest
from hypothesis import strategies as st

from gateway.forwarding.drops import DropReason
from tests.fuzz.mutation import INPUTS
from tests.properties.frames import throw
from tests.properties.travel import travel
from tests.properties.worlds import generate

FRAMES_PER_WORLD = 100

# Those that are counted where a packet is sent, or by the fast path, not where Python decides.
_NOT_DECIDED = {
    DropReason.QUEUE_FULL,
    DropReason.SEND_FAILED,
    DropReason.HOLD_FULL,
    DropReason.HOLD_EXPIRED,
    DropReason.PUNT_LIMITED,
}

EVERYTHING = {reason.value for reason in DropReason if reason not in _NOT_DECIDED} | {
    "forwarded",
    "answered",
    "told",
    "routed",
    "switched",
    "replicated",
    "fragmented",
    "SYN changed",
    "to a port",
    "to the underlay",
    "to the underlay, rewritten",
    "from the underlay, rewritten",
    "what a router of the underlay says",
    "held",
    "waited, and went on",
    "waited in vain",
    "to a site",
    "from a site",
    "from site to site",
    "site answered",
    "site told",
    "passed on for another gateway's site",
}


@hypothesis.given(chance=st.randoms(use_true_random=False))
def test_no_frame_leaves_its_routing_domain(chance: random.Random) -> None:
    world = generate(chance)
    seen: Counter[str] = Counter()
    for number in range(10):
        sent = throw(chance, world)
        if sent is not None:
            travel(world, sent, now=number / 100, seen=seen)
    for outcome in seen:
        hypothesis.event(outcome)


def run(seed: int, frames: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for number in range(max(1, frames // FRAMES_PER_WORLD)):
        chance = random.Random(f"{seed} {number}")
        world = generate(chance)
        for moment in range(FRAMES_PER_WORLD):
            sent = throw(chance, world)
            if sent is None:
                break
            try:
                travel(world, sent, now=moment / 100, seen=seen)
            except Exception as failure:
                failure.add_note(
                    f"world {seed} {number}, frame {moment}, at {sent.node}: {sent.outer or sent.port}"
                )
                failure.add_note(f"bytes.fromhex({sent.data.hex()!r})")
                raise
    return seen


def test_every_outcome_is_reached_and_none_leaves_its_routing_domain() -> None:
    seen = run(seed=7637, frames=INPUTS)

    assert EVERYTHING - set(seen) == set()


@pytest.mark.soak
def test_no_frame_of_millions_leaves_its_routing_domain() -> None:
    seen = run(seed=2890, frames=INPUTS)

    assert EVERYTHING - set(seen) == set()
