"""A rewritten VM scans, and processes die: what goes on, and what comes back.

   red-web1 blue-web1 ... on hv1        red-web2 blue-web2 ... on hv2       seattle-server (Red's)
            +---------------- underlay ----------------+                          |
                                 |                                             seattle
                     edge-1, edge-2 (serves records) --------- internet ----------+

web and app are rewritten, db is encapsulated; Red may have 50 addresses of the gateways' pools.
"""

from __future__ import annotations

import ipaddress
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.lab import echo, nodes
from gateway.lab.topology import Node
from tests.netns.moving import World
from tests.netns.pings import Pings, lost
from tests.netns.rewriting import SITE, address_of, mixed_plan, mixed_world, ping, show

pytestmark = pytest.mark.netns

EDGE_2 = Node("edge-2", ("198.18.4.253/24", "2001:db8:4::253/64"), ("198.18.4.128/27", "2001:db8:4::1:0/112"))
LIMIT = 50
SCAN = ipaddress.ip_network("172.16.8.0/21")
SCANNED = 2000
GATEWAYS = {
    f"{prefix}{number}{end}" for prefix, end in (("10.0.", ".1"), ("fd00:", "::1")) for number in (1, 2, 3)
}
FLOWS = (
    ("red-web1", "red-app2"),
    ("red-web1", "red-db2"),
    ("red-web1", SITE),
    ("blue-web1", "blue-db2"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("lookup")
    plan = mixed_plan()
    plan = msgspec.structs.replace(plan, gateways=(*plan.gateways, EDGE_2), leases={"red": LIMIT})
    with mixed_world(plan, folder, served_by="edge-2") as built:
        for source, target in FLOWS:
            ping(built, source, address_of(built, target))
        yield built


def test_a_vm_that_scans_takes_its_tenants_leases_and_no_flow_is_harmed(world: World) -> None:
    standing = [lease for lease in leases(world, "red") if lease["ca"] in GATEWAYS]
    established = flows(world)
    scan = world.lab.start_python("scan", world.lab.vm("red-web1"), "tests.netns.scanning", str(SCAN))
    assert scan.wait(30) == 0, scan.output()
    held = leases(world, "red")
    scanned = [lease["pa"] for lease in held if ipaddress.ip_address(lease["ca"]) in SCAN]
    world.wait_until(
        lambda: nodes.drops(world.processes["hv1"]) == {("no-lease", "red"): SCANNED - len(scanned)},
        f"{len(scanned)} leased, and {nodes.drops(world.processes['hv1'])}",
    )
    counts = {flow: pings.end() for flow, pings in established.items()}
    alerts = [alert["message"] for alert in world.operator.ask("GET", "/v1/status")["alerts"]]
    show(scan.output().strip(), f"{len(held)} leases of Red, {len(standing)} the gateways' own", *alerts)
    show(f"hv1 has dropped {nodes.drops(world.processes['hv1'])}", f"pings, and lost: {counts}")

    assert lost(counts) == {}
    assert len(held) - len(standing) == LIMIT
    assert "tenant red gets no lease at edge-1: the tenant holds as many as its `leases` allow" in alerts

    # As a gateway does by itself when they have not been used for five minutes.
    world.operator.ask("POST", "/v1/leases/return", {"pas": scanned})
    pools = world.isthmus("pools", "FILE").stdout
    show(pools)
    assert re.search(rf"192\.0\.2\.128/26 +\d+ held, {len(scanned)} in quarantine, ", pools)
    # What was refused is asked for again after some seconds.
    target = str(SCAN[-2])
    world.wait_until(
        lambda: (
            ping(world, "red-web1", target) != "" and target in {each["ca"] for each in leases(world, "red")}
        ),
        "there is no lease although some were given back",
        timeout=15,
    )


def test_nothing_is_noticed_of_an_outage_of_the_lookup_service(world: World) -> None:
    established = flows(world)
    kill(world, world.server)
    time.sleep(5)
    during = {flow: pings.end() for flow, pings in established.items()}
    after = flows(world)
    world.restart(world.server)
    world.wait_until_followed(("hv1", "hv2", "edge-1"))
    counts = {flow: pings.end() for flow, pings in after.items()}

    show(f"pings, and lost: {during}, then {counts}")
    assert lost(during) == lost(counts) == {}


@pytest.mark.parametrize("killed", ["hv1", "edge-1"])
def test_what_a_killed_process_held_is_held_again_even_while_the_lookup_service_is_away(
    world: World, killed: str
) -> None:
    before = addresses(world)
    kill(world, world.server)
    kill(world, killed)
    world.restart(killed)
    # The site's tunnel is its own affair.
    for source, target in FLOWS:
        if target != SITE:
            world.wait_until(
                lambda: world.lab.vm(source).call(echo.reachable, address_of(world, target)),  # noqa: B023
                f"{source} does not reach {target}",
            )
    world.restart(world.server)
    world.wait_until_followed(("hv1", "hv2", "edge-1"))

    for source, target in FLOWS:
        assert target == SITE or " 0% packet loss" in ping(world, source, address_of(world, target))
    assert addresses(world) == before


def leases(world: World, tenant: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = world.operator.ask("GET", f"/v1/leases?tenant={tenant}&limit=1000")[
        "leases"
    ]
    return found


def addresses(world: World) -> dict[tuple[str, str, str], str]:
    """Return all provider addresses that stand for one customer address, by tenant, node and that."""
    held = {
        (tenant, lease["node"], lease["ca"]): lease["pa"]
        for tenant in ("red", "blue")
        for lease in leases(world, tenant)
    }
    records = world.operator.ask("GET", "/v1/records?limit=1000")["records"]
    return held | {(str(each["vsid"]), each["host"], each["ca"]): each["pa"] for each in records}


def flows(world: World) -> dict[str, Pings]:
    """Ping along each flow, a hundred times a second."""
    return {
        f"{source} -> {target}": Pings(world.lab, world.lab.vm(source), address_of(world, target))
        for source, target in FLOWS
    }


def kill(world: World, name: str) -> None:
    """End a node's process at once."""
    world.processes[name].send_signal(signal.SIGKILL)
    world.processes[name].wait()
