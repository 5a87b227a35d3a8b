"""The tables of addresses are dictionaries, and who reads them meanwhile finds what was there, or nothing."""

from __future__ import annotations

import itertools
import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self

import hypothesis
import pytest
from hypothesis import strategies as st

from gateway.fastpath.layout import words_of
from gateway.fastpath.places import Ipv4Places, Place, Places

Key = tuple[int, int, int]
"""Scope, and the two words of an address."""

Memory = tuple[int, ...]

LINE = 8
"""Words in a bucket."""
SCOPES = (0, 16, 18, 18, 20, *range(22, 2000, 2))
"""Of each subnet of the table for IPv4: the first two tenants have one, the third has two."""


class Table(Protocol):
    """What both tables do, for whoever writes."""

    buckets: int

    def put(self, key: Key, place: Place) -> bool: ...

    def find(self, key: Key) -> Place | None: ...

    def remove(self, key: Key) -> bool: ...

    def __len__(self) -> int: ...


class Any(Places):
    """The table for everything, by keys."""

    def put(self, key: Key, place: Place) -> bool:  # type: ignore[override]
        return super().put(*key, place)

    def find(self, key: Key) -> Place | None:  # type: ignore[override]
        return super().find(*key)

    def remove(self, key: Key) -> bool:  # type: ignore[override]
        return super().remove(*key)


class Ipv4(Ipv4Places):
    """The table for tenants' IPv4 addresses, by the same keys."""

    def __init__(self, words: memoryview[int], seed: int) -> None:
        super().__init__(words, seed, SCOPES)

    def put(self, key: Key, place: Place) -> bool:  # type: ignore[override]
        assert SCOPES[place.subnet] == key[0]
        return super().put(key[1], place)

    def find(self, key: Key) -> Place | None:  # type: ignore[override]
        return super().find(key[0], key[1])

    def remove(self, key: Key) -> bool:  # type: ignore[override]
        return super().remove(key[0], key[1])


KINDS: dict[str, Callable[[memoryview[int], int], Table]] = {"any": Any, "ipv4": Ipv4}
BOTH = pytest.mark.parametrize("kind", KINDS)

words = st.sampled_from((0, 1, 0x0A00_0005, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF)) | st.integers(0, 2**64 - 1)
addresses = st.sampled_from((0, 1, 0x0500_000A, 0xFFFF_FFFF)) | st.integers(0, 2**32 - 1)
KEYS = {
    "any": st.tuples(st.sampled_from((1, 2, 17, 0xFF_FFFF)) | st.integers(1, 0xFF_FFFF), words, words),
    "ipv4": st.tuples(st.sampled_from(sorted(set(SCOPES[1:9]))), addresses, st.just(0)),
}


def place_of(kind: str, key: Key, chance: random.Random) -> Place:
    """Any place that an address may lead to."""
    peer, mac = chance.randrange(1, (1 << 20) - 1), chance.getrandbits(48)
    if kind == "any":
        return Place(chance.randrange(1 << 24), peer, mac)
    return Place(chance.choice([each for each, scope in enumerate(SCOPES) if scope == key[0]]), peer, mac)


def table(kind: str, buckets: int, seed: int = 7637) -> tuple[Table, memoryview[int]]:
    memory = memoryview(bytearray(buckets * LINE * 8)).cast("Q")
    return KINDS[kind](memory, seed), memory


@BOTH
@hypothesis.given(
    data=st.data(), buckets=st.sampled_from((2, 3, 8)), chance=st.randoms(use_true_random=False)
)
def test_it_is_a_dictionary_that_may_be_full(
    data: st.DataObject, buckets: int, chance: random.Random, kind: str
) -> None:
    table_, _ = table(kind, buckets, chance.getrandbits(64))
    known = data.draw(st.lists(KEYS[kind], min_size=1, max_size=6 * buckets, unique=True))
    model: dict[Key, Place] = {}
    for _ in range(8 * buckets):
        key = chance.choice(known)
        if chance.random() < 0.75:
            place = place_of(kind, key, chance)
            if table_.put(key, place):
                model[key] = place
            else:
                assert key not in model, "what is there can always be replaced"
                assert len(model) >= 2, "both buckets of an address are full where it finds no place"
        else:
            assert table_.remove(key) is (key in model)
            model.pop(key, None)
        assert {each: table_.find(each) for each in known} == {each: model.get(each) for each in known}
        assert len(table_) == len(model)


def _ipv6(number: int) -> Key:
    return 17, *words_of(((0xFD00_0001 << 96) + number).to_bytes(16))


def _ipv6_from_macs(number: int) -> Key:
    return 17, *words_of(((0xFD00_0001 << 96) + 0x0200_00FF_FE00_0000 + number).to_bytes(16))


def _ipv6_of_many_links(number: int) -> Key:
    return 17, *words_of(((0x2001_0DB8 << 96) + (number << 64) + 5).to_bytes(16))


def _vsids(number: int) -> Key:
    return 1, 0x1000 + number, 0


def _ipv4_peers(number: int) -> Key:
    return 2, *words_of((0x0A00_0005 + number).to_bytes(4))


def _ipv6_of_many_tenants(number: int) -> Key:
    return 17 + 2 * (number & 0x1F_FFFF), *words_of(((0xFD00_0001 << 96) + 5).to_bytes(16))


def _ipv4(number: int) -> Key:
    return 16, *words_of((0x0A00_0005 + number).to_bytes(4))


def _ipv4_of_many_tenants(number: int) -> Key:
    return SCOPES[1 + number % 900], *words_of((0x0A00_0105 + number // 900).to_bytes(4))


# How much of each table gateway.fastpath.instance.Sizes expects to be taken.
NATURAL = [
    *(
        ("any", nth, step, 2 / 3)
        for nth in (_ipv6, _ipv6_from_macs, _ipv6_of_many_links, _vsids, _ipv4_peers, _ipv6_of_many_tenants)
        for step in (1, 256, 65536)
    ),
    *(("ipv4", _ipv4, step, 19 / 20) for step in (1, 4, 256, 65536)),
    ("ipv4", _ipv4_of_many_tenants, 1, 19 / 20),
]


@pytest.mark.parametrize(
    ("kind", "nth", "step", "share"),
    NATURAL,
    ids=[f"{nth.__name__}, every {step}" for _, nth, step, _ in NATURAL],
)
def test_addresses_as_people_give_them_find_their_places(
    kind: str, nth: Callable[[int], Key], step: int, share: float
) -> None:
    lost = total = 0
    for seed in range(3):
        chance = random.Random(seed)
        table_, memory = table(kind, 301, chance.getrandbits(64))
        places = len(memory) // LINE * (2 if kind == "any" else 4)
        keys = list(dict.fromkeys(nth(step * number & 0xFF_FFFF) for number in range(int(places * share))))
        lost += sum(not table_.put(key, place_of(kind, key, chance)) for key in keys)
        total += len(keys)

    # A seed may be unlucky: then another instance with more room takes over.
    assert lost <= total / 200


class Counted:
    """Memory that counts how often it is looked at."""

    def __init__(self, size: int) -> None:
        self.now = memoryview(bytearray(size * 8)).cast("Q")
        self.looks = 0

    def __len__(self) -> int:
        return len(self.now)

    def __getitem__(self, at: int | slice) -> int | memoryview[int]:
        self.looks += 1
        return self.now[at]

    def __setitem__(self, at: int, word: int) -> None:
        self.now[at] = word


@BOTH
def test_however_full_it_is_an_address_is_refused_soon(kind: str) -> None:
    chance = random.Random(7642)
    memory = Counted(1000 * LINE)
    table_ = KINDS[kind](memory, 1)  # type: ignore[arg-type]  # memory that counts
    refused = 0
    for number in range(5000):
        key = _ipv6(number) if kind == "any" else _ipv4(number)
        before = memory.looks
        refused += not table_.put(key, place_of(kind, key, chance))
        # Some 0.1 ms: records come by the thousand, and nothing else is done meanwhile.
        assert memory.looks - before < 1000
    assert refused > 500


class Recorded:
    """Memory that remembers what it was like after each store."""

    def __init__(self, size: int) -> None:
        self.now = array("Q", bytes(size * 8))
        self.moments: list[Memory] = [tuple(self.now)]

    def __len__(self) -> int:
        return len(self.now)

    def __getitem__(self, at: int | slice) -> int | array[int]:
        return self.now[at]

    def __setitem__(self, at: int, word: int) -> None:
        self.now[at] = word
        self.moments.append(tuple(self.now))

    @classmethod
    def of(cls, kind: str, buckets: int, seed: int) -> tuple[Table, Self]:
        memory = cls(buckets * LINE)
        return KINDS[kind](memory, seed), memory  # type: ignore[arg-type]  # memory that is looked at


Word = Callable[[int], int]
Reader = Callable[[Word, int, Key], Place | None]
"""Reads one place word by word, as the program does, for a key."""


def take(word: Word, at: int, key: Key) -> Place | None:
    """What `take_place` in deciding.h does, load by load."""
    scope, first, second = key
    whose = word(at + 2)
    if whose & 0xFF_FFFF != scope or word(at) != first or word(at + 1) != second:
        return None
    where = word(at + 3)
    if word(at + 2) != whose:
        return None
    return _place(whose, where)


def take_hastily(word: Word, at: int, key: Key) -> Place | None:
    """The same, with what makes it right left out: the second look."""
    scope, first, second = key
    whose = word(at + 2)
    if whose & 0xFF_FFFF != scope or word(at) != first or word(at + 1) != second:
        return None
    return _place(whose, word(at + 3))


def _place(whose: int, where: int) -> Place:
    return Place(whose >> 56 | where >> 48 << 8, whose >> 32 & 0xFF_FFFF, where & 0xFFFF_FFFF_FFFF)


def take_ipv4(word: Word, at: int, key: Key) -> Place | None:
    """What `take_ipv4_place` does."""
    whose = word(at)
    if whose & 0xFFFF_FFFF != key[1] or not whose >> 32 & 0xF_FFFF:
        return None
    where = word(at + 1)
    return _ipv4_place(whose, where, key) if word(at) == whose else None


def take_ipv4_hastily(word: Word, at: int, key: Key) -> Place | None:
    whose = word(at)
    if whose & 0xFFFF_FFFF != key[1] or not whose >> 32 & 0xF_FFFF:
        return None
    return _ipv4_place(whose, word(at + 1), key)


def _ipv4_place(whose: int, where: int, key: Key) -> Place | None:
    subnet = whose >> 58 | where >> 48 << 6
    if subnet >= len(SCOPES) or SCOPES[subnet] != key[0]:
        return None
    return Place(subnet, whose >> 32 & 0xF_FFFF, where & 0xFFFF_FFFF_FFFF)


RIGHTLY: dict[str, Reader] = {"any": take, "ipv4": take_ipv4}
HASTILY: dict[str, Reader] = {"any": take_hastily, "ipv4": take_ipv4_hastily}


def readings(moments: Sequence[Memory], at: int, key: Key, kind: str, read: Reader) -> Iterator[Place | None]:
    """All that a reader may find in a place whose loads fall between any of a writer's stores."""
    loads = 5 if kind == "any" else 3
    for times in itertools.combinations_with_replacement(range(len(moments)), loads):
        when = iter(times)

        def word(address: int, when: Iterator[int] = when) -> int:
            return moments[next(when)][address]

        yield read(word, at, key)


HERE, THERE = Place(2, 1, 0xA_0000_000A), Place(3, 2, 0xB_0000_000B)
ELSEWHERE = Place(1, 3, 0xC_0000_000C)
MOVE: list[tuple[Key, Place | None]] = [((18, 5, 0), HERE), ((18, 5, 0), THERE)]
CHANGES = {
    "a VM moves": MOVE,
    "a VM moves, and back": [*MOVE, ((18, 5, 0), HERE)],
    "another address of the tenant's takes its place": [*MOVE, ((18, 5, 0), None), ((18, 6, 0), HERE)],
    "another tenant's takes its place": [MOVE[0], ((18, 5, 0), None), ((16, 5, 0), ELSEWHERE)],
    "it comes again after another": [
        MOVE[0],
        ((18, 5, 0), None),
        ((16, 5, 0), ELSEWHERE),
        ((16, 5, 0), None),
        MOVE[1],
    ],
}


def _found_at_any_moment(
    changes: list[tuple[Key, Place | None]], kind: str, read: Reader
) -> list[tuple[Key, Place]]:
    """Each place that a reader may find for a key, although the key never led there."""
    table_, memory = Recorded.of(kind, 2, 1)
    led: dict[Key, set[Place]] = {}
    for key, place in changes:
        if place is None:
            assert table_.remove(key)
        else:
            assert table_.put(key, place)
            led.setdefault(key, set()).add(place)
    stride = 4 if kind == "any" else 2
    return [
        (key, found)
        for key in led
        for at in range(0, len(memory), stride)
        if any(any(moment[at : at + stride]) for moment in memory.moments)
        for found in set(readings(memory.moments, at, key, kind, read))
        if found is not None and found not in led[key]
    ]


@BOTH
@pytest.mark.parametrize("changes", CHANGES.values(), ids=list(CHANGES))
def test_a_reader_between_any_two_stores_finds_what_an_address_led_to_or_nothing(
    changes: list[tuple[Key, Place | None]], kind: str
) -> None:
    assert _found_at_any_moment(changes, kind, RIGHTLY[kind]) == []


@BOTH
def test_without_its_second_look_a_reader_finds_what_no_address_ever_led_to(kind: str) -> None:
    assert _found_at_any_moment(MOVE, kind, HASTILY[kind]) != []


@BOTH
@hypothesis.given(data=st.data(), chance=st.randoms(use_true_random=False))
def test_making_room_hides_nobody_at_any_moment(
    data: st.DataObject, chance: random.Random, kind: str
) -> None:
    seed = chance.getrandbits(64)
    table_, memory = Recorded.of(kind, 3, seed)
    model: dict[Key, Place] = {}
    for key in data.draw(st.lists(KEYS[kind], max_size=12, unique=True)):
        place = place_of(kind, key, chance)
        start = len(memory.moments)
        is_in = table_.put(key, place)
        for moment in memory.moments[start:]:
            frozen = KINDS[kind](memoryview(array("Q", moment)), seed)
            assert all(frozen.find(other) == there for other, there in model.items())
            assert frozen.find(key) in (None, place)
        if is_in:
            model[key] = place
