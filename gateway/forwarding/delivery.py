"""What happens to a decided packet on its way out: hop limit, MTU, MSS, ECN, encapsulation."""

from __future__ import annotations

from gateway.forwarding.drops import DropReason
from gateway.forwarding.flows import Flow, known_packet_untrusted
from gateway.forwarding.node import Arrival, Explain
from gateway.forwarding.notices import Message, Notices
from gateway.forwarding.pmtu import LOWEST_IPV6, PathMtu
from gateway.forwarding.verdicts import (
    Answer,
    Drop,
    Emission,
    Forward,
    OuterHeader,
    PortKey,
    ToPort,
    ToUnderlay,
    Verdict,
)
from gateway.forwarding.ways import LocalPort, Path, Way, Ways
from gateway.packets import fragmentation, icmp, ip, nvgre, transport
from gateway.packets.ethernet import OF_IP_VERSION, EthernetHeader
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, gateway_mac
from policies.facts import TCP_SYN, PacketFacts

_NOT_ECT = 0
_LARGEST_PACKET = 65_535 + 40

# TCP without options, by the version of IP below it.
_TCP_AND_IP = {4: 40, 6: 60}


class Delivery:
    """Carries packets out as their flow says, and tells senders what could not be."""

    def __init__(self, ways: Ways, paths: PathMtu, notices: Notices, explain: Explain | None = None) -> None:
        self.port_mtus: dict[PortKey, int] = {}
        """Of the VMs' interfaces, in octets of the IP packet, as far as they are known."""
        self._ways = ways
        self._paths = paths
        self._notices = notices
        self._explain = explain

    def carry(self, flow: Flow, arrival: Arrival, facts: PacketFacts, packet: bytes, now: float) -> Verdict:
        """Send a packet on: one hop older if it is routed, no larger than what comes next."""
        tenant = arrival.tenant
        if flow.routed and facts.hop_limit <= 1:
            notice = self.tell(arrival, facts, lambda source: icmp.time_exceeded(source, packet, facts), now)
            return Drop(DropReason.HOP_LIMIT, tenant, notice)
        pieces = [self._clamp(flow, arrival, facts, packet, now)]
        mtu = self._mtu(flow.way, facts.version, now)
        if facts.total_length > mtu:
            if facts.version == 6 or facts.dont_fragment:
                notice = self._tell_too_big(arrival, facts, packet, mtu, now)
                return Drop(DropReason.TOO_BIG, tenant, notice)
            if self._explain:
                self._explain("mtu", f"{facts.total_length} octets are more than {mtu}: fragmented inside")
            pieces = fragmentation.fragment(pieces[0], facts, mtu)
        if flow.routed:
            hop_limit = facts.hop_limit - 1
            if self._explain:
                self._explain("hop limit", f"{facts.hop_limit} -> {hop_limit}: this node is one hop")
            pieces = [ip.with_hop_limit(piece, hop_limit) for piece in pieces]
        if flow.sent is not None:
            flow.sent.sent(facts.total_length)
        if flow.received is not None:
            flow.received.received(facts.total_length)
        ecn = facts.traffic_class & 3
        return Forward(tuple(self.emit(flow.way, tenant, flow.ethernet + piece, ecn) for piece in pieces))

    def carry_known_untrusted(
        self, flow: Flow, outer: OuterHeader, payload: bytes, now: float
    ) -> Verdict | None:
        """Send on an NVGRE packet of a flow that was decided before, if nothing about it is special.

        None where something is: then it is decided in full. The caller has found
        the flow by `flows.key_untrusted`.
        """
        packet, traffic_class, hop_limit = known_packet_untrusted(payload)
        total_length = len(packet)
        ecn = traffic_class & 3
        if outer.ecn and outer.ecn != ecn:
            return None
        if total_length > self._mtu(flow.way, packet[0] >> 4, now):
            return None
        if flow.routed:
            if hop_limit <= 1:
                return None
            packet = ip.with_hop_limit(packet, hop_limit - 1)
        tenant = flow.tenant
        if flow.bucket is not None and not flow.bucket.take(total_length, now):
            return Drop(DropReason.RATE_LIMITED, tenant)
        if flow.sent is not None:
            flow.sent.sent(total_length)
        if flow.received is not None:
            flow.received.received(total_length)
        return Forward((self.emit(flow.way, tenant, flow.ethernet + packet, ecn),))

    def answer(self, arrival: Arrival, frame: bytes) -> Answer:
        """Answer a frame where it came from."""
        return Answer((self.reply(arrival, frame),))

    def reply(self, arrival: Arrival, frame: bytes) -> Emission:
        """Send a frame back to where `arrival` came in, in the same virtual subnet."""
        vsid, outer = arrival.entry.vsid, arrival.outer
        way: Way
        if outer is None:
            way = LocalPort((vsid, arrival.source_mac))
        else:
            ours, theirs = ProviderAddress(outer.destination), ProviderAddress(outer.source)
            way = Path(ours, theirs, vsid, nvgre.encode(vsid))
        return self.emit(way, arrival.tenant, frame)

    def emit(self, way: Way, tenant: str, frame: bytes, ecn: int = _NOT_ECT) -> Emission:
        """Send a frame out. The outer ECN field is the inner one's (RFC 6040 section 4.1, normal mode)."""
        if isinstance(way, LocalPort):
            return ToPort(port=way.key, frame=frame, tenant=tenant)
        return ToUnderlay(
            source=way.source,
            destination=way.destination,
            ecn=ecn,
            payload=way.header + frame,
            vsid=way.vsid,
            tenant=tenant,
        )

    def tell(
        self,
        arrival: Arrival,
        facts: PacketFacts,
        message: Message,
        now: float,
        *,
        source: CustomerAddress | None = None,
        source_mac: MacAddress | None = None,
    ) -> tuple[Emission, ...]:
        """Tell a packet's sender by ICMP, from the gateway unless said otherwise.

        A frame with the gateway's own MAC as its source was routed before, by a
        node that told what a router tells. Its sender is in another virtual subnet,
        and is sent only what `source` itself has to say. A frame for everybody in
        the link layer is never answered (RFC 1122 section 3.2.2, RFC 4443 section
        2.4 (e)), nor is a packet for or from the broadcast address of a subnet
        (RFC 1812 section 4.3.2.7).
        """
        entry = arrival.entry
        was_routed = arrival.source_mac == entry.gateway_mac
        if arrival.is_to_group or (was_routed and source is None):
            return ()
        if not entry.domain.broadcast_addresses.isdisjoint((facts.source, facts.destination)):
            return ()
        back = self._ways.back_to_sender(arrival, facts) if was_routed else None
        if was_routed and back is None:
            return ()
        speaker = source if source is not None else entry.gateway_address(facts.version)
        notice = self._notices.compose(arrival.tenant, facts, speaker, message, now)
        if notice is None:
            return ()
        if back is not None:
            way, sender = back
            header = EthernetHeader(sender.mac, gateway_mac(sender.vsid), OF_IP_VERSION[facts.version])
            return (self.emit(way, arrival.tenant, header.encode() + notice),)
        header = EthernetHeader(
            destination=arrival.source_mac,
            source=source_mac if source_mac is not None else entry.gateway_mac,
            ethertype=OF_IP_VERSION[facts.version],
        )
        return (self.reply(arrival, header.encode() + notice),)

    def _tell_too_big(
        self, arrival: Arrival, facts: PacketFacts, packet: bytes, mtu: int, now: float
    ) -> tuple[Emission, ...]:
        """Report the MTU: from the gateway where it routes, else from the destination.

        No router is on a switched path, and the destination's is the address
        that the sender believes (it has no reason to know another).
        """
        reported = mtu if facts.version == 4 else max(mtu, LOWEST_IPV6)
        if self._explain:
            self._explain("mtu", f"{facts.total_length} octets are more than {mtu}, and not to be fragmented")

        def message(source: CustomerAddress) -> bytes:
            return icmp.too_big(source, packet, facts, reported)

        if arrival.destination_mac == arrival.entry.gateway_mac:
            return self.tell(arrival, facts, message, now)
        return self.tell(
            arrival,
            facts,
            message,
            now,
            source=CustomerAddress(facts.destination),
            source_mac=MacAddress(arrival.destination_mac),
        )

    def _mtu(self, way: Way, version: int, now: float) -> int:
        """The largest packet of an IP version that goes out in one piece."""
        if isinstance(way, Path):
            return self._paths.customer_mtu(way.destination, version, now)
        return self.port_mtus.get(way.key, _LARGEST_PACKET)

    def _clamp(self, flow: Flow, arrival: Arrival, facts: PacketFacts, packet: bytes, now: float) -> bytes:
        """Lower the segment size that a SYN offers to what is carried, both ways.

        The size in a SYN limits what the other side sends, so the way back
        counts as much as the way on.
        """
        if not facts.tcp_flags & TCP_SYN:
            return packet
        mtu = self._mtu(flow.way, facts.version, now)
        if arrival.outer is not None:
            mtu = min(mtu, self._paths.customer_mtu(arrival.outer.source, facts.version, now))
        elif arrival.port is not None:
            mtu = min(mtu, self.port_mtus.get(arrival.port, _LARGEST_PACKET))
        return transport.clamp_mss(packet, facts, mtu - _TCP_AND_IP[facts.version])
