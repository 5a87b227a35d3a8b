"""The laboratory's strongSwan by itself: one in the gateway's place and one at the premises.

What fails here is the laboratory's fault, or this machine's, and not the gateway's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from gateway.lab.strongswan import Child, Connection, StrongSwan
from tests.interop.strongswan import (
    CHILD,
    CONNECTION,
    EDGE_ID,
    GCM,
    SECRET,
    SUITES,
    VM,
    Traffic,
    World,
    connection_of,
    lost,
)

pytestmark = [pytest.mark.netns, pytest.mark.interop]


@pytest.fixture
def world(world: World) -> World:
    world.node("edge-1").ip(f"address add {VM}/32 dev lo")
    return world


def in_the_gateways_place(world: World, *names: str, suite: tuple[str, str] = GCM) -> StrongSwan:
    child = Child(local=(f"{VM}/32",), remote=("172.16.0.0/16",), proposals=suite[1])
    connections = {
        name: Connection(
            local_id=EDGE_ID,
            remote_id=f"{name}.example",
            psk=SECRET,
            proposals=suite[0],
            children={name: child},
        )
        for name in names
    }
    edge = StrongSwan(world, "edge-swan", world.node("edge-1"), connections)
    edge.start()
    return edge


@pytest.mark.parametrize(
    "suite",
    [
        pytest.param(suite, id=name, marks=() if suite == GCM else pytest.mark.long)
        for name, suite in SUITES.items()
    ],
)
def test_tunnel_carries_packets(world: World, suite: tuple[str, str]) -> None:
    world.add_premises("seattle")
    in_the_gateways_place(world, "seattle", suite=suite)
    swan = world.strongswan("seattle", connection_of("seattle", suite=suite))
    swan.start()
    swan.initiate(CHILD)
    assert lost(world.server("seattle"), VM) == 0
    assert swan.is_up(CONNECTION)


def test_two_sites_with_the_same_prefix_share_a_nat_address(world: World) -> None:
    nat = world.internet.nat()
    edge = in_the_gateways_place(world, "seattle", "boston")
    for name in ("seattle", "boston"):
        world.add_premises(name, nat=nat)
        swan = world.strongswan(name, connection_of(name))
        swan.start()
        swan.initiate(CHILD)
    seen = [(sa.values["remote-host"], sa.values["remote-port"]) for sa in edge.security_associations()]
    assert {host for host, _ in seen} == {nat.address}
    assert len(set(seen)) == 2


def test_rebooted_nat_gives_other_ports(world: World) -> None:
    nat = world.internet.nat()
    world.add_premises("seattle", nat=nat)
    edge = in_the_gateways_place(world, "seattle")
    swan = world.strongswan("seattle", connection_of("seattle"))
    swan.start()
    swan.initiate(CHILD)
    assert lost(world.server("seattle"), VM) == 0

    nat.reboot(31000)
    swan.rekey(CONNECTION)  # strongSwan learns of the new port by a message of IKE
    deadline = time.monotonic() + 10
    while not any(
        31000 <= int(sa.values.get("remote-port", 0)) < 32000 for sa in edge.security_associations()
    ):
        assert time.monotonic() < deadline, edge.log[-3000:]
        time.sleep(0.1)


@pytest.mark.long
def test_rekeys_under_traffic_lose_nothing(world: World, require_tools: Callable[..., None]) -> None:
    require_tools("iperf3")
    world.add_premises("seattle")
    in_the_gateways_place(world, "seattle")
    swan = world.strongswan("seattle", connection_of("seattle", child_rekey_seconds=2, rekey_seconds=3))
    swan.start()
    swan.initiate(CHILD)
    traffic = Traffic(world, world.server("seattle"), world.node("edge-1"), VM, seconds=6)
    assert traffic.pings_lost() == 0
    assert traffic.slowest_second() > 0.5
