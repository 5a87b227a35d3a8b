"""Rewritten packets into and out of a machine, beside the kernel that it has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_network
from typing import NamedTuple

import pytest
import trio

from gateway.lab.namespaces import Namespace, connect
from gateway.packets import ip
from gateway.underlay.interfaces import Attachment
from gateway.underlay.provider import Provider
from policies.addresses import Prefix, ProviderAddress
from tests.netns.waiting import until

pytestmark = pytest.mark.netns

#   peer [p0] 192.0.2.1 --- 192.0.2.2 [u0] machine
#      2001:db8:1::1 --- 2001:db8:1::2
# The one pool of each family is a part of the link's subnet, the other is routed to the machine.
SHARED = {4: ip_network("192.0.2.128/26"), 6: ip_network("2001:db8:1::a:0/112")}
ROUTED = {4: ip_network("198.51.100.0/24"), 6: ip_network("2001:db8:9::/64")}
POOLS: tuple[Prefix, ...] = (*SHARED.values(), *ROUTED.values())
PEER = {4: ProviderAddress.parse("192.0.2.1"), 6: ProviderAddress.parse("2001:db8:1::1")}
HELD = {4: ProviderAddress.parse("192.0.2.130"), 6: ProviderAddress.parse("2001:db8:1::a:2")}

both_families = pytest.mark.parametrize("version", [4, 6])


class Link(NamedTuple):
    peer: Namespace
    machine: Namespace


@pytest.fixture
def link() -> Iterator[Link]:
    peer, machine = Namespace("peer"), Namespace("machine")
    connect(peer, "p0", machine, "u0")
    peer.ip(
        "addr add 192.0.2.1/24 dev p0",
        "addr add 2001:db8:1::1/64 dev p0 nodad",
        "link set p0 up",
        f"route add {ROUTED[4]} via 192.0.2.2",
        f"route add {ROUTED[6]} via 2001:db8:1::2",
    )
    machine.ip("addr add 192.0.2.2/24 dev u0", "addr add 2001:db8:1::2/64 dev u0 nodad", "link set u0 up")
    yield Link(peer, machine)
    for side in (peer, machine):
        side.close()


class End:
    """A provider with all that it received."""

    def __init__(self) -> None:
        self.provider = Provider()
        self.received: list[bytes] = []
        self.held = {*map(bytes, HELD.values())}

    def receive(self, packet: bytes, _now: float) -> None:
        self.received.append(packet)


def run(machine: Namespace, main: Callable[[End], Awaitable[None]], pools: tuple[Prefix, ...] = POOLS) -> End:
    """Serve pools in a namespace, and run `main` beside."""
    end = End()

    async def beside() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(
                end.provider.serve, pools, Attachment(("u0",), 1500), end.receive, end.held.__contains__
            )
            await main(end)
            nursery.cancel_scope.cancel()

    machine.call(trio.run, beside)
    return end


async def peer_runs(link: Link, *argv: str) -> str:
    done = await trio.to_thread.run_sync(lambda: link.peer.run(*argv, check=False))
    return done.stdout + done.stderr


@both_families
def test_a_neighbour_finds_the_held_address_and_its_packets_come_in(link: Link, version: int) -> None:
    async def main(end: End) -> None:
        said = await peer_runs(link, "ping", "-c", "1", "-W", "1", str(HELD[version]))
        assert "100% packet loss" in said
        await until(lambda: len(end.received) == 1)
        assert ip.decode_untrusted(end.received[0]).destination == HELD[version]
        neighbours = await peer_runs(link, "ip", "neighbour", "show", str(HELD[version]))
        assert "lladdr" in neighbours

    run(link.machine, main)
