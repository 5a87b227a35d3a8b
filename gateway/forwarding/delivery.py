"""What happens to a decided packet on its way out: hop limit, MTU, MSS, ECN, encapsulation."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.forwarding.drops import DropReason
from gateway.forwarding.flows import Flow
from gateway.forwarding.happenings import Happenings
from gateway.forwarding.node import Arrival, Explain, Origin, SiteArrival
from gateway.forwarding.notices import Message, Notices
from gateway.forwarding.pmtu import LOWEST_IPV6, PathMtu
from gateway.forwarding.sites import Sites, SiteState
from gateway.forwarding.verdicts import (
    Answer,
    Drop,
    Emission,
    Forward,
    OuterHeader,
    PlainHeader,
    PortKey,
    ToPort,
    ToProvider,
    ToSite,
    ToUnderlay,
    Verdict,
)
from gateway.forwarding.ways import LocalPort, Path, Plain, Tunnel, Way, Ways
from gateway.packets import fragmentation, icmp, ip, nvgre, transport
from gateway.packets.ethernet import HEADER_LENGTH, OF_IP_VERSION, EthernetHeader
from gateway.packets.rewriting import rewritten
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, gateway_mac
from policies.facts import ICMP, ICMPV6, TCP_SYN, PacketFacts

Quoted = tuple[ProviderAddress, ProviderAddress]

_NOT_ECT = 0
_HOP_LIMIT = 64
_LARGEST_PACKET = 65_535 + 40

# TCP without options, by the version of IP below it.
_TCP_AND_IP = {4: 40, 6: 60}


class Delivery:
    """Carries packets out as their flow says, and tells senders what could not be."""

    def __init__(
        self,
        ways: Ways,
        paths: PathMtu,
        sites: Sites,
        port_mtus: Mapping[PortKey, int],
        notices: Notices,
        happenings: Happenings,
        used_leases: set[bytes],
        explain: Explain | None = None,
    ) -> None:
        """`used_leases` gets the leased addresses that packets have gone from, or to."""
        self._used_leases = used_leases
        self._port_mtus = port_mtus
        self._ways = ways
        self._paths = paths
        self._sites = sites
        self._notices = notices
        self._happenings = happenings
        self._explain = explain

    def carry(self, flow: Flow, arrival: Origin, facts: PacketFacts, packet: bytes, now: float) -> Verdict:
        """Send a packet on: one hop older if it is routed, no larger than what comes next.

        What is not routed, and came from the underlay, has one outer hop less to go: so
        nothing goes round for ever, whatever the records of its nodes say. What came rewritten, and goes
        on so, has no hop limit but its own.
        """
        tenant = arrival.tenant
        outer = arrival.outer if isinstance(arrival, Arrival) else None
        outer_hop_limit = _HOP_LIMIT
        is_plain = isinstance(arrival, Arrival) and arrival.plain is not None
        is_older = flow.routed or (is_plain and isinstance(flow.way, Plain))
        if outer is not None and not flow.routed and not is_plain and isinstance(flow.way, Path):
            outer_hop_limit = outer.hop_limit - 1
            if outer_hop_limit <= 0:
                return Drop(DropReason.HOP_LIMIT, tenant)
        if is_older and facts.hop_limit <= 1:
            notice = self.tell(arrival, facts, lambda source: icmp.time_exceeded(source, packet, facts), now)
            return Drop(DropReason.HOP_LIMIT, tenant, notice if flow.routed else ())
        pieces = [self._clamp(flow, arrival, facts, packet, now)]
        mtu = self._mtu(flow.way, facts.version, now)
        if facts.total_length > mtu:
            if facts.version == 6 or facts.dont_fragment:
                if flow.received is not None:
                    flow.received.too_big += 1
                notice = self._tell_too_big(arrival, facts, packet, mtu, now)
                return Drop(DropReason.TOO_BIG, tenant, notice)
            if self._explain:
                self._explain("mtu", f"{facts.total_length} octets are more than {mtu}: fragmented inside")
            pieces = fragmentation.fragment(pieces[0], facts, mtu)
        if is_older:
            hop_limit = facts.hop_limit - 1
            if self._explain:
                self._explain("hop limit", f"{facts.hop_limit} -> {hop_limit}: this node is one hop")
            pieces = [ip.with_hop_limit(piece, hop_limit) for piece in pieces]
        quoted: Quoted | None = None
        if isinstance(flow.way, Plain) and icmp.is_error(facts):
            quoted = self._ways.quoted(arrival.domain, facts.quoted) if facts.quoted is not None else None
            if quoted is None:
                return Drop(DropReason.NOT_REWRITABLE, tenant)
        if flow.sent is not None:
            flow.sent.sent(facts.total_length)
        if flow.received is not None:
            flow.received.received(facts.total_length)
        ecn = facts.traffic_class & 3
        return Forward(
            tuple(
                self.emit(flow.way, tenant, flow.ethernet + piece, ecn, outer, outer_hop_limit, quoted)
                for piece in pieces
            )
        )

    def carry_known_untrusted(
        self,
        flow: Flow,
        outer: OuterHeader | None,
        outer_ecn: int,
        known: tuple[bytes, int, int],
        now: float,
    ) -> Verdict | None:
        """Send on a packet of a flow that was decided before, if nothing about it is special.

        None where something is: then it is decided in full. The caller has found
        the flow by the packet's key, and `known` is what that knows of the packet.
        """
        packet, traffic_class, hop_limit = known
        total_length = len(packet)
        ecn = traffic_class & 3
        if outer_ecn and outer_ecn != ecn:
            return None
        if total_length > self._mtu(flow.way, packet[0] >> 4, now) or now >= flow.until:
            return None
        outer_hop_limit = _HOP_LIMIT
        if flow.routed or (flow.came is not None and isinstance(flow.way, Plain)):
            if hop_limit <= 1:
                return None
            packet = ip.with_hop_limit(packet, hop_limit - 1)
        elif outer is not None and flow.came is None and isinstance(flow.way, Path):
            outer_hop_limit = outer.hop_limit - 1
            if outer_hop_limit <= 0:
                return None
        tenant = flow.tenant
        if flow.bucket is not None and not flow.bucket.take(total_length, now):
            return Drop(DropReason.RATE_LIMITED, tenant)
        if flow.sent is not None:
            flow.sent.sent(total_length)
        if flow.received is not None:
            flow.received.received(total_length)
        return Forward((self.emit(flow.way, tenant, flow.ethernet + packet, ecn, outer, outer_hop_limit),))

    def answer(self, arrival: Arrival, frame: bytes) -> Answer | Drop:
        """Answer a frame where it came from."""
        reply = self.reply(arrival, frame)
        return Answer((reply,)) if reply is not None else Drop(DropReason.NO_LEASE, arrival.tenant)

    def ask_gateway(self, arrival: Arrival) -> Forward | Drop:
        """Pass a VM's question on, unicast and as it is, to its gateway, which may know the answer."""
        path = self._ways.to_gateway(arrival, None)
        if path is None:
            return Drop(DropReason.NO_RECORD, arrival.tenant)
        return Forward((self.emit(path, arrival.tenant, arrival.frame),))

    def hand_over(self, arrival: Arrival) -> Forward | None:
        """Give a VM here what its gateway has answered, as it is; None: it is no such answer."""
        port = self._ways.answered_here(arrival)
        if port is None:
            return None
        return Forward((self.emit(port, arrival.tenant, arrival.frame, outer=arrival.outer),))

    def reply(self, arrival: Arrival, frame: bytes) -> Emission | None:
        """Send a frame back to where `arrival` came in, in the same virtual subnet.

        None where it came rewritten, and nothing stands for the CA that answers.
        """
        vsid, outer = arrival.entry.vsid, arrival.outer
        if arrival.plain is not None:
            return self._reply_rewritten(arrival, arrival.plain, frame[HEADER_LENGTH:])
        way: Way
        if outer is None:
            way = LocalPort((vsid, arrival.source_mac))
        else:
            ours, theirs = ProviderAddress(outer.destination), ProviderAddress(outer.source)
            way = Path(ours, theirs, vsid, nvgre.encode(vsid))
        return self.emit(way, arrival.tenant, frame)

    def _reply_rewritten(self, arrival: Arrival, plain: PlainHeader, packet: bytes) -> Emission | None:
        facts = ip.decode_untrusted(packet)
        way = self._ways.back(arrival, plain, facts.source)
        return self._plain_notice(arrival, way, facts, packet) if way is not None else None

    def _plain_notice(
        self, arrival: Arrival, way: Plain, facts: PacketFacts, packet: bytes
    ) -> Emission | None:
        """Send what this node itself says by IP rewrite; None where it is about what cannot be rewritten."""
        quoted = self._ways.quoted(arrival.domain, facts.quoted) if facts.quoted is not None else None
        if facts.quoted is not None and quoted is None:
            return None
        return self.emit(way, arrival.tenant, packet, quoted=quoted)

    def emit(
        self,
        way: Way,
        tenant: str,
        frame: bytes,
        ecn: int = _NOT_ECT,
        outer: OuterHeader | None = None,
        hop_limit: int = _HOP_LIMIT,
        quoted: Quoted | None = None,
    ) -> Emission:
        """Send a frame out. The outer ECN field is the inner one's (RFC 6040 section 4.1, normal mode).

        Into a tunnel goes an IP packet alone. `outer` is what the frame came in, `hop_limit`
        that of the underlay's packet which it goes in. `quoted` are the provider addresses of the
        packet that an error quotes which is rewritten.
        """
        if isinstance(way, Path):
            return ToUnderlay(
                source=way.source,
                destination=way.destination,
                ecn=ecn,
                payload=way.header + frame,
                vsid=way.vsid,
                tenant=tenant,
                hop_limit=hop_limit,
            )
        if isinstance(way, LocalPort):
            return ToPort(port=way.key, frame=frame, tenant=tenant, outer=outer)
        if isinstance(way, Tunnel):
            return ToSite(site=way.site, packet=frame, facts=way.facts, ecn=ecn, tenant=tenant)
        self._used_leases.update(lease.pa for lease in way.leases)
        packet = rewritten(frame, way.source, way.destination, quoted)
        return ToProvider(packet=packet, vsid=way.vsid, tenant=tenant, via=way.via)

    def tell(
        self,
        arrival: Origin,
        facts: PacketFacts,
        message: Message,
        now: float,
        *,
        source: CustomerAddress | None = None,
        source_mac: MacAddress | None = None,
    ) -> tuple[Emission, ...]:
        """Tell a packet's sender by ICMP, from the gateway unless said otherwise.

        What another gateway has passed on is told of by the record, for a gateway
        switches nothing that comes from a gateway. A frame with the gateway's own MAC
        as its source was routed before, by a node that told what a router tells. Its
        sender is in another virtual subnet, and is sent only what `source` itself has
        to say. A frame for everybody in
        the link layer is never answered (RFC 1122 section 3.2.2, RFC 4443 section
        2.4 (e)), nor is a packet for or from the broadcast address of a subnet
        (RFC 1812 section 4.3.2.7).
        """
        if not arrival.domain.broadcast_addresses.isdisjoint((facts.source, facts.destination)):
            return ()
        if isinstance(arrival, SiteArrival):
            return self._tell_site(arrival, facts, message, now, source)
        entry = arrival.entry
        was_routed = arrival.source_mac == entry.gateway_mac
        if arrival.is_to_group or (was_routed and source is None):
            return ()
        was_passed_on = (
            arrival.outer is not None
            and arrival.outer.source in entry.domain.gateway_provider_addresses
            and arrival.destination_mac == entry.gateway_mac
        )
        # Whose packet has come rewritten is told by the way that it came, wherever its host or site is.
        by_record = arrival.plain is None and (was_routed or was_passed_on)
        speaker = source if source is not None else entry.gateway_address(facts.version)
        back = self._ways.back_to_sender(arrival, facts, speaker or b"") if by_record else None
        if by_record and back is None:
            return ()
        notice = self._notices.compose(arrival.tenant, facts, speaker, message, now)
        if notice is None:
            return ()
        if back is not None:
            way, sender = back
            if isinstance(way, Plain):
                told = self._plain_notice(arrival, way, ip.decode_untrusted(notice), notice)
                return (told,) if told is not None else ()
            header = EthernetHeader(sender.mac, gateway_mac(sender.vsid), OF_IP_VERSION[facts.version])
            return (self.emit(way, arrival.tenant, header.encode() + notice),)
        header = EthernetHeader(
            destination=arrival.source_mac,
            source=source_mac if source_mac is not None else entry.gateway_mac,
            ethertype=OF_IP_VERSION[facts.version],
        )
        reply = self.reply(arrival, header.encode() + notice)
        if reply is not None:
            return (reply,)
        # Where single VMs are rewritten, a gateway's own addresses are leased when it has something to say.
        home = arrival.domain.home(speaker) if speaker is not None else None
        if speaker is not None and home is not None:
            self._happenings.wanted(home, speaker, now)
        return ()

    def _tell_site(
        self,
        arrival: SiteArrival,
        facts: PacketFacts,
        message: Message,
        now: float,
        source: CustomerAddress | None,
    ) -> tuple[Emission, ...]:
        """Tell a site's host, from an address of the gateway's that the site's selectors hold."""
        if not icmp.may_be_told(facts):
            return ()
        state = self._sites.find(arrival.site)
        if state is None:
            return ()
        speakers = arrival.speakers(facts) if source is None else (source,)
        speaker = next((address for address in speakers if _may_speak(state, address, facts)), None)
        if speaker is None:
            self._notices.without_source += 1
            return ()
        notice = self._notices.compose(arrival.tenant, facts, speaker, message, now)
        if notice is None:
            return ()
        way = Tunnel(arrival.site, state, ip.decode_untrusted(notice))
        return (self.emit(way, arrival.tenant, notice),)

    def answer_site(self, arrival: SiteArrival, packet: bytes) -> Answer | Drop:
        """Answer a site's host through the tunnel, if that carries the answer."""
        state = self._sites.find(arrival.site)
        if state is None:
            return Drop(DropReason.SITE_DOWN, arrival.tenant)
        facts = ip.decode_untrusted(packet)
        if not state.admits(facts):
            return Drop(DropReason.OUTSIDE_SELECTORS, arrival.tenant)
        return Answer((self.emit(Tunnel(arrival.site, state, facts), arrival.tenant, packet),))

    def guest_mtu(self, arrival: Arrival, version: int, now: float) -> int:
        """What a guest had better send at most: what its interface and the underlay carry, in octets."""
        address = self._ways.own_address_for(arrival)
        interface = self._port_mtus.get((arrival.entry.vsid, arrival.source_mac), _LARGEST_PACKET)
        if self._ways.is_rewritten(arrival):
            return min(self._paths.underlay_mtu, interface)
        if address is None:
            return interface
        return min(self._paths.customer_mtu(address, version, now), interface)

    def _tell_too_big(
        self, arrival: Origin, facts: PacketFacts, packet: bytes, mtu: int, now: float
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

        if isinstance(arrival, SiteArrival) or arrival.destination_mac == arrival.entry.gateway_mac:
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
        if isinstance(way, Plain):
            return self._paths.outer_mtu(way.destination, now)
        if isinstance(way, Tunnel):
            return way.state.mtu_of(version)
        return self._port_mtus.get(way.key, _LARGEST_PACKET)

    def _clamp(self, flow: Flow, arrival: Origin, facts: PacketFacts, packet: bytes, now: float) -> bytes:
        """Lower the segment size that a SYN offers to what is carried, both ways.

        The size in a SYN limits what the other side sends, so the way back
        counts as much as the way on.
        """
        if not facts.tcp_flags & TCP_SYN:
            return packet
        mtu = self._mtu(flow.way, facts.version, now)
        if isinstance(arrival, SiteArrival):
            state = self._sites.find(arrival.site)
            mtu = min(mtu, state.mtu_of(facts.version)) if state is not None else mtu
        elif arrival.plain is not None:
            mtu = min(mtu, self._paths.outer_mtu(arrival.plain.source, now))
        elif arrival.outer is not None:
            mtu = min(mtu, self._paths.customer_mtu(arrival.outer.source, facts.version, now))
        elif arrival.port is not None:
            mtu = min(mtu, self._port_mtus.get(arrival.port, _LARGEST_PACKET))
        return transport.clamp_mss(packet, facts, mtu - _TCP_AND_IP[facts.version])


def _may_speak(state: SiteState, address: CustomerAddress, told: PacketFacts) -> bool:
    """Whether an ICMP error from `address` to a packet's source goes through a tunnel."""
    protocol = ICMP if told.version == 4 else ICMPV6
    return state.admits(PacketFacts(told.version, address, told.source, protocol, 0, 0, 0, 0))
