"""Which free address of a pool comes next."""

from __future__ import annotations

import ipaddress
import random
import time
from collections.abc import Iterator, Mapping

import pytest

from gateway.lookup.allocation import Allocation
from gateway.lookup.entries import Grant
from gateway.lookup.grants import QUARANTINE, is_free
from policies.addresses import CustomerAddress, Prefix, ProviderAddress, Vsid
from policies.model import Network, ProviderGateway, ProviderHost

WEB = Vsid(5001)
NOW = 1_000_000.0


def ca(number: int) -> CustomerAddress:
    return CustomerAddress((0x0A000000 + number).to_bytes(4))


def ca6(number: int) -> CustomerAddress:
    return CustomerAddress((0xFD00 << 112 | number).to_bytes(16))


def pa(text: str) -> ProviderAddress:
    return ProviderAddress.parse(text)


def network(*pools: str, own: str = "198.51.100.1") -> Network:
    found = tuple(ipaddress.ip_network(each) for each in pools)
    return Network(gateways=(ProviderGateway("edge-1", (pa(own),), found),))


class World:
    """An allocation over what is granted, as a store would have it."""

    def __init__(self, net: Network, start: int = 0, granted: Mapping[str, Grant] | None = None) -> None:
        self.granted = {pa(text): grant for text, grant in (granted or {}).items()}
        self.pools = net.gateways[0].pools
        self.allocation = Allocation(lambda size: start % size)
        self.configure(net)

    def configure(self, net: Network) -> None:
        self.allocation.configure(net, self.grants_in)

    def grants_in(self, prefix: Prefix) -> Iterator[tuple[ProviderAddress, Grant]]:
        return ((each, grant) for each, grant in self.granted.items() if each.ip in prefix)

    def take(self, address: CustomerAddress, now: float = NOW) -> ProviderAddress | None:
        return self.allocation.take(self.pools, WEB, address, now)

    def grant(self, address: CustomerAddress, now: float = NOW) -> ProviderAddress:
        found = self.take(address, now)
        assert found is not None
        self.change(found, Grant(WEB, address, "edge-1", leased=True))
        self.allocation.release(found)
        return found

    def give_back(self, found: ProviderAddress, now: float = NOW) -> None:
        grant = self.granted[found]
        self.change(found, Grant(grant.vsid, grant.ca, grant.node, now, grant.leased))

    def change(self, found: ProviderAddress, grant: Grant) -> None:
        self.granted[found] = grant
        self.allocation.changed(found, grant)


def test_every_address_of_a_pool_but_its_first_and_last_is_given_once() -> None:
    world = World(network("192.0.2.128/28"), start=9)
    found = {world.grant(ca(number)) for number in range(14)}
    assert found == {pa(f"192.0.2.{128 + number}") for number in range(1, 15)}
    assert world.take(ca(99)) is None


def test_address_of_a_machine_in_a_pool_is_given_to_nobody() -> None:
    world = World(network("192.0.2.128/29", own="192.0.2.130"))
    assert {str(world.grant(ca(number))) for number in range(5)} == {
        f"192.0.2.{number}" for number in (129, 131, 132, 133, 134)
    }
    assert world.take(ca(99)) is None
    assert not world.allocation.is_usable(world.pools, pa("192.0.2.130"))


def test_address_within_quarantine_is_given_to_nobody_but_whose_it_was() -> None:
    world = World(network("192.0.2.128/30"))
    first, second = world.grant(ca(1)), world.grant(ca(2))
    world.give_back(first)
    world.give_back(second)
    assert world.take(ca(3), NOW + QUARANTINE - 1) is None
    assert world.grant(ca(2), NOW + 1) == second
    assert world.grant(ca(3), NOW + QUARANTINE) == first


def test_clock_that_was_set_back_shortens_no_quarantine() -> None:
    world = World(network("192.0.2.128/30"))
    for number in (1, 2):
        world.give_back(world.grant(ca(number)), NOW + 5_000)
    assert world.take(ca(3), NOW + QUARANTINE + 1) is None
    assert world.take(ca(3), NOW + 5_000 + QUARANTINE) is not None


def test_oldest_that_was_returned_comes_before_what_was_never_used() -> None:
    world = World(network("192.0.2.128/28"))
    found = [world.grant(ca(number)) for number in range(4)]
    for at, each in enumerate((found[2], found[0], found[1])):
        world.give_back(each, NOW + at)
    later = NOW + QUARANTINE + 1
    assert world.grant(ca(10), later) == found[2]
    assert world.grant(ca(11), later) == found[0]
    assert world.grant(ca(12), later) not in found  # found[1] is in quarantine for another second
    assert world.grant(ca(13), later + 1) == found[1]


def test_address_that_is_proposed_is_proposed_to_nobody_else_until_it_is_let_go() -> None:
    world = World(network("192.0.2.128/30"))
    first, second = world.take(ca(1)), world.take(ca(2))
    assert first is not None
    assert second is not None
    assert first != second
    assert world.take(ca(3)) is None
    world.allocation.release(second)
    assert world.take(ca(3)) == second


def test_returned_address_that_was_proposed_in_vain_is_proposed_again() -> None:
    world = World(network("192.0.2.128/30"))
    for number in (1, 2):
        world.give_back(world.grant(ca(number)))
    later = NOW + QUARANTINE
    found = world.take(ca(3), later), world.take(ca(4), later)
    assert None not in found
    for each in found:
        assert each is not None
        world.allocation.release(each)
    assert {world.take(ca(5), later), world.take(ca(6), later)} == set(found)


def test_what_others_have_granted_and_returned_is_known() -> None:
    world = World(network("192.0.2.128/29"))
    for number in range(1, 6):
        world.change(pa(f"192.0.2.{128 + number}"), Grant(WEB, ca(number), "edge-1", leased=True))
    assert world.take(ca(9)) == pa("192.0.2.134")
    assert world.take(ca(10)) is None


def test_pool_that_comes_later_knows_what_is_granted_already() -> None:
    held = Grant(WEB, ca(1), "edge-1", leased=True)
    former = Grant(WEB, ca(2), "edge-1", NOW, leased=True)
    world = World(network("192.0.2.128/29"), granted={"203.0.113.129": held, "203.0.113.130": former})
    world.configure(network("203.0.113.128/30"))
    world.pools = (ipaddress.ip_network("203.0.113.128/30"),)
    assert world.take(ca(3), NOW + 1) is None
    assert world.take(ca(2), NOW + 1) == pa("203.0.113.130")
    assert not world.allocation.has(pa("192.0.2.129"))


def test_address_that_is_forgotten_counts_as_never_used() -> None:
    world = World(network("192.0.2.128/30"))
    found = world.grant(ca(1))
    world.grant(ca(2))
    world.give_back(found)
    world.allocation.changed(found, None)
    assert world.take(ca(3)) == found


def test_pool_of_another_family_is_passed_over() -> None:
    world = World(network("2001:db8::/112", "192.0.2.128/28"))
    assert world.grant(ca(1)).version == 4
    assert world.grant(ca6(1)).version == 6


def test_next_pool_is_taken_when_the_first_is_empty() -> None:
    world = World(network("192.0.2.128/30", "203.0.113.128/30"))
    assert sorted(str(world.grant(ca(number))) for number in range(4)) == [
        "192.0.2.129",
        "192.0.2.130",
        "203.0.113.129",
        "203.0.113.130",
    ]
    assert world.take(ca(9)) is None


def test_usage_says_whose_a_pool_is_and_how_it_is_used() -> None:
    prefix = ipaddress.ip_network("192.0.2.128/28")
    hosts = tuple(ProviderHost(f"hv{n}", (pa(f"198.51.100.{n}"),), ("red",), pools=(prefix,)) for n in (1, 2))
    allocation = Allocation(lambda _size: 0)
    allocation.configure(Network(hosts=hosts), lambda _prefix: ())
    for number in range(3):
        found = allocation.take((prefix,), WEB, ca(number), NOW)
        assert found is not None
        allocation.changed(found, Grant(WEB, ca(number), "hv1", None if number else NOW))
    (usage,) = allocation.usage(NOW + 1)
    assert usage.nodes == ("hv1", "hv2")
    assert (usage.size, usage.held, usage.quarantined) == (14, 2, 1)
    (usage,) = allocation.usage(NOW + QUARANTINE)
    assert usage.quarantined == 0


def test_largest_pools_are_used_without_being_gone_through() -> None:
    world = World(network("2001:db8::/64"), start=2**63)
    began = time.perf_counter()
    found = {world.grant(ca6(number)) for number in range(2_000)}
    (usage,) = world.allocation.usage(NOW)
    assert time.perf_counter() - began < 2
    assert len(found) == 2_000
    assert usage.held == 2_000
    assert usage.size == 2**63 - 1


def test_pool_that_is_all_used_says_so_at_once() -> None:
    world = World(network("10.64.0.0/18"))
    for number in range(2**14 - 2):
        world.grant(ca(number))
    began = time.perf_counter()
    assert all(world.take(ca(number)) is None for number in range(100_000, 110_000))
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("seed", range(5))
def test_no_address_is_ever_two_ca_s_nor_within_quarantine_of_another(seed: int) -> None:
    rng = random.Random(seed)
    world = World(network("192.0.2.128/28", "203.0.113.128/29"), start=rng.randrange(100))
    held: dict[ProviderAddress, CustomerAddress] = {}
    now = NOW
    for _ in range(3_000):
        now += rng.expovariate(1 / 20)
        if held and rng.random() < 0.5:
            found = rng.choice(sorted(held))
            del held[found]
            world.give_back(found, now)
            continue
        wanted = ca(rng.randrange(40))
        if wanted in held.values():
            continue
        taken = world.take(wanted, now)
        if taken is None:
            free = [each for each in world.granted.values() if is_free(each, now)]
            assert not free
            assert len(world.granted) == 14 + 6
            continue
        before = world.granted.get(taken)
        assert taken not in held
        assert is_free(before, now) or (before is not None and before.ca == wanted)
        if rng.random() < 0.8:
            world.change(taken, Grant(WEB, wanted, "edge-1", leased=True))
            held[taken] = wanted
        world.allocation.release(taken)
