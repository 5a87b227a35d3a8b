"""Next hops as the real kernel has them, in network namespaces."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing

import msgspec
import pytest
import trio

from gateway.fastpath.hops import NextHop, Why
from gateway.fastpath.nexthops import NextHops
from gateway.lab.namespaces import LabError, Namespace, connect
from policies.addresses import ProviderAddress
from tests.netns.waiting import until

pytestmark = pytest.mark.netns

#                      [u0] 10.0.0.1 --- 10.0.0.254 [e0] east
#   198.51.100.1, machine   2001:db8:1::1 --- ::254, fe80::e
#                      [u1] 10.1.0.1 --- 10.1.0.254 [w0] west
#                            2001:db8:2::1 --- ::254, fe80::f
FAR = ProviderAddress.parse("203.0.113.11")
FAR6 = ProviderAddress.parse("2001:db8:9::11")
NEAR = ProviderAddress.parse("10.0.0.254")
OURS = ProviderAddress.parse("198.51.100.1")
MAC_EAST, MAC_WEST, MAC_OTHER = "02:00:00:00:0e:00", "02:00:00:00:0f:00", "02:00:00:00:0d:00"
TURN = 0.05
"""Seconds that trio may need for what is meant to be at once, beside tests on other cores."""
CARRIER = 1.5
"""The kernel itself tells of a lost carrier a second later if there was another one before."""


class Network:
    def __init__(self) -> None:
        self.machine, self.east, self.west = Namespace("machine"), Namespace("east"), Namespace("west")
        connect(self.machine, "u0", self.east, "e0")
        connect(self.machine, "u1", self.west, "w0")
        for router, name, mac, net, link_local in (
            (self.east, "e0", MAC_EAST, 0, "fe80::e"),
            (self.west, "w0", MAC_WEST, 1, "fe80::f"),
        ):
            router.ip(
                f"link set {name} address {mac} addrgenmode none",
                f"addr add 10.{net}.0.254/24 dev {name}",
                f"addr add 2001:db8:{net + 1}::254/64 dev {name} nodad",
                f"addr add {link_local}/64 dev {name} nodad",
                f"link set {name} up",
            )
        for net, mac in ((0, "02:00:00:00:00:00"), (1, "02:00:00:00:00:01")):
            # The kernel asks neighbours about IPv6 by its link-local address alone.
            self.machine.ip(
                f"link set u{net} address {mac} addrgenmode none",
                f"addr add 10.{net}.0.1/24 dev u{net}",
                f"addr add 2001:db8:{net + 1}::1/64 dev u{net} nodad",
                f"addr add fe80::{net + 1}/64 dev u{net} nodad",
                f"link set u{net} up",
            )
        self.machine.ip("addr add 198.51.100.1/32 dev lo")

    def close(self) -> None:
        for namespace in (self.machine, self.east, self.west):
            namespace.close()

    def index(self, name: str) -> int:
        return self.machine.call(socket.if_nametoindex, name)

    def hop(self, name: str, mac: str, mtu: int = 1500) -> NextHop:
        own = {"u0": "020000000000", "u1": "020000000001"}[name]
        return NextHop(self.index(name), bytes.fromhex(own), bytes.fromhex(mac.replace(":", "")), mtu)

    @property
    def by_east(self) -> NextHop:
        return self.hop("u0", MAC_EAST)

    @property
    def by_west(self) -> NextHop:
        return self.hop("u1", MAC_WEST)


@pytest.fixture
def network() -> Iterator[Network]:
    with closing(Network()) as network:
        yield network


class Watcher:
    """Next hops at work, and all that they have told."""

    def __init__(self, hops: NextHops) -> None:
        self.hops = hops
        self.told: list[tuple[ProviderAddress, NextHop | None]] = []

    def changed(self, address: ProviderAddress, hop: NextHop | None) -> None:
        self.told.append((address, hop))

    async def comes(self, address: ProviderAddress, hop: NextHop | None, seconds: float = 5) -> None:
        with trio.fail_after(seconds):
            await until(lambda: self.hops.find(address) == hop)

    def why(self, address: ProviderAddress) -> Why:
        (found,) = [each.why for each in self.hops.status().examples if each.address == address]
        return found

    async def is_because(self, address: ProviderAddress, why: Why, seconds: float = 5) -> None:
        with trio.fail_after(seconds):
            await until(
                lambda: any(
                    (each.address, each.why) == (address, why) for each in self.hops.status().examples
                )
            )


Deed = Callable[[Watcher], Awaitable[None]]


def run(
    network: Network,
    deed: Deed,
    *addresses: ProviderAddress,
    interfaces: tuple[str, ...] = ("u0", "u1"),
    sources: dict[ProviderAddress, ProviderAddress] | None = None,
) -> Watcher:
    """Watch addresses on the machine while something is done."""
    watchers = []

    async def main() -> None:
        hops = NextHops([network.index(name) for name in interfaces])
        hops.replace(addresses, sources or {})
        watcher = Watcher(hops)
        watchers.append(watcher)
        async with trio.open_nursery() as nursery:
            await nursery.start(hops.serve, watcher.changed)
            await deed(watcher)
            nursery.cancel_scope.cancel()

    network.machine.call(trio.run, main)
    return watchers[0]


# What is found.


def test_router_and_neighbour_are_found_in_both_families_without_any_traffic(network: Network) -> None:
    near6 = ProviderAddress.parse("2001:db8:2::254")
    network.machine.ip(
        "route add 203.0.113.0/24 via 10.0.0.254", "route add 2001:db8:9::/48 via 2001:db8:1::254"
    )

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_east)
        await watcher.comes(FAR6, network.by_east)
        await watcher.comes(NEAR, network.by_east)
        await watcher.comes(near6, network.by_west)
        assert watcher.hops.status().unresolved == 0

    run(network, deed, FAR, FAR6, NEAR, near6)


def test_known_next_hops_are_there_when_it_has_started(network: Network) -> None:
    network.machine.ip(
        "route add 203.0.113.0/24 via 10.0.0.254",
        f"neigh add 10.0.0.254 dev u0 lladdr {MAC_EAST} nud permanent",
    )

    async def deed(watcher: Watcher) -> None:
        assert watcher.hops.find(FAR) == network.by_east

    assert run(network, deed, FAR).told == [(FAR, network.by_east)]


@pytest.mark.parametrize(
    "route",
    [
        "2001:db8:9::/48 via fe80::e dev u0",
        "203.0.113.0/24 via inet6 fe80::e dev u0",  # RFC 8950
        "203.0.113.0/24 via 10.77.0.1 dev u0 onlink",
    ],
)
def test_next_hop_may_be_link_local_of_the_other_family_or_only_said_to_be_on_the_link(
    network: Network, route: str
) -> None:
    address = FAR6 if route.startswith("2001") else FAR
    network.east.ip("addr add 10.77.0.1/32 dev e0")
    network.machine.ip(f"route add {route}")

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(address, network.by_east)

    run(network, deed, address)


def test_interface_without_arp_has_the_hop_that_the_kernel_would_use(network: Network) -> None:
    network.machine.ip("link set u0 arp off", "route add 203.0.113.0/24 dev u0")

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.hop("u0", "02:00:00:00:00:00"))

    run(network, deed, FAR)


@pytest.mark.parametrize(
    ("route", "address", "why"),
    [
        ("blackhole 203.0.113.0/24", FAR, Why.REFUSED),
        ("unreachable 203.0.113.0/24", FAR, Why.REFUSED),
        ("prohibit 203.0.113.0/24", FAR, Why.REFUSED),
        ("blackhole 2001:db8:9::/48", FAR6, Why.REFUSED),
        ("unreachable 2001:db8:9::/48", FAR6, Why.REFUSED),
        ("203.0.112.0/24 via 10.0.0.254", FAR, Why.NO_ROUTE),
        ("2001:db8:8::/48 via fe80::e dev u0", FAR6, Why.NO_ROUTE),
        ("203.0.113.0/24 via 10.1.0.254", FAR, Why.ELSEWHERE),
        ("203.0.112.0/24 via 10.0.0.254", OURS, Why.OWN),
        ("203.0.113.0/24 via 10.0.0.99", FAR, Why.NEIGHBOUR_SILENT),
    ],
)
def test_address_without_a_next_hop_says_why(
    network: Network, route: str, address: ProviderAddress, why: Why
) -> None:
    network.machine.ip(f"route add {route}")

    async def deed(watcher: Watcher) -> None:
        assert watcher.hops.find(address) is None
        assert watcher.why(address) is why

    run(network, deed, address, interfaces=("u0",))


def test_policy_rule_that_looks_at_the_source_decides(network: Network) -> None:
    network.machine.ip(
        "route add 203.0.113.0/24 via 10.0.0.254",
        "route add 203.0.113.0/24 via 10.1.0.254 table 100",
        "rule add from 198.51.100.1 lookup 100",
    )
    other = ProviderAddress.parse("203.0.113.12")

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_west)
        await watcher.comes(other, network.by_east)
        network.machine.ip("rule del from 198.51.100.1 lookup 100")
        await watcher.comes(FAR, network.by_east)

    run(network, deed, FAR, other, sources={FAR: OURS})


def test_source_that_is_not_on_this_machine_is_told(network: Network) -> None:
    network.machine.ip("route add 203.0.113.0/24 via 10.0.0.254")

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_east)
        network.machine.ip("addr del 198.51.100.1/32 dev lo")
        await watcher.is_because(FAR, Why.NO_ROUTE)
        assert watcher.told[-1] == (FAR, None)

    run(network, deed, FAR, sources={FAR: OURS})


def test_several_ways_are_decided_as_the_kernel_decides(network: Network) -> None:
    addresses = [ProviderAddress(bytes((203, 0, 113, last))) for last in range(1, 33)]
    network.machine.ip("route add 203.0.113.0/24 nexthop via 10.0.0.254 nexthop via 10.1.0.254")

    async def deed(watcher: Watcher) -> None:
        with trio.fail_after(5):
            await until(lambda: watcher.hops.status().unresolved == 0)
        found = {address: watcher.hops.find(address) for address in addresses}
        assert set(found.values()) == {network.by_east, network.by_west}
        for address in addresses[:4]:
            line = network.machine.run("ip", "route", "get", str(address)).stdout
            assert found[address] == (network.by_east if "via 10.0.0.254" in line else network.by_west)
        network.machine.ip("route replace 203.0.113.0/24 nexthop via 10.1.0.254")
        for address in addresses:
            await watcher.comes(address, network.by_west)

    run(network, deed, *addresses)


# What changes.


def test_route_that_changes_is_followed(network: Network) -> None:
    network.machine.ip(
        "route add 203.0.113.0/24 via 10.0.0.254", "route add 2001:db8:9::/48 via fe80::e dev u0"
    )

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_east)
        await watcher.comes(FAR6, network.by_east)
        network.machine.ip(
            "route replace 203.0.113.0/24 via 10.1.0.254", "route replace 2001:db8:9::/48 via fe80::f dev u1"
        )
        await watcher.comes(FAR, network.by_west)
        await watcher.comes(FAR6, network.by_west)
        network.machine.ip(
            "route add 203.0.113.8/29 via 10.0.0.254", "route add 2001:db8:9::10/124 via fe80::e dev u0"
        )
        await watcher.comes(FAR, network.by_east)
        await watcher.comes(FAR6, network.by_east)

    run(network, deed, FAR, FAR6)


@pytest.mark.parametrize(
    ("address", "route"),
    [(FAR, "203.0.113.0/24 via 10.0.0.254"), (FAR6, "2001:db8:9::/48 via fe80::e dev u0")],
)
def test_route_that_goes_takes_the_next_hop_at_once(
    network: Network, address: ProviderAddress, route: str
) -> None:
    network.machine.ip(f"route add {route}")

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(address, network.by_east)
        network.machine.ip(f"route del {route}")
        await watcher.comes(address, None, TURN)
        await watcher.is_because(address, Why.NO_ROUTE)

    assert run(network, deed, address).told == [(address, network.by_east), (address, None)]


def test_nexthop_object_that_changes_is_followed(network: Network) -> None:
    try:
        network.machine.ip("nexthop add id 7 via 10.0.0.254 dev u0", "route add 203.0.113.0/24 nhid 7")
    except LabError as error:
        pytest.skip(f"no nexthop objects here: {error}")

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_east)
        network.machine.ip("nexthop replace id 7 via 10.1.0.254 dev u1")
        await watcher.comes(FAR, network.by_west)
        network.machine.ip("nexthop del id 7")
        await watcher.comes(FAR, None)

    run(network, deed, FAR)


def test_router_with_another_mac_is_followed_at_once_for_all_behind_it(network: Network) -> None:
    addresses = [ProviderAddress(bytes((203, 0, 113, last))) for last in range(1, 101)]
    network.machine.ip("route add 203.0.113.0/24 via 10.0.0.254")

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(addresses[-1], network.by_east)
        network.machine.ip(f"neigh replace 10.0.0.254 dev u0 lladdr {MAC_OTHER} nud reachable")
        await watcher.comes(addresses[-1], network.hop("u0", MAC_OTHER), TURN)
        assert {watcher.hops.find(address) for address in addresses} == {network.hop("u0", MAC_OTHER)}
        assert not [hop for _address, hop in watcher.told if hop is None]

    run(network, deed, *addresses)


@pytest.mark.parametrize("version", [4, 6])
def test_router_that_takes_over_and_says_so_is_followed(network: Network, version: int) -> None:
    """As with VRRP: the address stays, and another machine's MAC announces it."""
    network.machine.ip(
        "route add 203.0.113.0/24 via 10.0.0.254", "route add 2001:db8:9::/48 via fe80::e dev u0"
    )
    # The kernel ignores a second announcement within a second, for IPv4.
    network.machine.sysctl({"net/ipv4/neigh/u0/locktime": 0})
    address = FAR if version == 4 else FAR6

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(address, network.by_east)
        network.east.call(_announce, version)
        await watcher.comes(address, network.hop("u0", MAC_OTHER))

    run(network, deed, address)


def _announce(version: int) -> None:
    from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
    from scapy.layers.l2 import ARP, Ether

    frame = Ether(src=MAC_OTHER, dst="ff:ff:ff:ff:ff:ff")
    if version == 4:
        frame /= ARP(op=2, hwsrc=MAC_OTHER, psrc="10.0.0.254", hwdst=MAC_OTHER, pdst="10.0.0.254")
    else:
        frame.dst = "33:33:00:00:00:01"
        frame /= IPv6(src="fe80::e", dst="ff02::1", hlim=255)
        frame /= ICMPv6ND_NA(tgt="fe80::e", R=1, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=MAC_OTHER)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind(("e0", 0))
        link.send(bytes(frame))


def test_router_that_no_longer_answers_is_no_next_hop_until_it_does(network: Network) -> None:
    network.machine.ip("route add 203.0.113.0/24 via 10.0.0.254")
    network.machine.sysctl({"net/ipv4/neigh/u0/retrans_time_ms": 100})

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_east)
        network.east.ip("link set e0 arp off")
        network.machine.ip(f"neigh replace 10.0.0.254 dev u0 lladdr {MAC_EAST} nud probe")
        await watcher.comes(FAR, None)
        assert watcher.why(FAR) is Why.NEIGHBOUR_SILENT
        network.east.ip("link set e0 arp on")
        await watcher.comes(FAR, network.by_east, 10)

    run(network, deed, FAR)


def test_link_that_goes_down_and_comes_back_is_followed_at_once(network: Network) -> None:
    network.machine.ip("route add 203.0.113.0/24 via 10.0.0.254", "route add default via 10.1.0.254")

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_east)
        await watcher.comes(NEAR, network.by_east)
        network.machine.ip("link set u0 down")
        await watcher.comes(NEAR, network.by_west)  # by the other route
        await watcher.comes(FAR, network.by_west)
        network.machine.ip("link set u0 up", "route add 203.0.113.0/24 via 10.0.0.254")
        await watcher.comes(FAR, network.by_east)
        await watcher.comes(NEAR, network.by_east)

    told = run(network, deed, FAR, NEAR).told
    assert [hop for address, hop in told if address == FAR].index(None) == 1


def test_link_that_loses_its_carrier_takes_its_next_hops_at_once(network: Network) -> None:
    network.machine.ip(
        "route add 203.0.113.0/24 via 10.0.0.254", "route add 2001:db8:9::/48 via fe80::e dev u0"
    )

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_east)
        await watcher.comes(FAR6, network.by_east)
        network.east.ip("link set e0 down")
        await watcher.comes(FAR, None, CARRIER)
        await watcher.comes(FAR6, None, TURN)
        await watcher.is_because(FAR, Why.LINK_DOWN)
        network.east.ip("link set e0 up", "addr replace fe80::e/64 dev e0 nodad")
        await watcher.comes(FAR, network.by_east, 10)
        await watcher.comes(FAR6, network.by_east, 10)

    run(network, deed, FAR, FAR6)


def test_own_mac_that_changes_is_followed_at_once(network: Network) -> None:
    network.machine.ip("route add 203.0.113.0/24 via 10.0.0.254")

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_east)
        network.machine.ip("link set u0 address 02:00:00:00:00:77")
        moved = msgspec.structs.replace(network.by_east, source_mac=bytes.fromhex("020000000077"))
        await watcher.comes(FAR, moved)

    told = run(network, deed, FAR).told
    assert all(hop is None or hop.source_mac[-1] == 0x77 for _address, hop in told[1:])


def test_mtu_that_changes_is_followed_at_once(network: Network) -> None:
    network.machine.ip("route add 203.0.113.0/24 via 10.0.0.254")

    async def deed(watcher: Watcher) -> None:
        for mtu in (1500, 1400, 1500):
            network.machine.ip(f"link set u0 mtu {mtu}")
            await watcher.comes(FAR, network.hop("u0", MAC_EAST, mtu))

    run(network, deed, FAR)


def test_interface_that_is_deleted_leaves_no_next_hop(network: Network) -> None:
    network.machine.ip("route add 203.0.113.0/24 via 10.0.0.254")

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_east)
        network.machine.ip("link del u0")
        await watcher.comes(FAR, None, TURN)
        await watcher.is_because(FAR, Why.NO_ROUTE)

    run(network, deed, FAR)


# Neighbours kept alive.


def state(network: Network, address: str) -> str:
    return network.machine.run("ip", "neigh", "show", address).stdout.strip().rpartition(" ")[2]


def test_stale_neighbour_is_asked_whether_it_is_there(network: Network) -> None:
    # Of the address itself depends when it is: this one is at once, within two seconds.
    router = "10.0.0.54"
    network.east.ip(f"addr add {router}/24 dev e0")
    network.machine.ip(f"route add 203.0.113.0/24 via {router}")
    network.machine.sysctl({"net/ipv4/neigh/u0/delay_first_probe_time": 1})

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_east)
        network.machine.ip(f"neigh replace {router} dev u0 lladdr {MAC_EAST} nud stale")
        assert state(network, router) == "STALE"
        with trio.fail_after(15):
            await until(lambda: state(network, router) == "REACHABLE")

    assert run(network, deed, FAR).told == [(FAR, network.by_east)]


def test_neighbour_that_is_removed_is_found_again_without_any_traffic(network: Network) -> None:
    network.machine.ip("route add 203.0.113.0/24 via 10.0.0.254")

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_east)
        await trio.sleep(1)  # it is not looked for twice in a second
        network.machine.ip("neigh del 10.0.0.254 dev u0")
        with trio.fail_after(5):
            await until(lambda: len(watcher.told) == 3)

    assert run(network, deed, FAR).told == [(FAR, network.by_east), (FAR, None), (FAR, network.by_east)]


def test_dead_hosts_are_not_looked_for_in_a_storm(network: Network) -> None:
    network.machine.ip("addr add 10.9.0.1/16 dev u0")
    dead = [ProviderAddress(bytes((10, 9, 1 + last // 250, last % 250))) for last in range(500)]
    heard: set[bytes] = set()

    async def deed(watcher: Watcher) -> None:
        link = network.east.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        with closing(link):
            link.setblocking(False)
            with trio.move_on_after(2):
                while True:
                    await trio.lowlevel.wait_readable(link)
                    heard.add(link.recv(100)[38:42])
        assert watcher.hops.status().unresolved == 500

    run(network, deed, *dead)
    assert 20 <= len(heard) <= 150


# Many.


def test_two_thousand_addresses_are_found_and_follow_their_routers(network: Network) -> None:
    addresses = [ProviderAddress(b"\xc6\x12" + last.to_bytes(2)) for last in range(2000)]
    network.machine.ip("route add 198.18.0.0/15 via 10.0.0.254")

    async def deed(watcher: Watcher) -> None:
        with trio.fail_after(5):
            await until(lambda: watcher.hops.status().resolved == 2000)
        network.machine.ip("route replace 198.18.0.0/15 via 10.1.0.254")
        with trio.fail_after(5):
            await until(lambda: all(watcher.hops.find(each) == network.by_west for each in addresses))

    run(network, deed, *addresses)


def test_flood_of_routes_neither_delays_a_neighbours_change_nor_is_it_lost_track_of(network: Network) -> None:
    network.machine.ip("route add 203.0.113.0/24 via 10.0.0.254")
    flood = "\n".join(
        f"route add 100.{64 + i // 65536}.{i // 256 % 256}.{i % 256}/32 via 10.1.0.254" for i in range(30_000)
    )

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_east)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                trio.to_thread.run_sync, lambda: network.machine.run("ip", "-batch", "-", stdin=flood)
            )
            await trio.sleep(0.2)
            network.machine.ip(f"neigh replace 10.0.0.254 dev u0 lladdr {MAC_OTHER} nud reachable")
            await watcher.comes(FAR, network.hop("u0", MAC_OTHER), TURN)
        network.machine.ip("route replace 203.0.113.0/24 via 10.1.0.254")
        await watcher.comes(FAR, network.by_west)

    run(network, deed, FAR)


def test_events_that_were_lost_have_everything_asked_for_anew(network: Network) -> None:
    network.machine.ip("route add 203.0.113.0/24 via 10.0.0.254")
    flood = "\n".join(f"route add 100.64.{i // 256 % 256}.{i % 256}/32 via 10.1.0.254" for i in range(20_000))

    async def deed(watcher: Watcher) -> None:
        await watcher.comes(FAR, network.by_east)
        # All of it at once: nothing is read meanwhile, as trio waits for it.
        network.machine.run("ip", "-batch", "-", stdin=flood)
        network.machine.ip("route replace 203.0.113.0/24 via 10.1.0.254")
        await watcher.comes(FAR, network.by_west)
        assert watcher.hops.status().resyncs >= 1

    run(network, deed, FAR)
