"""The OpenFlow 1.3 flows of a host: the pipeline's decisions, as far as OpenFlow can make them.

    VM port --> SOURCE --> ARP --> REPLY             (its own MAC and addresses only)
                  |
                  +----> FORWARD --> ROUTE --> RECORD --> a port here, or a tunnel
                            +------> SWITCH -----------^
    tunnel ---> SENDER --> INNER --> DELIVER --> a port here

What they cannot decide goes to the tenant's gateway as it is: the end of a TTL, a packet that is
too large, an address without a record, a VM that is rewritten, what routes lead to sites, DHCP, IPv6's
neighbour discovery. So does everything of a tenant with access rules or limits, also
between two VMs here; and what another host sends such a tenant's VM goes by way of the gateway as well,
so that nothing reaches it that has not been judged.

Registers: metadata is the VSID of the frame, reg0 the tenant's number, reg1 the VSID that a
route leads to, reg3 says whether a gateway sent it, reg4 whether it is too large for a tunnel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.forwarding.neighbours import is_gateway_address, resolve
from gateway.forwarding.pmtu import OVERHEAD_IPV4, OVERHEAD_IPV6
from gateway.host.openvswitch.view import Attached, View
from gateway.packets import ndp
from gateway.packets.ethernet import HEADER_LENGTH
from policies.addresses import Address, MacAddress, Prefix, ProviderAddress, Vsid, gateway_mac
from policies.model import AddressHop, LookupRecord, NextHop, SubnetHop, Translation
from policies.tables import RoutingDomain, SubnetEntry

Flows = dict[str, str]
"""Actions by match: a flow's table, priority and fields name it."""

CLASSIFY, SOURCE, ARP, REPLY, FORWARD, ROUTE, RECORD, SWITCH, GATEWAY, SENDER, INNER, DELIVER = range(12)

# A packet with a tag has this bit set in Open vSwitch's view of it.
UNTAGGED = "vlan_tci=0/0x1000"
GROUP = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"
BROADCAST = "dl_dst=ff:ff:ff:ff:ff:ff"

# What may be no packet's source, and no route's destination.
GROUPS = ("ip,nw_{0}=224.0.0.0/4", "ip,nw_{0}=255.255.255.255", "ipv6,ipv6_{0}=ff00::/8")
# What no packet may come from, though a default route leads there (see `is_martian`).
MARTIANS = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "240.0.0.0/4")
NOBODY = (
    *(group.format("src") for group in GROUPS),
    *(f"ip,nw_src={prefix}" for prefix in MARTIANS),
    "ipv6,ipv6_src=::",
    "ipv6,ipv6_src=::1",
)

# Frames for the agent carry the number of the port that they came from in their destination.
HEARD = bytes.fromhex("02697300")


def network_flows(view: View) -> Flows:
    """All flows but those of single records."""
    return dict(_network_flows(view))


def vm_flows(view: View, vsid: Vsid, mac: bytes) -> Flows:
    """The flows by which VMs here reach one with a MAC, at any of its addresses."""
    entry = view.tables.subnets.get(vsid)
    if entry is None or entry.domain.name not in view.domains:
        return {}
    flows: Flows = {}
    records = sorted(view.directory.find_by_mac(vsid, mac), key=lambda record: record.ca)
    for record in records:
        flows.update(_record_flows(view, entry, record))
    if view.is_judged_here(entry.domain):
        ways = (_to_record(view, entry, record, is_routed=False) for record in records)
        # Records of one VM that disagree on its host are on their way to agreeing: any will do.
        switched = next((way for way in ways if way is not None), None)
        # What is switched matches by MAC: of a VM that is rewritten in one family the gateway tells which.
        is_rewritten = any(record.translation is Translation.REWRITE for record in records)
        if switched is not None and not is_rewritten:
            more, actions = switched
            flows[_match(SWITCH, 100, f"metadata={vsid:#x},dl_dst={MacAddress(mac)}{more}")] = actions
    return flows


def _record_flows(view: View, entry: SubnetEntry, record: LookupRecord) -> Flows:
    flows: Flows = {}
    if record.ca.version == 4 and resolve(entry, view.directory, record.ca) == record.mac:
        match = f"arp,metadata={record.vsid:#x},arp_tpa={record.ca}"
        flows[_match(ARP, 2000, match)] = _answer_arp(record.mac)
    if not is_gateway_address(entry, record.ca) and view.is_judged_here(entry.domain):
        way = _to_record(view, entry, record, is_routed=True)
        if way is not None:
            more, actions = way
            match = f"reg1={record.vsid:#x},{_destination(record.ca)}{more}"
            flows[_match(RECORD, 100, match)] = actions
    return flows


def difference(before: Mapping[str, str], after: Mapping[str, str], cookie: int) -> list[str]:
    """The lines of a bundle that make one set of flows of the other."""
    lines = [f"delete_strict {match}" for match in before if match not in after]
    for match, actions in after.items():
        if before.get(match) != actions:
            lines.append(f"add cookie={cookie:#x},{match},actions={actions}")
    return lines


def _network_flows(view: View) -> Iterator[tuple[str, str]]:
    domains = view.domains
    yield _match(CLASSIFY, 90, f"in_port={view.listener}"), "drop"
    for table in (ARP, ROUTE, RECORD, SWITCH):
        yield _match(table, 1, ""), _goto(GATEWAY)
    for attached in view.ports.values():
        entry = view.tables.subnets.get(attached.port.vsid)
        if entry is not None:
            yield from _port_flows(view, entry, attached)
    for version, tunnel in view.tunnels.items():
        yield _match(CLASSIFY, 90, f"in_port={tunnel}"), "drop"
        for entry in view.subnets:
            match = f"in_port={tunnel},tun_id={entry.vsid << 8:#x}/0xffffff00,{UNTAGGED}"
            number = domains[entry.domain.name]
            yield _match(CLASSIFY, 100, match), _enter(entry.vsid, number, SENDER)
            # No group is a sender.
            yield _match(CLASSIFY, 110, f"{match},dl_src=01:00:00:00:00:00/01:00:00:00:00:00"), "drop"
        for name, number in domains.items():
            yield from _sender_flows(view, view.tables.domains[name], number, version)
    for name, number in domains.items():
        yield from _inner_flows(view.tables.domains[name], number)
        yield from _route_flows(view, view.tables.domains[name], number)
    for entry in view.subnets:
        yield from _subnet_flows(view, entry)
    for (vsid, mac), address in view.redirects.items():
        yield from _redirect_flows(view, vsid, mac, address)


def _port_flows(view: View, entry: SubnetEntry, attached: Attached) -> Iterator[tuple[str, str]]:
    """What a VM may send (as `port_owns` says), and what of it is heard."""
    port, number = attached.port, attached.number
    here = f"in_port={number}"
    heard = f"clone(set_field:{MacAddress(HEARD + number.to_bytes(2))}->eth_dst,output:{view.listener})"
    aside = f"{heard}," if view.residence.awaits((port.vsid, port.mac)) else ""
    domain = entry.domain
    yield _match(CLASSIFY, 90, here), "drop"
    classified = _enter(entry.vsid, view.domains[domain.name], SOURCE)
    yield _match(CLASSIFY, 100, f"{here},dl_src={port.mac},{UNTAGGED}"), classified
    yield _match(SOURCE, 300, f"{here},dl_type=0x8035"), heard
    to_gateway = aside + _goto(GATEWAY)
    onward = aside + _goto(FORWARD)
    own = set(port.addresses) | {record.ca for record in view.directory.find_by_mac(port.vsid, port.mac)}
    for address in sorted(own):
        if address.version == 4:
            asked = f"{here},arp,arp_op=1,arp_sha={port.mac},arp_tpa={address}"
            yield _match(SOURCE, 310, asked), aside.rstrip(",") or "drop"
            yield _match(SOURCE, 320, f"{asked},arp_spa={address}"), heard
        else:
            asked = f"{here},icmp6,icmp_type={ndp.NEIGHBOUR_SOLICITATION},icmp_code=0,nd_target={address}"
            yield _match(SOURCE, 310, asked), "drop"
    for address in sorted(port.addresses):
        if address.version == 4:
            said = f"{here},arp,arp_sha={port.mac},arp_spa={address}"
            yield _match(SOURCE, 300, f"{said},arp_op=2"), heard
            yield _match(SOURCE, 290, f"{said},arp_op=1"), aside + _goto(ARP)
            yield _match(SOURCE, 200, f"{here},ip,nw_src={address}"), onward
        else:
            yield _match(SOURCE, 200, f"{here},ipv6,ipv6_src={address}"), onward
    probe = f"{here},{GROUP},arp,arp_op=1,arp_sha={port.mac},arp_spa=0.0.0.0"
    yield _match(SOURCE, 290, probe), _goto(ARP)
    yield _match(SOURCE, 200, f"{here},{GROUP},ip,nw_src=0.0.0.0"), _goto(FORWARD)
    yield _match(SOURCE, 200, f"{here},{GROUP},ipv6,ipv6_src=::"), _goto(FORWARD)
    yield _match(SOURCE, 205, f"{here},ipv6,ipv6_src=fe80::1"), "drop"
    yield _match(SOURCE, 200, f"{here},ipv6,ipv6_src=fe80::/10"), onward
    for source in (
        *(f"ipv6_src={each}" for each in port.addresses if each.version == 6),
        "ipv6_src=fe80::/10",
    ):
        said = f"{here},icmp6,{source}"
        yield _match(SOURCE, 300, f"{said},icmp_type={ndp.NEIGHBOUR_ADVERTISEMENT}"), heard
        for kind in (ndp.ROUTER_SOLICITATION, ndp.NEIGHBOUR_SOLICITATION):
            yield _match(SOURCE, 300, f"{said},icmp_type={kind}"), to_gateway
    for kind in (ndp.ROUTER_SOLICITATION, ndp.NEIGHBOUR_SOLICITATION):
        yield _match(SOURCE, 300, f"{here},{GROUP},icmp6,ipv6_src=::,icmp_type={kind}"), _goto(GATEWAY)
    for kind in ndp.DISCOVERY:
        yield _match(SOURCE, 280, f"{here},icmp6,icmp_type={kind}"), "drop"
        yield _match(SOURCE, 305, f"{here},icmp6,ipv6_src=fe80::1,icmp_type={kind}"), "drop"
    if entry.dhcp and entry.gateway_ipv4 is not None:
        for source in ("0.0.0.0", *(str(each) for each in port.addresses if each.version == 4)):
            asked = f"{here},{BROADCAST},udp,nw_src={source},tp_src=68,tp_dst=67"
            yield _match(SOURCE, 250, asked), to_gateway
    yield from _sources_behind(domain, attached, onward)


def _sources_behind(domain: RoutingDomain, attached: Attached, onward: str) -> Iterator[tuple[str, str]]:
    """What routes lead through a VM, such as a firewall, it may send for."""
    routes = list(domain.routes)
    behind = [prefix for prefix, hop in routes if _leads_to(hop, attached)]
    if not behind:
        return
    for source in NOBODY:
        yield _match(SOURCE, 190, f"in_port={attached.number},{source}"), "drop"
    for prefix, hop in routes:
        if any(prefix.version == other.version and prefix.overlaps(other) for other in behind):
            match = f"in_port={attached.number},{_prefix(prefix, 'src')}"
            yield _match(SOURCE, 10 + prefix.prefixlen, match), onward if _leads_to(hop, attached) else "drop"


def _leads_to(hop: NextHop, attached: Attached) -> bool:
    return isinstance(hop, AddressHop) and hop.ca in attached.port.addresses


def _sender_flows(view: View, domain: RoutingDomain, number: int, version: int) -> Iterator[tuple[str, str]]:
    """Who may send for a tenant: its gateways and its hosts, but we."""
    field = "tun_src" if version == 4 else "tun_ipv6_src"
    for address in domain.gateway_provider_addresses:
        if len(address) == _length(version) and address not in view.provider_addresses:
            sender = ProviderAddress(address)
            yield (
                _match(SENDER, 110, f"reg0={number},{field}={sender}"),
                f"load:1->NXM_NX_REG3[],{_goto(DELIVER)}",
            )
    for address in domain.host_addresses:
        if len(address) == _length(version) and address not in view.provider_addresses:
            match = f"reg0={number},{field}={ProviderAddress(address)}"
            yield _match(SENDER, 100, match), _goto(INNER)


def _inner_flows(domain: RoutingDomain, number: int) -> Iterator[tuple[str, str]]:
    """What a host may send as the source of a packet: what lies in the tenant's subnets (see `admit`)."""
    tenant = f"reg0={number}"
    for kind in ndp.DISCOVERY:
        yield _match(INNER, 400, f"{tenant},icmp6,icmp_type={kind}"), "drop"
    for address in domain.gateway_addresses:
        yield _match(INNER, 400, f"{tenant},{_source(Address(address))}"), "drop"
    yield _match(INNER, 400, f"{tenant},ipv6,ipv6_src=fe80::1"), "drop"
    yield _match(INNER, 300, f"{tenant},ipv6,ipv6_src=fe80::/10"), _goto(DELIVER)
    for source in NOBODY:
        yield _match(INNER, 300, f"{tenant},{source}"), "drop"
    for prefix, hop in domain.routes:
        speaker = domain.routes.lookup(hop.ca) if isinstance(hop, AddressHop) else hop
        actions = _goto(DELIVER) if isinstance(speaker, SubnetHop) else "drop"
        yield _match(INNER, 10 + prefix.prefixlen, f"{tenant},{_prefix(prefix, 'src')}"), actions


def _route_flows(view: View, domain: RoutingDomain, number: int) -> Iterator[tuple[str, str]]:
    """The tenant's routes, for what VMs here send to their gateway's MAC."""
    tenant = f"reg0={number}"
    for address in domain.gateway_addresses:
        yield _match(ROUTE, 400, f"{tenant},{_destination(Address(address))}"), _goto(GATEWAY)
    yield _match(ROUTE, 400, f"{tenant},ipv6,ipv6_dst=fe80::1"), _goto(GATEWAY)
    for match in ("ipv6,ipv6_src=fe80::/10", "ipv6,ipv6_dst=fe80::/10", *(g.format("dst") for g in GROUPS)):
        yield _match(ROUTE, 350, f"{tenant},{match}"), "drop"
    for family in ("ip", "ipv6"):
        for ttl in (0, 1):
            yield _match(ROUTE, 300, f"{tenant},{family},nw_ttl={ttl}"), _goto(GATEWAY)
    for prefix, hop in domain.routes:
        fields, priority = f"{tenant},{_prefix(prefix, 'dst')}", 10 + 2 * prefix.prefixlen
        match = _match(ROUTE, priority, fields)
        if isinstance(hop, SubnetHop):
            yield match, f"load:{hop.vsid:#x}->NXM_NX_REG1[],{_goto(RECORD)}"
            continue
        yield match, _goto(GATEWAY)
        record = view.next_hop(domain, hop.ca) if isinstance(hop, AddressHop) else None
        entry = view.tables.subnets.get(record.vsid) if record is not None else None
        way = _to_record(view, entry, record, is_routed=True) if entry and record else None
        if way is not None:
            more, actions = way
            yield _match(ROUTE, priority + 1, fields + more), actions


def _subnet_flows(view: View, entry: SubnetEntry) -> Iterator[tuple[str, str]]:
    """What depends on a virtual subnet alone, and on which of its VMs are here."""
    subnet = f"metadata={entry.vsid:#x}"
    own_mac = f"dl_dst={entry.gateway_mac}"
    domain = entry.domain
    is_judged = view.is_judged_here(domain)
    here = [
        attached
        for key, attached in view.ports.items()
        if key[0] == entry.vsid and view.residence.is_here(key)
    ]
    to_gateway = _into_tunnel(view, view.gateway_of(domain), entry.vsid)
    yield _match(GATEWAY, 100, subnet), to_gateway
    ports = ",".join(f"output:{attached.number}" for attached in here)

    check = "".join(
        f"check_pkt_larger({view.mtu - _overhead(version) + HEADER_LENGTH})->NXM_NX_REG4[{version // 6}],"
        for version in view.tunnels
    )
    # No record, nor anything else that is known of the tenant, may decide what rules have to.
    yield _match(FORWARD, 100, f"{subnet}"), check + _goto(SWITCH) if is_judged else _goto(GATEWAY)
    yield _match(FORWARD, 200, f"{subnet},{own_mac}"), check + _goto(ROUTE) if is_judged else _goto(GATEWAY)
    if not entry.broadcast:
        yield _match(FORWARD, 300, f"{subnet},{GROUP}"), "drop"
    else:
        copies = f"{ports}," if ports and is_judged else ""
        yield _match(FORWARD, 300, f"{subnet},{GROUP}"), copies + _goto(GATEWAY)
        sender = subnet if is_judged else f"{subnet},reg3=1"
        for family in ("ip", "ipv6"):
            yield _match(DELIVER, 150, f"{sender},{GROUP},{family}"), ports or "drop"

    if entry.gateway_ipv4 is not None:
        yield _match(ARP, 4000, f"arp,{subnet},arp_tpa={entry.gateway_ipv4}"), _answer_arp(entry.gateway_mac)
    yield from _proxy_flows(entry)
    yield (
        _match(REPLY, 100, f"arp,{subnet}"),
        (
            "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],"
            f"set_field:{entry.gateway_mac}->eth_src,load:2->NXM_OF_ARP_OP[],"
            "move:NXM_OF_ARP_TPA[]->NXM_NX_REG2[],move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],"
            "move:NXM_NX_REG2[]->NXM_OF_ARP_SPA[],IN_PORT"
        ),
    )
    for attached in here:
        to_port = f"output:{attached.number}"
        arriving = f"{subnet},dl_dst={attached.port.mac}"
        # A gateway's answer for the VM that asked; nobody else's is believed.
        yield _match(DELIVER, 200, f"{arriving},reg3=1,arp,arp_op=2"), to_port
        for kind in (ndp.ROUTER_ADVERTISEMENT, ndp.NEIGHBOUR_ADVERTISEMENT):
            yield _match(DELIVER, 200, f"{arriving},reg3=1,icmp6,icmp_type={kind}"), to_port
        for family in ("ip", "ipv6"):
            yield _match(DELIVER, 100, f"{arriving},reg3=1,{family}"), to_port
            # What another host has not had judged goes to the gateway first, and comes back from there.
            yield _match(DELIVER, 90, f"{arriving},{family}"), to_port if is_judged else _goto(GATEWAY)
    for kind in ndp.DISCOVERY:
        yield _match(DELIVER, 190, f"{subnet},icmp6,icmp_type={kind}"), "drop"


def _proxy_flows(entry: SubnetEntry) -> Iterator[tuple[str, str]]:
    """The gateway stands in for what seems a neighbour but is routed elsewhere."""
    proxied = [prefix for prefix, _ in entry.proxied if prefix.version == 4]
    for prefix, hop in entry.domain.routes:
        if prefix.version == 4 and any(prefix.overlaps(other) for other in proxied):
            match = f"arp,metadata={entry.vsid:#x},arp_tpa={prefix}"
            is_proxied = prefix in proxied and not isinstance(hop, SubnetHop)
            actions = _answer_arp(entry.gateway_mac) if is_proxied else _goto(GATEWAY)
            yield _match(ARP, 10 + prefix.prefixlen, match), actions


def _redirect_flows(
    view: View, vsid: Vsid, mac: MacAddress, address: ProviderAddress
) -> Iterator[tuple[str, str]]:
    """Send on what comes for a VM that has left, but not to where it comes from.

    OpenFlow neither sees nor sets the outer TTL, so it is the inner one that ends
    what goes in circles between hosts with stale records.
    """
    entry = view.tables.subnets.get(vsid)
    if entry is None or address not in entry.domain.host_addresses:
        return
    match = f"metadata={vsid:#x},dl_dst={mac}"
    field = "tun_src" if address.version == 4 else "tun_ipv6_src"
    for family in ("ip", "ipv6"):
        yield _match(DELIVER, 60, f"{match},{family},{field}={address}"), "drop"
        yield _match(DELIVER, 50, f"{match},{family}"), f"dec_ttl,{_into_tunnel(view, address, vsid)}"


def _to_record(
    view: View, entry: SubnetEntry, record: LookupRecord, *, is_routed: bool
) -> tuple[str, str] | None:
    """What more has to match, and the actions that carry a packet to a record's VM; None: the gateway's.

    What is routed is one hop older, as with any other router.
    """
    if record.translation is Translation.REWRITE:
        return None
    to_vm = (
        f"dec_ttl,set_field:{gateway_mac(record.vsid)}->eth_src,set_field:{record.mac}->eth_dst,"
        if is_routed
        else ""
    )
    attached = view.port_of(record)
    if attached is not None:
        # A VM may route to itself, and a switch sends nothing back to where it came from.
        return "", f"{to_vm}load:0->NXM_OF_IN_PORT[],output:{attached.number}"
    if record.pa in view.provider_addresses:
        return "", "drop"
    if record.pa not in entry.domain.host_addresses or record.pa.version not in view.tunnels:
        return None
    bit = record.pa.version // 6
    return f",reg4=0/{1 << bit:#x}", to_vm + _into_tunnel(view, record.pa, record.vsid)


def _into_tunnel(view: View, destination: ProviderAddress | None, vsid: Vsid) -> str:
    if destination is None or destination.version not in view.tunnels:
        return "drop"
    field = "tun_dst" if destination.version == 4 else "tun_ipv6_dst"
    flow_id = (
        ""
        if destination in view.tables.zero_flow_id
        else "multipath(symmetric_l4,1024,hrw,256,0,NXM_NX_TUN_ID[0..7]),"
    )
    tunnel = view.tunnels[destination.version]
    # A packet that came through this tunnel goes out there again only if it seems to come from elsewhere.
    return (
        f"load:0->NXM_OF_IN_PORT[],set_field:{destination}->{field},"
        f"set_field:{vsid << 8:#x}->tun_id,{flow_id}output:{tunnel}"
    )


def _answer_arp(mac: MacAddress) -> str:
    return f"move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:{mac}->arp_sha,{_goto(REPLY)}"


def _enter(vsid: Vsid, number: int, table: int) -> str:
    return f"load:{number}->NXM_NX_REG0[],load:{vsid:#x}->OXM_OF_METADATA[],{_goto(table)}"


def _goto(table: int) -> str:
    return f"resubmit(,{table})"


def _match(table: int, priority: int, fields: str) -> str:
    return f"table={table},priority={priority}" + (f",{fields}" if fields else "")


def _source(address: Address) -> str:
    return f"ip,nw_src={address}" if len(address) == 4 else f"ipv6,ipv6_src={address}"


def _destination(address: Address) -> str:
    return f"ip,nw_dst={address}" if len(address) == 4 else f"ipv6,ipv6_dst={address}"


def _prefix(prefix: Prefix, end: str) -> str:
    return f"ip,nw_{end}={prefix}" if prefix.version == 4 else f"ipv6,ipv6_{end}={prefix}"


def _overhead(version: int) -> int:
    return OVERHEAD_IPV4 if version == 4 else OVERHEAD_IPV6


def _length(version: int) -> int:
    return 4 if version == 4 else 16
