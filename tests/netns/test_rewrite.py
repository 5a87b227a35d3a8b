"""IP rewrite, with real processes, where all nodes are on one link: no hop is there but our own.

   red-web1 red-app1 red-db1        red-web2 red-app2 red-db2             seattle-server
            |                                |                                  |
           hv1 ------------ link ---------- hv2                    seattle (strongSwan or isthmus)
                             |                                                  |
                          edge-1 ------------------ internet -------------------+

web and app are rewritten, db is encapsulated; Blue has the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gateway.lab import wire
from gateway.lab.certificates import AUTHORITY
from gateway.lab.topology import UPLINK
from tests.netns.moving import World
from tests.netns.rewriting import (
    SITE,
    address_of,
    forget_path_mtus,
    hops,
    learned_mtu,
    mixed_plan,
    mixed_world,
    ping,
    provider_address_of,
    show,
    transfer,
)

pytestmark = [pytest.mark.netns]

GATEWAYS = {
    "web": ("10.0.1.1", "fd00:1::1"),
    "app": ("10.0.2.1", "fd00:2::1"),
    "db": ("10.0.3.1", "fd00:3::1"),
}
DEVICE = ("172.16.0.1", "fd16::1")

# From, to, whether somebody routes in the datacenter.
MIXES = [
    ("red-web1", "red-web2", False),
    ("red-web1", "red-app2", True),
    ("red-web1", "red-app1", True),
    ("red-web1", "red-db2", True),
    ("red-db2", "red-web1", True),
    ("red-web1", "red-db1", True),
    ("red-db1", "red-web1", True),
    ("red-web1", SITE, True),
    (SITE, "red-web1", True),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("lookup")
    with mixed_world(mixed_plan(one_link=True), folder) as built:
        yield built


def way(source: str, target: str, version: int, *, is_routed: bool) -> list[str]:
    """Which routers there are: the gateway of the sender's subnet, and a site's own."""
    six = version == 6
    if source == SITE:
        return [DEVICE[six], GATEWAYS[target[4:-1]][six]]
    own = [GATEWAYS[source[4:-1]][six]] if is_routed else []
    return [*own, DEVICE[six]] if target == SITE else own


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("source", "target", "is_routed"), MIXES)
def test_every_mix_reaches_each_other_over_the_right_hops(
    world: World, source: str, target: str, is_routed: bool, version: int
) -> None:
    address = address_of(world, target, version)
    routers = way(source, target, version, is_routed=is_routed)

    # First, since what nobody has talked to yet has no address: probes wait for it, and must not be mixed up.
    by_udp = hops(world, source, address)
    said = ping(world, source, address)
    by_icmp = hops(world, source, address, "-I")

    show(f"{source} -> {target}: ping {re.findall('ttl=.*', said)}, traceroute {by_udp}")
    assert said.count(f"ttl={64 - len(routers)} ") == 2, said
    assert by_udp == by_icmp == [*routers, address]


@pytest.mark.parametrize("version", [4, 6])
def test_tcp_and_fragments_cross_every_mix_and_the_underlay_sees_plain_packets_between_rewritten_vms(
    world: World, version: int
) -> None:
    file = world.lab.directory / f"link-{version}.pcap"
    capture = world.lab.capture(world.lab.node("hv1"), UPLINK, file)
    targets = ("red-web2", "red-app2", "red-db2", SITE)
    for target in targets:
        forget_path_mtus(world, "red-web1", target)
        show(transfer(world, "red-web1", target, version))
        show(transfer(world, target, "red-web1", version))
        address = address_of(world, target, version)
        ping(
            world, "red-web1", address, "-s", "4000"
        )  # in IPv6 the first ones are lost, and both learn of it
        assert " 0% packet loss" in ping(world, "red-web1", address, "-s", "4000")
    full = str(1500 - (28 if version == 4 else 48))
    assert " 0% packet loss" in ping(
        world, "red-web1", address_of(world, "red-web2", version), "-M", "do", "-s", full
    )
    capture.stop()

    own = provider_address_of(world, "red-web1", version)
    others = {provider_address_of(world, name, version) for name in targets[:2]}
    seen = [packet for packet in wire.packets(file) if packet.version == version]
    plain = [packet for packet in seen if own in (packet.source, packet.destination)]
    others_of_hv1 = [packet for packet in seen if own not in (packet.source, packet.destination)]
    direct = [packet for packet in plain if others & {packet.source, packet.destination}]
    show(*sorted({str(packet) for packet in direct if packet.protocol != "TCP"}))
    show(f"{len(seen)} packets, {len(plain)} of them rewritten, {len(direct)} between rewritten VMs")

    assert {packet.protocol for packet in plain} >= {"TCP", f"ICMP{'v6' * (version == 6)}"}
    assert len(direct) > 2000
    # The rest is hv1's own: no GRE is among it.
    assert {packet.protocol for packet in others_of_hv1} <= {"TCP", "ICMPv6"}
    assert [str(packet) for packet in plain if not packet.is_sound] == []
    customers = {address_of(world, name, version) for name in ("red-web1", *targets)}
    assert [str(packet) for packet in seen if customers & {packet.source, packet.destination}] == []
    mss = 1460 if version == 4 else 1440
    assert {packet.mss for packet in direct if packet.mss} == {mss}
    assert max(len(packet.octets) for packet in direct) == 1500
    if version == 4:
        assert all(
            packet.is_whole and packet.facts.dont_fragment for packet in direct if packet.protocol == "TCP"
        )


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("source", "target", "speaker", "mtu"),
    [
        ("red-web1", "red-db2", ("10.0.3.6", "fd00:3::6"), 1458),
        ("red-db2", "red-web1", GATEWAYS["db"], 1458),
        ("red-web1", SITE, GATEWAYS["web"], 1438),
    ],
)
def test_what_encapsulation_does_not_carry_is_said_to_a_vm_that_sends_1500_octets(
    world: World, source: str, target: str, speaker: Sequence[str], mtu: int, version: int
) -> None:
    forget_path_mtus(world, source)
    address = address_of(world, target, version)
    ping(world, source, address)  # whatever waits for its address
    headers = 28 if version == 4 else 48
    said = ping(world, source, address, "-M", "do", "-s", str(1500 - headers))
    show(said)
    assert re.search(rf"From {speaker[version == 6]} icmp_seq=1 .*mtu ?= ?{mtu}\b", said), said
    assert learned_mtu(world, source, address) == mtu
    ping(
        world, source, address, "-M", "do", "-s", str(mtu - headers)
    )  # what answers may have to learn as well
    assert " 0% packet loss" in ping(world, source, address, "-M", "do", "-s", str(mtu - headers))


def test_an_operator_sees_what_stands_for_whom(world: World) -> None:
    ping(world, "red-web1", "10.0.3.6")
    own, peer = (provider_address_of(world, name) for name in ("red-web1", "red-web2"))
    (lease,) = (each for each in lines(world, "edge-1", "leases") if each.endswith(" for 5003/10.0.3.6"))
    distant = lease.split()[0]
    captured = world.lab.start(
        "looks", world.lab.node("hv1"), *command(world, "hv1", "capture"), "--side", "both", "--frames", "4"
    )
    captured.wait_for("^capturing")
    ping(world, "red-web1", "10.0.3.6")
    assert captured.wait(5) == 0
    said = [line[16:] for line in captured.output().splitlines()]
    show(*said)
    request = "icmp echo request seq 1, 84 octets, ttl 63"

    assert f"underlay out rewritten {own} > {distant}: {request}" in said
    assert f"red/db out rewritten 10.0.1.5 > 10.0.3.6: {request}" in said
    assert f"5001     10.0.1.5         02:00:00:00:01:05  hv1 at {own}  rewrite  epoch 1" in lines(
        world, "edge-1", "records", "list"
    )
    assert any(
        re.fullmatch(r"198\.51\.100\.128/26 +8 held, .* hv1, hv2", each)
        for each in lines(world, "edge-1", "pools")
    )
    traced = lines(world, "hv1", "trace", "--tenant", "red", "--from", "10.0.1.5", "--to", "10.0.1.6")
    show(*traced)
    assert f"rewrite  10.0.1.5 goes as {own}, to {peer}" in traced
    assert f"=> forwarded from {own} to {peer}, rewritten, web, 100 octets" in traced
    traced = lines(world, "hv2", "trace", "--from-provider", own, "--to-provider", peer)
    show(*traced)
    assert f"sender            {own} is 10.0.1.5 of tenant red, at hv1" in traced
    assert "pool           198.51.100.128/26 (hv1, hv2): 8 of 62 held" in lines(world, "edge-1", "status")


def command(world: World, node: str, *words: str) -> list[str]:
    """Return the command line of `isthmus WORDS FILE`, as a node's operator types it."""
    return [sys.executable, "-m", "gateway.cli", *words, str(world.file(node))]


def lines(world: World, node: str, *words: str) -> list[str]:
    """Return what such a command prints; options come behind its name."""
    first = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    options = words[first:]
    if words[0] in ("leases", "pools", "records"):
        options = (*options, "--ca", str(world.lookup.files / AUTHORITY))
    done = world.lab.node(node).run(*command(world, node, *words[:first]), *options, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
