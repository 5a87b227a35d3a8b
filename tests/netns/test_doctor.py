"""`isthmus doctor` in network namespaces: what is wrong there is found, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from gateway.doctor.findings import Finding, Level
from gateway.lab.namespaces import Namespace, connect

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]

#   gateway [u0] 192.0.2.254 --- 192.0.2.1 [g0] router [h0] 198.51.100.1 --- 198.51.100.11 [u0] host
#      2001:db8:1::254 --- 2001:db8:1::1                  2001:db8:2::1 --- 2001:db8:2::11
FILE = """
[appliance]
name = "edge-1"
state = "state"
[underlay]
provider_addresses = ["192.0.2.254", "2001:db8:1::254"]
[gateway]
[[provider_host]]
name = "hv1"
provider_addresses = ["198.51.100.11", "2001:db8:2::11"]
tenants = []
"""


class World(NamedTuple):
    gateway: Namespace
    router: Namespace
    host: Namespace
    folder: Path


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    gateway, router, host = Namespace("gateway"), Namespace("router"), Namespace("host")
    for each in (gateway, router, host):
        # Else IPv6 is silent until the addresses are known to be nobody else's.
        each.sysctl({"net/ipv6/conf/all/accept_dad": 0, "net/ipv6/conf/default/accept_dad": 0})
    connect(gateway, "u0", router, "g0")
    connect(host, "u0", router, "h0")
    router.sysctl({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})
    router.ip(
        "addr add 192.0.2.1/24 dev g0",
        "addr add 2001:db8:1::1/64 dev g0 nodad",
        "addr add 198.51.100.1/24 dev h0",
        "addr add 2001:db8:2::1/64 dev h0 nodad",
        "link set g0 up",
        "link set h0 up",
    )
    gateway.ip("addr add 192.0.2.254/24 dev u0", "addr add 2001:db8:1::254/64 dev u0 nodad", "link set u0 up")
    host.ip("addr add 198.51.100.11/24 dev u0", "addr add 2001:db8:2::11/64 dev u0 nodad", "link set u0 up")
    gateway.ip("route add default via 192.0.2.1", "route add default via 2001:db8:1::1")
    host.ip("route add default via 198.51.100.1", "route add default via 2001:db8:2::1")
    yield World(gateway, router, host, tmp_path)
    for each in (gateway, router, host):
        each.close()


def examined(world: World, text: str = FILE) -> list[Finding]:
    """What the doctor finds, by the command line: it has ten seconds."""
    file = world.folder / "appliance.toml"
    file.write_text(text)
    done = subprocess.run(
        world.gateway.command(sys.executable, "-m", "gateway.cli", "doctor", str(file), "--json"),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=20,
        check=False,
    )
    assert done.stderr == ""
    found = msgspec.json.decode(done.stdout, type=list[Finding])
    assert done.returncode == int(any(each.level is Level.FAIL for each in found))
    return found


def of(area: str, found: list[Finding]) -> list[tuple[Level, str]]:
    return [(each.level, each.what) for each in found if each.area == area]


def test_paths_that_carry_what_is_sent_are_well(world: World) -> None:
    found = examined(world)
    assert of("path", found) == [
        (
            Level.OK,
            "1500 octets arrive unfragmented at 198.51.100.11 (hv1), 2001:db8:2::11 (hv1): guests' 1458 fit",
        )
    ]
    assert not [each for each in found if each.level is Level.FAIL]


def test_the_largest_packet_of_a_path_is_found_exactly_with_who_says_so(world: World) -> None:
    world.router.ip("link set h0 mtu 1337")
    small = "packets of up to 1337 octets arrive at {} (hv1), and up to 1500 are sent: {} on the way says so"
    assert of("path", examined(world)) == [
        (Level.FAIL, small.format("198.51.100.11", "192.0.2.1")),
        (Level.FAIL, small.format("2001:db8:2::11", "2001:db8:1::1")),
    ]


def test_a_path_on_which_large_packets_vanish_is_measured_all_the_same(
    world: World, require_tools: Callable[..., None]
) -> None:
    require_tools("nft")
    rules = """table inet hole {
        chain forward {
            type filter hook forward priority 0
            meta length > 1411 drop
        }
    }
    """
    world.router.run("nft", "-f", "-", stdin=rules)
    found = of("path", examined(world))
    assert [level for level, _ in found] == [Level.FAIL, Level.FAIL]
    assert all("packets of up to 1411 octets arrive at" in words for _, words in found)
    assert all("nobody on the way says so" in words for _, words in found)


def test_a_host_that_answers_no_ping_is_told_apart_from_a_small_path(world: World) -> None:
    world.host.sysctl({"net/ipv4/icmp_echo_ignore_all": 1, "net/ipv6/icmp/echo_ignore_all": 1})
    found = of("path", examined(world))
    assert [level for level, _ in found] == [Level.WARN, Level.WARN]
    assert all("no ping is answered by" in words for _, words in found)


def test_a_jumbo_underlay_is_measured_up_to_its_mtu(world: World) -> None:
    for namespace, name in ((world.gateway, "u0"), (world.router, "g0"), (world.router, "h0")):
        namespace.ip(f"link set {name} mtu 9000")
    world.host.ip("link set u0 mtu 1500")  # it drops what is larger, and nobody says so
    found = of("path", examined(world))
    assert [level for level, _ in found] == [Level.FAIL, Level.FAIL]
    assert all("up to 9000 are sent" in words for _, words in found)


def test_an_address_that_the_machine_does_not_have_is_a_failure(world: World) -> None:
    found = examined(world, FILE.replace("192.0.2.254", "192.0.2.253"))
    ((level, words),) = of("underlay", found)
    assert (level, "192.0.2.253 is on no interface" in words) == (Level.FAIL, True)
    assert [level for level, _ in of("path", found)] == [Level.SKIPPED]


@contextmanager
def bound(namespace: Namespace, port: int) -> Iterator[None]:
    def open_one() -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind(("0.0.0.0", port))
        return opened

    taken = namespace.call(open_one)
    try:
        yield
    finally:
        taken.close()


def test_whoever_has_ikes_ports_is_named(world: World) -> None:
    assert of("ike", examined(world)) == [(Level.OK, "UDP 500 and 4500 are free")]
    with bound(world.gateway, 4500):
        ((level, words),) = of("ike", examined(world))
    assert level is Level.FAIL
    assert "has UDP 4500: no site can be dialled" in words
    assert f"(process {os.getpid()})" in words


def test_the_rules_of_the_firewall_are_found_where_they_are_installed(
    world: World, require_tools: Callable[..., None]
) -> None:
    require_tools("nft")
    assert [level for level, _ in of("firewall", examined(world))] == [Level.WARN]
    file = world.folder / "appliance.toml"
    install = (sys.executable, "-m", "gateway.cli", "firewall", str(file), "--install")
    subprocess.run(world.gateway.command(*install), cwd=ROOT, check=True, capture_output=True, timeout=20)
    assert [level for level, _ in of("firewall", examined(world))] == [Level.OK]
    world.gateway.run("nft", "add table inet f")
    world.gateway.run(
        "nft", "add chain inet f in { type filter hook input priority 0; policy drop; }", check=True
    )
    levels = [level for level, _ in of("firewall", examined(world))]
    assert levels == [Level.OK, Level.WARN]


def test_merging_that_is_on_is_told(world: World, require_tools: Callable[..., None]) -> None:
    require_tools("ethtool")
    world.gateway.run("ethtool", "-K", "u0", "gro", "on")
    found = of("underlay", examined(world))
    assert (Level.OK, "GRO is on at u0, and is switched off while the appliance runs") in found


def test_a_machine_that_routes_by_itself_is_told(world: World) -> None:
    world.gateway.sysctl({"net/ipv4/ip_forward": 1})
    assert any("also routes by itself" in words for _, words in of("kernel", examined(world)))


def test_without_privileges_it_says_what_it_could_not_find_out(
    world: World, require_tools: Callable[..., None]
) -> None:
    require_tools("setpriv")
    file = world.folder / "appliance.toml"
    file.write_text(FILE)
    command = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=0", "--securebits=+noroot")
    argv = (*command, sys.executable, "-m", "gateway.cli", "doctor", str(file), "--json")
    done = subprocess.run(
        world.gateway.command(*argv), capture_output=True, text=True, cwd=ROOT, timeout=20, check=False
    )
    found = msgspec.json.decode(done.stdout, type=list[Finding])
    assert of("path", found) == [(Level.SKIPPED, "no ping can be sent: that is not permitted")]
    assert [level for level, _ in of("privileges", found)] == [Level.WARN]


def test_what_is_in_the_way_of_pools_is_found(world: World) -> None:
    text = FILE.replace("[gateway]\n", '[gateway]\npools = ["192.0.2.128/26", "2001:db8:1::a:0/112"]\n')
    assert of("pools", examined(world, text)) == [
        (Level.OK, "the kernel is kept from 192.0.2.128/26, 2001:db8:1::a:0/112 while isthmus runs")
    ]
    world.gateway.ip(
        "addr add 192.0.2.130/32 dev u0", "rule add iif u0 to 203.0.113.0/24 blackhole priority 637"
    )
    failed, _, left = of("pools", examined(world, text))
    in_pool = "192.0.2.130 of u0 lies in the pool 192.0.2.128/26, whose addresses must be on no interface"
    assert failed == (Level.FAIL, in_pool)
    words = "a rule keeps the kernel from 203.0.113.0/24 at u0, which is no pool of this node"
    assert left == (Level.WARN, words)
