"""The packet's way: one decision for each frame or packet, from wherever it came.

`Forwarder` takes it and the time, and returns what is to become of it. It
opens no socket and reads no clock. The fast path is a second implementation of
the same decisions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from gateway.forwarding.admission import Admission, admit, port_owns, site_owns
from gateway.forwarding.decisions import Decisions
from gateway.forwarding.delivery import Delivery
from gateway.forwarding.directory import Change, Directory, Holder, Put, PutLease
from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.flows import (
    REWRITTEN,
    Flow,
    FlowCache,
    key_untrusted,
    known_packet_untrusted,
    known_site_packet_untrusted,
    site_key_untrusted,
)
from gateway.forwarding.frames import (
    ecn_on_arrival,
    is_about_neighbours,
    parse_untrusted,
    sender,
    without_padding,
)
from gateway.forwarding.happenings import Happenings
from gateway.forwarding.metering import Meter
from gateway.forwarding.moves import Moves
from gateway.forwarding.neighbours import announced_untrusted, question
from gateway.forwarding.node import Arrival, Explain, Node, SiteArrival
from gateway.forwarding.notices import Notices
from gateway.forwarding.permission import Permission
from gateway.forwarding.pmtu import PathMtu
from gateway.forwarding.rewritten import Arrived, Rewritten
from gateway.forwarding.sites import Sites
from gateway.forwarding.translations import Translations
from gateway.forwarding.verdicts import (
    Awaited,
    Drop,
    Emission,
    Held,
    OuterHeader,
    PortKey,
    ToPort,
    Verdict,
    counted,
)
from gateway.forwarding.waiting import PATIENCE, Waiter, Waiting
from gateway.forwarding.ways import Tunnel, Ways
from gateway.packets import arp, ethernet, ip, nvgre
from gateway.packets.arp import ArpPacket
from gateway.packets.nvgre import NotNvgre
from gateway.packets.rewriting import rewritten
from policies.addresses import CustomerAddress, Vsid
from policies.errors import MalformedPacket
from policies.model import Lease, Port
from policies.selectors import Selectors
from policies.tables import RoutingDomain, SubnetEntry, Tables
from tunnels.effects import SiteKey

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
        self.happenings = Happenings()
        self.moves = Moves(
            node.holds,
            directory,
            self.drops,
            self.happenings,
            self._forget_flows,
        )
        self.waiting = Waiting()
        """Packets that wait for a provider address."""
        self._explain = explain
        self._permission: Permission | None = None
        self.tables = tables
        self.replace_tables(tables, node.ports)

    def replace_tables(self, tables: Tables, ports: Mapping[PortKey, Port] | None = None) -> None:
        """Decide by other tables from now on, and for other VM ports where some are given.

        What was decided by the old ones is forgotten. What was learned and counted
        stays, for tenants, subnets, sites and ports that are still there.
        """
        owners = {vsid: entry.domain.name for vsid, entry in self.tables.subnets.items()}
        self.tables = tables
        if ports is not None:
            self.node = msgspec.structs.replace(self.node, ports=dict(ports))
            self.moves.residence.replace_ports(self.node.ports)
            for gone in self.port_mtus.keys() - ports.keys():
                del self.port_mtus[gone]
        # A VSID that goes from one tenant to another leaves its counts behind.
        self.meters = {
            vsid: (self.meters.get(vsid) if owners.get(vsid) == entry.domain.name else None) or Meter()
            for vsid, entry in tables.subnets.items()
        }
        self.site_meters = {
            key: self.site_meters.get(key) or Meter()
            for domain in tables.domains.values()
            for key in ((domain.name, site) for site in domain.site_gateways)
        }
        self.sites.keep_only(self.site_meters)
        self.notices.keep_only(tables.domains)
        self._permission = Permission(tables, self._explain, self._permission)
        self.translations = Translations(self.node, tables, self.directory, self.moves.formers)
        ways = Ways(self.node, tables, self.directory, self.moves.residence, self.translations)
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
            self.moves.redirects,
            self.happenings,
            self.waiting,
            self._explain,
        )
        self._rewritten = Rewritten(
            self.node, tables, self.directory, self.translations, self.paths, self._explain
        )
        self.moves.decide_by(tables, self.node.ports, self.decisions.onward)
        self._forget_flows()
        self._site_arrivals = _site_arrivals(tables, ways, self.site_meters)

    def aside(self, tenant: RoutingDomain, explain: Explain) -> Forwarder:
        """Return a forwarder that decides one tenant's packets as this one now would, and says why.

        It is for one look: what it does changes nothing here, and what changes here later it need not
        know. To make it costs what the tenant is large, however many others there are.
        """
        subnets = {vsid: self.tables.subnets[vsid] for vsid in tenant.vsids}
        tables = msgspec.structs.replace(self.tables, subnets=subnets, domains={tenant.name: tenant})
        ports = {key: port for key, port in self.node.ports.items() if key[0] in tenant.vsids}
        node = msgspec.structs.replace(self.node, ports=ports)
        aside = Forwarder(node, tables, self.directory.view(), explain=explain)
        aside.paths.take_over(self.paths)
        aside.port_mtus.update(self.port_mtus)
        aside.moves.take_over(self.moves)
        for site in tenant.site_gateways:
            state = self.sites.find((tenant.name, site))
            if state is not None:
                aside.sites.site_is_up((tenant.name, site), state.mtu, state.selectors)
        return aside

    def probe(self, port: PortKey, ca: CustomerAddress) -> ToPort | None:
        """Return what makes a VM say that it has an address: a question from its subnet's gateway.

        None where there is no such virtual subnet now.
        """
        entry = self.tables.subnets.get(port[0])
        if entry is None:
            return None
        return ToPort(port, question(entry, port[1], ca), entry.domain.name)

    def advertise_router(self, port: PortKey, now: float) -> ToPort | None:
        """Return what tells a VM of its IPv6 router, which it forgets unless it is told again.

        None where there is no such virtual subnet now, or none that advertises, or where the VM is not at
        its port: the frame would wait for it there, and then follow it to where it is advertised already.
        """
        entry = self.tables.subnets.get(port[0])
        if entry is None or self.moves.residence.is_closed(port):
            return None
        return self.decisions.guests.advertise_router(entry, port, now)

    def from_underlay(self, outer: OuterHeader, payload: bytes, now: float) -> Verdict:
        """Decide an NVGRE packet: `payload` is what follows the outer IP header, GRE first."""
        key = key_untrusted(outer.source, payload)
        if key is not None and self._explain is None:
            flow = self.flows.find(key, self.directory, self.sites)
            if flow is not None:
                known = known_packet_untrusted(payload)
                verdict = self._delivery.carry_known_untrusted(flow, outer, outer.ecn, known, now)
                if verdict is not None:
                    return counted(verdict, self.drops)
        return self._settled(lambda at: self._from_underlay(outer, payload, key, at), now)

    def from_site(
        self, site: SiteKey, packet: bytes, selectors: Selectors, outer_ecn: int, now: float
    ) -> Verdict:
        """Decide an IP packet, with or without padding, that has come through a site's tunnel.

        `selectors` are those of the child SA that it came by; give the same object
        for each packet of one SA.
        """
        arrival = self._site_arrivals.get(site)
        if arrival is None:
            return counted(Drop(DropReason.SITE_DOWN, site[0]), self.drops)
        key = site_key_untrusted(arrival.origin, packet)
        if key is not None and self._explain is None:
            flow = self.flows.find(key, self.directory, self.sites)
            if flow is not None and flow.admitted_by is selectors:
                known = known_site_packet_untrusted(packet)
                verdict = self._delivery.carry_known_untrusted(flow, None, outer_ecn, known, now)
                if verdict is not None:
                    return counted(verdict, self.drops)
        return self._settled(lambda at: self._from_site(arrival, packet, selectors, outer_ecn, key, at), now)

    def from_port(self, port: PortKey, frame: bytes, now: float) -> Verdict:
        """Decide a frame that a VM sent at its port."""
        return self._settled(lambda at: self._from_port(port, frame, at), now)

    def from_provider(self, packet: bytes, now: float) -> Verdict:
        """Decide a rewritten packet: one to a provider address of a pool of ours, with or without padding."""
        key = site_key_untrusted(REWRITTEN, packet)
        if key is not None and self._explain is None:
            flow = self.flows.find(key, self.directory, self.sites)
            if flow is not None and flow.came is not None:
                whole, traffic_class, hop_limit = known_site_packet_untrusted(packet)
                customers = rewritten(whole, flow.came.sender.ca, flow.came.receiver.ca)
                known = customers, traffic_class, hop_limit
                verdict = self._delivery.carry_known_untrusted(flow, flow.came.outer, 0, known, now)
                if verdict is not None:
                    self._note_use(flow.came.receiver)
                    return counted(verdict, self.drops)
        return self._settled(lambda at: self._from_provider(packet, key, at), now)

    def apply(self, changes: Sequence[Change], now: float) -> tuple[Emission, ...]:
        """Take changes of records and leases over, and return what is to be sent because of that."""
        emissions = self.moves.apply(changes, now)
        if not len(self.waiting):
            return emissions
        return emissions + tuple(
            emission
            for wanted in dict.fromkeys(each for change in changes for each in _what_comes(change))
            for emission in self._decide_anew(self.waiting.take(wanted), now)
        )

    def refuse(self, vsid: Vsid, ca: CustomerAddress, now: float) -> tuple[Emission, ...]:
        """Hear that a CA gets no provider address for now, and return what its senders are told."""
        return tuple(self._decide_anew(self.waiting.refuse((vsid, ca), now), now))

    def expire(self, now: float) -> tuple[Emission, ...]:
        """Let go of what has waited too long. Call it every 100 ms or so, and send what it returns."""
        for waiter in self.waiting.expired(now):
            is_for_ca = isinstance(waiter.wanted, tuple)
            reason = DropReason.NO_LEASE if is_for_ca else DropReason.UNKNOWN_PROVIDER_ADDRESS
            self.drops.count(reason, waiter.tenant)
        return self.moves.expire(now)

    def answers_for(self, pa: bytes, now: float) -> bool:
        """Whether a provider address of a pool is to be found here, for whoever asks for it on the link."""
        return self.translations.is_ours(pa, now)

    def take_used_leases(self) -> set[bytes]:
        """Return the leased addresses that packets have come to or gone from since this was last asked."""
        used, self._delivery.used_leases = self._delivery.used_leases, set()
        return used

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

    def _forget_flows(self) -> None:
        self.flows = FlowCache()

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
        parsed = parse_untrusted(frame)
        if isinstance(parsed, DropReason):
            return Drop(parsed, tenant)
        arrival = Arrival(entry, without_padding(frame, parsed), outer=outer)
        sender_mac, source = sender(arrival, parsed)
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
        if admission is Admission.OF_A_GATEWAY and not self.moves.is_sent_on(arrival, outer, now):
            admission = Admission.REFUSED
        if admission is Admission.REFUSED or sender_mac[0] & 1:
            return Drop(DropReason.SPOOFED_SOURCE, tenant)
        if admission is Admission.ELSEWHERE and record is not None:
            self.sources_elsewhere[tenant] += 1
        if isinstance(parsed, ArpPacket):
            return self.decisions.neighbours.arp(arrival, parsed)
        packet = arrival.frame[ethernet.HEADER_LENGTH :]
        ecn = ecn_on_arrival(parsed.traffic_class & 3, outer.ecn)
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

    def _from_provider(self, packet: bytes, key: bytes | None, now: float) -> Verdict:
        came = self._rewritten.read_untrusted(packet, now)
        if not isinstance(came, Arrived):
            return came
        decision = self.decisions.decide(came.arrival, came.facts, came.packet, came.source, now)
        if not isinstance(decision, Flow):
            return decision
        self._note_use(came.came.receiver)
        if key is not None and _ends_the_way(decision):
            self.flows.remember(key, msgspec.structs.replace(decision, came=came.came))
        return self._delivery.carry(decision, came.arrival, came.facts, came.packet, now)

    def _note_use(self, receiver: Holder) -> None:
        if isinstance(receiver, Lease):
            self._delivery.used_leases.add(receiver.pa)

    def _settled(
        self, decide: Callable[[float], Verdict], now: float, deadline: float | None = None
    ) -> Verdict:
        """Decide a packet, and count what that loses. Where it has to wait, see that it does."""
        verdict = decide(now)
        if isinstance(verdict, Held):
            until = now + PATIENCE if deadline is None else deadline
            if self._explain is None and not self.waiting.add(
                Waiter(verdict.wanted, verdict.tenant, decide, until)
            ):
                verdict = Drop(DropReason.NO_LEASE, verdict.tenant)
        return counted(verdict, self.drops)

    def _decide_anew(self, waiters: Iterable[Waiter], now: float) -> list[Emission]:
        emissions: list[Emission] = []
        for waiter in waiters:
            emissions.extend(self._settled(waiter.decide, now, waiter.deadline).emissions)
        return emissions

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
        ecn = ecn_on_arrival(facts.traffic_class & 3, outer_ecn)
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
        parsed = parse_untrusted(frame)
        if parsed is DropReason.NOT_IP and frame[12:14] == _RARP:
            return self._reverse_arp(port_key, entry, frame, now)
        if isinstance(parsed, DropReason):
            return Drop(parsed, tenant)
        arrival = Arrival(entry, without_padding(frame, parsed), port=port_key)
        sender_mac, source = sender(arrival, parsed)
        owned = port_owns(
            port,
            entry.domain,
            arrival.source_mac,
            source,
            to_group=arrival.is_to_group,
            on_link=is_about_neighbours(parsed),
        )
        if sender_mac != port.mac or not owned:
            return Drop(DropReason.SPOOFED_SOURCE, tenant)
        packet = arrival.frame[ethernet.HEADER_LENGTH :]
        announced = announced_untrusted(port, parsed, packet)
        if port_key in self.moves.residence.away:
            self.moves.residence.heard(port_key, announced or source, announced is not None, now)
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
        if port_key in self.moves.residence.away:
            self.moves.residence.heard(port_key, b"", True, now)
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


def _what_comes(change: Change) -> tuple[Awaited, ...]:
    """What packets may have waited for that a change brings."""
    match change:
        case Put(record):
            return (record.vsid, record.ca), record.pa
        case PutLease(lease):
            return (lease.vsid, lease.ca), lease.pa
        case _:
            return ()


def _ends_the_way(flow: Flow) -> bool:
    """Whether a flow leads to where its packets are for, so that what it rests on can be seen to change."""
    return flow.destination_record is not None or isinstance(flow.way, Tunnel)
