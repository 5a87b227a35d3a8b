"""Rewritten packets into and out of a machine, beside the kernel that it has."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from functools import partial
from ipaddress import ip_network
from typing import NamedTuple

import pytest
import trio
import trio._core._thread_cache as thread_cache

from gateway.lab.namespaces import Namespace, connect, environment
from gateway.packets import ethernet, ip, ndp
from gateway.packets.checksum import internet_checksum
from gateway.packets.fragmentation import fragment
from gateway.underlay import provider
from gateway.underlay.answering import LASTING
from gateway.underlay.interfaces import Attachment
from gateway.underlay.provider import Provider
from gateway.underlay.silence import PRIORITY, Rule, read_rules
from policies.addresses import Prefix, ProviderAddress
from policies.errors import ConfigurationError
from policies.facts import ICMP, ICMPV6, UDP
from tests.netns.waiting import until

pytestmark = pytest.mark.netns

#   peer [p0] 192.0.2.1 --- 192.0.2.2 [u0] machine
#      2001:db8:1::1 --- 2001:db8:1::2
# The one pool of each family is a part of the link's subnet, the other is routed to the machine.
SHARED: dict[int, Prefix] = {4: ip_network("192.0.2.128/26"), 6: ip_network("2001:db8:1::a:0/112")}
ROUTED: dict[int, Prefix] = {4: ip_network("198.51.100.0/24"), 6: ip_network("2001:db8:9::/64")}
POOLS = (*SHARED.values(), *ROUTED.values())
PEER = {4: ProviderAddress.parse("192.0.2.1"), 6: ProviderAddress.parse("2001:db8:1::1")}
MACHINE = {4: ProviderAddress.parse("192.0.2.2"), 6: ProviderAddress.parse("2001:db8:1::2")}
HELD = {4: ProviderAddress.parse("192.0.2.130"), 6: ProviderAddress.parse("2001:db8:1::a:2")}
NOT_HELD = {4: ProviderAddress.parse("192.0.2.131"), 6: ProviderAddress.parse("2001:db8:1::a:3")}
AFAR = {4: ProviderAddress.parse("198.51.100.7"), 6: ProviderAddress.parse("2001:db8:9::7")}
ANOTHERS = {4: "192.0.2.140", 6: "2001:db8:1::a:40"}
"""An address of the shared pool that another host has, here the peer."""

both_families = pytest.mark.parametrize("version", [4, 6])


class Link(NamedTuple):
    peer: Namespace
    machine: Namespace


@pytest.fixture
def link() -> Iterator[Link]:
    peer, machine = Namespace("peer"), Namespace("machine")
    for side in (peer, machine):
        # A router solicits from its link-local address, which is there at once then.
        side.sysctl({"net/ipv6/conf/default/accept_dad": 0, "net/ipv6/conf/default/dad_transmits": 0})
    connect(peer, "p0", machine, "u0")
    peer.ip(
        "addr add 192.0.2.1/24 dev p0",
        "addr add 2001:db8:1::1/64 dev p0 nodad",
        f"addr add {ANOTHERS[4]}/32 dev p0",
        f"addr add {ANOTHERS[6]}/128 dev p0 nodad",
        "link set p0 up",
        f"route add {ROUTED[4]} via 192.0.2.2",
        f"route add {ROUTED[6]} via 2001:db8:1::2",
    )
    machine.ip("addr add 192.0.2.2/24 dev u0", "addr add 2001:db8:1::2/64 dev u0 nodad", "link set u0 up")
    for side, interface in ((peer, "p0"), (machine, "u0")):
        trio.run(until, partial(_is_ready, side, interface))
    yield Link(peer, machine)
    for side in (peer, machine):
        side.close()


def _is_ready(side: Namespace, interface: str) -> bool:
    shown = side.run("ip", "-6", "address", "show", "dev", interface).stdout
    return "fe80" in shown and "tentative" not in shown


class End:
    """A provider with all that it received."""

    def __init__(self) -> None:
        self.provider = Provider()
        self.received: list[bytes] = []
        self.held = {*map(bytes, HELD.values())}

    async def serve(
        self, pools: tuple[Prefix, ...], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await self.provider.serve(
            pools, Attachment(("u0",), 1500), self._receive, self._answers_for, task_status=task_status
        )

    def _receive(self, packet: bytes, _now: float) -> None:
        self.received.append(packet)

    def _answers_for(self, pa: bytes) -> bool:
        return pa in self.held


def run(machine: Namespace, main: Callable[[End], Awaitable[None]], pools: tuple[Prefix, ...] = POOLS) -> End:
    """Serve pools in a namespace, and run `main` beside."""
    end = End()

    async def beside() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(end.serve, pools)
            await main(end)
            nursery.cancel_scope.cancel()

    # trio keeps threads for later, and such a thread is in the namespace that it was made in.
    thread_cache.THREAD_CACHE = thread_cache.ThreadCache()
    machine.call(trio.run, beside)
    return end


async def peer_runs(link: Link, *argv: str) -> str:
    done = await trio.to_thread.run_sync(lambda: link.peer.run(*argv, check=False))
    return done.stdout + done.stderr


async def ping(link: Link, *argv: str) -> str:
    return await peer_runs(link, "ping", "-n", "-c", "2", "-i", "0.2", "-W", "0.3", *argv)


class Wire:
    """Every frame at the peer's end of the link, as far as the machine sent it."""

    def __init__(self, link: Link) -> None:
        self._socket = link.peer.call(
            socket.socket, socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0
        )
        self._socket.bind(("p0", 3))

    def close(self) -> None:
        self._socket.close()

    def frames(self, seconds: float = 0.3) -> list[bytes]:
        """What came until nothing more does for a while."""
        found = []
        while select.select([self._socket], [], [], seconds)[0]:
            frame, address = self._socket.recvfrom(65535)
            if address[2] != socket.PACKET_OUTGOING:
                found.append(frame)
        return found

    def packets(self) -> list[bytes]:
        """The IP packets among them, without what neighbours and routers of a link say to each other."""
        types = (ethernet.IPV4, ethernet.IPV6)
        frames = [each for each in self.frames() if ethernet.decode_untrusted(each).ethertype in types]
        packets = [frame[ethernet.HEADER_LENGTH :] for frame in frames]
        return [each for each in packets if not _is_of_the_link(each)]


def _is_of_the_link(packet: bytes) -> bool:
    facts = ip.decode_untrusted(packet)
    is_group = facts.version == 6 and facts.destination[0] == 0xFF
    return is_group or (facts.protocol == ICMPV6 and facts.icmp_type in ndp.DISCOVERY)


def udp(version: int, size: int, **fields: int) -> bytes:
    """A UDP packet from a held address to the peer; without a checksum, which nobody here looks at."""
    segment = (
        bytes([0, 9, 0, 9])
        + (8 + size).to_bytes(2)
        + bytes(2)
        + bytes(number & 0xFF for number in range(size))
    )
    return ip.build(HELD[version], PEER[version], UDP, segment, **fields)


@both_families
def test_exactly_the_addresses_that_are_held_here_are_resolved(link: Link, version: int) -> None:
    async def main(end: End) -> None:
        for address in (HELD[version], NOT_HELD[version]):
            assert "100% packet loss" in await ping(link, str(address))
        held = await peer_runs(link, "ip", "neighbour", "show", str(HELD[version]))
        mac = link.machine.run("ip", "-brief", "link", "show", "u0").stdout.split()[2]
        assert f"lladdr {mac}" in held
        not_held = await peer_runs(link, "ip", "neighbour", "show", str(NOT_HELD[version]))
        assert "lladdr" not in not_held
        assert {ip.decode_untrusted(each).destination for each in end.received} == {HELD[version]}
        assert end.provider.received == 2
        assert end.provider.answered >= 1

    run(link.machine, main)


@both_families
def test_only_what_is_sent_to_this_machine_and_to_no_vlan_is_heard(link: Link, version: int) -> None:
    packet = ip.build(PEER[version], HELD[version], UDP, bytes(8))
    mac = bytes.fromhex(
        link.machine.run("ip", "-brief", "link", "show", "u0").stdout.split()[2].replace(":", "")
    )
    ethertype = (ethernet.IPV4 if version == 4 else ethernet.IPV6).to_bytes(2)
    ours = mac + bytes(6) + ethertype + packet
    others = [
        b"\x02\0\0\0\0\x09" + bytes(6) + ethertype + packet,
        b"\xff" * 6 + bytes(6) + ethertype + packet,
        mac + bytes(6) + b"\x81\x00\x00\x05" + ethertype + packet,
    ]

    async def main(end: End) -> None:
        with closing(link.peer.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)) as sender:
            sender.bind(("p0", 0))
            for each in (*others, ours):
                sender.send(each)
        await until(lambda: len(end.received) > 0)
        assert end.received == [packet]

    run(link.machine, main)


@both_families
def test_duplicate_address_detection_finds_what_is_held_here(link: Link, version: int) -> None:
    async def main(end: End) -> None:
        with closing(Wire(link)) as wire:
            if version == 6:
                link.peer.sysctl({f"net/ipv6/conf/p0/{each}": 1 for each in ("accept_dad", "dad_transmits")})
                link.peer.ip(f"addr add {HELD[6]}/64 dev p0", f"addr add {NOT_HELD[6]}/64 dev p0")
                await until(lambda: end.provider.answered == 1)
                await trio.sleep(0.5)
                shown = await peer_runs(link, "ip", "-6", "addr", "show", "dev", "p0")
                failed = [line for line in shown.splitlines() if "dadfailed" in line]
                assert len(failed) == 1
                assert f"{HELD[6]}/" in failed[0]
            else:
                probe = (
                    bytes.fromhex("0001080006040001") + b"\x02\0\0\0\0\x09" + bytes(4) + bytes(6) + HELD[4]
                )
                with closing(link.peer.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0)) as asker:
                    asker.sendto(probe, ("p0", ethernet.ARP, 0, 1, b"\xff" * 6))
                replies = [
                    each for each in await trio.to_thread.run_sync(wire.frames) if each[12:14] == b"\x08\x06"
                ]
                assert [each[:6] for each in replies] == [b"\x02\0\0\0\0\x09"]

    run(link.machine, main)


FORWARDING = {
    "net/ipv4/ip_forward": 1,
    "net/ipv4/conf/all/rp_filter": 1,
    "net/ipv4/conf/u0/rp_filter": 1,
    "net/ipv4/conf/all/send_redirects": 1,
    "net/ipv4/conf/u0/send_redirects": 1,
    "net/ipv6/conf/all/forwarding": 1,
}


@both_families
@pytest.mark.parametrize("forwarding", [True, False])
def test_the_kernel_neither_forwards_nor_answers_what_is_for_a_pool(
    link: Link, version: int, *, forwarding: bool
) -> None:
    if forwarding:
        link.machine.sysctl(FORWARDING)
        link.machine.ip("route add default via 192.0.2.1", "route add default via 2001:db8:1::1")

    async def main(end: End) -> None:
        with closing(Wire(link)) as wire:
            await ping(link, str(HELD[version]))
            await ping(link, str(AFAR[version]))
            # From a pool that other hosts of the link share.
            await ping(link, "-I", ANOTHERS[version], str(HELD[version]))
            assert len(end.received) == 6
            assert await trio.to_thread.run_sync(wire.packets) == []

    run(link.machine, main)


@both_families
def test_without_its_rule_the_kernel_would_forward(link: Link, version: int) -> None:
    link.machine.sysctl(FORWARDING)
    link.machine.ip("route add default via 192.0.2.1", "route add default via 2001:db8:1::1")
    with closing(Wire(link)) as wire:
        trio.run(ping, link, str(AFAR[version]))
        assert wire.packets()


def test_without_its_rule_the_kernel_tells_that_it_has_no_ipv6_route_although_it_does_not_forward(
    link: Link,
) -> None:
    with closing(Wire(link)) as wire:
        trio.run(ping, link, str(AFAR[6]))
        assert {ip.decode_untrusted(each).icmp_type for each in wire.packets()} == {1}


@both_families
def test_the_machine_itself_still_answers_those_who_share_a_pool_with_it(link: Link, version: int) -> None:
    link.machine.sysctl(FORWARDING)

    async def main(end: End) -> None:
        assert " 0% packet loss" in await ping(link, "-I", ANOTHERS[version], str(MACHINE[version]))
        assert end.received == []

    run(link.machine, main)


def _with_options(packet: bytes) -> bytes:
    header = bytearray(packet[:20])
    header[0] = 0x46
    header[2:4] = (len(packet) + 4).to_bytes(2)
    header[10:12] = bytes(2)
    options = b"\x94\x04\0\0"  # router alert
    header[10:12] = internet_checksum(bytes(header) + options).to_bytes(2)
    return bytes(header) + options + packet[20:]


def _set_identification(packet: bytes, identification: int, *, dont_fragment: bool) -> bytes:
    header = bytearray(packet[:20])
    header[4:6] = identification.to_bytes(2)
    header[6] = 0x40 if dont_fragment else 0
    header[10:12] = bytes(2)
    header[10:12] = internet_checksum(bytes(header)).to_bytes(2)
    return bytes(header) + packet[20:]


def sent(link: Link, *packets: bytes) -> list[bytes]:
    """Send packets from the machine, and return what arrived at the peer."""

    async def main(end: End) -> None:
        with closing(Wire(link)) as wire:
            for each in packets:
                end.provider.send(each)
            arrived.extend(await trio.to_thread.run_sync(wire.frames))

    arrived: list[bytes] = []
    run(link.machine, main)
    # The smallest frames are not padded on such a link.
    return [
        frame[14:]
        for frame in arrived
        if frame[14 + 12 : 14 + 16] == HELD[4] or frame[14 + 8 : 14 + 24] == HELD[6]
    ]


def test_sent_packets_arrive_as_they_were(link: Link) -> None:
    plain = _set_identification(udp(4, 100), 0, dont_fragment=True)
    packets = [
        plain,
        _set_identification(udp(4, 1472), 0x1234, dont_fragment=False),
        _with_options(_set_identification(udp(4, 30), 7, dont_fragment=False)),
        udp(4, 9, hop_limit=1),
        udp(4, 9, hop_limit=255),
        *fragment(
            whole := _set_identification(udp(4, 3000), 99, dont_fragment=False),
            ip.decode_untrusted(whole),
            1500,
        ),
        udp(6, 1452, hop_limit=1),
    ]
    packets[3] = _set_identification(packets[3], 5, dont_fragment=True)
    packets[4] = _set_identification(packets[4], 5, dont_fragment=True)
    assert sent(link, *packets) == packets


@both_families
def test_a_packet_goes_to_the_neighbour_that_it_is_sent_by_whoever_answers_for_its_destination(
    link: Link, version: int
) -> None:
    payload = bytes([0, 9, 0, 9, 0, 8, 0, 0])
    packet = ip.build(HELD[version], NOT_HELD[version], UDP, payload)
    arrived: list[bytes] = []

    async def main(end: End) -> None:
        with closing(Wire(link)) as wire:
            end.provider.send(packet, PEER[version])
            arrived.extend(await trio.to_thread.run_sync(wire.packets))

    run(link.machine, main)
    assert arrived == [packet]


def test_fragments_without_an_identification_get_the_same_one_and_are_put_together_again(link: Link) -> None:
    segment = bytes([8, 0, 0, 0]) + bytes(4) + bytes(number & 0xFF for number in range(2400))
    segment = segment[:2] + internet_checksum(segment).to_bytes(2) + segment[4:]
    whole = _set_identification(ip.build(HELD[4], PEER[4], ICMP, segment), 0, dont_fragment=False)
    fragments = fragment(whole, ip.decode_untrusted(whole), 1500)
    assert len(fragments) == 2

    async def main(end: End) -> None:
        for each in fragments:
            end.provider.send(each)
        await until(lambda: len(end.received) > 0)  # the peer's answer, in fragments too
        assert ip.decode_untrusted(end.received[0]).icmp_type == 0

    run(link.machine, main)


def test_fragments_leave_as_they_are_where_a_firewall_tracks_connections(
    link: Link, require_tools: Callable[..., None]
) -> None:
    require_tools("nft")
    chain = "chain output { type filter hook output priority 0; ct state established accept; }"
    rules = f"table ip tracking {{ {chain}; }}"
    link.machine.run("nft", "-f", "-", stdin=rules)
    whole = _set_identification(udp(4, 3000), 99, dont_fragment=False)
    # A kernel that puts them together would wait for the one that is lost, and put them in order.
    fragments = fragment(whole, ip.decode_untrusted(whole), 1000)[:0:-1]
    assert sent(link, *fragments) == fragments


def test_a_packet_too_large_for_the_interface_is_refused(link: Link) -> None:
    async def main(end: End) -> None:
        for version in (4, 6):
            with pytest.raises(OSError, match="too long"):
                end.provider.send(udp(version, 1473))

    run(link.machine, main)


@both_families
def test_an_announcement_corrects_those_who_know_the_address_elsewhere(link: Link, version: int) -> None:
    async def main(end: End) -> None:
        link.peer.ip(f"neighbour replace {HELD[version]} lladdr 02:00:00:00:00:09 dev p0 nud stale")
        link.peer.ip(f"neighbour replace {NOT_HELD[version]} lladdr 02:00:00:00:00:09 dev p0 nud stale")
        end.provider.announce(HELD[version])
        end.provider.announce(NOT_HELD[version])
        await until(lambda: end.provider.announced == 1)
        assert "02:00:00:00:00:09" not in await peer_runs(link, "ip", "neighbour", "show", str(HELD[version]))
        assert "02:00:00:00:00:09" in await peer_runs(link, "ip", "neighbour", "show", str(NOT_HELD[version]))

    run(link.machine, main)


def test_another_that_goes_on_announcing_what_is_held_here_is_counted_and_not_answered(link: Link) -> None:
    said = bytes.fromhex("0001080006040001") + b"\x02\0\0\0\0\x09" + HELD[4] + bytes(6) + HELD[4]

    async def main(end: End) -> None:
        with closing(link.peer.call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0)) as another:
            another.sendto(said, ("p0", ethernet.ARP, 0, 1, b"\xff" * 6))
            await trio.sleep(LASTING + 0.1)
            assert end.provider.contested == 0
            another.sendto(said, ("p0", ethernet.ARP, 0, 1, b"\xff" * 6))
            await until(lambda: end.provider.contested == 1)
        assert end.provider.answered == 0

    run(link.machine, main)


def test_an_address_of_the_machine_in_a_pool_is_refused(link: Link) -> None:
    async def main(_end: End) -> None:
        raise AssertionError("it must not start")

    with pytest.raises(ExceptionGroup) as caught:
        run(link.machine, main, (ip_network("192.0.2.0/28"),))
    assert caught.group_contains(
        ConfigurationError, match=r"192\.0\.2\.2 of u0 lies in the pool 192\.0\.2\.0/28"
    )
    assert link.machine.call(read_rules) == frozenset()


def test_a_pool_is_served_by_one_process_of_a_machine(link: Link) -> None:
    async def main(end: End) -> None:
        with pytest.raises(ConfigurationError, match="served by another isthmus already"):
            await End().serve(POOLS)
        await ping(link, str(HELD[4]))
        assert end.received
        assert read_rules_of(link) == rules(POOLS)

    run(link.machine, main)


def rules(pools: tuple[Prefix, ...]) -> frozenset[Rule]:
    return frozenset(Rule("u0", pool) for pool in pools)


def read_rules_of(link: Link) -> frozenset[Rule]:
    return link.machine.call(read_rules)


def test_pools_are_replaced_while_they_are_served(link: Link) -> None:
    async def main(end: End) -> None:
        assert read_rules_of(link) == frozenset()
        await end.provider.replace_pools((SHARED[4],))
        await ping(link, str(HELD[4]))
        assert len(end.received) == 2
        await end.provider.replace_pools((ROUTED[4], SHARED[6]))
        assert read_rules_of(link) == rules((ROUTED[4], SHARED[6]))
        await ping(link, str(HELD[4]))
        assert len(end.received) == 2
        for address in (AFAR[4], HELD[6]):
            await ping(link, str(address))
        assert len(end.received) == 6
        with pytest.raises(ConfigurationError):
            await end.provider.replace_pools((ROUTED[4], ip_network("192.0.2.0/28")))
        assert end.provider.pools == (ROUTED[4], SHARED[6])
        assert read_rules_of(link) == rules((ROUTED[4], SHARED[6]))
        await ping(link, str(AFAR[4]))
        assert len(end.received) == 8
        await end.provider.replace_pools(())
        await ping(link, str(AFAR[4]))
        assert len(end.received) == 8

    run(link.machine, main, ())
    assert read_rules_of(link) == frozenset()


def test_an_interface_that_goes_down_or_away_is_heard_again_when_it_is_back(link: Link) -> None:
    async def main(end: End) -> None:
        link.machine.ip("link set u0 down", "link set u0 up", "addr replace 2001:db8:1::2/64 dev u0 nodad")
        await until(lambda: "state UP" in link.peer.run("ip", "link", "show", "p0").stdout)
        await ping(link, str(HELD[4]))
        assert len(end.received) == 2
        link.machine.ip("link del u0")
        connect(link.peer, "p0", link.machine, "u0")
        link.peer.ip("addr add 192.0.2.1/24 dev p0", "link set p0 up")
        link.machine.ip("addr add 192.0.2.2/24 dev u0", "link set u0 up")
        await trio.sleep(1.5)
        await ping(link, str(HELD[4]))
        assert len(end.received) == 4

    run(link.machine, main)


SERVING = """
import sys, trio
from ipaddress import ip_network
from gateway.underlay.interfaces import Attachment
from gateway.underlay.provider import Provider
from policies.errors import ConfigurationError

async def main():
    async with trio.open_nursery() as nursery:
        pools = [ip_network(each) for each in sys.argv[1:]]
        await nursery.start(Provider().serve, pools, Attachment(("u0",), 1500), print, bool)
        print("serving", flush=True)

try:
    trio.run(main)
except* ConfigurationError as refused:
    print(refused.exceptions[0], flush=True)
"""


def serve_in_a_process(link: Link, *pools: Prefix, wrapped: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = link.machine.command(*wrapped, sys.executable, "-c", SERVING, *map(str, pools))
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment())


def said_by(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_what_a_killed_process_leaves_is_its_rules_and_the_next_takes_them_over(link: Link) -> None:
    link.machine.ip(f"rule add iif u0 to 203.0.113.0/24 blackhole priority {PRIORITY + 1}")
    link.machine.ip(f"rule add iif lo to {SHARED[4]} blackhole priority {PRIORITY}")
    with serve_in_a_process(link, *POOLS) as killed:
        assert said_by(killed) == "serving\n"
        killed.kill()
    assert read_rules_of(link) == rules(POOLS)

    async def main(end: End) -> None:
        assert read_rules_of(link) == rules((SHARED[4], ROUTED[6]))
        await ping(link, str(HELD[4]))
        assert len(end.received) == 2

    run(link.machine, main, (SHARED[4], ROUTED[6]))
    assert read_rules_of(link) == frozenset()
    assert "203.0.113.0/24" in link.machine.run("ip", "rule").stdout


def test_rules_that_somebody_takes_away_come_back(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "LOOK_AT_RULES", 0.05)

    async def main(_end: End) -> None:
        link.machine.run("ip", "-6", "rule", "del", "priority", str(PRIORITY))
        link.machine.run("ip", "rule", "del", "priority", str(PRIORITY))
        assert read_rules_of(link) != rules(POOLS)
        await until(lambda: read_rules_of(link) == rules(POOLS))

    run(link.machine, main)


def test_the_rules_of_another_process_stay(link: Link) -> None:
    with serve_in_a_process(link, ROUTED[4]) as other:
        assert said_by(other) == "serving\n"

        async def main(_end: End) -> None:
            assert read_rules_of(link) == rules((ROUTED[4], SHARED[4]))

        run(link.machine, main, (SHARED[4],))
        assert read_rules_of(link) == rules((ROUTED[4],))
        other.kill()


@pytest.mark.parametrize("forwarding", [True, False])
def test_who_may_add_no_rules_serves_only_where_the_kernel_does_not_forward(
    link: Link, require_tools: Callable[..., None], *, forwarding: bool
) -> None:
    require_tools("setpriv")
    if forwarding:
        link.machine.sysctl(FORWARDING)
    without = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    with serve_in_a_process(link, ROUTED[4], wrapped=without) as process:
        said = said_by(process)
        process.kill()
    assert ("forwards IPv4 at u0" in said) if forwarding else said == "serving\n"
