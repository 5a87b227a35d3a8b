"""What this node is in the network, and where a frame came in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from gateway.forwarding.metering import Meter
from gateway.forwarding.verdicts import OuterHeader, PlainHeader, PortKey
from gateway.packets import ethernet
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress
from policies.facts import PacketFacts
from policies.model import Appliance, LookupRecord, Port, SubnetHop, Translation
from policies.tables import RoutingDomain, SubnetEntry
from tunnels.effects import SiteKey

Explain = Callable[[str, str], None]
"""Told each step of a decision and what decided it: for `isthmus trace`."""


class Node(msgspec.Struct, frozen=True):
    """This network virtualization edge (NVE): a gateway, a host with ports, or both."""

    name: str
    provider_addresses: tuple[ProviderAddress, ...]
    underlay_mtu: int
    is_gateway: bool
    ports: dict[PortKey, Port]
    host: str | None = None
    """Its name as a host, where it has that role."""

    @classmethod
    def of(cls, appliance: Appliance, underlay_mtu: int) -> Node:
        """The node that a configuration describes. The MTU is in octets of the outer IP packet."""
        ports = appliance.host.ports_in(appliance.network) if appliance.host is not None else ()
        return cls(
            name=appliance.name,
            provider_addresses=appliance.underlay.provider_addresses if appliance.underlay else (),
            underlay_mtu=underlay_mtu,
            is_gateway=appliance.gateway,
            ports={(port.vsid, port.mac): port for port in ports},
            host=appliance.host.name if appliance.host is not None else None,
        )

    def holds(self, record: LookupRecord) -> bool:
        """Whether a record says that its VM is here."""
        if record.translation is Translation.REWRITE:
            return record.host == self.host
        return record.pa in self.provider_addresses

    def address_towards(self, destination: bytes) -> ProviderAddress | None:
        """Our provider address of the same family as `destination`."""
        for address in self.provider_addresses:
            if len(address) == len(destination):
                return address
        return None


class Arrival(msgspec.Struct, frozen=True, eq=False):
    """A frame and where it came in: from the underlay, or at a VM's port."""

    entry: SubnetEntry
    frame: bytes
    outer: OuterHeader | None = None
    port: PortKey | None = None

    @property
    def domain(self) -> RoutingDomain:
        return self.entry.domain

    @property
    def tenant(self) -> str:
        return self.entry.domain.name

    @property
    def plain(self) -> PlainHeader | None:
        """For what has been rewritten: `outer` is then as NVGRE's would have been."""
        return self.outer.plain if self.outer is not None else None

    @property
    def destination_mac(self) -> bytes:
        return self.frame[0:6]

    @property
    def source_mac(self) -> MacAddress:
        return MacAddress(self.frame[6:12])

    @property
    def source(self) -> bytes:
        """The CA that it says it is from; without a packet, nobody's of its family."""
        ethertype = int.from_bytes(self.frame[12:14])
        if ethertype == ethernet.IPV6:
            return self.frame[22:38].ljust(16, b"\0")
        return self.frame[28:32] if ethertype == ethernet.ARP else self.frame[26:30]

    @property
    def is_to_group(self) -> bool:
        """Broadcast or multicast, by its destination MAC."""
        return bool(self.frame[0] & 1)


class SiteArrival(msgspec.Struct, frozen=True, eq=False):
    """Through a site's tunnel: the same for all of the site's packets."""

    domain: RoutingDomain
    site: SiteKey
    origin: bytes
    """Four octets that tell the site from all others, for the keys of its flows."""
    meter: Meter
    subnets: tuple[SubnetEntry, ...]
    """All of the tenant's: the gateway speaks to the site by one of its addresses there."""

    @property
    def tenant(self) -> str:
        return self.domain.name

    def speakers(self, facts: PacketFacts) -> Iterator[CustomerAddress]:
        """The gateway's addresses of a packet's family: first where the packet was to go."""
        _, hop = self.domain.resolve(facts.destination)
        target = hop.vsid if isinstance(hop, SubnetHop) else None
        for entry in sorted(self.subnets, key=lambda entry: entry.vsid != target):
            address = entry.gateway_address(facts.version)
            if address is not None:
                yield address


Origin = Arrival | SiteArrival
"""Where a packet came in."""
