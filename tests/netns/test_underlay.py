"""Raw GRE sockets in network namespaces, against the kernel that they live on."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import NamedTuple

import pytest
import trio

from gateway.emissions import Emitter
from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.verdicts import Forward, OuterHeader, ToPort, ToProvider, ToSite, ToUnderlay
from gateway.lab.namespaces import Namespace, connect
from gateway.packets import ethernet, ip, nvgre
from gateway.packets.checksum import internet_checksum, transport_checksum
from gateway.underlay import offloads
from gateway.underlay.interfaces import Attachment, Link, choose, read_links
from gateway.underlay.offloads import GRO, merging_off
from gateway.underlay.service import Underlay
from policies.addresses import Address, ProviderAddress, Vsid
from policies.errors import ConfigurationError
from policies.model import Underlay as Settings
from tests.netns.waiting import until

_libc = ctypes.CDLL(None, use_errno=True)

pytestmark = pytest.mark.netns

#   host [u0] 192.0.2.1 --- 192.0.2.254 [h0] router [g0] 198.51.100.254 --- 198.51.100.1 [u0] gateway
#      2001:db8:1::1 --- 2001:db8:1::254                   2001:db8:2::254 --- 2001:db8:2::1
HOST = {4: ProviderAddress.parse("192.0.2.1"), 6: ProviderAddress.parse("2001:db8:1::1")}
GATEWAY = {4: ProviderAddress.parse("198.51.100.1"), 6: ProviderAddress.parse("2001:db8:2::1")}
NOBODY = {4: ProviderAddress.parse("198.51.100.77"), 6: ProviderAddress.parse("2001:db8:2::77")}
OUTER = {4: 20, 6: 40}
NVGRE = nvgre.encode(5001, 7)

both_families = pytest.mark.parametrize("version", [4, 6])


class Network(NamedTuple):
    host: Namespace
    router: Namespace
    gateway: Namespace


@pytest.fixture
def network() -> Iterator[Network]:
    host, router, gateway = Namespace("host"), Namespace("router"), Namespace("gateway")
    connect(host, "u0", router, "h0")
    connect(gateway, "u0", router, "g0")
    router.sysctl({"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1})
    router.ip(
        "addr add 192.0.2.254/24 dev h0",
        "addr add 2001:db8:1::254/64 dev h0 nodad",
        "addr add 198.51.100.254/24 dev g0",
        "addr add 2001:db8:2::254/64 dev g0 nodad",
        "link set h0 up",
        "link set g0 up",
    )
    host.ip("addr add 192.0.2.1/24 dev u0", "addr add 2001:db8:1::1/64 dev u0 nodad", "link set u0 up")
    gateway.ip("addr add 198.51.100.1/24 dev u0", "addr add 2001:db8:2::1/64 dev u0 nodad", "link set u0 up")
    host.ip("route add default via 192.0.2.254", "route add default via 2001:db8:1::254")
    gateway.ip("route add default via 198.51.100.254", "route add default via 2001:db8:2::254")
    yield Network(host, router, gateway)
    for side in (host, router, gateway):
        side.close()


class Received(NamedTuple):
    outer: OuterHeader
    payload: bytes


class End:
    """An underlay service with everything that it received and learned."""

    def __init__(self) -> None:
        self.underlay = Underlay()
        self.drops = Drops()
        self.received: list[Received] = []
        self.reports: list[tuple[bytes, int, int]] = []
        self._emitter = Emitter(self.drops, self.underlay.send, _no_ports, _no_sites, _no_provider)

    async def serve(
        self, addresses: dict[int, ProviderAddress], *, task_status: trio.TaskStatus[None]
    ) -> None:
        await self.underlay.serve(
            addresses.values(),
            Attachment(("u0",), 1500),
            self._receive,
            _everything_is_worth_splitting,
            self._report,
            task_status=task_status,
        )

    def send(self, packet: ToUnderlay) -> None:
        self._emitter.carry_out(Forward((packet,)))

    def _receive(self, outer: OuterHeader, payload: bytes, now: float) -> None:
        self.received.append(Received(outer, payload))

    def _report(self, destination: bytes, vsid: int, mtu: int, now: float) -> None:
        self.reports.append((destination, vsid, mtu))


def _everything_is_worth_splitting(outer: OuterHeader, payload: bytes) -> bool:
    return True


def _no_ports(frame: ToPort) -> None:
    raise AssertionError(f"there is no port for {frame}")


def _no_sites(packet: ToSite) -> None:
    raise AssertionError(f"there is no tunnel for {packet}")


def _no_provider(packet: ToProvider) -> None:
    raise AssertionError(f"no pool is there for {packet}")


def to_gateway(version: int, payload: bytes, ecn: int = 0, hop_limit: int = 64) -> ToUnderlay:
    return ToUnderlay(HOST[version], GATEWAY[version], ecn, payload, Vsid(5001), "red", hop_limit)


def to_nobody(version: int) -> ToUnderlay:
    return ToUnderlay(HOST[version], NOBODY[version], 0, NVGRE, Vsid(5001), "red")


def run(
    side: Namespace, main: Callable[[End, trio.Nursery], object], addresses: dict[int, ProviderAddress]
) -> None:
    """Run a service in a namespace, and `main` beside it."""

    async def beside() -> None:
        end = End()
        async with trio.open_nursery() as nursery:
            await nursery.start(end.serve, addresses)
            await main(end, nursery)  # type: ignore[misc]
            nursery.cancel_scope.cancel()

    side.call(trio.run, beside)


def send_from(side: Namespace, *packets: ToUnderlay) -> None:
    async def main(end: End, nursery: trio.Nursery) -> None:
        for packet in packets:
            end.send(packet)
        assert not end.drops.counts

    run(side, main, HOST)


@both_families
def test_a_packet_arrives_with_what_its_outer_header_said(network: Network, version: int) -> None:
    async def main(end: End, nursery: trio.Nursery) -> None:
        send_from(network.host, to_gateway(version, NVGRE + b"frame", ecn=2, hop_limit=9))
        await until(lambda: len(end.received) == 1)
        # The router took one off the hop limit.
        assert end.received == [(OuterHeader(HOST[version], GATEWAY[version], 2, 8), NVGRE + b"frame")]

    run(network.gateway, main, GATEWAY)


@both_families
def test_a_burst_arrives_whole_and_in_order(network: Network, version: int) -> None:
    payloads = [NVGRE + number.to_bytes(2) for number in range(500)]

    async def main(end: End, nursery: trio.Nursery) -> None:
        send_from(network.host, to_gateway(version, NVGRE))  # so that all neighbours are known
        await until(lambda: len(end.received) == 1)
        send_from(network.host, *(to_gateway(version, payload) for payload in payloads))
        await until(lambda: len(end.received) == 1 + len(payloads))
        assert [each.payload for each in end.received[1:]] == payloads
        assert end.underlay.kernel_drops == 0

    run(network.gateway, main, GATEWAY)


def test_a_sent_packet_has_df_set_and_a_right_header(network: Network) -> None:
    def open_capture() -> socket.socket:
        return socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))

    with closing(network.router.call(open_capture)) as capture:
        capture.bind(("h0", 0x0800))
        capture.settimeout(5)
        send_from(network.host, to_gateway(4, NVGRE + b"frame", ecn=1, hop_limit=63))
        packet = capture.recv(2048)
    facts = ip.decode_untrusted(packet)  # which checks the header's checksum
    assert facts.dont_fragment
    assert (facts.protocol, facts.traffic_class, facts.hop_limit) == (socket.IPPROTO_GRE, 1, 63)
    assert facts.total_length == 20 + len(NVGRE) + 5


@both_families
def test_a_smaller_mtu_on_the_path_is_reported_and_nothing_is_fragmented(
    network: Network, version: int
) -> None:
    network.router.ip("link set g0 mtu 1400")

    async def main(end: End, nursery: trio.Nursery) -> None:
        full = NVGRE + bytes(1500 - OUTER[version] - len(NVGRE))
        end.send(to_gateway(version, full))
        await until(lambda: bool(end.reports))
        assert end.reports[0] == (GATEWAY[version], 5001, 1400)
        # It's the pipeline that heeds it: the kernel still sends what it is given.
        end.send(to_gateway(version, full))
        await until(lambda: len(end.reports) == 2)
        assert not end.drops.counts
        assert end.underlay.icmp_errors == 2

    run(network.host, main, HOST)


def too_big(version: int, mtu: int, gre: bytes) -> bytes:
    """An ICMP error as somebody forges it, about a packet from the host to the gateway that begins so."""
    if version == 4:
        quoted = ip.build(HOST[4], GATEWAY[4], socket.IPPROTO_GRE, gre)
        message = b"\3\4\0\0\0\0" + mtu.to_bytes(2) + quoted
        return message[:2] + internet_checksum(message).to_bytes(2) + message[4:]
    # The kernel computes the checksum of what a raw ICMPv6 socket sends.
    return b"\2\0\0\0" + mtu.to_bytes(4) + ip.build(HOST[6], GATEWAY[6], socket.IPPROTO_GRE, gre)


@both_families
def test_an_error_about_what_we_never_send_changes_no_path(network: Network, version: int) -> None:
    family, protocol = {
        4: (socket.AF_INET, socket.IPPROTO_ICMP),
        6: (socket.AF_INET6, socket.IPPROTO_ICMPV6),
    }[version]

    def forge() -> None:
        with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
            for gre in (bytes(8), b"\x30\0\x65\x58" + NVGRE[4:], b"\x20\0\x08\0" + NVGRE[4:], NVGRE):
                raw.sendto(too_big(version, 1300, gre + bytes(40)), (str(HOST[version]), 0))

    async def main(end: End, nursery: trio.Nursery) -> None:
        network.router.call(forge)
        await until(lambda: end.underlay.icmp_errors == 4)
        # Only the last quotes NVGRE. Whether its VSID is in use is for the pipeline to say.
        assert end.reports == [(GATEWAY[version], 5001, 1300)]

    run(network.host, main, HOST)


@both_families
def test_a_packet_above_the_interfaces_mtu_is_counted_and_its_mtu_reported(
    network: Network, version: int
) -> None:
    async def main(end: End, nursery: trio.Nursery) -> None:
        end.send(to_gateway(version, bytes(1501 - OUTER[version])))
        assert set(end.reports) == {(GATEWAY[version], 5001, 1500)}
        assert end.drops.counts == {(DropReason.TOO_BIG, "red"): 1}

    run(network.host, main, HOST)


@both_families
def test_an_unreachable_host_harms_nobody_else(network: Network, version: int) -> None:
    async def main(end: End, nursery: trio.Nursery) -> None:
        # The router gives up on the neighbour after three seconds, or says so at once without a route.
        network.router.ip(
            "route add unreachable 198.51.100.77/32", "route add unreachable 2001:db8:2::77/128"
        )
        for _ in range(3):
            end.send(to_nobody(version))
        await until(lambda: end.underlay.icmp_errors > 0)
        assert not end.drops.counts

        payload = network.gateway.call(receive_after, lambda: end.send(to_gateway(version, NVGRE)), version)
        assert payload.endswith(NVGRE)
        assert not end.drops.counts

    run(network.host, main, HOST)


def receive_after(send: Callable[[], None], version: int) -> bytes:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_GRE) as listener:
        listener.settimeout(5)
        send()
        return listener.recv(2048)


def test_without_a_route_a_packet_is_counted(network: Network) -> None:
    network.host.ip("route del default")

    async def main(end: End, nursery: trio.Nursery) -> None:
        end.send(to_gateway(4, NVGRE))
        assert end.drops.counts == {(DropReason.SEND_FAILED, "red"): 1}

    run(network.host, main, HOST)


def test_an_address_of_nobody_cannot_be_sent_from(network: Network) -> None:
    async def main(end: End, nursery: trio.Nursery) -> None:
        end.send(ToUnderlay(NOBODY[4], GATEWAY[4], 0, NVGRE, Vsid(5001), "red"))
        assert end.drops.counts == {(DropReason.SEND_FAILED, "red"): 1}

    run(network.host, main, HOST)


def test_gro_is_off_while_we_serve_and_on_again_afterwards(network: Network) -> None:
    switch(network.gateway, "u0", GRO, on=True)

    async def main(end: End, nursery: trio.Nursery) -> None:
        assert not is_on("u0", GRO)

    run(network.gateway, main, GATEWAY)
    assert network.gateway.call(is_on, "u0", GRO)


def test_an_interface_that_goes_away_while_we_serve_is_no_failure(network: Network) -> None:
    def work() -> None:
        with merging_off(["u0"]):
            network.gateway.ip("link del u0")

    switch(network.gateway, "u0", GRO, on=True)
    network.gateway.call(work)


def switch(side: Namespace, interface: str, offload: offloads._Offload, *, on: bool) -> None:
    def work() -> None:
        with socket.socket() as control:
            assert offloads._switch(control, interface, offload, on=on)

    side.call(work)


def is_on(interface: str, offload: offloads._Offload) -> bool:
    with socket.socket() as control:
        return bool(offloads._ethtool(control, interface, offload.read, 0) & offload.bit)


def tcp_segments(count: int, size: int) -> list[bytes]:
    """NVGRE packets as a peer would send them: consecutive segments of one inner connection."""
    source, destination = bytes([10, 0, 1, 5]), bytes([10, 0, 2, 5])
    packets = []
    for number in range(count):
        data = bytes([number]) * size
        header = (
            b"\x30\x39\x01\xbb" + (1 + number * size).to_bytes(4) + bytes(4) + b"\x50\x10\x10\x00" + bytes(4)
        )
        checksum = transport_checksum(source, destination, 6, header + data)
        segment = header[:16] + checksum.to_bytes(2) + header[18:] + data
        frame = ethernet.EthernetHeader(b"\2\0\0\0\0\1", b"\2\0\0\0\0\2", ethernet.IPV4).encode()
        packets.append(NVGRE + frame + ip.build(source, destination, 6, segment))
    return packets


def test_segments_that_were_merged_all_the_same_are_cut_again(network: Network) -> None:
    sent = tcp_segments(40, 1418)
    # A veth merges only what comes from an end without TSO, and only what comes while it waits.
    switch(network.router, "g0", offloads._Offload("TSO", 0x1E, 0x1F, 1), on=False)
    waiting = network.gateway.run(
        *("unshare", "--mount", "sh", "-c"),
        "mount -t sysfs none /sys && cd /sys/class/net/u0 &&"
        "echo 100000000 >gro_flush_timeout && echo 10 >napi_defer_hard_irqs",
        check=False,
    )
    if waiting.returncode:
        pytest.skip("only root may make a veth wait for packets to merge")

    async def main(end: End, nursery: trio.Nursery) -> None:
        switch(network.gateway, "u0", GRO, on=True)
        send_from(network.host, *(to_gateway(4, payload) for payload in sent))
        await until(lambda: len(end.received) >= len(sent))
        assert [each.payload[-1418:] for each in end.received] == [each[-1418:] for each in sent]
        assert [len(each.payload) for each in end.received] == [len(each) for each in sent]
        assert end.underlay.merged > 0, "the kernel merged nothing, so this test shows nothing"

    run(network.gateway, main, GATEWAY)


def test_the_addresses_interface_and_mtu_are_found(network: Network) -> None:
    network.host.ip("link set u0 mtu 1450")
    settings = Settings(tuple(HOST.values()))
    assert choose(settings, network.host.call(read_links)) == Attachment(("u0",), 1450)


def test_an_address_on_no_interface_is_named_with_those_that_there_are(network: Network) -> None:
    with pytest.raises(ConfigurationError) as caught:
        choose(Settings((NOBODY[4],)), network.host.call(read_links))
    said = str(caught.value)
    assert said.startswith(
        "underlay.provider_addresses: 198.51.100.77 is on no interface of this machine; "
        "its addresses are 192.0.2.1, 2001:db8:1::1"
    )


def test_addresses_that_an_interface_has_learned_are_told_from_those_it_was_given(network: Network) -> None:
    network.host.ip("addr add 2001:db8:9::9/64 dev u0 nodad valid_lft 600 preferred_lft 600")

    def uplink() -> Link:
        return next(link for link in network.host.call(read_links) if link.name == "u0")

    assert set(HOST.values()) <= set(uplink().addresses)
    assert Address.parse("2001:db8:9::9") in uplink().learned
    assert not uplink().learned.intersection(HOST.values())


def test_without_privilege_one_sentence_says_what_to_do(network: Network) -> None:
    def work() -> None:
        # Only this thread gives its capabilities up (capset(2), version 3, all sets empty).
        assert _libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24)) == 0
        trio.run(
            End().underlay.serve,
            HOST.values(),
            Attachment(("u0",), 1500),
            print,
            _everything_is_worth_splitting,
            print,
        )

    with pytest.raises(ConfigurationError, match=r"^underlay: raw sockets need root or CAP_NET_RAW: "):
        network.host.call(work)
