"""Whose each provider address is for the program, and how it is told to reach them."""

from __future__ import annotations

import msgspec
import pytest

from gateway.fastpath.hops import NextHop
from gateway.fastpath.layout import (
    BUCKET_OCTETS,
    HOP,
    IPV4_PEERS,
    NO_IPV6,
    OVER_IPV6,
    PEER,
    ZERO_FLOW_ID,
    words_of,
)
from gateway.fastpath.peers import HOPS_EACH, PeerTable, destinations_of, owners_of, packed_hop
from gateway.fastpath.places import Place, Places
from gateway.fastpath.sizes import Full
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


@pytest.mark.parametrize(("version", "largest"), [(4, 1400 - 42), (6, 1400 - 62)])
def test_interface_that_carries_less_than_the_underlay_leaves_what_is_larger_to_python(
    version: int, largest: int
) -> None:
    address, own = pa("hv1", version), OWN_IPV6 if version == 6 else OWN
    narrow = msgspec.structs.replace(WAY, mtu=1400)

    packed = HOP.unpack(packed_hop(address, own, narrow, 3, PathMtu(1500), 0, zero_flow_id=False))

    assert packed[2:4] == (largest, largest)
    assert not packed[0] & NO_IPV6


ROOM = 8


class Told:
    """What the program has been told of peers, read as it does."""

    def __init__(self, buckets: int = 64) -> None:
        self.places = Places(memoryview(bytearray(buckets * BUCKET_OCTETS)).cast("Q"), 1)
        self._peers = memoryview(bytearray(ROOM * PEER.size))
        self.hops = memoryview(bytearray(ROOM * HOPS_EACH * HOP.size))
        self.table = PeerTable(self._peers, self.hops, self.places, ROOM)

    def peer(self, address: bytes) -> tuple[int, int] | None:
        """Host and hop of an address; None: it is a stranger's."""
        place = self.places.find(IPV4_PEERS, *words_of(address))
        return PEER.unpack_from(self._peers, place.peer * PEER.size) if place is not None else None


def packed(paths: PathMtu) -> bytes:
    return packed_hop(pa("hv1"), OWN, WAY, 3, paths, 0, zero_flow_id=False)


def test_addresses_of_one_host_have_one_number_and_a_gateways_has_none() -> None:
    told = Told()
    told.table.know({pa("hv1"): "hv1", pa("hv4"): "hv1", pa("hv2"): "hv2", pa("edge-2"): None})

    hosts = [(told.peer(pa(name)) or (-1, -1))[0] for name in ("hv1", "hv4", "hv2", "edge-2")]
    assert hosts[0] == hosts[1] != hosts[2]
    assert 0 not in hosts[:3]
    assert hosts[3] == 0


def test_address_that_is_nobodys_any_more_is_a_strangers_and_its_number_is_not_given_again() -> None:
    told = Told()
    told.table.know({pa("hv1"): "hv1"})
    first = told.table.find(pa("hv1"))

    told.table.know({})
    assert told.peer(pa("hv1")) is None
    assert told.table.find(pa("hv1")) is None

    told.table.know({pa("hv1"): "hv1"})
    assert told.table.find(pa("hv1")) not in (None, first)


def test_address_keeps_its_hop_when_it_becomes_another_hosts() -> None:
    told = Told()
    told.table.know({pa("hv2"): "hv2", pa("hv1"): "hv1"})
    told.table.reach(pa("hv1"), packed(PathMtu(1500)), 0)
    before = told.peer(pa("hv1"))
    told.table.know({pa("hv2"): "hv2", pa("hv1"): "hv2"})

    assert before is not None
    assert told.peer(pa("hv1")) == ((told.peer(pa("hv2")) or (-1, -1))[0], before[1])


def test_hop_that_has_been_replaced_is_not_written_to_while_it_may_be_read() -> None:
    told = Told()
    told.table.know({pa("hv1"): "hv1"})
    hops = []
    for number, now in enumerate((0.0, 0.5, 0.9, 2.0)):
        told.table.reach(pa("hv1"), packed(PathMtu(1500 + number)), now)
        hops.append((told.peer(pa("hv1")) or (-1, -1))[1])

    assert len(set(hops[:3])) == 3
    assert hops[3] == hops[0]


def test_address_for_which_there_is_no_place_is_refused_as_often_as_it_is_told() -> None:
    told = Told(buckets=2)
    for number in range(4):
        assert told.places.put(IPV4_PEERS, number, 0, Place(0, 1))

    for _ in range(2):
        with pytest.raises(Full):
            told.table.know({pa("hv1"): "hv1"})
        assert told.table.find(pa("hv1")) is None
