"""Sites behind NAT routers, with strongSwan as their VPN devices.

seattle, boston --- nat --- internet --- underlay --- edge-1
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from gateway.lab.strongswan import StrongSwan
from tests.interop.strongswan import (
    CHILD,
    CONNECTION,
    SERVER,
    VM,
    Gateway,
    Traffic,
    World,
    connection_of,
    lost,
    site_named,
)

pytestmark = [pytest.mark.netns, pytest.mark.interop]

TENANTS = {"seattle": "red", "boston": "blue"}


def behind_one_nat(world: World, *names: str, **keys: Any) -> tuple[Gateway, list[StrongSwan]]:
    """Sites that dial in from behind the one NAT router, all up; `keys` are of their connections."""
    for name in names:
        world.add_premises(name, nat=world.nat)
    gateway = world.start_gateway(*(site_named(name, tenant=TENANTS[name]) for name in names))
    swans = [world.strongswan(name, connection_of(name, **keys)) for name in names]
    for name, swan in zip(names, swans, strict=True):
        swan.start()
        swan.initiate(CHILD)
        gateway.wait_until_up(name)
    return gateway, swans


def wait_for_port(gateway: Gateway, name: str, thousand: int) -> None:
    """Wait until a site is seen at a port of these thousand. Raises LabError."""
    at_port = re.compile(rf"[^0-9.]{thousand}[0-9]{{3}}\b")
    gateway.wait_for(name, lambda site: bool(at_port.search(site.path or "")), f"at port {thousand}xxx", 60)


def spoken(world: World, name: str) -> str:
    """What the machine with the VM's address tells a site's server."""
    return world.ask(world.server(name), VM)


def test_sites_of_two_tenants_behind_one_nat_address_reach_their_own_vms_only(world: World) -> None:
    gateway, _ = behind_one_nat(world, "seattle", "boston")
    for tenant in ("red", "blue"):
        world.let_speak(world.vm(f"{tenant}-web1"), f"I am {tenant}-web1.")
    for name in TENANTS:
        world.let_speak(world.server(name), f"I am at {name}.")

    assert spoken(world, "seattle") == "I am red-web1."
    assert spoken(world, "boston") == "I am blue-web1."
    assert world.ask(world.vm("red-web1"), SERVER) == "I am at seattle."
    assert world.ask(world.vm("blue-web1"), SERVER) == "I am at boston."
    paths = [gateway.site(name).path or "" for name in TENANTS]
    assert len(set(paths)) == 2
    assert all(world.nat.address in path for path in paths)


@pytest.mark.parametrize("reboots", [1, pytest.param(3, marks=pytest.mark.long)])
def test_nat_rebooted_under_traffic_is_followed_to_its_new_port(world: World, reboots: int) -> None:
    gateway, (swan,) = behind_one_nat(world, "seattle")
    traffic = Traffic(world, world.server("seattle"), world.vm("red-web1"), VM, seconds=2 + 2 * reboots)
    for number in range(reboots):
        traffic.wait(2 * number + 1)
        world.nat.reboot(31000 + 1000 * number)
        wait_for_port(gateway, "seattle", 31 + number)
    # What was on its way back to the old port when the router forgot it is lost, and nothing else.
    assert traffic.pings_lost() <= 3 * reboots
    assert gateway.site("seattle").state == "up"
    assert swan.is_up(CONNECTION)
    assert lost(world.vm("red-web1"), SERVER) == 0


@pytest.mark.long
def test_nat_rebooted_while_all_is_quiet_is_followed_once_the_device_probes(world: World) -> None:
    """Keepalives prove nothing, so that they move nothing; a probe of IKE does."""
    gateway, _ = behind_one_nat(world, "seattle", liveness_seconds=2)
    world.nat.reboot(31000)
    wait_for_port(gateway, "seattle", 31)
    assert lost(world.vm("red-web1"), SERVER) == 0
