"""ARP and neighbour discovery, answered from the directory.

Nobody's request is flooded: whoever has a record is answered for. A probe of
an address by the VM that has it is left unanswered, or the guest would take
its own address for a duplicate and give it up (RFC 5227 section 2.1.1, RFC
4862 section 5.4).
"""

from __future__ import annotations

from enum import Enum

from gateway.forwarding.admission import is_unspecified
from gateway.forwarding.directory import Directory
from gateway.packets import arp, ndp
from gateway.packets.arp import ArpPacket
from gateway.packets.ethernet import ARP, IPV6, EthernetHeader
from gateway.packets.ndp import NeighbourSolicitation
from policies.addresses import ROUTER_LINK_LOCAL, MacAddress
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
    detecting = is_unspecified(solicitation.source)
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
