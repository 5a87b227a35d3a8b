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
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.forwarding.neighbours import is_gateway_address, resolve
from gateway.forwarding.pmtu import OVERHEAD_IPV4, OVERHEAD_IPV6
from gateway.host.openvswitch.openflow import (
    ARP,
    CLASSIFY,
    DELIVER,
    FORWARD,
    GATEWAY,
    GROUP,
    GROUPS,
    RECORD,
    REPLY,
    ROUTE,
    SENDER,
    SWITCH,
    UNTAGGED,
    Flows,
    destination_is,
    enter,
    goto,
    in_table,
    prefix_is,
)
from gateway.host.openvswitch.senders import inner_flows, port_flows, sender_flows
from gateway.host.openvswitch.view import View
from gateway.packets import ndp
from gateway.packets.ethernet import HEADER_LENGTH
from policies.addresses import Address, MacAddress, ProviderAddress, Vsid, gateway_mac
from policies.model import AddressHop, LookupRecord, SubnetHop, Translation
from policies.tables import RoutingDomain, SubnetEntry


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
            flows[in_table(SWITCH, 100, f"metadata={vsid:#x},dl_dst={MacAddress(mac)}{more}")] = actions
    return flows


def _record_flows(view: View, entry: SubnetEntry, record: LookupRecord) -> Flows:
    flows: Flows = {}
    if record.ca.version == 4 and resolve(entry, view.directory, record.ca) == record.mac:
        match = f"arp,metadata={record.vsid:#x},arp_tpa={record.ca}"
        flows[in_table(ARP, 2000, match)] = _answer_arp(record.mac)
    if not is_gateway_address(entry, record.ca) and view.is_judged_here(entry.domain):
        way = _to_record(view, entry, record, is_routed=True)
        if way is not None:
            more, actions = way
            match = f"reg1={record.vsid:#x},{destination_is(record.ca)}{more}"
            flows[in_table(RECORD, 100, match)] = actions
    return flows


def _network_flows(view: View) -> Iterator[tuple[str, str]]:
    domains = view.domains
    yield in_table(CLASSIFY, 90, f"in_port={view.listener}"), "drop"
    for table in (ARP, ROUTE, RECORD, SWITCH):
        yield in_table(table, 1, ""), goto(GATEWAY)
    for attached in view.ports.values():
        entry = view.tables.subnets.get(attached.port.vsid)
        if entry is not None:
            yield from port_flows(view, entry, attached)
    for version, tunnel in view.tunnels.items():
        yield in_table(CLASSIFY, 90, f"in_port={tunnel}"), "drop"
        for entry in view.subnets:
            match = f"in_port={tunnel},tun_id={entry.vsid << 8:#x}/0xffffff00,{UNTAGGED}"
            number = domains[entry.domain.name]
            yield in_table(CLASSIFY, 100, match), enter(entry.vsid, number, SENDER)
            # No group is a sender.
            yield in_table(CLASSIFY, 110, f"{match},dl_src=01:00:00:00:00:00/01:00:00:00:00:00"), "drop"
        for name, number in domains.items():
            yield from sender_flows(view, view.tables.domains[name], number, version)
    for name, number in domains.items():
        yield from inner_flows(view.tables.domains[name], number)
        yield from _route_flows(view, view.tables.domains[name], number)
    for entry in view.subnets:
        yield from _subnet_flows(view, entry)
    for (vsid, mac), address in view.redirects.items():
        yield from _redirect_flows(view, vsid, mac, address)


def _route_flows(view: View, domain: RoutingDomain, number: int) -> Iterator[tuple[str, str]]:
    """The tenant's routes, for what VMs here send to their gateway's MAC."""
    tenant = f"reg0={number}"
    for address in domain.gateway_addresses:
        yield in_table(ROUTE, 400, f"{tenant},{destination_is(Address(address))}"), goto(GATEWAY)
    yield in_table(ROUTE, 400, f"{tenant},ipv6,ipv6_dst=fe80::1"), goto(GATEWAY)
    for match in ("ipv6,ipv6_src=fe80::/10", "ipv6,ipv6_dst=fe80::/10", *(g.format("dst") for g in GROUPS)):
        yield in_table(ROUTE, 350, f"{tenant},{match}"), "drop"
    for family in ("ip", "ipv6"):
        for ttl in (0, 1):
            yield in_table(ROUTE, 300, f"{tenant},{family},nw_ttl={ttl}"), goto(GATEWAY)
    for prefix, hop in domain.routes:
        fields, priority = f"{tenant},{prefix_is(prefix, 'dst')}", 10 + 2 * prefix.prefixlen
        match = in_table(ROUTE, priority, fields)
        if isinstance(hop, SubnetHop):
            yield match, f"load:{hop.vsid:#x}->NXM_NX_REG1[],{goto(RECORD)}"
            continue
        yield match, goto(GATEWAY)
        record = view.next_hop(domain, hop.ca) if isinstance(hop, AddressHop) else None
        entry = view.tables.subnets.get(record.vsid) if record is not None else None
        way = _to_record(view, entry, record, is_routed=True) if entry and record else None
        if way is not None:
            more, actions = way
            yield in_table(ROUTE, priority + 1, fields + more), actions


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
    yield in_table(GATEWAY, 100, subnet), to_gateway
    ports = ",".join(f"output:{attached.number}" for attached in here)

    check = "".join(
        f"check_pkt_larger({view.mtu - _overhead(version) + HEADER_LENGTH})->NXM_NX_REG4[{version // 6}],"
        for version in view.tunnels
    )
    # No record, nor anything else that is known of the tenant, may decide what rules have to.
    yield in_table(FORWARD, 100, f"{subnet}"), check + goto(SWITCH) if is_judged else goto(GATEWAY)
    yield in_table(FORWARD, 200, f"{subnet},{own_mac}"), check + goto(ROUTE) if is_judged else goto(GATEWAY)
    if not entry.broadcast:
        yield in_table(FORWARD, 300, f"{subnet},{GROUP}"), "drop"
    else:
        copies = f"{ports}," if ports and is_judged else ""
        yield in_table(FORWARD, 300, f"{subnet},{GROUP}"), copies + goto(GATEWAY)
        sender = subnet if is_judged else f"{subnet},reg3=1"
        for family in ("ip", "ipv6"):
            yield in_table(DELIVER, 150, f"{sender},{GROUP},{family}"), ports or "drop"

    if entry.gateway_ipv4 is not None:
        yield (
            in_table(ARP, 4000, f"arp,{subnet},arp_tpa={entry.gateway_ipv4}"),
            _answer_arp(entry.gateway_mac),
        )
    yield from _proxy_flows(entry)
    yield (
        in_table(REPLY, 100, f"arp,{subnet}"),
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
        yield in_table(DELIVER, 200, f"{arriving},reg3=1,arp,arp_op=2"), to_port
        for kind in (ndp.ROUTER_ADVERTISEMENT, ndp.NEIGHBOUR_ADVERTISEMENT):
            yield in_table(DELIVER, 200, f"{arriving},reg3=1,icmp6,icmp_type={kind}"), to_port
        for family in ("ip", "ipv6"):
            yield in_table(DELIVER, 100, f"{arriving},reg3=1,{family}"), to_port
            # What another host has not had judged goes to the gateway first, and comes back from there.
            yield in_table(DELIVER, 90, f"{arriving},{family}"), to_port if is_judged else goto(GATEWAY)
    for kind in ndp.DISCOVERY:
        yield in_table(DELIVER, 190, f"{subnet},icmp6,icmp_type={kind}"), "drop"


def _proxy_flows(entry: SubnetEntry) -> Iterator[tuple[str, str]]:
    """The gateway stands in for what seems a neighbour but is routed elsewhere."""
    proxied = [prefix for prefix, _ in entry.proxied if prefix.version == 4]
    for prefix, hop in entry.domain.routes:
        if prefix.version == 4 and any(prefix.overlaps(other) for other in proxied):
            match = f"arp,metadata={entry.vsid:#x},arp_tpa={prefix}"
            is_proxied = prefix in proxied and not isinstance(hop, SubnetHop)
            actions = _answer_arp(entry.gateway_mac) if is_proxied else goto(GATEWAY)
            yield in_table(ARP, 10 + prefix.prefixlen, match), actions


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
        yield in_table(DELIVER, 60, f"{match},{family},{field}={address}"), "drop"
        yield in_table(DELIVER, 50, f"{match},{family}"), f"dec_ttl,{_into_tunnel(view, address, vsid)}"


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
    return f"move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],set_field:{mac}->arp_sha,{goto(REPLY)}"


def _overhead(version: int) -> int:
    return OVERHEAD_IPV4 if version == 4 else OVERHEAD_IPV6
