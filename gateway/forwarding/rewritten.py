"""What has come rewritten, read: whose its provider addresses are, and what its tenant's packet was.

From then on it is decided as what NVGRE brings: in the virtual subnet of the CA that it is for, to the MAC
that the sending host has chosen, which follows from both CAs. The isolation of tenants rests on this: a
provider address is one CA's alone, so a packet is a tenant's only if both of its addresses are.
"""

from __future__ import annotations

from gateway.forwarding.directory import Directory, Holder
from gateway.forwarding.drops import DropReason
from gateway.forwarding.flows import Came
from gateway.forwarding.incoming import Arrived
from gateway.forwarding.node import Arrival, Explain, Node
from gateway.forwarding.pmtu import PathMtu
from gateway.forwarding.translations import Translations
from gateway.forwarding.verdicts import Drop, Forward, Held, OuterHeader, PlainHeader, ToPort, Verdict
from gateway.packets import icmp, ip, ndp
from gateway.packets.ethernet import OF_IP_VERSION, EthernetHeader
from gateway.packets.rewriting import rewritten
from policies.addresses import CustomerAddress, ProviderAddress, Vsid, gateway_mac
from policies.errors import MalformedPacket
from policies.facts import ICMPV6, PacketFacts
from policies.model import Lease, LookupRecord, SiteHop, SubnetHop
from policies.tables import RoutingDomain, SubnetEntry, Tables


class Rewritten:
    """Reads what comes to the pools of one node."""

    def __init__(
        self,
        node: Node,
        tables: Tables,
        directory: Directory,
        translations: Translations,
        paths: PathMtu,
        explain: Explain | None = None,
    ) -> None:
        self._node = node
        self._tables = tables
        self._directory = directory
        self._translations = translations
        self._paths = paths
        self._explain = explain

    def read_untrusted(self, packet: bytes, now: float) -> Arrived | Verdict:
        """Return the tenant's packet behind a rewritten one, or what becomes of it where there is none."""
        try:
            facts = ip.decode_untrusted(packet)
        except MalformedPacket:
            return Drop(DropReason.MALFORMED)
        packet = packet[: facts.total_length]
        receiver = self._translations.holder(facts.destination, now)
        entry = self._tables.subnets.get(receiver.vsid) if receiver is not None else None
        if receiver is None and self._translations.is_in_own_pool(facts.destination):
            # Whoever sends there may know of it before we do.
            return Held(ProviderAddress(facts.destination))
        if receiver is None or entry is None or self._is_elsewhere(receiver):
            return Drop(DropReason.UNKNOWN_PROVIDER_ADDRESS)
        domain, tenant = entry.domain, entry.domain.name
        if self._explain:
            self._explain("provider address", f"{receiver.pa} is {receiver.ca} of tenant {tenant}")
        sender = self._translations.holder(facts.source, now)
        if sender is None:
            return self._from_nobody(receiver, entry, facts, packet, now)
        if self._explain:
            self._explain("source", f"{sender.pa} is {sender.ca}, VSID {sender.vsid}")
        if sender.vsid not in domain.vsids:
            return Drop(DropReason.OTHER_TENANT, tenant)
        outer = self._outer(sender, domain, facts)
        if outer is None or (isinstance(sender, Lease) and isinstance(receiver, Lease)):
            return Drop(DropReason.SPOOFED_SOURCE, tenant)
        if facts.protocol == ICMPV6 and facts.icmp_type in ndp.DISCOVERY:
            # No host rewrites it, for it is between machines of one link: somebody has made it up.
            return Drop(DropReason.NOT_REWRITABLE, tenant)
        quoted: tuple[CustomerAddress, CustomerAddress] | None = None
        if icmp.is_error(facts):
            quoted = self._quoted(domain, facts.quoted, now) if facts.quoted is not None else None
            if quoted is None:
                return Drop(DropReason.NOT_REWRITABLE, tenant)
        packet = rewritten(packet, sender.ca, receiver.ca, quoted)
        source = self._record_of(sender)
        entry, header = self._frame(domain, entry, sender, receiver, source, facts.version)
        return Arrived(
            arrival=Arrival(entry, header + packet, outer=outer),
            facts=ip.decode_untrusted(packet),
            packet=packet,
            source=source,
            # A machine that comes to have a record has its MAC from then on.
            is_settled=source is not None or not isinstance(domain.routes.lookup(sender.ca), SubnetHop),
            came=Came(sender, receiver, outer),
        )

    def _is_elsewhere(self, receiver: Holder) -> bool:
        return isinstance(receiver, Lease) and receiver.node != self._node.name

    def _outer(self, sender: Holder, domain: RoutingDomain, facts: PacketFacts) -> OuterHeader | None:
        """What NVGRE would have brought it in; None where its sender may not hold the tenant."""
        if isinstance(sender, Lease):
            theirs = next((all_own for name, all_own in domain.gateways if name == sender.node), ())
        elif self._translations.is_sound(sender, domain):
            theirs = tuple(map(ProviderAddress, sorted(self._tables.provider_addresses_of[sender.host])))
        else:
            return None
        ours = self._node.provider_addresses
        if not theirs or not ours:
            return None
        plain = PlainHeader(ProviderAddress(facts.source), ProviderAddress(facts.destination))
        return OuterHeader(theirs[0], ours[0], plain=plain)

    def _quoted(
        self, domain: RoutingDomain, quoted: PacketFacts, now: float
    ) -> tuple[CustomerAddress, CustomerAddress] | None:
        source = self._translations.customer_of(domain, quoted.source, now)
        destination = self._translations.customer_of(domain, quoted.destination, now)
        return (source, destination) if source is not None and destination is not None else None

    def _frame(
        self,
        domain: RoutingDomain,
        entry: SubnetEntry,
        sender: Holder,
        receiver: Holder,
        source: LookupRecord | None,
        version: int,
    ) -> tuple[SubnetEntry, bytes]:
        """Return the virtual subnet and the Ethernet header that NVGRE would have brought.

        A VM is sent to by its MAC; anything else is for the gateway to route, in the sender's virtual subnet.
        A sender in the receiver's own has its own MAC, by its record, and any other has been routed.
        """
        target = self._directory.find(receiver.vsid, receiver.ca)
        if target is not None and isinstance(domain.routes.lookup(receiver.ca), SubnetHop):
            source_mac = gateway_mac(receiver.vsid)
            if source is not None and source.vsid == receiver.vsid:
                source_mac = source.mac
            return entry, EthernetHeader(target.mac, source_mac, OF_IP_VERSION[version]).encode()
        entry = self._tables.subnets[sender.vsid]
        source_mac = source.mac if source is not None else gateway_mac(sender.vsid)
        return entry, EthernetHeader(entry.gateway_mac, source_mac, OF_IP_VERSION[version]).encode()

    def _record_of(self, sender: Holder) -> LookupRecord | None:
        if isinstance(sender, LookupRecord):
            return sender
        return self._directory.find(sender.vsid, sender.ca)

    def _from_nobody(
        self, receiver: Holder, entry: SubnetEntry, facts: PacketFacts, packet: bytes, now: float
    ) -> Arrived | Verdict:
        """Decide what comes from an address that stands for nobody.

        A moved VM's first packets may outrun the news of its new address, so what is of a pool waits for
        that. The underlay's routers have no other address than their own.
        """
        tenant = entry.domain.name
        owners = self._tables.pools.lookup(facts.source)
        if owners is None and facts.quoted is not None and icmp.is_about_delivery(facts):
            return self._underlay_error(receiver, entry, facts, facts.quoted, packet, now)
        # Two distant CAs have nothing to say to each other by IP rewrite.
        if owners is not None and (isinstance(receiver, LookupRecord) or owners & entry.domain.hosts):
            return Held(ProviderAddress(facts.source), tenant)
        return Drop(DropReason.UNKNOWN_PROVIDER_ADDRESS, tenant)

    def _underlay_error(
        self,
        receiver: Holder,
        entry: SubnetEntry,
        facts: PacketFacts,
        quoted: PacketFacts,
        packet: bytes,
        now: float,
    ) -> Arrived | Verdict:
        """Heed what the underlay says of a packet that was sent from here, and tell its own sender.

        To a VM it is its gateway that says so, and to a site the gateway of where the packet was going.
        """
        domain, tenant = entry.domain, entry.domain.name
        if quoted.source != receiver.pa:
            return Drop(DropReason.UNKNOWN_PROVIDER_ADDRESS, tenant)
        target = self._translations.customer_of(domain, quoted.destination, now)
        if target is None:
            return Drop(DropReason.UNKNOWN_PROVIDER_ADDRESS, tenant)
        mtu = icmp.reported_mtu(packet, facts)
        if mtu is not None:
            self._paths.report(quoted.destination, mtu, now, (quoted.destination,))
        if isinstance(receiver, Lease):
            return self._to_distant(receiver, entry, facts, packet, target)
        speaker = entry.gateway_address(facts.version)
        if speaker is None or not self._node.holds(receiver):
            return Drop(DropReason.UNDERLAY_ERROR, tenant)
        told = rewritten(packet, speaker, receiver.ca, (receiver.ca, target))
        header = EthernetHeader(receiver.mac, entry.gateway_mac, OF_IP_VERSION[facts.version]).encode()
        port = (Vsid(receiver.vsid), receiver.mac)
        if port not in self._node.ports:
            return Drop(DropReason.UNDERLAY_ERROR, tenant)
        return Forward((ToPort(port, header + told, tenant),))

    def _to_distant(
        self, receiver: Lease, entry: SubnetEntry, facts: PacketFacts, packet: bytes, target: CustomerAddress
    ) -> Arrived | Drop:
        """Say it to a distant CA, by whichever way leads there from this gateway."""
        domain = entry.domain
        at_site = isinstance(domain.resolve(receiver.ca)[1], SiteHop)
        beyond = domain.routes.lookup(target)
        if at_site and isinstance(beyond, SubnetHop):
            entry = self._tables.subnets[beyond.vsid]
        speaker, ours = entry.gateway_address(facts.version), self._node.provider_addresses
        if speaker is None or not ours or receiver.ca in domain.gateway_addresses:
            return Drop(DropReason.UNDERLAY_ERROR, domain.name)
        told = rewritten(packet, speaker, receiver.ca, (receiver.ca, target))
        header = EthernetHeader(entry.gateway_mac, entry.gateway_mac, OF_IP_VERSION[facts.version]).encode()
        own = OuterHeader(ours[0], ours[0], ecn=0, hop_limit=facts.hop_limit)
        return Arrived(Arrival(entry, header + told, outer=own), ip.decode_untrusted(told), told)
