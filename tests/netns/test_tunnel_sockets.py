"""The sockets of IKE and ESP in network namespaces, against the kernel that they live on."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import pytest
import trio

from gateway.lab.namespaces import Namespace, connect
from policies.addresses import ProviderAddress
from policies.errors import ConfigurationError
from tests.netns.waiting import until
from tunnels.effects import Endpoint, Path
from tunnels.esp.associations import Sealed
from tunnels.esp.service import TunnelSockets

pytestmark = pytest.mark.netns

#   near [u0] 192.0.2.1 --- 192.0.2.254 [n0] router [f0] 198.51.100.254 --- 198.51.100.1 [u0] far
#      2001:db8:1::1 --- 2001:db8:1::254                 2001:db8:2::254 --- 2001:db8:2::1
NEAR = {4: ProviderAddress.parse("192.0.2.1"), 6: ProviderAddress.parse("2001:db8:1::1")}
FAR = {4: ProviderAddress.parse("198.51.100.1"), 6: ProviderAddress.parse("2001:db8:2::1")}
SPI = bytes.fromhex("00002001")

both_families = pytest.mark.parametrize("version", [4, 6])


class Network(NamedTuple):
    near: Namespace
    router: Namespace
    far: Namespace


@pytest.fixture
def network() -> Iterator[Network]:
    near, router, far = Namespace("near"), Namespace("router"), Namespace("far")
    connect(near, "u0", router, "n0")
    connect(far, "u0", router, "f0")
    router.sysctl({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})
    router.ip(
        "addr add 192.0.2.254/24 dev n0",
        "addr add 2001:db8:1::254/64 dev n0 nodad",
        "addr add 198.51.100.254/24 dev f0",
        "addr add 2001:db8:2::254/64 dev f0 nodad",
        "link set n0 up",
        "link set f0 up",
    )
    near.ip("addr add 192.0.2.1/24 dev u0", "addr add 2001:db8:1::1/64 dev u0 nodad", "link set u0 up")
    far.ip("addr add 198.51.100.1/24 dev u0", "addr add 2001:db8:2::1/64 dev u0 nodad", "link set u0 up")
    near.ip("route add default via 192.0.2.254", "route add default via 2001:db8:1::254")
    far.ip("route add default via 198.51.100.254", "route add default via 2001:db8:2::254")
    yield Network(near, router, far)
    for side in (near, router, far):
        side.close()


class End:
    """The sockets of one side, and everything that came by them."""

    def __init__(self) -> None:
        self.sockets = TunnelSockets()
        self.messages: list[tuple[Path, bytes]] = []
        self.packets: list[tuple[Path, bytes, int]] = []
        self.reports: list[tuple[Endpoint, int, int]] = []

    async def serve(
        self, addresses: dict[int, ProviderAddress], *, task_status: trio.TaskStatus[None]
    ) -> None:
        await self.sockets.serve(
            addresses.values(),
            lambda path, message, now: self.messages.append((path, message)),
            lambda path, packet, ecn, now: self.packets.append((path, packet, ecn)),
            lambda destination, spi, mtu, now: self.reports.append((destination, spi, mtu)),
            task_status=task_status,
        )


async def open_in(nursery: trio.Nursery, side: Namespace, addresses: dict[int, ProviderAddress]) -> End:
    """Sockets belong to the namespace of the thread that opens them."""
    end = End()
    here = socket.socket
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tunnels.sockets.socket.socket", lambda *which: side.call(here, *which))
        await nursery.start(end.serve, addresses)
    return end


def run(network: Network, main: Callable[[End, End], Awaitable[None]]) -> None:
    """Open both sides' sockets, each in its own namespace, and let `main` use them."""

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            near = await open_in(nursery, network.near, NEAR)
            far = await open_in(nursery, network.far, FAR)
            await main(near, far)
            nursery.cancel_scope.cancel()

    trio.run(both)


def path(version: int, port: int) -> Path:
    return Path(Endpoint(NEAR[version], port), Endpoint(FAR[version], port))


def reverse(way: Path) -> Path:
    return Path(way.remote, way.local)


@both_families
@pytest.mark.parametrize("ecn", [0, 1, 3])
@pytest.mark.parametrize("in_udp", [True, False])
def test_packets_arrive_with_their_sender_and_ecn_bits(
    network: Network, version: int, in_udp: bool, ecn: int
) -> None:
    way = path(version, 4500 if in_udp else 0)

    async def main(near: End, far: End) -> None:
        for n in range(70):
            near.sockets.send_esp(Sealed(way, in_udp, SPI + bytes([n]) * 1200), ecn)
        near.sockets.flush()
        await until(lambda: len(far.packets) == 70)
        assert far.packets == [(reverse(way), SPI + bytes([n]) * 1200, ecn) for n in range(70)]
        assert not +near.sockets.unsent

    run(network, main)


@both_families
def test_messages_arrive_by_both_ports_and_keepalives_by_none(network: Network, version: int) -> None:
    async def main(near: End, far: End) -> None:
        for port in (500, 4500):
            near.sockets.send_ike(path(version, port), b"message")
        near.sockets.send_keepalive(path(version, 4500))
        await until(lambda: len(far.messages) == 2 and far.sockets.keepalives == 1)
        assert sorted(far.messages, key=lambda each: each[0].local.port) == [
            (reverse(path(version, port)), b"message") for port in (500, 4500)
        ]
        assert far.packets == []

    run(network, main)


@both_families
def test_message_larger_than_the_path_carries_arrives(network: Network, version: int) -> None:
    """Its own interface's MTU fragments it, and so does a router's where IPv4 lets it."""
    if version == 4:
        network.router.ip("link set f0 mtu 1300")

    async def main(near: End, far: End) -> None:
        near.sockets.send_ike(path(version, 500), bytes(1400))
        near.sockets.send_ike(path(version, 500), bytes(4000))
        await until(lambda: len(far.messages) == 2)

    run(network, main)


@both_families
@pytest.mark.parametrize("in_udp", [True, False])
def test_packets_are_never_fragmented_and_what_the_path_carries_is_reported(
    network: Network, version: int, in_udp: bool
) -> None:
    network.router.ip("link set f0 mtu 1300")
    way = path(version, 4500 if in_udp else 0)

    async def main(near: End, far: End) -> None:
        near.sockets.send_esp(Sealed(way, in_udp, SPI + bytes(1400)), 0)
        near.sockets.flush()
        await until(lambda: len(near.reports) == 1)
        assert near.reports == [(way.remote, 0x2001, 1300)]
        # The kernel's own cache of path MTUs does not judge what is sent next.
        near.sockets.send_esp(Sealed(way, in_udp, SPI + bytes(1400)), 0)
        # On veth a run stays one packet, which the router would drop as a whole.
        near.sockets.flush()
        near.sockets.send_esp(Sealed(way, in_udp, SPI + bytes(400)), 0)
        near.sockets.flush()
        await until(lambda: len(far.packets) == 1)
        assert not +near.sockets.unsent
        assert len(far.packets[0][1]) == 404

    run(network, main)


@both_families
@pytest.mark.parametrize("in_udp", [True, False])
def test_packet_that_is_too_big_for_our_own_interface_is_reported_and_counted(
    network: Network, version: int, in_udp: bool
) -> None:
    way = path(version, 4500 if in_udp else 0)

    async def main(near: End, far: End) -> None:
        near.sockets.send_esp(Sealed(way, in_udp, SPI + bytes(1500)), 0)
        near.sockets.flush()
        assert sum(near.sockets.unsent.values()) == 1
        assert {(each.address, spi, mtu) for each, spi, mtu in near.reports} == {(FAR[version], 0x2001, 1500)}

    run(network, main)


@both_families
def test_runs_are_cut_where_the_interface_cannot(network: Network, version: int) -> None:
    network.near.run("ethtool", "-K", "u0", "tx-udp-segmentation", "off", "tx", "off")
    way = path(version, 4500)

    async def main(near: End, far: End) -> None:
        for size in (1200, 1200, 1200, 700):
            near.sockets.send_esp(Sealed(way, True, SPI + bytes(size)), 0)
        near.sockets.flush()
        await until(lambda: len(far.packets) == 4)
        assert [len(packet) - 4 for _, packet, _ in far.packets] == [1200, 1200, 1200, 700]

    run(network, main)


def test_second_daemon_on_the_same_addresses_is_refused_in_words(network: Network) -> None:
    async def main(near: End, far: End) -> None:
        async with trio.open_nursery() as nursery:
            with pytest.raises(ConfigurationError, match="another IKE daemon"):
                await open_in(nursery, network.near, NEAR)

    run(network, main)
