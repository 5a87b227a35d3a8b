"""How to reach what a packet is for: a VM, a site, the gateway, or everybody in its virtual subnet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from gateway.forwarding.admission import is_martian
from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason
from gateway.forwarding.node import Arrival, Node, Origin, SiteArrival
from gateway.forwarding.residence import Residence
from gateway.forwarding.sites import SiteState
from gateway.forwarding.translations import Translations
from gateway.forwarding.verdicts import PlainHeader, PortKey
from gateway.packets import nvgre, transport
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid, is_group_address
from policies.facts import PacketFacts
from policies.model import Lease, LookupRecord, SiteHop, Translation
from policies.tables import RoutingDomain, Tables
from tunnels.effects import SiteKey


class Path(msgspec.Struct, frozen=True, gc=False):
    """Across the underlay, in NVGRE."""

    source: ProviderAddress
    destination: ProviderAddress
    vsid: Vsid
    header: bytes
    """The GRE header: VSID and FlowID."""


class Plain(msgspec.Struct, frozen=True, gc=False):
    """Across the underlay as it is, but for its addresses: IP rewrite."""

    source: ProviderAddress
    destination: ProviderAddress
    vsid: Vsid
    leases: tuple[Lease, ...] = ()
    """Those that it rests on. The two addresses of rewritten records stand as long as the records do."""
    via: ProviderAddress | None = None
    """The neighbour to send it to, where its destination has only just come to that."""


class Pending(msgspec.Struct, frozen=True, gc=False):
    """Nobody here knows yet by which provider address it goes."""

    wanted: tuple[Vsid, CustomerAddress]


class LocalPort(msgspec.Struct, frozen=True, gc=False):
    """To a VM's port on this host."""

    key: PortKey


class Tunnel(msgspec.Struct, frozen=True, gc=False):
    """To a site."""

    site: SiteKey
    state: SiteState
    facts: PacketFacts
    """By which the child SA is chosen."""


Way = Path | Plain | LocalPort | Tunnel
Across = Path | Plain
"""The ways across the underlay."""


class Ways:
    """The ways out of one node."""

    def __init__(
        self,
        node: Node,
        tables: Tables,
        directory: Directory,
        residence: Residence,
        translations: Translations,
    ) -> None:
        self.residence = residence
        self.translations = translations
        self._node = node
        self._tables = tables
        self._directory = directory
        self.own = frozenset[bytes](node.provider_addresses)
        self._gateway_of = frozenset(
            domain.name
            for domain in tables.domains.values()
            if node.is_gateway and node.name in (name for name, _ in domain.gateways)
        )

    def is_gateway_of(self, domain: RoutingDomain) -> bool:
        """Whether this node is one of the tenant's gateways."""
        return domain.name in self._gateway_of

    def is_router_for(self, arrival: Arrival) -> bool:
        """Whether this node is the router of whoever sent a frame: a host is for its own VMs only."""
        return arrival.port is not None or self.is_gateway_of(arrival.entry.domain)

    def answered_here(self, arrival: Arrival) -> LocalPort | None:
        """Return the port of the VM here that its gateway answers; None: it is no such answer."""
        entry, outer = arrival.entry, arrival.outer
        key = (entry.vsid, MacAddress(arrival.destination_mac))
        if outer is None or outer.source not in entry.domain.gateway_provider_addresses:
            return None
        return LocalPort(key) if key in self._node.ports else None

    def dials(self, domain: RoutingDomain, site: str) -> bool:
        """Whether this node is the gateway that has a site's tunnel."""
        return self.is_gateway_of(domain) and domain.site_gateways.get(site) == self._node.name

    def own_address_for(self, arrival: Arrival) -> bytes | None:
        """Our provider address that a frame was sent to; for a frame of our own VM's, our first."""
        if arrival.outer is not None:
            return arrival.outer.destination
        return next(iter(self._node.provider_addresses), None)

    def is_rewritten(self, arrival: Arrival) -> bool:
        """Whether what a VM at a port here has sent is of a CA of its that is rewritten.

        Where nothing says of which, it is so if one of the VM's is, in the same family if it has any.
        """
        if arrival.port is None:
            return False
        if not self._directory.has_holders and arrival.entry.translation is Translation.ENCAP:
            return False
        source = arrival.source
        records = self._directory.find_by_mac(*arrival.port)
        if not records:
            return arrival.entry.translation is Translation.REWRITE
        own = [each for each in records if each.ca == source]
        alike = own or [each for each in records if len(each.ca) == len(source)]
        return any(each.translation is Translation.REWRITE for each in alike or records)

    def is_for_gateway(self, arrival: Origin, record: LookupRecord) -> bool:
        """Whether a gateway carries what a VM here sends to a record's: rewritten, as this one is not."""
        return (
            record.translation is Translation.REWRITE
            and isinstance(arrival, Arrival)
            and arrival.port is not None
            and not self.is_gateway_of(arrival.domain)
            and not self.is_here(record)
            and not self.is_rewritten(arrival)
        )

    def to_record(
        self, arrival: Origin, facts: PacketFacts, record: LookupRecord
    ) -> Way | Pending | DropReason:
        """The way to a record's VM.

        A host passes nothing on that came from the underlay, and a gateway switches
        nothing on that came from a gateway: two with stale records could throw it
        at each other for ever, since its hop limit stays. Nothing goes to a host that
        may not hold the tenant, whatever the records say.
        """
        domain = arrival.domain
        key = (record.vsid, record.mac)
        if self._node.holds(record):
            if key in self._node.ports:
                return LocalPort(key)
            return DropReason.LOOP if self.is_gateway_of(domain) else DropReason.NOT_HERE
        if self.residence.has_arrived(record):
            return LocalPort(key)
        if isinstance(arrival, Arrival) and arrival.outer is not None:
            is_switched = arrival.destination_mac != arrival.entry.gateway_mac
            from_gateway = arrival.outer.source in domain.gateway_provider_addresses
            if not self.is_gateway_of(domain) or (is_switched and from_gateway):
                return DropReason.NOT_HERE
        elif (
            isinstance(arrival, Arrival)
            and record.translation is Translation.ENCAP
            and not self.is_gateway_of(domain)
            and self.is_rewritten(arrival)
        ):
            return self.to_distant(arrival, facts)
        return self.across(domain, record, facts.source, facts)

    def across(
        self, domain: RoutingDomain, record: LookupRecord, speaker: bytes, facts: PacketFacts | None
    ) -> Across | Pending | DropReason:
        """The way across the underlay to a record's host, if that may hold the tenant.

        `speaker` is the CA that a packet comes from: a rewritten one has a provider address for it.
        """
        if record.translation is Translation.ENCAP:
            if record.pa not in domain.host_addresses:
                return DropReason.NO_RECORD
            return self._path(record.pa, record.vsid, facts) or DropReason.NO_PROVIDER_ADDRESS
        if not self.translations.is_sound(record, domain):
            return DropReason.NO_RECORD
        if facts is not None and facts.destination != record.ca:
            # Behind the VM, or a link-local address of its: the address of the way would say neither.
            return DropReason.NOT_REWRITABLE
        return self._plain(domain, speaker, record.pa, record.vsid)

    def after(
        self, domain: RoutingDomain, record: LookupRecord, facts: PacketFacts
    ) -> Across | Pending | DropReason:
        """The way after a VM that has left for another host.

        Where the hosts share a pool it has kept its address, and the link still believes that to be here:
        maybe nobody answers for it yet. So its packets go to its host's own address, which is on that link.
        """
        way = self.across(domain, record, facts.source, facts)
        if not isinstance(way, Plain) or len(self._tables.pools.lookup(record.pa) or ()) < 2:
            return way
        addresses = self._tables.provider_addresses_of.get(record.host, frozenset())
        via = min((each for each in addresses if len(each) == len(record.pa)), default=None)
        return msgspec.structs.replace(way, via=ProviderAddress(via) if via is not None else None)

    def to_distant(self, arrival: Arrival, facts: PacketFacts) -> Plain | Pending | DropReason:
        """The way of a rewritten VM's packet to a CA that has no provider address of its own.

        That is to a gateway, by the address which stands for the CA there: at a site, its own gateway.
        """
        domain = arrival.domain
        if not _has_provider_address(facts.destination) or not _has_provider_address(facts.source):
            return DropReason.NOT_REWRITABLE
        home = domain.home(facts.destination)
        if home is None:
            return DropReason.NO_ROUTE
        lease = self.translations.reaching(domain, facts.destination, self._gateways_for(domain, facts))
        if lease is None:
            return Pending((home, CustomerAddress(facts.destination)))
        way = self._plain(domain, facts.source, lease.pa, lease.vsid)
        return msgspec.structs.replace(way, leases=(*way.leases, lease)) if isinstance(way, Plain) else way

    def back(self, arrival: Arrival, plain: PlainHeader, speaker: bytes) -> Plain | None:
        """The way back to where a rewritten packet came from, for what a CA here says."""
        own = self.translations.standing_for(arrival.domain, speaker)
        if own is None:
            return None
        leases = (own,) if isinstance(own, Lease) else ()
        return Plain(own.pa, plain.source, arrival.entry.vsid, leases)

    def quoted(
        self, domain: RoutingDomain, quoted: PacketFacts
    ) -> tuple[ProviderAddress, ProviderAddress] | None:
        """Return what stands for both ends of a packet that an ICMP error quotes; None if one has nothing."""
        source = self.translations.any_for(domain, quoted.source)
        destination = self.translations.any_for(domain, quoted.destination)
        return (source, destination) if source is not None and destination is not None else None

    def _plain(
        self, domain: RoutingDomain, speaker: bytes, destination: ProviderAddress, vsid: Vsid
    ) -> Plain | Pending | DropReason:
        own = self.translations.standing_for(domain, speaker)
        if own is None:
            home = domain.home(speaker)
            if home is None or not _has_provider_address(speaker):
                return DropReason.NOT_REWRITABLE
            return Pending((home, CustomerAddress(speaker)))
        if len(own.pa) != len(destination):
            return DropReason.NO_PROVIDER_ADDRESS
        return Plain(own.pa, destination, vsid, (own,) if isinstance(own, Lease) else ())

    def _gateways_for(self, domain: RoutingDomain, facts: PacketFacts) -> Iterator[str]:
        """The gateways by which a distant CA is reached: its site's own, else any in their order."""
        _, hop = domain.resolve(facts.destination)
        if isinstance(hop, SiteHop) and hop.site in domain.site_gateways:
            yield domain.site_gateways[hop.site]
            return
        yield from (name for name, _ in domain.gateways)

    def to_gateway(self, arrival: Arrival, facts: PacketFacts | None) -> Path | None:
        """The way to the tenant's first gateway that shares a family with us, in NVGRE."""
        if arrival.outer is not None or self.is_gateway_of(arrival.entry.domain):
            return None
        if self.is_rewritten(arrival):
            return None
        addresses = (address for _, all_own in arrival.entry.domain.gateways for address in all_own)
        return self._first_path(addresses, arrival.entry.vsid, facts)

    def to_site_gateway(self, arrival: Origin, facts: PacketFacts, site: str) -> Path | None:
        """The way to the gateway that has a site's tunnel: from a host's VM, or from another gateway.

        What came from a gateway goes to no other: two that disagree about a site
        could throw it at each other for ever, since passing it on costs no hop. A
        tenant without virtual subnets has none whose VSID a packet could have on the way.
        """
        domain = arrival.domain
        if isinstance(arrival, SiteArrival):
            if not arrival.subnets:
                return None
            vsid = arrival.subnets[0].vsid
        elif arrival.outer is None or (
            self.is_gateway_of(domain) and arrival.outer.source not in domain.gateway_provider_addresses
        ):
            vsid = arrival.entry.vsid
        else:
            return None
        dialling = domain.site_gateways.get(site)
        addresses = (address for name, all_own in domain.gateways if name == dialling for address in all_own)
        return self._first_path((address for address in addresses if address not in self.own), vsid, facts)

    def back_to_sender(
        self, arrival: Arrival, facts: PacketFacts, speaker: bytes
    ) -> tuple[Way, LookupRecord] | None:
        """The way to the VM that sent what another node has routed here, by its record: what a CA says."""
        domain = arrival.entry.domain
        record = self.translations.record_of(domain, facts.source)
        if record is None:
            return None
        key = (record.vsid, record.mac)
        if key in self._node.ports:
            return LocalPort(key), record
        if self._node.holds(record):
            return None
        way = self.across(domain, record, speaker, None)
        return (way, record) if isinstance(way, Across) else None

    def to_all(self, arrival: Arrival, facts: PacketFacts) -> Iterator[Way]:
        """Every port and host of the virtual subnet but the one that the frame came from.

        The tenant's gateway replicates, so that a host needs no record of anybody
        and everybody gets one copy; only a host without a gateway does it itself.
        What a gateway has replicated goes to ports. A rewritten VM's goes no further than
        its host, which has no address to send it to and encapsulates nothing of it.
        """
        entry = arrival.entry
        for key in self._node.ports:
            if key[0] == entry.vsid and key != arrival.port and self.residence.is_here(key):
                yield LocalPort(key)
        origin = b""
        if arrival.outer is None:
            gateway = self.to_gateway(arrival, facts)
            if gateway is not None:
                yield gateway
                return
            if not self.is_gateway_of(entry.domain) and self.is_rewritten(arrival):
                return
        else:
            origin = arrival.outer.source
            if not self.is_gateway_of(entry.domain) or origin in entry.domain.gateway_provider_addresses:
                return
        for host, addresses in self._directory.hosts(entry.vsid):
            all_addresses = self._tables.provider_addresses_of.get(host, frozenset()).union(addresses)
            if origin in all_addresses or not self.own.isdisjoint(all_addresses):
                continue
            allowed = (address for address in addresses if address in entry.domain.host_addresses)
            path = self._first_path(allowed, entry.vsid, facts)
            if path is not None:
                yield path

    def is_here(self, record: LookupRecord) -> bool:
        """Whether a record's VM is here: it says so, or the VM has come before its record has."""
        return self._node.holds(record) or self.residence.has_arrived(record)

    def _first_path(
        self, addresses: Iterable[ProviderAddress], vsid: Vsid, facts: PacketFacts | None
    ) -> Path | None:
        paths = (self._path(address, vsid, facts) for address in addresses)
        return next((path for path in paths if path is not None), None)

    def _path(self, destination: bytes, vsid: Vsid, facts: PacketFacts | None) -> Path | None:
        ours = self._node.address_towards(destination)
        if ours is None:
            return None
        # Without facts it is a neighbour request, which belongs to no flow.
        hashed = facts is not None and destination not in self._tables.zero_flow_id
        flow_id = transport.flow_id(facts) if facts is not None and hashed else 0
        return Path(ours, ProviderAddress(destination), vsid, nvgre.encode(vsid, flow_id))


def _has_provider_address(ca: bytes) -> bool:
    """Whether a CA may have a provider address: a single machine's, beyond its link."""
    return not is_group_address(ca) and not is_martian(ca)
