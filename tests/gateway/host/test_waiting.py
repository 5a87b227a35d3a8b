"""Whose turn it is to be asked for."""

from __future__ import annotations

from gateway.host.uses import Key
from gateway.host.waiting import Waiting
from policies.addresses import CustomerAddress, Vsid


def key(number: int, vsid: int = 5001) -> Key:
    return Vsid(vsid), CustomerAddress(bytes((172, 16, 0, number)))


def taken(waiting: Waiting) -> list[Key]:
    order = []
    while waiting:
        order.append(waiting.take())
    return order


def test_the_virtual_subnets_take_turns_and_each_is_served_in_order() -> None:
    waiting = Waiting()
    for number in range(1, 5):
        waiting.add(key(number))
    waiting.add(key(9, 5002))

    assert taken(waiting) == [key(1), key(9, 5002), key(2), key(3), key(4)]


def test_a_ca_waits_once_and_keeps_its_place() -> None:
    waiting = Waiting()
    for number in (1, 2, 1):
        waiting.add(key(number))

    assert len(waiting) == 2
    assert taken(waiting) == [key(1), key(2)]


def test_a_subnet_that_is_full_takes_no_more_and_others_do() -> None:
    waiting = Waiting()
    for number in range(1, 6):
        waiting.add(key(number), most=2)
    waiting.add(key(1, 5002), most=2)

    assert taken(waiting) == [key(1), key(1, 5002), key(2)]


def test_what_need_not_be_asked_leaves_nothing_behind() -> None:
    waiting = Waiting()
    waiting.discard(key(1))
    waiting.add(key(1))
    waiting.discard(key(1))

    assert not waiting
    assert len(waiting) == 0
