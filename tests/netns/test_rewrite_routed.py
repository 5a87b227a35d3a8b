"""IP rewrite, with real processes, across an underlay that is routed: its router is a hop, and may be narrow.

   red-web1 red-app1 red-db1        red-web2 red-app2 red-db2             seattle-server
            |                                |                                  |
           hv1 ----------- router --------- hv2                    seattle (strongSwan or isthmus)
                             |                                                  |
                          edge-1 ------------------ internet -------------------+

web and app are rewritten, db is encapsulated; Blue has the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.moving import World
from tests.netns.rewriting import (
    SITE,
    address_of,
    forget_path_mtus,
    hops,
    learned_mtu,
    mixed_plan,
    mixed_world,
    narrow,
    ping,
    show,
    transfer,
)

pytestmark = [pytest.mark.netns]

GATEWAYS = {"web": ("10.0.1.1", "fd00:1::1"), "db": ("10.0.3.1", "fd00:3::1")}
NARROW = 1400


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("lookup")
    with mixed_world(mixed_plan(), folder) as built:
        yield built


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("source", "target", "routers"),
    [
        ("red-web1", "red-web2", ["web"]),
        ("red-web1", "red-app2", ["web", "web"]),
        ("red-web1", "red-db2", ["web", "web"]),
        ("red-db2", "red-web1", ["db", "db"]),
        ("red-web1", SITE, ["web", "web", "device"]),
        (SITE, "red-web1", ["device", "web", "web"]),
    ],
)
def test_a_router_of_the_underlay_is_one_more_hop_and_is_seen_as_the_vms_gateway(
    world: World, source: str, target: str, routers: list[str], version: int
) -> None:
    speakers = {**GATEWAYS, "device": ("172.16.0.1", "fd16::1")}
    address = address_of(world, target, version)
    by_udp, by_icmp = hops(world, source, address), hops(world, source, address, "-I")
    said = ping(world, source, address)

    show(f"{source} -> {target}: ping {re.findall('ttl=.*', said)}, traceroute {by_udp}")
    assert by_udp == by_icmp == [*(speakers[router][version == 6] for router in routers), address]
    assert said.count(f"ttl={64 - len(routers)} ") == 2, said


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("target", ["red-web2", "red-db2", SITE])
def test_a_narrow_link_of_the_underlay_is_learned_and_tcp_goes_on(
    world: World, target: str, version: int
) -> None:
    address, headers = address_of(world, target, version), 28 if version == 4 else 48
    forget_path_mtus(world, "red-web1", target)
    ping(world, "red-web1", address)
    with narrow(world, ("hv2", "edge-1"), NARROW):
        said = ping(world, "red-web1", address, "-M", "do", "-s", str(1420 - headers))
        show(said)
        assert re.search(rf"From {GATEWAYS['web'][version == 6]} icmp_seq=1 .*mtu ?= ?{NARROW}\b", said)
        assert learned_mtu(world, "red-web1", address) == NARROW
        show(transfer(world, "red-web1", target, version), transfer(world, target, "red-web1", version))
