"""What a guest asks the network for: an address by DHCP (RFC 2131), a router by solicitation (RFC 4861).

Both are answered from the record, and alike on every host and gateway, so that a
VM that has moved renews where it is. A host answers its own VMs, and the tenant's
gateway answers what hosts have passed on. There is nothing to lease: an address
is a VM's as long as its record stands, and is offered to nobody else.

IPv6 addresses are not assigned. The advertisement names the router, the MTU and what is on the
link, without the flags for autoconfiguration and DHCPv6: a guest would make itself an address that no
record has. Its own, from its record, is configured in it.
"""

from __future__ import annotations

import ipaddress
import struct

from gateway.forwarding.admission import is_unspecified
from gateway.forwarding.delivery import Delivery
from gateway.forwarding.directory import Directory
from gateway.forwarding.drops import DropReason
from gateway.forwarding.neighbours import ALL_NODES
from gateway.forwarding.node import Arrival, Explain
from gateway.forwarding.verdicts import Drop, PortKey, ToPort, Verdict
from gateway.forwarding.ways import Ways
from gateway.packets import dhcp, ip, ndp
from gateway.packets.checksum import transport_checksum
from gateway.packets.dhcp import DhcpMessage, MessageType, Option
from gateway.packets.ethernet import IPV4, IPV6, EthernetHeader
from policies.addresses import ROUTER_LINK_LOCAL, CustomerAddress
from policies.errors import MalformedPacket
from policies.facts import UDP, PacketFacts
from policies.tables import SubnetEntry

LEASE_TIME = 86_400
"""In seconds: a guest asks again after half of it, and learns what has changed of the network."""

# RFC 8319 section 4: as long as may be.
ROUTER_LIFETIME = 65_535

ADVERTISE_EVERY = 600.0
"""Seconds between two router advertisements that nobody asked for (RFC 4861 section 6.2.1)."""

_UDP = struct.Struct("!HHHH")  # ports, length, checksum
_LIMITED_BROADCAST = b"\xff" * 4
_NOBODY = bytes(4)


class Guests:
    """Answers guests from the records."""

    def __init__(
        self,
        directory: Directory,
        ways: Ways,
        delivery: Delivery,
        explain: Explain | None = None,
    ) -> None:
        self._directory = directory
        self._ways = ways
        self._delivery = delivery
        self._explain = explain

    def dhcp(self, arrival: Arrival, facts: PacketFacts, packet: bytes, now: float) -> Verdict | None:
        """Decide a DHCP message that is the network's to answer, or its answer; None for any other packet."""
        entry = arrival.entry
        if facts.version != 4 or facts.protocol != UDP or not entry.dhcp or entry.gateway_ipv4 is None:
            return None
        ports = facts.source_port, facts.destination_port
        if ports == (dhcp.SERVER_PORT, dhcp.CLIENT_PORT):
            # No access rule of the tenant's is about what its gateway answers.
            return self._delivery.hand_over(arrival) if facts.source == entry.gateway_ipv4 else None
        if ports != (dhcp.CLIENT_PORT, dhcp.SERVER_PORT):
            return None
        if not arrival.is_to_group and facts.destination != entry.gateway_ipv4:
            return None
        if not self._ways.is_router_for(arrival):
            return Drop(DropReason.NOT_HERE, arrival.tenant)
        try:
            request = _read_untrusted(packet, facts)
        except MalformedPacket:
            return Drop(DropReason.MALFORMED, arrival.tenant)
        # Whose answer it is to be: the frame's sender, which its port or its host vouches for.
        if request.hardware_address != arrival.source_mac:
            return Drop(DropReason.SPOOFED_SOURCE, arrival.tenant)
        own = self._own_addresses(arrival)
        if not own:
            return self._delivery.ask_gateway(arrival)
        reply = answer_dhcp(entry, own, request, self._delivery.guest_mtu(arrival, 4, now))
        if reply is None:
            return Drop(DropReason.TO_GATEWAY, arrival.tenant)
        if self._explain:
            self._explain("dhcp", f"{MessageType(reply.message_type).name.lower()} from the record")
        return self._delivery.answer(arrival, _dhcp_frame(entry, reply))

    def router_solicitation(self, arrival: Arrival, facts: PacketFacts, packet: bytes, now: float) -> Verdict:
        """Answer a router solicitation with what the subnet has of IPv6, to the asker alone (RFC 6085)."""
        entry = arrival.entry
        if not self._ways.is_router_for(arrival):
            return Drop(DropReason.NOT_HERE, arrival.tenant)
        if not entry.router_advertisements or entry.gateway_ipv6 is None:
            return Drop(DropReason.TO_GATEWAY, arrival.tenant)
        try:
            ndp.check_router_solicitation_untrusted(packet, facts)
        except MalformedPacket:
            return Drop(DropReason.MALFORMED, arrival.tenant)
        if self._explain:
            self._explain("router", "its solicitation is answered with an advertisement")
        destination = ALL_NODES if is_unspecified(facts.source) else facts.source
        return self._delivery.answer(arrival, self._router_advertisement(arrival, destination, now))

    def advertise_router(self, entry: SubnetEntry, port: PortKey, now: float) -> ToPort | None:
        """Tell a VM here of its router without being asked, if its subnet has one that says so."""
        if not entry.router_advertisements or entry.gateway_ipv6 is None:
            return None
        _, mac = port
        as_if_asked = Arrival(entry, EthernetHeader(entry.gateway_mac, mac, IPV6).encode(), port=port)
        frame = self._router_advertisement(as_if_asked, ALL_NODES, now)
        return ToPort(port, frame, entry.domain.name)

    def _router_advertisement(self, arrival: Arrival, destination: bytes, now: float) -> bytes:
        entry = arrival.entry
        advertisement = ndp.router_advertisement(
            ROUTER_LINK_LOCAL,
            destination,
            entry.gateway_mac,
            (prefix for prefix in entry.prefixes if prefix.version == 6),
            mtu=self._delivery.guest_mtu(arrival, 6, now),
            lifetime=ROUTER_LIFETIME,
        )
        return EthernetHeader(arrival.source_mac, entry.gateway_mac, IPV6).encode() + advertisement

    def _own_addresses(self, arrival: Arrival) -> list[CustomerAddress]:
        records = self._directory.find_by_mac(arrival.entry.vsid, arrival.source_mac)
        return sorted(record.ca for record in records if _mask(arrival.entry, record.ca) is not None)


def answer_dhcp(
    entry: SubnetEntry, own: list[CustomerAddress], request: DhcpMessage, mtu: int
) -> DhcpMessage | None:
    """Return the answer to a client that has the addresses `own`, at least one, or None for silence.

    `mtu` is that of the client's packets, in octets. A client that takes the address which it
    asks for, or had, is acknowledged; any other address is refused, so that it begins anew
    (RFC 2131 section 4.3.2).
    """
    router = entry.gateway_ipv4
    if request.operation != dhcp.REQUEST or request.relay_address != _NOBODY or router is None:
        return None
    server = request.options.get(Option.SERVER_IDENTIFIER)
    requested = request.options.get(Option.REQUESTED_ADDRESS)
    if request.message_type == MessageType.DISCOVER:
        offered = requested if requested is not None and requested in own else own[0]
        return _reply(entry, request, MessageType.OFFER, CustomerAddress(offered), router, mtu)
    if request.message_type == MessageType.INFORM:
        wanted: bytes | None = request.client_address
        if wanted not in own:
            return None
    elif request.message_type == MessageType.REQUEST and server in (None, router):
        wanted = requested if request.client_address == _NOBODY else request.client_address
    else:
        # To decline or release changes no record, and a client may have chosen another server's offer.
        return None
    if wanted is None:
        return None
    if wanted not in own:
        return _reply(entry, request, MessageType.NAK, None, router, mtu)
    return _reply(entry, request, MessageType.ACK, CustomerAddress(wanted), router, mtu)


def _reply(
    entry: SubnetEntry,
    request: DhcpMessage,
    message_type: MessageType,
    address: CustomerAddress | None,
    router: CustomerAddress,
    mtu: int,
) -> DhcpMessage:
    """Compose an answer as table 3 of RFC 2131 has it."""
    informs = request.message_type == MessageType.INFORM
    options: dict[int, bytes] = {Option.SERVER_IDENTIFIER: router}
    if address is not None:
        if not informs:
            options[Option.LEASE_TIME] = LEASE_TIME.to_bytes(4)
            options[Option.RENEWAL_TIME] = (LEASE_TIME // 2).to_bytes(4)
            options[Option.REBINDING_TIME] = (LEASE_TIME * 7 // 8).to_bytes(4)
        options[Option.SUBNET_MASK] = _mask(entry, address) or b""
        options[Option.ROUTER] = router
        options[Option.INTERFACE_MTU] = min(mtu, 0xFFFF).to_bytes(2)
    identifier = request.options.get(Option.CLIENT_IDENTIFIER, b"")
    if 0 < len(identifier) < 256:
        options[Option.CLIENT_IDENTIFIER] = identifier  # RFC 6842 section 3
    return DhcpMessage(
        operation=dhcp.REPLY,
        message_type=message_type,
        transaction=request.transaction,
        flags=request.flags,
        client_address=_NOBODY
        if message_type in (MessageType.NAK, MessageType.OFFER)
        else request.client_address,
        your_address=_NOBODY if informs or address is None else address,
        relay_address=_NOBODY,
        hardware_address=request.hardware_address,
        options=options,
    )


def _dhcp_frame(entry: SubnetEntry, reply: DhcpMessage) -> bytes:
    """Wrap an answer for the asker alone (RFC 2131 section 4.1).

    Where the packet is a broadcast, its frame is not (as RFC 6085 has it for IPv6): so it
    finds its way from the gateway to the asker's port.
    """
    source = entry.gateway_ipv4 or _NOBODY
    if reply.message_type == MessageType.NAK:
        destination = _LIMITED_BROADCAST
    elif reply.client_address != _NOBODY:
        destination = reply.client_address
    elif reply.flags & dhcp.BROADCAST:
        destination = _LIMITED_BROADCAST
    else:
        destination = reply.your_address
    payload = reply.encode()
    length = _UDP.size + len(payload)
    segment = _UDP.pack(dhcp.SERVER_PORT, dhcp.CLIENT_PORT, length, 0) + payload
    checksum = transport_checksum(source, destination, UDP, segment)
    segment = _UDP.pack(dhcp.SERVER_PORT, dhcp.CLIENT_PORT, length, checksum) + payload
    header = EthernetHeader(reply.hardware_address, entry.gateway_mac, IPV4)
    return header.encode() + ip.build(source, destination, UDP, segment)


def _read_untrusted(packet: bytes, facts: PacketFacts) -> DhcpMessage:
    """Return the message in a whole UDP datagram, its checksum right or absent; else MalformedPacket."""
    if facts.is_fragment:
        raise MalformedPacket("a fragmented DHCP message")
    segment = packet[facts.header_length : facts.total_length]
    _, _, length, checksum = _UDP.unpack_from(segment)
    segment = segment[:length]
    if checksum != 0 and transport_checksum(facts.source, facts.destination, UDP, segment) != 0xFFFF:
        raise MalformedPacket("a DHCP message with a wrong checksum")
    return dhcp.decode_untrusted(segment[_UDP.size :])


def _mask(entry: SubnetEntry, address: CustomerAddress) -> bytes | None:
    """The mask of the IPv4 prefix that an address is in, or None where the subnet has no such prefix."""
    own = address.ip
    for prefix in entry.prefixes:
        if isinstance(prefix, ipaddress.IPv4Network) and own in prefix:
            return prefix.netmask.packed
    return None
