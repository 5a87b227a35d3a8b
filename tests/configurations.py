"""Parts of configurations, as text, for tests to put together and to add to.

`edge_1() + RED + site("seattle")` is the gateway edge-1 of the tenant Red, which has the virtual subnet web
and a site. What a test does not name is as `tests.networks` has it, and does not matter to it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from policies.addresses import Address, MacAddress


def table(header: str, **settings: object) -> str:
    """A table with its settings; those that are None are left out."""
    lines = (
        f"{name} = {json.dumps(value, default=str)}" for name, value in settings.items() if value is not None
    )
    return "\n".join((header, *lines, ""))


def node(name: str, address: Address | str, **settings: object) -> str:
    """A node of the underlay, without a role yet. Its last table is `[underlay]`."""
    underlay = table("[underlay]", provider_addresses=[address])
    return table("[appliance]", name=name, **settings) + underlay


def gateway(name: str, address: Address | str, **settings: object) -> str:
    """A gateway. Its last table is `[gateway]`."""
    return node(name, address, **settings) + "[gateway]\n"


def edge_1(**settings: object) -> str:
    """The gateway edge-1."""
    return gateway("edge-1", "192.0.2.254", **settings)


def provider_host(name: str, address: Address | str, *tenants: str, pools: Sequence[str] = ()) -> str:
    """A host that may hold the VMs of Red, unless of others."""
    return table(
        "[[provider_host]]",
        name=name,
        provider_addresses=[address],
        tenants=list(tenants or ("red",)),
        pools=list(pools) or None,
    )


def provider_gateway(name: str, address: Address | str, *pools: str) -> str:
    """A gateway as others know it."""
    return table("[[provider_gateway]]", name=name, provider_addresses=[address], pools=list(pools) or None)


def tenant(name: str, gateway: str | None = "edge-1", *, leases: int | None = None) -> str:
    """A tenant without virtual subnets yet."""
    return table("[[tenant]]", name=name, gateways=[gateway] if gateway else None, leases=leases)


def subnet(name: str, vsid: int, *prefixes: str, translation: str | None = None) -> str:
    """A virtual subnet of the tenant before it."""
    return table("[[tenant.subnet]]", name=name, vsid=vsid, prefixes=list(prefixes), translation=translation)


WEB, DB = subnet("web", 5001, "10.0.1.0/24"), subnet("db", 5002, "10.0.2.0/24")
RED = tenant("red") + WEB


def host_port(interface: str = "vnet0") -> str:
    """The port of a VM of Red in web."""
    return table(
        "[[host.port]]",
        interface=interface,
        tenant="red",
        subnet="web",
        mac="02:00:00:00:01:05",
        addresses=["10.0.1.5"],
    )


def record(
    ca: Address | str,
    mac: MacAddress | str,
    host: str,
    *,
    pa: Address | str | None = None,
    translation: str | None = None,
) -> str:
    """A static record of the tenant before it."""
    return table("[[tenant.record]]", ca=ca, mac=mac, host=host, pa=pa, translation=translation)


def site(
    name: str,
    prefix: str = "172.16.0.0/16",
    peer: Address | str = "203.0.113.7",
    *,
    gateway: str = "edge-1",
    remote_id: str | None = None,
    psk_file: str | None = None,
    **settings: object,
) -> str:
    """A site of the tenant before it, with its secret in a file of its name unless in another."""
    head = table("[[tenant.site]]", name=name, gateway=gateway, prefixes=[prefix], peer=peer, **settings)
    remote_id, psk_file = remote_id or f"{name}.example", psk_file or f"{name}.psk"
    ike = f'{{ local_id = "{gateway}.example", remote_id = "{remote_id}", psk_file = "{psk_file}" }}'
    return f"{head}ike = {ike}\n"


def token(section: str, name: str, role: str, **settings: object) -> str:
    """Who may ask, by the token in a file of its name, in `lookup` or `api`."""
    return table(f"[[{section}.token]]", name=name, role=role, **settings, token_file=f"{name}.token")
