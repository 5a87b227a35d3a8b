"""What a host that keeps few records asks for again, and what it lets go."""

from __future__ import annotations

from gateway.host.uses import Key, Uses
from policies.addresses import CustomerAddress, Vsid


def key(number: int) -> Key:
    return Vsid(5001), CustomerAddress(bytes((10, 0, 1, number)))


def test_what_is_not_used_is_let_go_once() -> None:
    uses = Uses()
    assert uses.learned(key(1), 0.0) == []

    assert uses.expire(299.9) == []
    assert uses.expire(300.0) == [key(1)]
    assert uses.expire(1000.0) == []


def test_what_is_used_stays() -> None:
    uses = Uses()
    uses.learned(key(1), 0.0)
    uses.learned(key(2), 0.0)
    uses.used([key(1)], 200.0)

    assert uses.expire(400.0) == [key(2)]
    assert uses.expire(500.0) == [key(1)]


def test_what_was_never_taught_is_not_used() -> None:
    uses = Uses()
    uses.used([key(1)], 0.0)

    assert len(uses) == 0


def test_what_comes_again_counts_as_new() -> None:
    uses = Uses()
    uses.learned(key(1), 0.0)
    uses.learned(key(1), 200.0)

    assert uses.expire(499.0) == []


def test_the_one_unused_for_longest_makes_room() -> None:
    uses = Uses(capacity=2)
    uses.learned(key(1), 0.0)
    uses.learned(key(2), 1.0)
    uses.used([key(1)], 2.0)

    assert uses.learned(key(3), 3.0) == [key(2)]
    assert uses.all() == [key(3), key(1)]
