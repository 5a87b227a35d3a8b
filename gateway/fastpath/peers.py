"""What the program is told of others' provider addresses: whose each is, and how it is reached."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from gateway.fastpath.hops import NextHop
from gateway.fastpath.layout import (
    HOP,
    IPV4_PEERS,
    IPV6_PEERS,
    IS_BLOCK,
    NO_IPV6,
    OVER_IPV6,
    ZERO_FLOW_ID,
    words_of,
)
from gateway.fastpath.places import Place, Places
from gateway.fastpath.rtnetlink import LARGEST_MTU
from gateway.fastpath.sizes import Full
from gateway.forwarding.node import Node
from gateway.forwarding.pmtu import OVERHEAD_IPV4, OVERHEAD_IPV6, PathMtu
from policies.addresses import ProviderAddress
from policies.tables import Tables

_HOST = 0xFFFF_FFFF  # of a peer's word; its hop is above

# Seconds in which a packet on its way may still read a hop that has been replaced.
_RESTS = 1.0

HOPS_EACH = 2
"""So many hops there is room for, for each peer: those that have changed rest for a while."""


class PeerTable:
    """The peers and hops of one instance: whose each address is, and how it is reached."""

    def __init__(self, peers: memoryview, hops: memoryview, places: Places, room: int) -> None:
        """The memory is that of the maps `peers` and `hops`, with room for so many peers."""
        self._peers = peers.cast("Q")
        self._hops = hops
        self._places = places
        self._room = min(room, IS_BLOCK)
        self._given = self._given_hops = 0
        self._numbers: dict[bytes, int] = {}
        self._hosts: dict[str, int] = {}
        self._hop_of: dict[bytes, int] = {}
        self._resting: deque[tuple[float, int]] = deque()

    def __len__(self) -> int:
        return len(self._numbers)

    def find(self, address: bytes) -> int | None:
        """By which number an address is known."""
        return self._numbers.get(address)

    def know(self, hosts: Mapping[bytes, str | None]) -> None:
        """Take over whose each provider address is: a host by name, or None for a gateway's.

        Raises Full: then some of those that are new are strangers still.
        """
        for gone in self._numbers.keys() - hosts.keys():
            self._places.remove(_scope(gone), *words_of(gone))
            self._peers[self._numbers.pop(gone)] = 0
        for address, name in hosts.items():
            number = self._numbers.get(address) or self._next_number()
            self._peers[number] = self._host(name) | self._hop_of.get(address, 0) << 32
            if address not in self._numbers:
                # What is not found here is dropped as a stranger's: so it is known only if it can be found.
                if not self._places.put(_scope(address), *words_of(address), Place(0, number)):
                    raise Full("peers")
                self._numbers[address] = number

    def reach(self, address: ProviderAddress, hop: bytes | None, now: float) -> None:
        """Say how a peer is reached, packed as layout.HOP has it, or that it is not: None. Raises Full.

        `now` is in seconds, of a clock that does not go back.
        """
        number, present = 0, self._hop_of.get(address, 0)
        if hop is not None:
            if present and self._hops[present * HOP.size : (present + 1) * HOP.size] == hop:
                return
            if self._resting and self._resting[0][0] <= now:
                number = self._resting.popleft()[1]
            else:
                number = self._next_hop()
            self._hops[number * HOP.size : (number + 1) * HOP.size] = hop
        self._hop_of.pop(address, None)
        if number:
            self._hop_of[address] = number
        if (peer := self._numbers.get(address)) is not None:
            self._peers[peer] = self._peers[peer] & _HOST | number << 32
        if present:
            self._resting.append((now + _RESTS, present))

    def _host(self, name: str | None) -> int:
        return 0 if name is None else self._hosts.setdefault(name, len(self._hosts) + 1)

    def _next_number(self) -> int:
        """Return a number that no address has had; never 0, which stands for nothing. Raises Full."""
        if self._given + 2 > self._room:
            raise Full("peers")
        self._given += 1
        return self._given

    def _next_hop(self) -> int:
        if self._given_hops + 2 > self._room * HOPS_EACH:
            raise Full("hops")
        self._given_hops += 1
        return self._given_hops


def _scope(address: bytes) -> int:
    return IPV6_PEERS if len(address) == 16 else IPV4_PEERS


def owners_of(tables: Tables) -> dict[bytes, str | None]:
    """Return whose each provider address of the underlay is: a host's by name, or None for a gateway's."""
    owners: dict[bytes, str | None] = dict.fromkeys(tables.members)
    for name, addresses in tables.provider_addresses_of.items():
        owners.update(dict.fromkeys(addresses, name))
    for domain in tables.domains.values():
        # A host may be a gateway too: what comes from there is judged as a gateway's.
        owners.update(dict.fromkeys(domain.gateway_provider_addresses))
    return owners


def destinations_of(tables: Tables, node: Node) -> dict[ProviderAddress, ProviderAddress]:
    """Return where records may lead, with the address of ours that packets go there from."""
    return {
        ProviderAddress(address): source
        for addresses in tables.provider_addresses_of.values()
        for address in addresses
        if address not in node.provider_addresses and (source := node.address_towards(address)) is not None
    }


def packed_hop(
    address: ProviderAddress,
    source: ProviderAddress,
    hop: NextHop,
    port: int,
    paths: PathMtu,
    now: float,
    *,
    zero_flow_id: bool,
) -> bytes:
    """Return how an address is reached from one of ours, as the program reads it.

    `port` is the number that the program has for the hop's interface. How large packets may be is what is
    known of the path `now`, in octets of the inner packet. Where the hop's interface carries less than the
    underlay did, Python has what is larger: the kernel tells it so.
    """
    over_ipv6 = len(address) == 16
    ipv4, ipv6 = (paths.customer_mtu(address, version, now) for version in (4, 6))
    overhead = OVERHEAD_IPV6 if over_ipv6 else OVERHEAD_IPV4
    largest = paths.underlay_mtu - overhead
    carried = max(hop.mtu - overhead, 0) if hop.mtu < LARGEST_MTU else LARGEST_MTU
    return HOP.pack(
        (OVER_IPV6 if over_ipv6 else 0)
        | (ZERO_FLOW_ID if zero_flow_id else 0)
        # What IPv6 is owed at least is more than this underlay carries (RFC 8200 section 5).
        | (NO_IPV6 if ipv6 > largest else 0),
        port,
        min(ipv4, carried),
        min(ipv6, carried),
        hop.destination_mac,
        hop.source_mac,
        source.ljust(16, b"\0"),
        address.ljust(16, b"\0"),
    )
