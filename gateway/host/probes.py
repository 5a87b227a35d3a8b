"""Asks a VM that says nothing after it has come whether it is there.

Its answer is an announcement as good as any other. It is asked by the gateway, as it may be at any time,
and at its own MAC: nobody else's caches change.
"""

from __future__ import annotations

from gateway.packets import arp, ndp
from gateway.packets.arp import ArpPacket
from gateway.packets.ethernet import ARP, IPV6, EthernetHeader
from policies.addresses import ROUTER_LINK_LOCAL, CustomerAddress, MacAddress
from policies.tables import SubnetEntry


def probe(entry: SubnetEntry, mac: MacAddress, ca: CustomerAddress) -> bytes | None:
    """Return the frame that asks the VM with a MAC for one of its addresses.

    An ARP request (RFC 826) or a neighbour solicitation to the one that is asked, as for a neighbour
    that may have gone (RFC 4861 section 7.2.2). None where the subnet has no gateway of that family.
    """
    if ca.version == 4:
        if entry.gateway_ipv4 is None:
            return None
        request = ArpPacket(
            operation=arp.REQUEST,
            sender_mac=entry.gateway_mac,
            sender_address=entry.gateway_ipv4,
            target_mac=bytes(6),
            target_address=ca,
        )
        return EthernetHeader(mac, entry.gateway_mac, ARP).encode() + request.encode()
    solicitation = ndp.encode_solicitation(ROUTER_LINK_LOCAL, ca, ca, entry.gateway_mac)
    return EthernetHeader(mac, entry.gateway_mac, IPV6).encode() + solicitation
