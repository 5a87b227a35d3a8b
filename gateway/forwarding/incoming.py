"""What has come in, read: by whom it was sent, and whether it may have been.

Wherever a packet comes from, whoever decides it sees it in one form: who sent it is admitted, its ECN field
is as the underlay left it, and nothing follows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from gateway.forwarding.admission import Admission, admit, may_send, port_owns, site_owns
from gateway.forwarding.decisions import Decisions
from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason
from gateway.forwarding.flows import Came
from gateway.forwarding.frames import (
    ecn_on_arrival,
    is_about_neighbours,
    parse_untrusted,
    sender,
    without_padding,
)
from gateway.forwarding.metering import Meter
from gateway.forwarding.moves import Moves
from gateway.forwarding.neighbours import announced_untrusted
from gateway.forwarding.node import Arrival, Explain, Node, Origin, SiteArrival
from gateway.forwarding.verdicts import Drop, OuterHeader, PortKey, Verdict
from gateway.forwarding.ways import Ways
from gateway.packets import arp, ethernet, ip, nvgre
from gateway.packets.arp import ArpPacket
from gateway.packets.nvgre import NotNvgre
from policies.addresses import CustomerAddress, Vsid
from policies.errors import MalformedPacket
from policies.facts import PacketFacts
from policies.model import LookupRecord
from policies.selectors import Selectors
from policies.tables import SubnetEntry, Tables
from tunnels.effects import SiteKey

_RARP = ethernet.RARP.to_bytes(2)


class Arrived(msgspec.Struct, frozen=True, eq=False):
    """A tenant's packet whose source has been admitted."""

    arrival: Origin
    facts: PacketFacts
    packet: bytes
    source: LookupRecord | None = None
    is_settled: bool = False
    """Whether all packets of its flow are admitted as it was, for as long as its records stand."""
    admitted_by: Selectors | None = None
    came: Came | None = None


class Incoming:
    """Reads what comes in at one node. ARP and such, which nobody routes, is decided at once."""

    def __init__(
        self,
        node: Node,
        tables: Tables,
        directory: Directory,
        ways: Ways,
        moves: Moves,
        decisions: Decisions,
        site_meters: Mapping[SiteKey, Meter],
        sources_elsewhere: Counter[str],
        explain: Explain | None = None,
    ) -> None:
        self.site_arrivals = _site_arrivals(tables, ways, site_meters)
        """Where packets may come in from the sites that this node dials."""
        self._node = node
        self._tables = tables
        self._directory = directory
        self._ways = ways
        self._moves = moves
        self._decisions = decisions
        self._sources_elsewhere = sources_elsewhere
        self._explain = explain

    def from_underlay_untrusted(self, outer: OuterHeader, payload: bytes, now: float) -> Arrived | Verdict:
        """Read an NVGRE packet: `payload` is what follows the outer IP header, GRE first."""
        if outer.source in self._ways.own:
            return Drop(DropReason.LOOP)
        try:
            header = nvgre.decode_untrusted(payload)
        except NotNvgre:
            return Drop(DropReason.NOT_NVGRE)
        except MalformedPacket:
            return Drop(DropReason.MALFORMED)
        entry = self._tables.subnets.get(Vsid(header.vsid))
        if entry is None:
            return Drop(DropReason.UNKNOWN_VSID)
        tenant = entry.domain.name
        if self._explain:
            self._explain("virtual subnet", f"VSID {entry.vsid} is {entry.name} of tenant {tenant}")
        if not may_send(entry.domain, outer.source):
            if self._explain:
                self._explain(
                    "source", f"{CustomerAddress(outer.source)} is no host or gateway of the tenant's"
                )
            return Drop(DropReason.SPOOFED_SOURCE, tenant)
        frame = payload[nvgre.HEADER_LENGTH :]
        parsed = parse_untrusted(frame)
        if isinstance(parsed, DropReason):
            return Drop(parsed, tenant)
        arrival = Arrival(entry, without_padding(frame, parsed), outer=outer)
        sender_mac, source = sender(arrival, parsed)
        admission, record = admit(
            entry.domain,
            self._tables,
            self._directory,
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
        if admission is Admission.OF_A_GATEWAY and not self._moves.is_sent_on(arrival, outer, now):
            admission = Admission.REFUSED
        if admission is Admission.REFUSED or sender_mac[0] & 1:
            return Drop(DropReason.SPOOFED_SOURCE, tenant)
        if admission is Admission.ELSEWHERE and record is not None:
            self._sources_elsewhere[tenant] += 1
        if isinstance(parsed, ArpPacket):
            return self._decisions.neighbours.arp(arrival, parsed, now)
        packet = arrival.frame[ethernet.HEADER_LENGTH :]
        ecn = ecn_on_arrival(parsed.traffic_class & 3, outer.ecn)
        if ecn is None:
            return Drop(DropReason.CONGESTION, tenant)
        if ecn != parsed.traffic_class & 3:
            packet = ip.with_ecn(packet, ecn)
            parsed = ip.decode_untrusted(packet)
        is_settled = admission is Admission.ADMITTED and record is not None
        return Arrived(arrival, parsed, packet, record, is_settled)

    def from_site_untrusted(
        self,
        arrival: SiteArrival,
        packet: bytes,
        selectors: Selectors,
        outer_ecn: int,
    ) -> Arrived | Verdict:
        """Read an IP packet that has come through a site's tunnel, by a child SA with these selectors."""
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
        return Arrived(arrival, facts, packet, is_settled=True, admitted_by=selectors)

    def from_port_untrusted(self, port_key: PortKey, frame: bytes, now: float) -> Arrived | Verdict:
        """Read a frame that a VM sent at its port."""
        port = self._node.ports.get(port_key)
        entry = self._tables.subnets.get(port_key[0])
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
        if port_key in self._moves.residence.away:
            self._moves.residence.heard(port_key, announced or source, announced is not None, now)
        if announced is not None:
            return self._decisions.neighbours.announcement(arrival, parsed)
        if isinstance(parsed, ArpPacket):
            return self._decisions.neighbours.arp(arrival, parsed, now)
        return Arrived(arrival, parsed, packet)

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
        if port_key in self._moves.residence.away:
            self._moves.residence.heard(port_key, b"", True, now)
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
