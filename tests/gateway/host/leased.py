"""A tenant whose web is rewritten, the gateway that leases addresses for it, and what asks for them."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from gateway.forwarding.directory import DeleteLease, Directory, Put, PutLease
from gateway.host.leasing import Apply, Effect, Leasing
from gateway.host.uses import Key
from policies.addresses import CustomerAddress, MacAddress, Prefix, ProviderAddress, Vsid
from policies.model import (
    Appliance,
    Engine,
    Lease,
    LookupRecord,
    Network,
    ProviderGateway,
    Tenant,
    Translation,
    VirtualSubnet,
)

WEB, DB = Vsid(5001), Vsid(5002)
POOL = ip_network("203.0.113.0/24")
OTHER_POOL = ip_network("198.51.100.0/24")
MAC = MacAddress.parse("02:00:00:00:01:05")


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


def lease(number: int, of: int | Key, revision: int = 1, node: str = "edge-1") -> Lease:
    vsid, address = of if isinstance(of, tuple) else (WEB, ca(of))
    return Lease(pa(number), vsid, address, node, revision)


def rewritten(number: int) -> Put:
    return Put(LookupRecord(WEB, ca(number), MAC, pa(250), "hv1", Translation.REWRITE, 1, 1))


def encapsulated(number: int) -> Put:
    return Put(LookupRecord(WEB, ca(number), MAC, pa(250), "hv1", epoch=1, revision=1))


OWN: tuple[Key, Key] = (
    (WEB, CustomerAddress.parse("10.0.1.1")),
    (DB, CustomerAddress.parse("10.0.2.1")),
)


class Node:
    """A node, and its directory: what its machine says is done there at once."""

    def __init__(self, gateway: str | None = None) -> None:
        self.directory = Directory()
        self.leasing = Leasing(gateway, self.directory.find)

    def feed(self, *changes: Put | PutLease | DeleteLease, now: float = 0.0) -> None:
        for change in changes:
            self.directory.apply(change)
            self.leasing.changed(change, now)

    def applied(self, revision: int, now: float = 0.0) -> None:
        self.do(self.leasing.applied(revision, now))

    def do(self, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if isinstance(effect, Apply):
                self.directory.apply(effect.change)
        return [effect for effect in effects if not isinstance(effect, Apply)]

    def wanted(self, number: int, now: float = 0.0, vsid: Vsid = WEB) -> list[Effect]:
        self.leasing.wanted(vsid, ca(number), now)
        return self.leasing.handle_timeout(now)

    def due(self, now: float) -> list[Effect]:
        return self.do(self.leasing.handle_timeout(now))

    def sample(self, now: float, *used: int) -> list[Effect]:
        self.leasing.used([bytes(pa(number)) for number in used], now)
        return self.leasing.expire(now)

    @property
    def leases(self) -> set[ProviderAddress]:
        return {each.pa for each in self.directory.all_leases()}
