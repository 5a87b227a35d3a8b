"""ARP and neighbour discovery, answered from the directory.

Nobody's request is flooded: whoever has a record is answered for. A probe of
an address by the VM that has it is left unanswered, or the guest would take
its own address for a duplicate and give it up (RFC 5227 section 2.1.1, RFC
4862 section 5.4).
"""

from __future__ import annotations

from enum import Enum

from gateway.forwarding.admission import is_link_local
from gateway.forwarding.delivery import Delivery
from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason
from gateway.forwarding.happenings import Happenings
from gateway.forwarding.node import Arrival, Explain
from gateway.forwarding.verdicts import Drop, Verdict
from gateway.forwarding.ways import Ways
from gateway.packets import arp, ndp
from gateway.packets.arp import ArpPacket
from gateway.packets.ethernet import ARP, IPV6, EthernetHeader
from gateway.packets.ndp import NeighbourSolicitation
from policies.addresses import ROUTER_LINK_LOCAL, CustomerAddress, MacAddress
from policies.errors import MalformedPacket
from policies.facts import ICMPV6, PacketFacts
from policies.model import Port
from policies.tables import SubnetEntry

ALL_NODES = b"\xff\x02" + bytes(13) + b"\x01"


class Silence(Enum):
    """Why a request is not answered here."""

    OWN = "own"
    """The asker has the address itself."""
    UNKNOWN = "unknown"
    """Nobody has registered it."""


def resolve(entry: SubnetEntry, directory: Directory, target: bytes) -> MacAddress | None:
    """Return the MAC that answers for a CA in a virtual subnet, or None."""
    if is_gateway_address(entry, target):
        return entry.gateway_mac
    stand_in = entry.proxied.lookup(target)
    if stand_in is not None and entry.domain.routes.lookup(target) is stand_in:
        # A partial move: the address is routed to a site, and the gateway stands in for it.
        return entry.gateway_mac
    record = directory.find(entry.vsid, target)
    return record.mac if record is not None else None


def is_gateway_address(entry: SubnetEntry, address: bytes) -> bool:
    """Whether an address is the gateway's own in a virtual subnet."""
    return address in (entry.gateway_ipv4, entry.gateway_ipv6) or (
        entry.gateway_ipv6 is not None and address == ROUTER_LINK_LOCAL
    )


def answer_arp(entry: SubnetEntry, directory: Directory, request: ArpPacket) -> bytes | Silence:
    """Return the reply to an ARP request as an Ethernet frame.

    An announcement asks for the sender's own address, and is treated as a probe is.
    """
    mac = resolve(entry, directory, request.target_address)
    if mac is None:
        return Silence.UNKNOWN
    if mac == request.sender_mac:
        return Silence.OWN
    reply = ArpPacket(
        operation=arp.REPLY,
        sender_mac=mac,
        sender_address=request.target_address,
        target_mac=request.sender_mac,
        target_address=request.sender_address,
    )
    header = EthernetHeader(destination=request.sender_mac, source=entry.gateway_mac, ethertype=ARP)
    return header.encode() + reply.encode()


def answer_solicitation(
    entry: SubnetEntry, directory: Directory, asker_mac: bytes, solicitation: NeighbourSolicitation
) -> bytes | Silence:
    """Return the advertisement that answers a neighbour solicitation as an Ethernet frame.

    To a duplicate address detection it goes to all nodes, for the asker has no
    address yet (RFC 4861 section 7.2.4), but in a frame for the asker alone (RFC
    6085): so it finds its way from the gateway to the asker's port.
    """
    mac = resolve(entry, directory, solicitation.target)
    if mac is None:
        return Silence.UNKNOWN
    if mac == asker_mac:
        return Silence.OWN
    detecting = solicitation.is_probe
    advertisement = ndp.advertisement(
        source=solicitation.target,
        destination=ALL_NODES if detecting else solicitation.source,
        target=solicitation.target,
        mac=mac,
        router=mac == entry.gateway_mac,
        solicited=not detecting,
    )
    header = EthernetHeader(destination=asker_mac, source=entry.gateway_mac, ethertype=IPV6)
    return header.encode() + advertisement


def question(entry: SubnetEntry, mac: MacAddress, ca: CustomerAddress) -> bytes:
    """Return the frame by which a virtual subnet's gateway asks one VM whether it has an address.

    Every guest answers it, and believes no more of it than that the gateway is where it always was.
    """
    if ca.version == 4:
        request = ArpPacket(arp.REQUEST, entry.gateway_mac, entry.gateway_ipv4 or bytes(4), bytes(6), ca)
        return EthernetHeader(mac, entry.gateway_mac, ARP).encode() + request.encode()
    source = entry.gateway_ipv6 or ROUTER_LINK_LOCAL
    solicitation = ndp.encode_solicitation(source, ndp.solicited_node(ca), ca, entry.gateway_mac)
    return EthernetHeader(mac, entry.gateway_mac, IPV6).encode() + solicitation


def announced_untrusted(port: Port, parsed: ArpPacket | PacketFacts, packet: bytes) -> bytes | None:
    """Return the address that a frame from a port says is there, or None for any other frame.

    Whether anybody has asked is all the same. An address that is not the port's is nobody's business.
    """
    if isinstance(parsed, ArpPacket):
        address = parsed.sender_address
        is_gratuitous = parsed.operation == arp.REQUEST and address == parsed.target_address
        speaks = is_gratuitous or parsed.operation == arp.REPLY
        return address if speaks and address in port.addresses else None
    if parsed.protocol != ICMPV6 or parsed.icmp_type != ndp.NEIGHBOUR_ADVERTISEMENT:
        return None
    try:
        advertisement = ndp.decode_advertisement_untrusted(packet, parsed)
    except MalformedPacket:
        return None
    if advertisement.target_mac not in (None, port.mac):
        return None
    target = advertisement.target
    return target if target in port.addresses or is_link_local(target) else None


class Neighbours:
    """Answers for whoever has a record; what only the gateway can know, a host passes on to it."""

    def __init__(
        self,
        directory: Directory,
        ways: Ways,
        delivery: Delivery,
        happenings: Happenings,
        explain: Explain | None = None,
    ) -> None:
        self._happenings = happenings
        self._directory = directory
        self._ways = ways
        self._delivery = delivery
        self._explain = explain

    def arp(self, arrival: Arrival, request: ArpPacket, now: float) -> Verdict:
        if request.operation != arp.REQUEST:
            return self._neighbour_reply(arrival)
        if not self._ways.is_router_for(arrival):
            return Drop(DropReason.NOT_HERE, arrival.tenant)
        reply = answer_arp(arrival.entry, self._directory, request)
        return self._resolved(arrival, reply, request.target_address, now)

    def discovery(self, arrival: Arrival, facts: PacketFacts, packet: bytes, now: float) -> Verdict:
        if facts.icmp_type != ndp.NEIGHBOUR_SOLICITATION:
            return self._neighbour_reply(arrival)
        if not self._ways.is_router_for(arrival):
            return Drop(DropReason.NOT_HERE, arrival.tenant)
        try:
            solicitation = ndp.decode_solicitation_untrusted(packet, facts)
        except MalformedPacket:
            return Drop(DropReason.MALFORMED, arrival.tenant)
        reply = answer_solicitation(arrival.entry, self._directory, arrival.source_mac, solicitation)
        return self._resolved(arrival, reply, solicitation.target, now)

    def _resolved(self, arrival: Arrival, reply: bytes | Silence, target: bytes, now: float) -> Verdict:
        if isinstance(reply, bytes):
            if self._explain:
                self._explain("neighbour", "answered from the directory")
            return self._delivery.answer(arrival, reply)
        if reply is Silence.OWN:
            return Drop(DropReason.NEIGHBOUR_OWN, arrival.tenant)
        if self._directory.is_partial and self._ways.is_rewritten(arrival) and not is_link_local(target):
            # Its gateway cannot be asked, since nothing of this VM's goes in NVGRE. It asks again soon.
            self._happenings.wanted(arrival.entry.vsid, CustomerAddress(target), now)
        return self._delivery.ask_gateway(arrival)

    def announcement(self, arrival: Arrival, parsed: ArpPacket | PacketFacts) -> Verdict:
        """A VM says where it is: nobody else is told, and it only if another has the address."""
        if isinstance(parsed, ArpPacket) and parsed.operation == arp.REQUEST:
            reply = answer_arp(arrival.entry, self._directory, parsed)
            if isinstance(reply, bytes):
                return self._delivery.answer(arrival, reply)
        return Drop(DropReason.ANNOUNCEMENT, arrival.tenant)

    def _neighbour_reply(self, arrival: Arrival) -> Verdict:
        """A gateway's reply for the VM that asked goes to its port; nobody else's is believed."""
        return self._delivery.hand_over(arrival) or Drop(DropReason.NEIGHBOUR_REPLY, arrival.tenant)
