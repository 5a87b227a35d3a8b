"""Networks in which routes lead by VMs, or to sites."""

from __future__ import annotations

from ipaddress import ip_network

import msgspec

from policies.addresses import CustomerAddress
from policies.model import AddressHop, CustomerRoute, SiteHop
from tests.fastpath.outcomes import World
from tests.fastpath.scenes import tenant, vsid, world
from tests.networks import OSLO, SEATTLE, site


def via(*routes: tuple[str, str]) -> World:
    """A network in which routes lead by VMs: prefixes, each with the address of its VM."""
    return world(
        tenant(
            routes=tuple(
                CustomerRoute(ip_network(prefix), AddressHop(CustomerAddress.parse(ca)))
                for prefix, ca in routes
            )
        )
    )


FIREWALL = via(("198.18.0.0/15", "10.0.2.6"), ("fd77::/32", "fd00:2::6"))
"""Behind db .6, which is on hv1."""
DEFAULT = via(("0.0.0.0/0", "10.0.2.6"), ("::/0", "fd00:2::6"))
"""The same for all that is nobody's."""
AT_SITES = world(
    tenant(
        sites=(site("seattle", *SEATTLE), site("oslo", *OSLO, gateway="edge-2")),
        routes=(
            CustomerRoute(ip_network("10.0.2.6/32"), SiteHop("seattle")),
            CustomerRoute(ip_network("10.0.2.9/32"), SiteHop("oslo")),
        ),
    )
)


def firewall_without(ca: str) -> World:
    """FIREWALL, where a VM in db has no record."""
    gone = CustomerAddress.parse(ca)
    return msgspec.structs.replace(
        FIREWALL,
        records=tuple(each for each in FIREWALL.records if each.ca != gone or each.vsid != vsid("red", "db")),
    )
