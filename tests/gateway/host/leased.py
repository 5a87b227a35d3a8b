"""A tenant whose web is rewritten, and the gateway that leases addresses for it."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from policies.addresses import CustomerAddress, Prefix, ProviderAddress, Vsid
from policies.model import (
    Appliance,
    Engine,
    Network,
    ProviderGateway,
    Tenant,
    Translation,
    VirtualSubnet,
)

WEB, DB = Vsid(5001), Vsid(5002)
POOL = ip_network("203.0.113.0/24")
OTHER_POOL = ip_network("198.51.100.0/24")


def ca(number: int) -> CustomerAddress:
    """A CA at a site."""
    return CustomerAddress(bytes((172, 16, number >> 8, number & 255)))


def pa(number: int) -> ProviderAddress:
    """An address of the pool."""
    return ProviderAddress(bytes((203, 0, 113, number)))


def network(
    *pools: Prefix, translation: Translation = Translation.REWRITE, gateway: str = "edge-1"
) -> Appliance:
    """Red with web and db, and a gateway with pools; each subnet has one gateway CA a family."""
    subnets = tuple(
        VirtualSubnet(
            name,
            vsid,
            (ip_network(f"10.0.{number}.0/24"),),
            (CustomerAddress.parse(f"10.0.{number}.1"), CustomerAddress.parse(f"fd00:{number}::1")),
            translation if vsid == WEB else Translation.ENCAP,
        )
        for number, (name, vsid) in enumerate((("web", WEB), ("db", DB)), 1)
    )
    gateways = (ProviderGateway("edge-1", (pa(254),), pools or (POOL,)),)
    tenants = (Tenant("red", (gateway,), subnets),)
    whole = Network(gateways=gateways, tenants=tenants)
    return Appliance("edge-1", Path(), Engine.PYTHON, None, True, None, None, whole)
