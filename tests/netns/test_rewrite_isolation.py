"""What strangers and other tenants send to rewritten VMs as plain packets, and which of it arrives.

   red-web1 blue-web1 ... on hv1        red-web2 blue-web2 ... on hv2
            +------------------ link ------------------+
                                 |  <- whoever sends here can write any source address
                              edge-1

Red and Blue have the same customer addresses.
"""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.lab import nodes, wire
from gateway.lab.namespaces import tool
from gateway.lab.terminal import heard
from gateway.lab.topology import LINK, SHARED, UPLINK
from tests.netns.moving import World
from tests.netns.rewriting import address_of, mixed_plan, mixed_world, ping, provider_address_of, show

pytestmark = pytest.mark.netns

FORGED = 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("lookup")
    with mixed_world(mixed_plan(one_link=True, with_site=False), folder) as built:
        for tenant in ("red", "blue"):
            for version in (4, 6):
                ping(built, f"{tenant}-web1", built.vm(f"{tenant}-db2").address(version))
        yield built


def lease_of(world: World, tenant: str, ca: str) -> str:
    """Return what stands at the gateway for a distant customer address."""
    leases = world.operator.ask("GET", f"/v1/leases?tenant={tenant}")["leases"]
    return next(str(lease["pa"]) for lease in leases if lease["ca"] == ca)


@pytest.mark.parametrize("version", [4, 6])
def test_only_what_comes_from_a_tenants_own_provider_address_arrives(world: World, version: int) -> None:
    own, peer, other = (
        provider_address_of(world, name, version) for name in ("red-web1", "red-web2", "blue-web2")
    )
    red_distant, blue_distant = (
        lease_of(world, tenant, address_of(world, f"{tenant}-db2", version)) for tenant in ("red", "blue")
    )
    held = {record["pa"] for record in world.operator.ask("GET", "/v1/records?limit=1000")["records"]}
    pool = ipaddress.ip_network(SHARED[version == 6])
    nobody = next(str(pool[number]) for number in range(1, 60) if str(pool[number]) not in held)
    stranger, host = {4: ("203.0.113.99", "198.51.100.12"), 6: ("2001:db8:77::99", "2001:db8:1::12")}[version]
    # Nobody answers for an address that nobody has, so the sender has to be told where it is to go.
    mac = json.loads(world.lab.node("hv1").run(tool("ip"), "-json", "link", "show", UPLINK).stdout)[0][
        "address"
    ]
    world.lab.router.ip(f"neighbour replace {nobody} lladdr {mac} dev {LINK}")
    unknown = ("unknown-provider-address", "red")
    send = Sender(world, version)

    assert send(peer, own, "hv1") == (FORGED, {})
    assert send(red_distant, own, "hv1") == (FORGED, {})
    assert send(own, red_distant, "edge-1") == (FORGED, {})
    for source in (other, blue_distant):
        assert send(source, own, "hv1") == (0, {("other-tenant", "red"): FORGED})
        assert send(source, red_distant, "edge-1") == (0, {("other-tenant", "red"): FORGED})
    for source in (stranger, host, nobody):
        assert send(source, own, "hv1") == (0, {unknown: FORGED})
    assert send(stranger, red_distant, "edge-1") == (0, {unknown: FORGED})
    assert send(peer, nobody, "hv1") == (0, {("unknown-provider-address", ""): FORGED})


class Sender:
    """Sends plain packets as anybody in the underlay can, and counts what comes of them."""

    def __init__(self, world: World, version: int) -> None:
        self._world = world
        self._version = version

    def __call__(self, source: str, destination: str, node: str) -> tuple[int, dict[tuple[str, str], int]]:
        """Return how many echo requests have come to any VM, and what a node has dropped."""
        drops, heard_before = nodes.drops(self._world.processes[node]), self._heard()
        self._world.lab.router.call(wire.forge_plain_echo_requests, source, destination, FORGED)
        deadline = time.monotonic() + 3
        while True:
            arrived = self._heard() - heard_before
            now = nodes.drops(self._world.processes[node])
            dropped = {
                key: count - drops.get(key, 0) for key, count in now.items() if count != drops.get(key)
            }
            if arrived + sum(dropped.values()) >= FORGED or time.monotonic() > deadline:
                show(f"{source} -> {destination}: {arrived} of {FORGED} arrived; {node} dropped {dropped}")
                return arrived, dropped
            time.sleep(0.02)

    def _heard(self) -> int:
        return sum(heard(self._world.lab.vm(vm.name), self._version) for vm in self._world.lab.plan.vms)
