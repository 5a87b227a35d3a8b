"""What the program is told of others' provider addresses: whose each is, and how it is reached."""

from __future__ import annotations

from gateway.fastpath.hops import NextHop
from gateway.fastpath.layout import HOP, NO_IPV6, OVER_IPV6, ZERO_FLOW_ID
from gateway.forwarding.node import Node
from gateway.forwarding.pmtu import OVERHEAD_IPV4, OVERHEAD_IPV6, PathMtu
from policies.addresses import ProviderAddress
from policies.tables import Tables


def owners_of(tables: Tables) -> dict[bytes, str | None]:
    """Return whose each provider address of the underlay is: a host's by name, or None for a gateway's."""
    owners: dict[bytes, str | None] = dict.fromkeys(tables.members)
    for name, addresses in tables.provider_addresses_of.items():
        owners.update(dict.fromkeys(addresses, name))
    for domain in tables.domains.values():
        # A host may be a gateway too: what comes from there is judged as a gateway's.
        owners.update(dict.fromkeys(domain.gateway_provider_addresses))
    return owners


def destinations_of(tables: Tables, node: Node) -> dict[ProviderAddress, ProviderAddress]:
    """Return where records may lead, with the address of ours that packets go there from."""
    return {
        ProviderAddress(address): source
        for addresses in tables.provider_addresses_of.values()
        for address in addresses
        if address not in node.provider_addresses and (source := node.address_towards(address)) is not None
    }


def packed_hop(
    address: ProviderAddress,
    source: ProviderAddress,
    hop: NextHop,
    port: int,
    paths: PathMtu,
    now: float,
    *,
    zero_flow_id: bool,
) -> bytes:
    """Return how an address is reached from one of ours, as the program reads it.

    `port` is the number that the program has for the hop's interface. How large packets may be is what is
    known of the path `now`, in octets of the inner packet.
    """
    over_ipv6 = len(address) == 16
    ipv4, ipv6 = (paths.customer_mtu(address, version, now) for version in (4, 6))
    largest = paths.underlay_mtu - (OVERHEAD_IPV6 if over_ipv6 else OVERHEAD_IPV4)
    return HOP.pack(
        (OVER_IPV6 if over_ipv6 else 0)
        | (ZERO_FLOW_ID if zero_flow_id else 0)
        # What IPv6 is owed at least is more than this underlay carries (RFC 8200 section 5).
        | (NO_IPV6 if ipv6 > largest else 0),
        port,
        min(ipv4, 0xFFFF),
        min(ipv6, 0xFFFF),
        hop.destination_mac,
        hop.source_mac,
        source.ljust(16, b"\0"),
        address.ljust(16, b"\0"),
    )
