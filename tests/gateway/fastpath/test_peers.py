"""Whose each provider address is for the program, and how it is told to reach them."""

from __future__ import annotations

import pytest

from gateway.fastpath.hops import NextHop
from gateway.fastpath.layout import HOP, NO_IPV6, OVER_IPV6, ZERO_FLOW_ID
from gateway.fastpath.peers import destinations_of, owners_of, packed_hop
from gateway.forwarding.pmtu import LIFETIME, PathMtu
from policies.addresses import ProviderAddress
from tests.fastpath.oracle import Oracle
from tests.fastpath.scenes import WORLD, pa

FORWARDER = Oracle(WORLD).forwarder
OWN, OWN_IPV6 = pa("edge-1"), pa("edge-1", 6)
WAY = NextHop(7, bytes.fromhex("02ee00000001"), bytes.fromhex("02aa00000001"))


def hop(
    address: ProviderAddress, paths: PathMtu, now: float = 0, *, zero_flow_id: bool = False
) -> tuple[object, ...]:
    source = OWN_IPV6 if len(address) == 16 else OWN
    return HOP.unpack(packed_hop(address, source, WAY, 3, paths, now, zero_flow_id=zero_flow_id))


def test_address_of_a_host_is_its_own_and_a_gateways_is_nobodys() -> None:
    owners = owners_of(FORWARDER.tables)

    assert owners[pa("hv1")] == owners[pa("hv1", 6)] == "hv1"
    assert owners[pa("edge-2")] is None
    assert pa("stranger") not in owners


def test_records_lead_to_hosts_alone_each_from_our_address_of_its_family() -> None:
    destinations = destinations_of(FORWARDER.tables, FORWARDER.node)

    assert destinations[pa("hv1")] == OWN
    assert destinations[pa("hv1", 6)] == OWN_IPV6
    assert pa("edge-2") not in destinations


def test_hop_says_where_packets_go_and_how_large_they_may_be() -> None:
    address = pa("hv1")

    packed = hop(address, PathMtu(1600))

    own, there = OWN.ljust(16, b"\0"), address.ljust(16, b"\0")
    assert packed == (0, 3, 1558, 1558, WAY.destination_mac, WAY.source_mac, own, there)


@pytest.mark.parametrize(
    ("address", "mtu", "zero_flow_id", "flags"),
    [
        (pa("hv1"), 1600, True, ZERO_FLOW_ID),
        (pa("hv1", 6), 1600, False, OVER_IPV6),
        (pa("hv1", 6), 1280 + 62, False, OVER_IPV6),
        (pa("hv1", 6), 1280 + 61, True, OVER_IPV6 | ZERO_FLOW_ID | NO_IPV6),
        (pa("hv1"), 1280 + 42, False, 0),
        (pa("hv1"), 1280 + 41, False, NO_IPV6),
    ],
)
def test_flags_of_a_hop_follow_from_its_family_its_host_and_the_underlay(
    address: ProviderAddress, mtu: int, zero_flow_id: bool, flags: int
) -> None:
    assert hop(address, PathMtu(mtu), zero_flow_id=zero_flow_id)[0] == flags


def test_path_that_carries_less_does_so_until_that_is_old() -> None:
    paths = PathMtu(1600)
    paths.report(pa("hv1"), 1400, 0, {pa("hv1")})

    assert hop(pa("hv1"), paths, 1)[2:4] == (1358, 1358)
    assert hop(pa("hv1"), paths, LIFETIME)[2:4] == (1558, 1558)
    assert hop(pa("hv2"), paths, 1)[2:4] == (1558, 1558)


def test_underlay_larger_than_a_packet_can_be_allows_the_largest() -> None:
    assert hop(pa("hv1"), PathMtu(70_000))[2:4] == (0xFFFF, 0xFFFF)
