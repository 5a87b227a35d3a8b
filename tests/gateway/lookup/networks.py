"""Parts of networks, by numbers."""

from __future__ import annotations

from ipaddress import ip_network

from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.model import LookupRecord, VirtualSubnet

VSIDS = [Vsid(5001), Vsid(5002), Vsid(5003)]


def pa(number: int) -> ProviderAddress:
    return ProviderAddress(bytes((198, 51, 100, number)))


def ca(vsid: Vsid, number: int) -> CustomerAddress:
    return CustomerAddress(bytes((10, 0, vsid - 5000, number)))


def subnet(vsid: Vsid) -> VirtualSubnet:
    return VirtualSubnet(f"net-{vsid}", vsid, (ip_network(f"10.0.{vsid - 5000}.0/24"),), (ca(vsid, 1),))


def static(vsid: Vsid, number: int, host: str) -> LookupRecord:
    return LookupRecord(vsid, ca(vsid, number), MacAddress(bytes((2, 0, 0, 0, 0, number))), pa(1), host)
