"""Which provider addresses a node takes for those of customer addresses."""

from __future__ import annotations

from ipaddress import ip_network

from gateway.forwarding.directory import Directory, PutLease
from gateway.forwarding.node import Node
from gateway.forwarding.translations import Formers, Translations
from policies.addresses import CustomerAddress, ProviderAddress, Vsid
from policies.model import Lease
from policies.tables import Tables
from tests import networks as n
from tests.rewriting import POOLS, network


def test_what_is_leased_of_a_pool_that_its_gateway_has_no_longer_stands_for_nobody() -> None:
    before = network(n.network())
    after = network(n.network(), {**POOLS, "edge-1": ("100.64.253.0/24",)})
    ca = CustomerAddress.parse(n.on_premise())
    vsid = Vsid(n.VSIDS["red", "web"])
    lease = Lease(ProviderAddress(ip_network("100.64.254.0/24")[7].packed), vsid, ca, "edge-1")
    directory = Directory(())
    directory.apply(PutLease(lease))
    node = Node("hv1", (n.pa("hv1"),), 1500, is_gateway=False, ports={}, host="hv1")
    tables = Tables.compile(before), Tables.compile(after)
    had, has = (Translations(node, each, directory, Formers()) for each in tables)

    assert had.reaching(tables[0].domains["red"], ca, ["edge-1"]) == lease
    assert has.reaching(tables[1].domains["red"], ca, ["edge-1"]) is None
