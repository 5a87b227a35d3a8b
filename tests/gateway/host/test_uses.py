"""What a host that keeps few records asks for again, and what it lets go."""

from __future__ import annotations

from gateway.forwarding.directory import Delete, Put
from gateway.host.uses import Key, Uses, WatchedDirectory
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord

MAC = MacAddress.parse("02:00:00:00:01:05")


def key(number: int) -> Key:
    return Vsid(5001), CustomerAddress(bytes((10, 0, 1, number)))


def test_what_is_not_used_is_let_go_once() -> None:
    uses: Uses[Key] = Uses()
    assert uses.learned(key(1), 0.0) == []

    assert uses.expire(299.9) == []
    assert uses.expire(300.0) == [key(1)]
    assert uses.expire(1000.0) == []


def test_what_is_used_stays() -> None:
    uses: Uses[Key] = Uses()
    uses.learned(key(1), 0.0)
    uses.learned(key(2), 0.0)
    uses.used([key(1)], 200.0)

    assert uses.expire(400.0) == [key(2)]
    assert uses.expire(500.0) == [key(1)]


def test_what_was_never_taught_is_not_used() -> None:
    uses: Uses[Key] = Uses()
    uses.used([key(1)], 0.0)

    assert len(uses) == 0


def test_what_comes_again_counts_as_new() -> None:
    uses: Uses[Key] = Uses()
    uses.learned(key(1), 0.0)
    uses.learned(key(1), 200.0)

    assert uses.expire(499.0) == []


def test_the_one_unused_for_longest_makes_room() -> None:
    uses: Uses[Key] = Uses(capacity=2)
    uses.learned(key(1), 0.0)
    uses.learned(key(2), 1.0)
    uses.used([key(1)], 2.0)

    assert uses.learned(key(3), 3.0) == [key(2)]
    assert uses.all() == [key(3), key(1)]


def record(number: int) -> LookupRecord:
    return LookupRecord(*key(number), MAC, ProviderAddress.parse("203.0.113.12"), "hv2")


def test_what_is_read_of_a_directory_is_used_until_somebody_asks() -> None:
    directory = WatchedDirectory([record(1), record(2), record(3)])
    directory.take_read()

    assert directory.find(*key(2)) == record(2)
    assert directory.find(*key(9)) is None
    assert directory.take_read() == {key(2)}
    assert directory.take_read() == set()


def test_who_is_found_by_a_mac_is_used_with_all_addresses() -> None:
    directory = WatchedDirectory([record(1), record(2)])

    assert len(directory.find_by_mac(Vsid(5001), MAC)) == 2
    assert directory.take_read() == {key(1), key(2)}


def test_a_change_is_no_use() -> None:
    directory = WatchedDirectory()
    directory.apply(Put(record(1)))
    directory.apply(Put(record(1)))
    directory.apply(Delete(*key(1)))

    assert directory.take_read() == set()
