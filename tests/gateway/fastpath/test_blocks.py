from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fastpath.blocks import ENOUGH, Ipv4Records, blocks_for
from gateway.fastpath.layout import BLOCK_WORDS
from gateway.fastpath.places import Ipv4Places, Place

SCOPES = [0, 16, 16, 18]
"""Of subnets 1 to 3: two are of one tenant."""
WORDS_IN_BUCKET = 8


def records(blocks: int = 4, buckets: int = 64) -> Ipv4Records:
    places = Ipv4Places(_words(buckets * WORDS_IN_BUCKET), 7637, SCOPES)
    return Ipv4Records(places, _words(blocks * BLOCK_WORDS), SCOPES)


def _words(count: int) -> memoryview[int]:
    return memoryview(bytearray(count * 8)).cast("Q")


def address(text: str) -> int:
    return int.from_bytes(bytes(map(int, text.split("."))), "little")


@pytest.mark.parametrize("enough", [1, 2, ENOUGH])
@given(chance=st.randoms(use_true_random=False), blocks=st.sampled_from((1, 2, 4)))
def test_they_are_a_dictionary_however_many_blocks_there_are(
    enough: int, chance: random.Random, blocks: int
) -> None:
    table = records(blocks)
    table.enough = enough
    model: dict[tuple[int, int], Place] = {}
    known = [address(f"10.0.{third}.{last}") for third in (0, 1, 7) for last in (0, 1, 5, 9, 255)]
    for _ in range(40):
        subnet, each = chance.randrange(1, 4), chance.choice(known)
        key = SCOPES[subnet], each
        what = chance.random()
        if what < 0.6:
            peer = chance.choice((1, 2, 0xFFFF, 0x10000, 0xFFFFE))
            place = Place(subnet, peer, chance.getrandbits(48))
            assert table.put(each, place)
            model[key] = place
        elif what < 0.95:
            assert table.remove(*key) is (key in model)
            model.pop(key, None)
        else:
            table.expect(subnet, [each & 0x00FFFFFF])
        assert {(scope, one): table.find(scope, one) for scope in (16, 18) for one in known} == {
            (scope, one): model.get((scope, one)) for scope in (16, 18) for one in known
        }
        assert len(table) == len(model)


def test_block_of_a_tenant_that_is_given_up_is_another_ones_and_empty() -> None:
    table = records(blocks=2)
    table.expect(1, [address("10.0.0.0")])
    assert table.put(address("10.0.0.5"), Place(1, 1, 5))
    table.give_up(16)
    assert table.find(16, address("10.0.0.5")) is None
    assert len(table) == 0
    table.expect(3, [address("10.0.0.0")])
    assert table.find(18, address("10.0.0.5")) is None
    assert table.put(address("10.0.0.6"), Place(3, 1, 6))
    assert table.find(18, address("10.0.0.6")) == Place(3, 1, 6)


def test_addresses_side_by_side_are_to_have_a_block_and_few_are_not() -> None:
    many = [bytes((10, 0, 1, last)) for last in range(ENOUGH)]
    few = [bytes((10, 0, 2, last)) for last in range(ENOUGH - 1)]
    assert blocks_for([*many, *few, bytes(16)]) == ([address("10.0.1.0")], ENOUGH - 1)


def test_more_addresses_than_there_is_room_for_are_refused_and_the_others_stay() -> None:
    table = records(blocks=1, buckets=2)
    put = [each for each in range(200) if table.put(each << 8, Place(1, 1, each))]
    assert 6 <= len(put) <= 8
    assert [table.find(16, each << 8) for each in put] == [Place(1, 1, each) for each in put]
