"""The packet's way: one decision for each frame, from wherever it came.

`Forwarder` takes a frame and the time, and returns what is to become of it. It
opens no socket and reads no clock. The fast path is a second implementation of
the same decisions.
"""

from __future__ import annotations

from collections import Counter

from gateway.forwarding import neighbours
from gateway.forwarding.admission import Admission, admit, is_link_local, port_owns
from gateway.forwarding.delivery import Delivery, ecn_on_arrival
from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.flows import Flow, FlowCache, key_untrusted
from gateway.forwarding.fragments import FirstFragments
from gateway.forwarding.metering import Meter, TokenBucket
from gateway.forwarding.neighbours import Silence
from gateway.forwarding.node import Arrival, Explain, Node
from gateway.forwarding.notices import Notices
from gateway.forwarding.pmtu import PathMtu
from gateway.forwarding.verdicts import Drop, Emission, Forward, OuterHeader, PortKey, Verdict
from gateway.forwarding.ways import LocalPort, Way, Ways
from gateway.packets import arp, ethernet, icmp, ip, ndp, nvgre
from gateway.packets.arp import ArpPacket
from gateway.packets.ethernet import EthernetHeader
from gateway.packets.icmp import Unreachable
from gateway.packets.nvgre import NotNvgre
from policies.addresses import ROUTER_LINK_LOCAL, CustomerAddress, MacAddress, Vsid, is_group_address
from policies.errors import MalformedPacket
from policies.facts import ICMPV6, TCP, UDP, PacketFacts
from policies.model import AddressHop, LookupRecord, SiteHop, SubnetHop
from policies.tables import RoutingDomain, Tables

_IP_VERSION = {ethernet.IPV4: 4, ethernet.IPV6: 6}


class Forwarder:
    """The pipeline of one node and the state that it keeps, all of it bounded."""

    def __init__(
        self, node: Node, tables: Tables, directory: Directory, *, explain: Explain | None = None
    ) -> None:
        self.node = node
        self.tables = tables
        self.directory = directory
        self.drops = Drops()
        self.meters: dict[Vsid, Meter] = {vsid: Meter() for vsid in tables.subnets}
        self.sources_elsewhere: Counter[str] = Counter()
        self.notices = Notices()
        self._explain = explain
        self._paths = PathMtu(node.underlay_mtu)
        self._delivery = Delivery(self._paths, self.notices, explain)
        self._ways = Ways(node, tables, directory)
        self._buckets = {
            domain.name: TokenBucket.of(domain.limits)
            for domain in tables.domains.values()
            if domain.limits is not None
        }
        self._fragments = {
            domain.name: FirstFragments() for domain in tables.domains.values() if domain.access
        }
        self._flows = FlowCache()

    def from_underlay(self, outer: OuterHeader, payload: bytes, now: float) -> Verdict:
        """Decide an NVGRE packet: `payload` is what follows the outer IP header, GRE first."""
        key = key_untrusted(outer.source, payload)
        if key is not None and self._explain is None:
            flow = self._flows.find(key, self.directory)
            if flow is not None:
                verdict = self._delivery.carry_known_untrusted(flow, outer, payload, now)
                if verdict is not None:
                    return self._counted(verdict)
        return self._counted(self._from_underlay(outer, payload, key, now))

    def from_port(self, port: PortKey, frame: bytes, now: float) -> Verdict:
        """Decide a frame that a VM sent at its port."""
        return self._counted(self._from_port(port, frame, now))

    def path_mtu_reported(self, destination: bytes, mtu: int, now: float) -> bool:
        """Heed what the underlay says of the path to a provider address, if it is plausible."""
        return self._paths.report(destination, mtu, now, self.tables.members)

    def _counted(self, verdict: Verdict) -> Verdict:
        if isinstance(verdict, Drop):
            self.drops.count(verdict.reason, verdict.tenant)
        return verdict

    def _from_underlay(self, outer: OuterHeader, payload: bytes, key: bytes | None, now: float) -> Verdict:
        if outer.source in self._ways.own:
            return Drop(DropReason.LOOP)
        try:
            header = nvgre.decode_untrusted(payload)
        except NotNvgre:
            return Drop(DropReason.NOT_NVGRE)
        except MalformedPacket:
            return Drop(DropReason.MALFORMED)
        entry = self.tables.subnets.get(Vsid(header.vsid))
        if entry is None:
            return Drop(DropReason.UNKNOWN_VSID)
        tenant = entry.domain.name
        if self._explain:
            self._explain("virtual subnet", f"VSID {entry.vsid} is {entry.name} of tenant {tenant}")
        frame = payload[nvgre.HEADER_LENGTH :]
        parsed = _parse_untrusted(frame)
        if isinstance(parsed, DropReason):
            return Drop(parsed, tenant)
        arrival = Arrival(entry, _without_padding(frame, parsed), outer=outer)
        sender_mac, source = _sender(arrival, parsed)
        admission, record = admit(
            entry.domain,
            self.tables,
            self.directory,
            source,
            outer.source,
            to_group=arrival.is_to_group,
        )
        if self._explain:
            self._explain(
                "source",
                f"{CustomerAddress(source)} behind {CustomerAddress(outer.source)}: {admission.value}",
            )
        # No group is a sender (IEEE 802.3 section 3.2.3), and an answer to one would reach everybody.
        if admission is Admission.REFUSED or sender_mac[0] & 1:
            return Drop(DropReason.SPOOFED_SOURCE, tenant)
        if admission is Admission.ELSEWHERE:
            self.sources_elsewhere[tenant] += 1
        if isinstance(parsed, ArpPacket):
            return self._arp(arrival, parsed)
        packet = arrival.frame[ethernet.HEADER_LENGTH :]
        ecn = ecn_on_arrival(parsed.traffic_class & 3, outer.ecn)
        if ecn is None:
            return Drop(DropReason.CONGESTION, tenant)
        if ecn != parsed.traffic_class & 3:
            packet = ip.with_ecn(packet, ecn)
            parsed = ip.decode_untrusted(packet)
        decision = self._decide(arrival, parsed, packet, record, now)
        if not isinstance(decision, Flow):
            return decision
        if key is not None and admission is Admission.ADMITTED and record and decision.destination_record:
            self._flows.remember(key, decision)
        return self._delivery.carry(decision, arrival, parsed, packet, now)

    def _from_port(self, port_key: PortKey, frame: bytes, now: float) -> Verdict:
        port = self.node.ports[port_key]
        entry = self.tables.subnets[port.vsid]
        tenant = entry.domain.name
        if self._explain:
            self._explain("port", f"{port.interface}: VSID {entry.vsid}, {entry.name} of tenant {tenant}")
        parsed = _parse_untrusted(frame)
        if isinstance(parsed, DropReason):
            return Drop(parsed, tenant)
        arrival = Arrival(entry, _without_padding(frame, parsed), port=port_key)
        sender_mac, source = _sender(arrival, parsed)
        if sender_mac != port.mac or not port_owns(
            port, arrival.source_mac, source, to_group=arrival.is_to_group
        ):
            return Drop(DropReason.SPOOFED_SOURCE, tenant)
        if isinstance(parsed, ArpPacket):
            return self._arp(arrival, parsed)
        packet = arrival.frame[ethernet.HEADER_LENGTH :]
        decision = self._decide(arrival, parsed, packet, None, now)
        if not isinstance(decision, Flow):
            return decision
        return self._delivery.carry(decision, arrival, parsed, packet, now)

    def _decide(
        self, arrival: Arrival, facts: PacketFacts, packet: bytes, source: LookupRecord | None, now: float
    ) -> Flow | Verdict:
        """Decide an IP packet whose source has been admitted."""
        entry = arrival.entry
        if facts.protocol == ICMPV6 and ndp.ROUTER_SOLICITATION <= facts.icmp_type <= ndp.REDIRECT:
            return self._neighbour_discovery(arrival, facts, packet)
        if arrival.is_to_group:
            return self._replicate(arrival, facts, packet, now)
        if arrival.destination_mac == entry.gateway_mac:
            if not self._is_gateway_for(arrival):
                return Drop(DropReason.NOT_HERE, arrival.tenant)
            if facts.destination in entry.domain.gateway_addresses or facts.destination == ROUTER_LINK_LOCAL:
                return self._to_gateway(arrival, facts, packet, now)
            return self._route(arrival, facts, packet, source, now)
        return self._switch(arrival, facts, source, now)

    def _is_gateway_for(self, arrival: Arrival) -> bool:
        """Whether this node is the router of whoever sent a frame: a host is for its own VMs only."""
        return arrival.port is not None or self._ways.is_gateway_of(arrival.entry.domain)

    def _arp(self, arrival: Arrival, request: ArpPacket) -> Verdict:
        if request.operation != arp.REQUEST:
            return self._neighbour_reply(arrival)
        if not self._is_gateway_for(arrival):
            return Drop(DropReason.NOT_HERE, arrival.tenant)
        reply = neighbours.answer_arp(arrival.entry, self.directory, request)
        return self._resolved(arrival, reply)

    def _neighbour_discovery(self, arrival: Arrival, facts: PacketFacts, packet: bytes) -> Verdict:
        if facts.icmp_type == ndp.ROUTER_SOLICITATION:
            return Drop(DropReason.TO_GATEWAY, arrival.tenant)
        if facts.icmp_type != ndp.NEIGHBOUR_SOLICITATION:
            return self._neighbour_reply(arrival)
        if not self._is_gateway_for(arrival):
            return Drop(DropReason.NOT_HERE, arrival.tenant)
        try:
            solicitation = ndp.decode_solicitation_untrusted(packet, facts)
        except MalformedPacket:
            return Drop(DropReason.MALFORMED, arrival.tenant)
        reply = neighbours.answer_solicitation(
            arrival.entry, self.directory, arrival.source_mac, solicitation
        )
        return self._resolved(arrival, reply)

    def _resolved(self, arrival: Arrival, reply: bytes | Silence) -> Verdict:
        if isinstance(reply, bytes):
            if self._explain:
                self._explain("neighbour", "answered from the directory")
            return self._delivery.answer(arrival, reply)
        if reply is Silence.OWN:
            return Drop(DropReason.NEIGHBOUR_OWN, arrival.tenant)
        # The gateway may know it: a host passes the request on, unicast.
        path = self._ways.to_gateway(arrival, None)
        if path is None:
            return Drop(DropReason.NO_RECORD, arrival.tenant)
        return Forward((self._delivery.emit(path, arrival.tenant, arrival.frame),))

    def _neighbour_reply(self, arrival: Arrival) -> Verdict:
        """A gateway's reply for the VM that asked goes to its port; nobody else's is believed."""
        entry = arrival.entry
        key = (entry.vsid, MacAddress(arrival.destination_mac))
        if (
            arrival.outer is not None
            and arrival.outer.source in entry.domain.gateway_provider_addresses
            and key in self.node.ports
        ):
            return Forward((self._delivery.emit(LocalPort(key), arrival.tenant, arrival.frame),))
        return Drop(DropReason.NEIGHBOUR_REPLY, arrival.tenant)

    def _to_gateway(self, arrival: Arrival, facts: PacketFacts, packet: bytes, now: float) -> Verdict:
        if icmp.is_echo_request(facts) and not facts.is_fragment:
            if self._explain:
                self._explain("gateway", "an echo request to the gateway's own address: answered")
            try:
                reply = icmp.echo_reply(packet, facts)
            except MalformedPacket:
                return Drop(DropReason.MALFORMED, arrival.tenant)
            header = EthernetHeader(
                destination=arrival.source_mac,
                source=arrival.entry.gateway_mac,
                ethertype=ethernet.IPV4 if facts.version == 4 else ethernet.IPV6,
            )
            return self._delivery.answer(arrival, header.encode() + reply)
        if facts.protocol not in (TCP, UDP):
            return Drop(DropReason.TO_GATEWAY, arrival.tenant)
        notice = self._delivery.tell(
            arrival,
            facts,
            lambda source: icmp.unreachable(source, packet, facts, Unreachable.PORT),
            now,
            source=CustomerAddress(facts.destination),
        )
        return Drop(DropReason.TO_GATEWAY, arrival.tenant, notice)

    def _route(
        self, arrival: Arrival, facts: PacketFacts, packet: bytes, source: LookupRecord | None, now: float
    ) -> Flow | Verdict:
        domain = arrival.entry.domain
        if (
            is_link_local(facts.source)
            or is_link_local(facts.destination)
            or is_group_address(facts.destination)
        ):
            return Drop(DropReason.NO_ROUTE, domain.name)
        refusal = self._permit(domain, facts, now)
        if refusal is not None:
            return Drop(refusal, domain.name)
        hop = domain.routes.lookup(facts.destination)
        if self._explain:
            prefix = domain.routes.match(CustomerAddress(facts.destination))
            self._explain("route", f"{prefix} -> {hop}" if hop else "none matches")
        next_ca = facts.destination
        if isinstance(hop, AddressHop):
            next_ca = hop.ca
            hop = domain.routes.lookup(next_ca)
        if isinstance(hop, SubnetHop):
            record = self.directory.find(hop.vsid, next_ca)
            if record is not None:
                return self._towards(arrival, facts, record, source, routed=True)
            reason, unreachable = DropReason.NO_RECORD, Unreachable.HOST
        elif isinstance(hop, SiteHop):
            reason, unreachable = DropReason.SITE_DOWN, Unreachable.NETWORK
        else:
            reason, unreachable = DropReason.NO_ROUTE, Unreachable.NETWORK
        passed = self._pass_to_gateway(arrival, facts) if hop is not None else None
        if passed is not None:
            return passed
        if self._explain:
            self._explain("record", f"none for {CustomerAddress(next_ca)}")
        notice = self._delivery.tell(
            arrival, facts, lambda sender: icmp.unreachable(sender, packet, facts, unreachable), now
        )
        return Drop(reason, domain.name, notice)

    def _switch(
        self, arrival: Arrival, facts: PacketFacts, source: LookupRecord | None, now: float
    ) -> Flow | Verdict:
        domain = arrival.entry.domain
        vsid = arrival.entry.vsid
        port = (vsid, MacAddress(arrival.destination_mac))
        record = self._record_of_mac(vsid, arrival.destination_mac, facts.destination)
        is_here = port in self.node.ports
        onward: Flow | Drop | None
        if record is not None and (not is_here or record.pa in self._ways.own):
            onward = self._towards(arrival, facts, record, source, routed=False)
        elif is_here:
            # A VM that has just come here may still have its record elsewhere, or none.
            sent = self._meter_of_source(domain, facts)
            onward = self._as_it_is(arrival, LocalPort(port), sent, self.meters[vsid])
        else:
            onward = self._pass_to_gateway(arrival, facts)
        if onward is None:
            unknown = DropReason.UNKNOWN_MAC if self._is_gateway_for(arrival) else DropReason.NOT_HERE
            return Drop(unknown, domain.name)
        if isinstance(onward, Drop):
            return onward
        refusal = self._permit(domain, facts, now)
        return onward if refusal is None else Drop(refusal, domain.name)

    def _record_of_mac(self, vsid: Vsid, mac: bytes, destination: bytes) -> LookupRecord | None:
        record = self.directory.find(vsid, destination)
        if record is not None and record.mac == mac:
            return record
        return next(iter(self.directory.find_by_mac(vsid, mac)), None)

    def _permit(self, domain: RoutingDomain, facts: PacketFacts, now: float) -> DropReason | None:
        """Judge a packet by the tenant's rules and its rate; return why it may not pass."""
        fragments = self._fragments.get(domain.name)
        if fragments is not None:
            if facts.is_later_fragment:
                allowed = fragments.recall(facts, now)
                if allowed is None:
                    return DropReason.ORPHAN_FRAGMENT
            else:
                ruling = domain.access.decide(facts)
                allowed = ruling.allowed
                if self._explain:
                    self._explain("access", ruling.reason)
                if facts.more_fragments:
                    fragments.remember(facts, allowed, now)
            if not allowed:
                return DropReason.ACCESS_DENIED
        elif self._explain:
            self._explain("access", domain.access.decide(facts).reason)
        bucket = self._buckets.get(domain.name)
        if bucket is not None and not bucket.take(facts.total_length, now):
            return DropReason.RATE_LIMITED
        return None

    def _towards(
        self,
        arrival: Arrival,
        facts: PacketFacts,
        record: LookupRecord,
        source: LookupRecord | None,
        *,
        routed: bool,
    ) -> Flow | Drop:
        """Make the flow that leads to a record's VM, wherever that is."""
        entry = arrival.entry
        target = self.tables.subnets[record.vsid]
        if self._explain:
            self._explain(
                "record", f"{record.ca} is {record.mac} at {record.pa} ({record.host or 'unnamed'})"
            )
        if routed:
            ethertype = ethernet.IPV4 if facts.version == 4 else ethernet.IPV6
            header = EthernetHeader(record.mac, target.gateway_mac, ethertype).encode()
        else:
            header = arrival.frame[: ethernet.HEADER_LENGTH]
        way = self._ways.to_record(arrival, facts, record)
        if isinstance(way, DropReason):
            return Drop(way, arrival.tenant)
        return Flow(
            arrived_in=entry,
            ethernet=header,
            routed=routed,
            way=way,
            sent=self._meter_of_source(entry.domain, facts),
            received=self.meters[record.vsid],
            bucket=self._buckets.get(arrival.tenant),
            source_record=source,
            # One found by its MAC alone decides only until its packet's address has a record of its own.
            destination_record=record if routed or record.ca == facts.destination else None,
        )

    def _pass_to_gateway(self, arrival: Arrival, facts: PacketFacts) -> Flow | None:
        """A host that cannot decide lets its gateway: the frame goes there as it is."""
        path = self._ways.to_gateway(arrival, facts)
        if path is None:
            return None
        if self._explain:
            self._explain("gateway", f"no record here: as it is to the gateway at {path.destination}")
        return self._as_it_is(arrival, path, self.meters[arrival.entry.vsid])

    def _as_it_is(
        self, arrival: Arrival, way: Way, sent: Meter | None, received: Meter | None = None
    ) -> Flow:
        return Flow(
            arrived_in=arrival.entry,
            ethernet=arrival.frame[: ethernet.HEADER_LENGTH],
            routed=False,
            way=way,
            sent=sent,
            received=received,
            bucket=None,
            source_record=None,
            destination_record=None,
        )

    def _meter_of_source(self, domain: RoutingDomain, facts: PacketFacts) -> Meter | None:
        hop = domain.routes.lookup(facts.source)
        return self.meters[hop.vsid] if isinstance(hop, SubnetHop) else None

    def _replicate(self, arrival: Arrival, facts: PacketFacts, packet: bytes, now: float) -> Verdict:
        """Carry broadcast and multicast to every node of the subnet, one by one (RFC 7637 section 4.2)."""
        entry = arrival.entry
        if not entry.broadcast:
            return Drop(DropReason.GROUP_NOT_ALLOWED, arrival.tenant)
        refusal = self._permit(entry.domain, facts, now)
        if refusal is not None:
            return Drop(refusal, arrival.tenant)
        emissions: list[Emission] = []
        dropped: Drop | None = None
        for way in self._ways.to_all(arrival, facts):
            flow = self._as_it_is(arrival, way, None)
            verdict = self._delivery.carry(flow, arrival, facts, packet, now)
            if isinstance(verdict, Drop):
                dropped = verdict
            else:
                emissions.extend(verdict.emissions)
        if not emissions:
            return dropped or Drop(DropReason.NO_RECORD, arrival.tenant)
        self.meters[entry.vsid].sent(facts.total_length)
        return Forward(tuple(emissions))


def _sender(arrival: Arrival, parsed: ArpPacket | PacketFacts) -> tuple[bytes, bytes]:
    """Who says that it sent a frame: a MAC and an IP address."""
    if isinstance(parsed, ArpPacket):
        return parsed.sender_mac, parsed.sender_address
    return arrival.source_mac, parsed.source


def _without_padding(frame: bytes, parsed: ArpPacket | PacketFacts) -> bytes:
    """Cut off what follows the packet: it would cross the underlay for nothing, or be too much for it."""
    length = arp.LENGTH if isinstance(parsed, ArpPacket) else parsed.total_length
    return frame[: ethernet.HEADER_LENGTH + length]


def _parse_untrusted(frame: bytes) -> ArpPacket | PacketFacts | DropReason:
    """Return what an Ethernet frame carries, or why it goes no further."""
    try:
        header = ethernet.decode_untrusted(frame)
        payload = frame[ethernet.HEADER_LENGTH :]
        if header.ethertype in _IP_VERSION:
            facts = ip.decode_untrusted(payload)
            return facts if facts.version == _IP_VERSION[header.ethertype] else DropReason.MALFORMED
        if header.ethertype == ethernet.ARP:
            return arp.decode_untrusted(payload)
    except MalformedPacket:
        return DropReason.MALFORMED
    if header.ethertype in (ethernet.VLAN, ethernet.QINQ):
        return DropReason.VLAN_TAGGED
    return DropReason.NOT_IP
