"""The packet's way: one decision for each frame, from wherever it came.

`Forwarder` takes a frame and the time, and returns what is to become of it. It
opens no socket and reads no clock. The fast path is a second implementation of
the same decisions.
"""

from __future__ import annotations

from collections import Counter

from gateway.forwarding.admission import Admission, admit, port_owns
from gateway.forwarding.decisions import Decisions
from gateway.forwarding.delivery import Delivery
from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.flows import Flow, FlowCache, key_untrusted
from gateway.forwarding.metering import Meter
from gateway.forwarding.node import Arrival, Explain, Node
from gateway.forwarding.notices import Notices
from gateway.forwarding.pmtu import PathMtu
from gateway.forwarding.verdicts import Drop, Forward, OuterHeader, PortKey, Verdict
from gateway.forwarding.ways import Ways
from gateway.packets import arp, ethernet, ip, nvgre
from gateway.packets.arp import ArpPacket
from gateway.packets.nvgre import NotNvgre
from policies.addresses import CustomerAddress, Vsid
from policies.errors import MalformedPacket
from policies.facts import PacketFacts
from policies.tables import Tables

_NOT_ECT, _CE = 0, 3


class Forwarder:
    """The pipeline of one node and the state that it keeps, all of it bounded."""

    def __init__(
        self, node: Node, tables: Tables, directory: Directory, *, explain: Explain | None = None
    ) -> None:
        self.node = node
        self.tables = tables
        self.directory = directory
        self.drops = Drops()
        self.sources_elsewhere: Counter[str] = Counter()
        self.notices = Notices()
        self.paths = PathMtu(node.underlay_mtu)
        self._explain = explain
        self._ways = Ways(node, tables, directory)
        self._delivery = Delivery(self._ways, self.paths, self.notices, explain)
        self.decisions = Decisions(node, tables, directory, self._delivery, self._ways, explain)
        self.flows = FlowCache()

    @property
    def meters(self) -> dict[Vsid, Meter]:
        """What each virtual subnet sent and received."""
        return self.decisions.meters

    def from_underlay(self, outer: OuterHeader, payload: bytes, now: float) -> Verdict:
        """Decide an NVGRE packet: `payload` is what follows the outer IP header, GRE first."""
        key = key_untrusted(outer.source, payload)
        if key is not None and self._explain is None:
            flow = self.flows.find(key, self.directory)
            if flow is not None:
                verdict = self._delivery.carry_known_untrusted(flow, outer, payload, now)
                if verdict is not None:
                    return self._counted(verdict)
        return self._counted(self._from_underlay(outer, payload, key, now))

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
        self._delivery.port_mtus[port] = mtu

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
        if key is not None and admission is Admission.ADMITTED and record and decision.destination_record:
            self.flows.remember(key, decision)
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
            port, entry.domain, arrival.source_mac, source, to_group=arrival.is_to_group
        ):
            return Drop(DropReason.SPOOFED_SOURCE, tenant)
        if isinstance(parsed, ArpPacket):
            return self.decisions.neighbours.arp(arrival, parsed)
        packet = arrival.frame[ethernet.HEADER_LENGTH :]
        decision = self.decisions.decide(arrival, parsed, packet, None, now)
        if not isinstance(decision, Flow):
            return decision
        return self._delivery.carry(decision, arrival, parsed, packet, now)


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
