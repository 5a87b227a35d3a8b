"""The packet's way: one decision for each frame or packet, from wherever it came.

`Forwarder` takes it and the time, and returns what is to become of it. It
opens no socket and reads no clock. The fast path is a second implementation of
the same decisions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import msgspec

from gateway.forwarding.admission import Admission, admit, port_owns, site_owns
from gateway.forwarding.decisions import Decisions, Wait
from gateway.forwarding.delivery import Delivery
from gateway.forwarding.directory import Change, Directory, Put
from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.flows import (
    Flow,
    FlowCache,
    key_untrusted,
    known_packet_untrusted,
    known_site_packet_untrusted,
    site_key_untrusted,
)
from gateway.forwarding.happenings import Happening, Happenings
from gateway.forwarding.holding import Holding
from gateway.forwarding.metering import Meter
from gateway.forwarding.neighbours import announced_untrusted, question
from gateway.forwarding.node import Arrival, Explain, Node, SiteArrival
from gateway.forwarding.notices import Notices
from gateway.forwarding.permission import Permission
from gateway.forwarding.pmtu import PathMtu
from gateway.forwarding.redirects import Redirects
from gateway.forwarding.residence import Residence
from gateway.forwarding.sites import Sites
from gateway.forwarding.verdicts import Drop, Emission, Forward, OuterHeader, PortKey, ToPort, Verdict
from gateway.forwarding.ways import Tunnel, Ways
from gateway.packets import arp, ethernet, ip, nvgre
from gateway.packets.arp import ArpPacket
from gateway.packets.nvgre import NotNvgre
from policies.addresses import CustomerAddress, MacAddress, Vsid
from policies.errors import MalformedPacket
from policies.facts import PacketFacts
from policies.model import LookupRecord, Port
from policies.selectors import Selectors
from policies.tables import SubnetEntry, Tables
from tunnels.effects import SiteKey

_NOT_ECT, _CE = 0, 3
_RARP = ethernet.RARP.to_bytes(2)


class Forwarder:
    """The pipeline of one node and the state that it keeps, all of it bounded."""

    def __init__(
        self, node: Node, tables: Tables, directory: Directory, *, explain: Explain | None = None
    ) -> None:
        self.node = node
        self.directory = directory
        self.drops = Drops()
        self.sources_elsewhere: Counter[str] = Counter()
        self.notices = Notices()
        self.paths = PathMtu(node.underlay_mtu)
        self.sites = Sites()
        self.meters: dict[Vsid, Meter] = {}
        """What each virtual subnet sent and received."""
        self.site_meters: dict[SiteKey, Meter] = {}
        """What each site sent and received through its tunnel here."""
        self.port_mtus: dict[PortKey, int] = {}
        """Of the VMs' interfaces, in octets of the IP packet, as far as they are known."""
        self.holding = Holding()
        """Frames that wait for a VM's port."""
        self.redirects = Redirects()
        self._happenings = Happenings()
        self.residence = Residence(
            frozenset[bytes](node.provider_addresses), directory, self._happenings, self._forget_flows
        )
        self._explain = explain
        self._permission: Permission | None = None
        self.replace_tables(tables, node.ports)

    @property
    def on_happening(self) -> Callable[[Happening], None] | None:
        """Called with what others should act on. It must be quick, and not raise."""
        return self._happenings.on_happening

    @on_happening.setter
    def on_happening(self, listener: Callable[[Happening], None] | None) -> None:
        self._happenings.on_happening = listener

    def replace_tables(self, tables: Tables, ports: Mapping[PortKey, Port] | None = None) -> None:
        """Decide by other tables from now on, and for other VM ports where some are given.

        What was decided by the old ones is forgotten. What was learned and counted
        stays, for tenants, subnets, sites and ports that are still there.
        """
        self.tables = tables
        if ports is not None:
            self.node = msgspec.structs.replace(self.node, ports=dict(ports))
            self.residence.replace_ports(self.node.ports)
        self.meters = {vsid: self.meters.get(vsid) or Meter() for vsid in tables.subnets}
        self.site_meters = {
            key: self.site_meters.get(key) or Meter()
            for domain in tables.domains.values()
            for key in ((domain.name, site) for site in domain.site_gateways)
        }
        self.sites.keep_only(self.site_meters)
        self._permission = Permission(tables, self._explain, self._permission)
        ways = Ways(self.node, tables, self.directory, self.residence)
        self._ways = ways
        self._delivery = Delivery(ways, self.paths, self.sites, self.port_mtus, self.notices, self._explain)
        self.decisions = Decisions(
            self.node,
            tables,
            self.directory,
            self._delivery,
            ways,
            self.sites,
            self.meters,
            self.site_meters,
            self._permission,
            self.redirects,
            self._happenings,
            self._explain,
        )
        self._forget_flows()
        self._site_arrivals = _site_arrivals(tables, ways, self.site_meters)

    def apply(self, changes: Iterable[Change], now: float) -> tuple[Emission, ...]:
        """Change records, and return what is to be sent because of that: frames that have waited for it."""
        touched: dict[PortKey, None] = {}
        for change in changes:
            if isinstance(change, Put):
                new: LookupRecord | None = change.record
                vsid, ca = change.record.vsid, change.record.ca
            else:
                new, vsid, ca = None, change.vsid, CustomerAddress(change.ca)
            old = self.directory.find(vsid, ca)
            self.directory.apply(change)
            self._heed(vsid, ca, old, new, now)
            for record in (old, new):
                if record is not None and (vsid, record.mac) in self.holding:
                    touched[vsid, record.mac] = None
        return tuple(emission for port in touched for emission in self._release(port, now))

    def port_opened(self, port: PortKey, now: float) -> tuple[Emission, ...]:
        """Take note that a VM's interface is there and up; return what has waited for it, in order."""
        self.residence.port_opened(port)
        emissions = []
        for held in self.holding.take(port):
            if held.deadline <= now:
                self.drops.count(DropReason.HOLD_EXPIRED, held.emission.tenant)
            else:
                emissions.append(held.emission)
        return tuple(emissions)

    def port_closed(self, port: PortKey, _now: float) -> None:
        """Take note that a VM's interface has gone or is down. Frames for it are to be given to `hold`."""
        self.residence.port_closed(port)

    def hold(self, emission: ToPort, now: float) -> None:
        """Have a frame wait that cannot be given to its port now.

        Not one for a group: it was sent to all hosts, and must not reach a VM twice that moves.
        """
        if emission.frame[0] & 1:
            self.drops.count(DropReason.NOT_HERE, emission.tenant)
        elif not self.holding.add(emission, now):
            self.drops.count(DropReason.HOLD_FULL, emission.tenant)

    def expire(self, now: float) -> tuple[Emission, ...]:
        """Let go of what has waited too long, and of redirects that are over. Call it every 100 ms or so.

        Returns what is to be sent because of that: by now the directories agree on where it goes.
        """
        emissions: list[Emission] = []
        for frame in self.holding.expired(now):
            verdict = self.decisions.release(frame, Wait.IN_VAIN, now)
            if verdict is None:
                self.drops.count(DropReason.HOLD_EXPIRED, frame.tenant)
            else:
                emissions.extend(self._counted(verdict).emissions)
        self.redirects.expire(now)
        return tuple(emissions)

    def probe(self, port: PortKey, ca: CustomerAddress) -> Emission | None:
        """Return what makes a VM say that it has an address: a question from its subnet's gateway.

        None where there is no such virtual subnet now.
        """
        entry = self.tables.subnets.get(port[0])
        if entry is None:
            return None
        return ToPort(port, question(entry, port[1], ca), entry.domain.name)

    def advertise_router(self, port: PortKey, now: float) -> ToPort | None:
        """Return what tells a VM of its IPv6 router, which it forgets unless it is told again.

        None where there is no such virtual subnet now, or none that advertises.
        """
        entry = self.tables.subnets.get(port[0])
        return self.decisions.guests.advertise_router(entry, port, now) if entry is not None else None

    def from_underlay(self, outer: OuterHeader, payload: bytes, now: float) -> Verdict:
        """Decide an NVGRE packet: `payload` is what follows the outer IP header, GRE first."""
        key = key_untrusted(outer.source, payload)
        if key is not None and self._explain is None:
            flow = self.flows.find(key, self.directory, self.sites)
            if flow is not None:
                known = known_packet_untrusted(payload)
                verdict = self._delivery.carry_known_untrusted(flow, outer, outer.ecn, known, now)
                if verdict is not None:
                    return self._counted(verdict)
        return self._counted(self._from_underlay(outer, payload, key, now))

    def from_site(
        self, site: SiteKey, packet: bytes, selectors: Selectors, outer_ecn: int, now: float
    ) -> Verdict:
        """Decide an IP packet, with or without padding, that has come through a site's tunnel.

        `selectors` are those of the child SA that it came by; give the same object
        for each packet of one SA.
        """
        arrival = self._site_arrivals.get(site)
        if arrival is None:
            return self._counted(Drop(DropReason.SITE_DOWN, site[0]))
        key = site_key_untrusted(arrival.origin, packet)
        if key is not None and self._explain is None:
            flow = self.flows.find(key, self.directory, self.sites)
            if flow is not None and flow.admitted_by is selectors:
                known = known_site_packet_untrusted(packet)
                verdict = self._delivery.carry_known_untrusted(flow, None, outer_ecn, known, now)
                if verdict is not None:
                    return self._counted(verdict)
        return self._counted(self._from_site(arrival, packet, selectors, outer_ecn, key, now))

    def from_port(self, port: PortKey, frame: bytes, now: float) -> Verdict:
        """Decide a frame that a VM sent at its port."""
        return self._counted(self._from_port(port, frame, now))

    def may_admit(self, outer: OuterHeader, payload: bytes) -> bool:
        """Whether a packet comes from a node of its VSID's tenant: a look before any work on it."""
        entry = self.tables.subnets.get(Vsid(int.from_bytes(payload[4:7])))
        return entry is not None and (
            outer.source in entry.domain.host_addresses
            or outer.source in entry.domain.gateway_provider_addresses
        )

    def path_mtu_reported(self, destination: bytes, vsid: int, mtu: int, now: float) -> bool:
        """Heed what the underlay says of the path to a provider address, if it is plausible.

        `vsid` is that of the packet which the report quotes: who forges one has to
        know a VSID that is in use (RFC 5927 section 4.1 asks for such a check).
        """
        known = Vsid(vsid) in self.tables.subnets
        return known and self.paths.report(destination, mtu, now, self.tables.members)

    def port_mtu_is(self, port: PortKey, mtu: int) -> None:
        """Take note of what a VM's interface carries, in octets of the IP packet."""
        self.port_mtus[port] = mtu

    def _heed(
        self,
        vsid: Vsid,
        ca: CustomerAddress,
        old: LookupRecord | None,
        new: LookupRecord | None,
        now: float,
    ) -> None:
        """Take note of a record that has come here, or left."""
        own = self._ways.own
        was_here = old is not None and old.pa in own
        if new is None or new.pa in own:
            self.redirects.forget(vsid, ca)
        elif old is not None and was_here and new.revision > old.revision:
            self.redirects.left(new, now)
        if old is not None and not was_here and (vsid, old.mac) in self.node.ports:
            self.redirects.came((vsid, old.mac), old.host, now)
        self.residence.record_changed(vsid, ca, *(each.mac for each in (old, new) if each is not None))

    def _release(self, port: PortKey, now: float) -> list[Emission]:
        """Send on those of a port's waiting frames whose VM is elsewhere by now."""
        emissions: list[Emission] = []
        waiting = []
        for held in self.holding.take(port):
            verdict = self.decisions.release(held.emission, Wait.RECORD_CAME, now)
            if verdict is None:
                waiting.append(held)
            else:
                emissions.extend(self._counted(verdict).emissions)
        self.holding.put_back(port, waiting)
        return emissions

    def _forget_flows(self) -> None:
        self.flows = FlowCache()

    def _counted(self, verdict: Verdict) -> Verdict:
        if isinstance(verdict, Drop):
            self.drops.count(verdict.reason, verdict.tenant)
        elif isinstance(verdict, Forward) and verdict.lost:
            for reason in verdict.lost:
                self.drops.count(reason, verdict.emissions[0].tenant)
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
        if admission is Admission.OF_A_GATEWAY and not self._is_sent_on(arrival, outer, now):
            admission = Admission.REFUSED
        if admission is Admission.REFUSED or sender_mac[0] & 1:
            return Drop(DropReason.SPOOFED_SOURCE, tenant)
        if admission is Admission.ELSEWHERE and record is not None:
            self.sources_elsewhere[tenant] += 1
        if isinstance(parsed, ArpPacket):
            return self.decisions.neighbours.arp(arrival, parsed)
        packet = arrival.frame[ethernet.HEADER_LENGTH :]
        ecn = _ecn_on_arrival(parsed.traffic_class & 3, outer.ecn)
        if ecn is None:
            return Drop(DropReason.CONGESTION, tenant)
        if ecn != parsed.traffic_class & 3:
            packet = ip.with_ecn(packet, ecn)
            parsed = ip.decode_untrusted(packet)
        decision = self.decisions.decide(arrival, parsed, packet, record, now)
        if not isinstance(decision, Flow):
            return decision
        if key is not None and admission is Admission.ADMITTED and record and _ends_the_way(decision):
            self.flows.remember(key, decision)
        return self._delivery.carry(decision, arrival, parsed, packet, now)

    def _is_sent_on(self, arrival: Arrival, outer: OuterHeader, now: float) -> bool:
        """Whether a frame may have been sent on here: by a host that has, or has had, the VM it is for."""
        port = arrival.entry.vsid, MacAddress(arrival.destination_mac)
        if port not in self.node.ports:
            return False
        hosts = {record.host for record in self.directory.find_by_mac(*port)}
        hosts.update(self.redirects.holders(port, now))
        return any(outer.source in self.tables.provider_addresses_of.get(host, ()) for host in hosts)

    def _from_site(
        self,
        arrival: SiteArrival,
        packet: bytes,
        selectors: Selectors,
        outer_ecn: int,
        key: bytes | None,
        now: float,
    ) -> Verdict:
        tenant, site = arrival.site
        if self._explain:
            self._explain("site", f"from {site} of tenant {tenant}")
        try:
            facts = ip.decode_untrusted(packet)
        except MalformedPacket:
            return Drop(DropReason.MALFORMED, tenant)
        if not selectors.admit_inbound(facts):
            return Drop(DropReason.SELECTOR_MISMATCH, tenant)
        is_own = site_owns(arrival.domain, site, facts.source)
        if self._explain:
            self._explain(
                "source",
                f"{CustomerAddress(facts.source)} is {'' if is_own else 'not '}where routes lead to {site}",
            )
        if not is_own:
            return Drop(DropReason.SPOOFED_SOURCE, tenant)
        packet = packet[: facts.total_length]
        ecn = _ecn_on_arrival(facts.traffic_class & 3, outer_ecn)
        if ecn is None:
            return Drop(DropReason.CONGESTION, tenant)
        if ecn != facts.traffic_class & 3:
            packet = ip.with_ecn(packet, ecn)
            facts = ip.decode_untrusted(packet)
        decision = self.decisions.decide_from_site(arrival, facts, packet, now)
        if not isinstance(decision, Flow):
            return decision
        if key is not None and _ends_the_way(decision):
            self.flows.remember(key, msgspec.structs.replace(decision, admitted_by=selectors))
        return self._delivery.carry(decision, arrival, facts, packet, now)

    def _from_port(self, port_key: PortKey, frame: bytes, now: float) -> Verdict:
        port = self.node.ports.get(port_key)
        entry = self.tables.subnets.get(port_key[0])
        if port is None or entry is None:
            return Drop(DropReason.UNKNOWN_VSID)
        tenant = entry.domain.name
        if self._explain:
            self._explain("port", f"{port.interface}: VSID {entry.vsid}, {entry.name} of tenant {tenant}")
        parsed = _parse_untrusted(frame)
        if parsed is DropReason.NOT_IP and frame[12:14] == _RARP:
            return self._reverse_arp(port_key, entry, frame, now)
        if isinstance(parsed, DropReason):
            return Drop(parsed, tenant)
        arrival = Arrival(entry, _without_padding(frame, parsed), port=port_key)
        sender_mac, source = _sender(arrival, parsed)
        if sender_mac != port.mac or not port_owns(
            port, entry.domain, arrival.source_mac, source, to_group=arrival.is_to_group
        ):
            return Drop(DropReason.SPOOFED_SOURCE, tenant)
        packet = arrival.frame[ethernet.HEADER_LENGTH :]
        announced = announced_untrusted(port, parsed, packet)
        if port_key in self.residence.away:
            self.residence.heard(port_key, announced or source, announced is not None, now)
        if announced is not None:
            return self.decisions.neighbours.announcement(arrival, parsed)
        if isinstance(parsed, ArpPacket):
            return self.decisions.neighbours.arp(arrival, parsed)
        decision = self.decisions.decide(arrival, parsed, packet, None, now)
        if not isinstance(decision, Flow):
            return decision
        return self._delivery.carry(decision, arrival, parsed, packet, now)

    def _reverse_arp(self, port_key: PortKey, entry: SubnetEntry, frame: bytes, now: float) -> Drop:
        """Hear what a hypervisor says for a VM that it has taken over: which MAC it has, and no address."""
        tenant = entry.domain.name
        try:
            packet = arp.decode_untrusted(frame[ethernet.HEADER_LENGTH :])
        except MalformedPacket:
            return Drop(DropReason.MALFORMED, tenant)
        mac = port_key[1]
        if not frame[6:12] == packet.sender_mac == packet.target_mac == mac:
            return Drop(DropReason.SPOOFED_SOURCE, tenant)
        if port_key in self.residence.away:
            self.residence.heard(port_key, b"", True, now)
        return Drop(DropReason.ANNOUNCEMENT, tenant)


def _site_arrivals(tables: Tables, ways: Ways, meters: Mapping[SiteKey, Meter]) -> dict[SiteKey, SiteArrival]:
    """Where packets may come in from the sites that this node dials."""
    subnets: dict[str, list[SubnetEntry]] = {name: [] for name in tables.domains}
    for entry in tables.subnets.values():
        subnets[entry.domain.name].append(entry)
    return {
        (tenant, site): SiteArrival(
            domain=tables.domains[tenant],
            site=(tenant, site),
            origin=number.to_bytes(4),
            meter=meter,
            subnets=tuple(subnets[tenant]),
        )
        for number, ((tenant, site), meter) in enumerate(meters.items())
        if ways.dials(tables.domains[tenant], site)
    }


def _ends_the_way(flow: Flow) -> bool:
    """Whether a flow leads to where its packets are for, so that what it rests on can be seen to change."""
    return flow.destination_record is not None or isinstance(flow.way, Tunnel)


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
        if header.ethertype in (ethernet.IPV4, ethernet.IPV6):
            facts = ip.decode_untrusted(payload)
            belongs = header.ethertype == ethernet.OF_IP_VERSION[facts.version]
            return facts if belongs else DropReason.MALFORMED
        if header.ethertype == ethernet.ARP:
            return arp.decode_untrusted(payload)
    except MalformedPacket:
        return DropReason.MALFORMED
    if header.ethertype in (ethernet.VLAN, ethernet.QINQ):
        return DropReason.VLAN_TAGGED
    return DropReason.NOT_IP


def _ecn_on_arrival(inner: int, outer: int) -> int | None:
    """Combine the ECN fields of both headers, or None for a packet to be dropped (RFC 6040 section 4.2)."""
    if outer == _CE:
        return None if inner == _NOT_ECT else _CE
    if outer == 1 and inner == 2:
        return 1
    return inner
