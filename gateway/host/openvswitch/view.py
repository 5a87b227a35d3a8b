"""What the flows of an Open vSwitch host follow from, as values."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import msgspec

from gateway.forwarding.directory import Directory
from gateway.forwarding.residence import Residence
from gateway.forwarding.verdicts import PortKey
from policies.addresses import CustomerAddress, ProviderAddress
from policies.model import LookupRecord, Port, SubnetHop, Translation
from policies.tables import RoutingDomain, SubnetEntry, Tables


class Attached(msgspec.Struct, frozen=True):
    """A VM's port, and its number on the bridge."""

    port: Port
    number: int


def is_encapsulated(port: Port, tables: Tables, directory: Directory) -> bool:
    """Whether a VM is carried by NVGRE, all that flows can do: by its records, or else its subnet."""
    known = {record.translation for record in directory.find_by_mac(port.vsid, port.mac)}
    entry = tables.subnets.get(port.vsid)
    if not known and entry is not None:
        known = {entry.translation}
    return Translation.REWRITE not in known


class View(msgspec.Struct, frozen=True, eq=False, dict=True):
    """A host, its bridge, its network and its records at one time."""

    provider_addresses: tuple[ProviderAddress, ...]
    mtu: int
    """Of the underlay, in octets of the outer IP packet."""
    tunnels: Mapping[int, int]
    """The bridge's GRE port for each IP version of the underlay."""
    listener: int
    """The bridge's port that the agent listens on."""
    tables: Tables
    directory: Directory
    ports: Mapping[PortKey, Attached]
    residence: Residence
    """Which of the VMs are here."""
    redirects: Mapping[PortKey, ProviderAddress] = msgspec.field(default_factory=dict)
    """Where the VMs are that have just left here."""

    @cached_property
    def subnets(self) -> list[SubnetEntry]:
        """Every virtual subnet of the tenants that have a VM here: their routes lead to all of them."""
        domains = self.domains
        return [entry for entry in self.tables.subnets.values() if entry.domain.name in domains]

    @cached_property
    def domains(self) -> dict[str, int]:
        """The tenants that have a VM here, by name, each with a number of its own."""
        names = {
            self.tables.subnets[vsid].domain.name for vsid, _ in self.ports if vsid in self.tables.subnets
        }
        # By name, so that numbers change only with who is here; 0 is nobody.
        return {name: number for number, name in enumerate(sorted(names), start=1)}

    def gateway_of(self, domain: RoutingDomain) -> ProviderAddress | None:
        """The tenant's first gateway that there is a tunnel to."""
        addresses = (address for _, all_own in domain.gateways for address in all_own)
        return next((address for address in addresses if address.version in self.tunnels), None)

    def is_judged_here(self, domain: RoutingDomain) -> bool:
        """Whether flows may decide a tenant's packets.

        Access rules look into what ICMP errors quote and follow fragments, and limits are
        token buckets: neither can be said in OpenFlow as the gateway says it.
        """
        return not domain.access and domain.limits is None

    def port_of(self, record: LookupRecord) -> Attached | None:
        """The port at which a record's VM is here."""
        is_here = record.pa in self.provider_addresses or self.residence.has_arrived(record)
        return self.ports.get((record.vsid, record.mac)) if is_here else None

    def next_hop(self, domain: RoutingDomain, ca: CustomerAddress) -> LookupRecord | None:
        """The record of a VM that routes lead through."""
        hop = domain.routes.lookup(ca)
        return self.directory.find(hop.vsid, ca) if isinstance(hop, SubnetHop) else None
