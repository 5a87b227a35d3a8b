"""What a reload leaves of IP rewrite: what waits is decided by what is so now, and leases stay in use."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP

from gateway.forwarding.directory import PutLease
from gateway.forwarding.drops import DropReason
from gateway.forwarding.verdicts import Held, ToProvider
from gateway.forwarding.waiting import FOR_NEWS
from policies.model import Lease, Tenant
from policies.tables import Tables
from tests import networks as n
from tests.rewriting import Vm, World, network

WEB5: Vm = ("red", "web", 5)
RED = n.tenant("red", sites=(n.site("seattle", *n.SEATTLE),))
BLUE = n.tenant("blue", sites=(n.site("oslo", *n.OSLO),))


def waiting(at: str) -> World:
    """A world in which one packet waits for a lease, on its way to a rewritten VM or from one."""
    world = World([WEB5], net=n.network(BLUE, RED))
    world.leasing = False
    edge = world.nodes["edge-1"]
    if at == "a VM's port":
        world.send(WEB5, n.frame("red", ("web", 5), ("db", 5)))
    elif at == "the underlay":
        world.send(("red", "db", 5), n.frame("red", ("db", 5), ("web", 5)))
    else:
        edge.sites.site_is_up(("red", "seattle"), 1400, [n.BY_SEATTLE])
        world.from_site(IP(src=n.on_premise(), dst=n.ca("web", 5)) / UDP())
    assert isinstance(world.verdicts[-1][1], Held)
    return world


def reload(world: World, *tenants: Tenant) -> None:
    tables = Tables.compile(network(n.network(*tenants)))
    for forwarder in world.nodes.values():
        ports = {key: port for key, port in forwarder.node.ports.items() if key[0] in tables.subnets}
        forwarder.replace_tables(tables, ports)


WHERE = ["a VM's port", "the underlay", "a site"]


@pytest.mark.parametrize("at", WHERE)
def test_packet_that_waits_is_dropped_where_its_tenant_is_gone_when_the_answer_comes(at: str) -> None:
    world = waiting(at)
    ((name, vsid, ca),) = world.asked
    node = world.nodes[name]

    reload(world, BLUE)

    assert node.apply([PutLease(Lease(world.address("edge-1", 4), vsid, ca, "edge-1"))], 0.1) == ()
    assert sum(node.drops.counts.values()) == 1
    assert not len(node.waiting)


@pytest.mark.parametrize("at", WHERE)
def test_packet_that_waits_outlives_a_reload_of_something_else(at: str) -> None:
    world = waiting(at)

    reload(world, RED)
    world.lease(*world.asked[0][1:])

    assert len([each for each in world.on_wire if isinstance(each, ToProvider)]) == 1
    assert len(world.at_ports) == 1


def test_flow_of_a_sites_packet_that_has_waited_is_remembered_as_that_sites() -> None:
    world = waiting("a site")
    reload(world, RED)
    world.lease(*world.asked[0][1:])
    world.from_site(IP(src=n.on_premise(), dst=n.ca("web", 5)) / UDP())

    assert len(world.nodes["edge-1"].flows) == 1


def test_lease_that_was_used_just_before_a_reload_has_been_used() -> None:
    world = waiting("a site")
    lease = world.lease(*world.asked[0][1:])
    reload(world, RED, BLUE)
    assert world.nodes["edge-1"].take_used_leases() == {lease.pa}


def test_packet_for_which_there_is_no_room_is_counted_as_what_it_would_have_waited_for() -> None:
    world = World([WEB5])
    host = world.nodes["hv1"]
    stranger = IP(src="100.64.2.200", dst=str(world.record(WEB5).pa)) / UDP()
    for _ in range(FOR_NEWS.of_one + 1):
        host.from_provider(bytes(stranger), 0)
    assert host.drops.counts == {(DropReason.UNKNOWN_PROVIDER_ADDRESS, "red"): 1}
