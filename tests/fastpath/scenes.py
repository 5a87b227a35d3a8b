"""The network around edge-1 for the cases, and how each of its nodes is reached.

It is that of `tests.networks`, with one more of everything:

    hv3     may hold Blue's VMs only
    hv4     may hold Red's, has an IPv4 address alone, and wants a FlowID of 0; db .9 is there
    edge-2  a second gateway of Red and Blue, and the only one of Green
    green   web VSID 7001, with .5 on hv1 and .6 on hv2
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

import msgspec

from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import (
    AccessRule,
    CustomerRoute,
    FlowIdMode,
    Limits,
    LookupRecord,
    Network,
    ProviderGateway,
    ProviderHost,
    Site,
    Tenant,
    VirtualSubnet,
)
from tests import networks
from tests.fastpath.outcomes import Hop, World

ADDRESSES = networks.PROVIDER | {
    "hv3": ("198.51.100.13", "2001:db8::13"),
    "hv4": ("203.0.113.14",),
    "edge-2": ("192.0.2.253", "2001:db8::253"),
    "stranger": ("203.0.113.99", "2001:db8::99"),
}

INTERFACES = ("eth1", "eth2")
OWN_MACS = {"eth1": bytes.fromhex("02ee00000001"), "eth2": bytes.fromhex("02ee00000002")}
BEHIND = {"hv1": "eth1", "hv2": "eth2", "hv3": "eth1", "hv4": "eth2", "edge-2": "eth1", "stranger": "eth1"}
"""Which interface each node is reached by, and its frames come in at."""

VSIDS = networks.VSIDS | {("green", "web"): 7001}


def pa(node: str, version: int = 4) -> ProviderAddress:
    """A node's provider address of an IP version."""
    return ProviderAddress.parse(ADDRESSES[node][0 if version == 4 else 1])


def node_mac(node: str) -> bytes:
    """The MAC that a node, or the router before it, has in the underlay."""
    return b"\x02\xaa\0\0\0" + bytes((list(ADDRESSES).index(node) + 1,))


def vsid(tenant: str, subnet: str) -> Vsid:
    """The VSID of a tenant's virtual subnet."""
    return Vsid(VSIDS[tenant, subnet])


HOPS = {
    pa(node, 4 if number == 0 else 6): Hop(interface, OWN_MACS[interface], node_mac(node))
    for node, interface in BEHIND.items()
    for number, _ in enumerate(ADDRESSES[node])
}


def record(
    subnet: str,
    number: int,
    host: str,
    *,
    tenant: str = "red",
    version: int = 4,
    pa_version: int = 4,
    ca: str | None = None,
    address: ProviderAddress | None = None,
) -> LookupRecord:
    """One more VM, or one that is elsewhere than `tests.networks` says."""
    return LookupRecord(
        vsid=vsid(tenant, subnet),
        ca=CustomerAddress.parse(ca or networks.ca(subnet, number, version)),
        mac=networks.mac(tenant, subnet, number),
        pa=address or pa(host, pa_version),
        host=host,
    )


def tenant(
    name: str = "red",
    *,
    access: tuple[AccessRule, ...] = (),
    routes: tuple[CustomerRoute, ...] = (),
    sites: tuple[Site, ...] = (),
    limits: Limits | None = None,
    broadcast: bool = False,
) -> Tenant:
    """Red or Blue, behind both gateways."""
    made = networks.tenant(
        name, access=access, routes=routes, sites=sites, limits=limits, broadcast=broadcast
    )
    return msgspec.structs.replace(made, gateways=("edge-1", "edge-2"))


GREEN = Tenant(
    name="green",
    gateways=("edge-2",),
    subnets=(
        VirtualSubnet(
            name="web",
            vsid=Vsid(7001),
            prefixes=(ip_network("10.0.1.0/24"),),
            gateway_addresses=(CustomerAddress.parse("10.0.1.1"),),
        ),
    ),
)


def world(
    red: Tenant | None = None,
    *,
    pa_version: int = 4,
    more: Iterable[LookupRecord] = (),
    without: Iterable[str] = (),
    **settings: object,
) -> World:
    """The network with another Red. The records' addresses are of an IP version; `more` replace theirs.

    `without` names CAs of Red's that have no record. `settings` are fields of the world.
    """
    tenants = (red or tenant(), tenant("blue"), GREEN)
    known = {
        (record.vsid, record.ca): record
        for name in ("red", "blue")
        for record in networks.records(name, pa_version)
    }
    own = (
        record("db", 9, "hv4"),
        record("web", 5, "hv1", tenant="green"),
        record("web", 6, "hv2", tenant="green"),
    )
    known |= {(each.vsid, each.ca): each for each in (*own, *more)}
    gone = {CustomerAddress.parse(each) for each in without}
    network = Network(
        hosts=(
            _host("hv1", "red", "blue", "green"),
            _host("hv2", "red", "blue", "green"),
            _host("hv3", "blue"),
            msgspec.structs.replace(_host("hv4", "red"), flow_id=FlowIdMode.ZERO),
        ),
        gateways=tuple(
            ProviderGateway(name=name, provider_addresses=(pa(name), pa(name, 6)))
            for name in ("edge-1", "edge-2")
        ),
        tenants=tenants,
    )
    made = World(
        network=network,
        records=tuple(
            each
            for each in known.values()
            if not (each.ca in gone and each.vsid in (VSIDS["red", "web"], VSIDS["red", "db"]))
        ),
        provider_addresses=(pa("edge-1"), pa("edge-1", 6)),
        hops=HOPS,
    )
    return msgspec.structs.replace(made, **settings)


def _host(name: str, *tenants: str) -> ProviderHost:
    addresses = tuple(ProviderAddress.parse(each) for each in ADDRESSES[name])
    return ProviderHost(name=name, provider_addresses=addresses, tenants=tenants)


def vm_mac(subnet: str, number: int, tenant_name: str = "red") -> MacAddress:
    """A VM's MAC."""
    return networks.mac(tenant_name, subnet, number)


WORLD = world()
