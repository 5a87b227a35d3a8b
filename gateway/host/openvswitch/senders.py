"""The flows that say who may send what: VMs at their ports, and other nodes through tunnels."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.host.openvswitch.openflow import (
    ARP,
    BROADCAST,
    CLASSIFY,
    DELIVER,
    FORWARD,
    GATEWAY,
    GROUP,
    GROUPS,
    HEARD,
    INNER,
    SENDER,
    SOURCE,
    UNTAGGED,
    enter,
    goto,
    in_table,
    prefix_is,
    source_is,
)
from gateway.host.openvswitch.view import Attached, View
from gateway.packets import ndp
from policies.addresses import Address, MacAddress, ProviderAddress
from policies.model import AddressHop, NextHop, SubnetHop
from policies.tables import RoutingDomain, SubnetEntry

# What no packet may come from, though a default route leads there (see `is_martian`).
MARTIANS = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "240.0.0.0/4")
NOBODY = (
    *(group.format("src") for group in GROUPS),
    *(f"ip,nw_src={prefix}" for prefix in MARTIANS),
    "ipv6,ipv6_src=::",
    "ipv6,ipv6_src=::1",
)


def port_flows(view: View, entry: SubnetEntry, attached: Attached) -> Iterator[tuple[str, str]]:
    """What a VM may send (as `port_owns` says), and what of it is heard."""
    port, number = attached.port, attached.number
    here = f"in_port={number}"
    heard = f"clone(set_field:{MacAddress(HEARD + number.to_bytes(2))}->eth_dst,output:{view.listener})"
    aside = f"{heard}," if view.residence.awaits((port.vsid, port.mac)) else ""
    domain = entry.domain
    yield in_table(CLASSIFY, 90, here), "drop"
    classified = enter(entry.vsid, view.domains[domain.name], SOURCE)
    yield in_table(CLASSIFY, 100, f"{here},dl_src={port.mac},{UNTAGGED}"), classified
    yield in_table(SOURCE, 300, f"{here},dl_type=0x8035"), heard
    to_gateway = aside + goto(GATEWAY)
    onward = aside + goto(FORWARD)
    own = set(port.addresses) | {record.ca for record in view.directory.find_by_mac(port.vsid, port.mac)}
    for address in sorted(own):
        if address.version == 4:
            asked = f"{here},arp,arp_op=1,arp_sha={port.mac},arp_tpa={address}"
            yield in_table(SOURCE, 310, asked), aside.rstrip(",") or "drop"
            yield in_table(SOURCE, 320, f"{asked},arp_spa={address}"), heard
        else:
            asked = f"{here},icmp6,icmp_type={ndp.NEIGHBOUR_SOLICITATION},icmp_code=0,nd_target={address}"
            yield in_table(SOURCE, 310, asked), "drop"
    for address in sorted(port.addresses):
        if address.version == 4:
            said = f"{here},arp,arp_sha={port.mac},arp_spa={address}"
            yield in_table(SOURCE, 300, f"{said},arp_op=2"), heard
            yield in_table(SOURCE, 290, f"{said},arp_op=1"), aside + goto(ARP)
            yield in_table(SOURCE, 200, f"{here},ip,nw_src={address}"), onward
        else:
            yield in_table(SOURCE, 200, f"{here},ipv6,ipv6_src={address}"), onward
    probe = f"{here},{GROUP},arp,arp_op=1,arp_sha={port.mac},arp_spa=0.0.0.0"
    yield in_table(SOURCE, 290, probe), goto(ARP)
    yield in_table(SOURCE, 200, f"{here},{GROUP},ip,nw_src=0.0.0.0"), goto(FORWARD)
    yield in_table(SOURCE, 200, f"{here},{GROUP},ipv6,ipv6_src=::"), goto(FORWARD)
    yield in_table(SOURCE, 205, f"{here},ipv6,ipv6_src=fe80::1"), "drop"
    yield in_table(SOURCE, 200, f"{here},ipv6,ipv6_src=fe80::/10"), onward
    for source in (
        *(f"ipv6_src={each}" for each in port.addresses if each.version == 6),
        "ipv6_src=fe80::/10",
    ):
        said = f"{here},icmp6,{source}"
        yield in_table(SOURCE, 300, f"{said},icmp_type={ndp.NEIGHBOUR_ADVERTISEMENT}"), heard
        for kind in (ndp.ROUTER_SOLICITATION, ndp.NEIGHBOUR_SOLICITATION):
            yield in_table(SOURCE, 300, f"{said},icmp_type={kind}"), to_gateway
    for kind in (ndp.ROUTER_SOLICITATION, ndp.NEIGHBOUR_SOLICITATION):
        yield in_table(SOURCE, 300, f"{here},{GROUP},icmp6,ipv6_src=::,icmp_type={kind}"), goto(GATEWAY)
    for kind in ndp.DISCOVERY:
        yield in_table(SOURCE, 280, f"{here},icmp6,icmp_type={kind}"), "drop"
        yield in_table(SOURCE, 305, f"{here},icmp6,ipv6_src=fe80::1,icmp_type={kind}"), "drop"
    if entry.dhcp and entry.gateway_ipv4 is not None:
        for source in ("0.0.0.0", *(str(each) for each in port.addresses if each.version == 4)):
            asked = f"{here},{BROADCAST},udp,nw_src={source},tp_src=68,tp_dst=67"
            yield in_table(SOURCE, 250, asked), to_gateway
    yield from _sources_behind(domain, attached, onward)


def _sources_behind(domain: RoutingDomain, attached: Attached, onward: str) -> Iterator[tuple[str, str]]:
    """What routes lead through a VM, such as a firewall, it may send for."""
    routes = list(domain.routes)
    behind = [prefix for prefix, hop in routes if _leads_to(hop, attached)]
    if not behind:
        return
    for source in NOBODY:
        yield in_table(SOURCE, 190, f"in_port={attached.number},{source}"), "drop"
    for prefix, hop in routes:
        if any(prefix.version == other.version and prefix.overlaps(other) for other in behind):
            match = f"in_port={attached.number},{prefix_is(prefix, 'src')}"
            yield (
                in_table(SOURCE, 10 + prefix.prefixlen, match),
                onward if _leads_to(hop, attached) else "drop",
            )


def _leads_to(hop: NextHop, attached: Attached) -> bool:
    return isinstance(hop, AddressHop) and hop.ca in attached.port.addresses


def sender_flows(view: View, domain: RoutingDomain, number: int, version: int) -> Iterator[tuple[str, str]]:
    """Who may send for a tenant: its gateways and its hosts, but we."""
    field = "tun_src" if version == 4 else "tun_ipv6_src"
    for address in domain.gateway_provider_addresses:
        if len(address) == _length(version) and address not in view.provider_addresses:
            sender = ProviderAddress(address)
            yield (
                in_table(SENDER, 110, f"reg0={number},{field}={sender}"),
                f"load:1->NXM_NX_REG3[],{goto(DELIVER)}",
            )
    for address in domain.host_addresses:
        if len(address) == _length(version) and address not in view.provider_addresses:
            match = f"reg0={number},{field}={ProviderAddress(address)}"
            yield in_table(SENDER, 100, match), goto(INNER)


def inner_flows(domain: RoutingDomain, number: int) -> Iterator[tuple[str, str]]:
    """What a host may send as the source of a packet: what lies in the tenant's subnets (see `admit`)."""
    tenant = f"reg0={number}"
    for kind in ndp.DISCOVERY:
        yield in_table(INNER, 400, f"{tenant},icmp6,icmp_type={kind}"), "drop"
    for address in domain.gateway_addresses:
        yield in_table(INNER, 400, f"{tenant},{source_is(Address(address))}"), "drop"
    yield in_table(INNER, 400, f"{tenant},ipv6,ipv6_src=fe80::1"), "drop"
    yield in_table(INNER, 300, f"{tenant},ipv6,ipv6_src=fe80::/10"), goto(DELIVER)
    for source in NOBODY:
        yield in_table(INNER, 300, f"{tenant},{source}"), "drop"
    for prefix, hop in domain.routes:
        speaker = domain.routes.lookup(hop.ca) if isinstance(hop, AddressHop) else hop
        actions = goto(DELIVER) if isinstance(speaker, SubnetHop) else "drop"
        yield in_table(INNER, 10 + prefix.prefixlen, f"{tenant},{prefix_is(prefix, 'src')}"), actions


def _length(version: int) -> int:
    return 4 if version == 4 else 16
