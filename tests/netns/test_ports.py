"""VM ports in network namespaces, with every offload that a veth and a TAP have."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from gateway.emissions import Emitter
from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.verdicts import Forward, PortKey, ToPort, ToProvider, ToSite, ToUnderlay
from gateway.host import isolation
from gateway.host.ports import LOOK_AT_ALL, Ports
from gateway.lab.namespaces import Namespace, connect
from gateway.packets import ethernet, ip
from gateway.packets.checksum import transport_checksum
from policies.addresses import MacAddress, Vsid
from policies.errors import ConfigurationError
from policies.facts import TCP
from policies.model import Port
from tests.netns.waiting import until

pytestmark = pytest.mark.netns

#   vm1 [eth0] --- [vnet1] host [vnet2] --- [eth0] vm2
#                     [pa0] 192.0.2.1, 2001:db8::1
MACS = {number: MacAddress.parse(f"02:00:00:00:01:0{number}") for number in (1, 2)}
PORTS = {n: Port(f"vnet{n}", "red", Vsid(5001), mac, ()) for n, mac in MACS.items()}
FRAME = ethernet.EthernetHeader(MACS[2], MACS[1], 0x88B5).encode()  # IEEE 802's type for experiments


class Machine(NamedTuple):
    host: Namespace
    vms: dict[int, Namespace]


def plug_in(machine: Machine, number: int) -> None:
    vm = machine.vms[number]
    connect(machine.host, f"vnet{number}", vm, "eth0")
    vm.ip(
        f"link set eth0 address {MACS[number]}",
        f"addr add 10.0.1.{number}/24 dev eth0",
        f"addr add fd00:1::{number}/64 dev eth0 nodad",
        "link set eth0 up",
    )


@pytest.fixture
def machine() -> Iterator[Machine]:
    host, vms = Namespace("host"), {1: Namespace("vm1"), 2: Namespace("vm2")}
    host.ip(
        "link add pa0 type veth peer name pa1",
        "addr add 192.0.2.1/24 dev pa0",
        "addr add 2001:db8::1/64 dev pa0 nodad",
        "link set pa0 up",
        "link set pa1 up",
    )
    machine = Machine(host, vms)
    for number in vms:
        plug_in(machine, number)
    yield machine
    for side in (host, *vms.values()):
        side.close()


class Host:
    """The ports' service, with every frame that it received; a hub joins its ports if it is told to."""

    def __init__(self) -> None:
        self.drops = Drops()
        self.ports = Ports(self.drops)
        self.is_hub = False
        self.largest = 0
        self.received: list[tuple[PortKey, bytes]] = []
        self.mtus: list[tuple[MacAddress, int]] = []
        self.said: list[tuple[str, MacAddress]] = []
        self.at: dict[tuple[str, MacAddress], float] = {}
        self.held: list[ToPort] = []
        self._emitter = Emitter(
            self.drops, _no_underlay, self.ports.send, _no_sites, _no_provider, self.held.append
        )

    def send(self, number: int, frame: bytes) -> None:
        self._emitter.carry_out(Forward((ToPort((Vsid(5001), MACS[number]), frame, "red"),)))

    def is_open(self, number: int) -> bool:
        return (Vsid(5001), MACS[number]) in self.ports._open

    def has_opened(self, number: int) -> bool:
        """Whether the port has ever been said to carry frames."""
        return ("opened", MACS[number]) in self.said

    def frames(self, number: int) -> list[bytes]:
        """What came from a VM, less what its stack says when an interface comes up."""
        return [
            frame
            for (_, mac), frame in self.received
            if mac == MACS[number] and frame[12:14] in (b"\x88\xb5", b"\x81\x00")
        ]

    def opened(self, port: PortKey) -> None:
        self._say("opened", port[1])
        held, self.held[:] = self.held[:], []
        self._emitter.carry_out(Forward(tuple(held)))

    def closed(self, port: PortKey) -> None:
        self._say("closed", port[1])

    def _say(self, what: str, mac: MacAddress) -> None:
        self.said.append((what, mac))
        self.at[what, mac] = trio.current_time()

    def mtu_is(self, port: PortKey, mtu: int) -> None:
        self.mtus.append((port[1], mtu))

    def receive(self, port: PortKey, frame: bytes, now: float) -> None:
        if self.is_hub:
            self.send(1 if port[1] == MACS[2] else 2, frame)
            self.largest = max(self.largest, len(frame))
            return
        self.received.append((port, frame))


def _no_underlay(packet: ToUnderlay) -> None:
    raise AssertionError(f"there is no underlay for {packet}")


def _no_sites(packet: ToSite) -> None:
    raise AssertionError(f"there is no tunnel for {packet}")


def _no_provider(packet: ToProvider) -> None:
    raise AssertionError(f"no pool is there for {packet}")


Scene = Callable[[Host], Awaitable[None]]


def run(machine: Machine, scene: Scene) -> Host:
    """Serve the ports in the host's namespace, with `scene` beside them."""
    host = Host()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.ports.watch)
            for number, port in PORTS.items():
                await nursery.start(
                    host.ports.serve, port, host.receive, host.mtu_is, host.opened, host.closed
                )
                if f"vnet{number}" in machine.host.interfaces():
                    await until_joined(machine, number)
                if host.is_open(number):
                    await until(partial(host.has_opened, number))
            await scene(host)
            nursery.cancel_scope.cancel()

    machine.host.call(trio.run, main)
    return host


async def until_joined(machine: Machine, number: int) -> None:
    """Wait until both ends of a VM's veth carry frames, some time after both are up."""
    ends = ((machine.host, f"vnet{number}"), (machine.vms[number], "eth0"))
    await until(lambda: all(side.call(flags_of, interface) & IFF_RUNNING for side, interface in ends))


IFF_RUNNING = 0x40


def flags_of(interface: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, 0x8913, struct.pack("40s", interface.encode()))
    return int.from_bytes(answer[16:18], sys.byteorder)


def raw(side: Namespace, interface: str = "eth0") -> socket.socket:
    """A packet socket inside a VM, that takes only what is sent to it."""

    def open_raw() -> socket.socket:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)

    opened = side.call(open_raw)
    opened.bind((interface, 0x88B5))
    opened.settimeout(5)
    return opened


def test_frames_go_both_ways_unchanged(machine: Machine) -> None:
    async def scene(host: Host) -> None:
        with closing(raw(machine.vms[1])) as vm1, closing(raw(machine.vms[2])) as vm2:
            vm1.send(FRAME + b"hello")
            await until(lambda: bool(host.frames(1)))
            host.send(2, FRAME + b"there")
            assert vm2.recv(2048) == FRAME + b"there"
        assert host.frames(1) == [FRAME + b"hello"]
        assert not host.drops.counts

    run(machine, scene)


def test_what_the_host_itself_sends_on_a_port_is_not_taken_for_the_vms(machine: Machine) -> None:
    async def scene(host: Host) -> None:
        with closing(raw(machine.host, "vnet1")) as intruder, closing(raw(machine.vms[1])) as vm1:
            intruder.send(FRAME + b"from the host")
            assert vm1.recv(2048)
            vm1.send(FRAME + b"from the VM")
            await until(lambda: bool(host.frames(1)))
        assert host.frames(1) == [FRAME + b"from the VM"]

    run(machine, scene)


def test_a_port_that_is_served_already_is_refused_though_its_interface_is_not_there(machine: Machine) -> None:
    machine.host.ip("link del vnet1")

    async def scene(host: Host) -> None:
        with pytest.raises(
            ConfigurationError,
            match=r"^host\.port\[vnet1\]\.interface: vnet1 is served by another isthmus already$",
        ):
            await Host().ports.serve(PORTS[1], host.receive, host.mtu_is)

    run(machine, scene)


def test_a_vlan_tag_is_put_back_into_the_frame(machine: Machine) -> None:
    tagged = FRAME[:12] + b"\x81\x00\x20\x05" + FRAME[12:] + b"data"

    async def scene(host: Host) -> None:
        with closing(raw(machine.vms[1])) as vm1:
            vm1.send(tagged)
            await until(lambda: bool(host.frames(1)))
        assert host.frames(1) == [tagged]

    run(machine, scene)


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "10.0.1.2"), (socket.AF_INET6, "fd00:1::2")]
)
def test_tcp_between_vms_with_their_offloads_on_arrives_whole(
    machine: Machine, family: int, address: str
) -> None:
    data = os.urandom(1 << 20) * 8

    def listen() -> socket.socket:
        return socket.create_server(("", 7000), family=family)

    def transfer() -> bytes:
        with closing(machine.vms[2].call(listen)) as listener:
            listener.settimeout(20)
            sender = threading.Thread(target=machine.vms[1].call, args=(send,))
            sender.start()
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as stream:
                received = stream.read()
            sender.join()
            return received

    def send() -> None:
        with socket.create_connection((address, 7000), timeout=20) as connection:
            connection.sendall(data)

    async def scene(host: Host) -> None:
        host.is_hub = True
        assert await trio.to_thread.run_sync(transfer) == data
        assert host.largest == 1514

    run(machine, scene)


def test_udp_with_an_unfinished_checksum_arrives(machine: Machine) -> None:
    def listen() -> socket.socket:
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("10.0.1.2", 7000))
        listener.settimeout(10)
        return listener

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"data", ("10.0.1.2", 7000))

    async def scene(host: Host) -> None:
        host.is_hub = True
        with closing(machine.vms[2].call(listen)) as listener:
            machine.vms[1].call(send)
            assert await trio.to_thread.run_sync(listener.recv, 2048) == b"data"

    run(machine, scene)


def test_a_frame_too_large_for_the_port_is_counted(machine: Machine) -> None:
    async def scene(host: Host) -> None:
        host.send(1, FRAME + bytes(1600))

    assert run(machine, scene).drops.counts == {(DropReason.TOO_BIG, "red"): 1}


def test_what_a_port_carries_is_told_when_it_opens_and_when_it_may_have_changed(machine: Machine) -> None:
    machine.host.ip("link set vnet1 mtu 1400")

    async def scene(host: Host) -> None:
        assert host.mtus == [(MACS[1], 1400), (MACS[2], 1500)]
        host.mtus.clear()
        machine.host.ip("link set vnet1 mtu 1300")
        host.send(1, FRAME + bytes(1400))
        assert host.drops.counts == {(DropReason.TOO_BIG, "red"): 1}
        assert host.mtus == [(MACS[1], 1300)]

        host.mtus.clear()
        machine.host.ip("link set vnet1 down", "link set vnet1 mtu 1450", "link set vnet1 up")
        await until(lambda: host.mtus == [(MACS[1], 1450)])

        machine.host.ip("link del vnet2")
        await until(lambda: not host.is_open(2))
        plug_in(machine, 2)
        await until(lambda: (MACS[2], 1500) in host.mtus)

    run(machine, scene)


@pytest.mark.parametrize("mtu", [1400, 9000])
def test_change_of_what_a_port_carries_is_told_while_it_is_up_and_idle(machine: Machine, mtu: int) -> None:
    async def scene(host: Host) -> None:
        host.mtus.clear()
        machine.host.ip(f"link set vnet1 mtu {mtu}")
        await until(lambda: bool(host.mtus))
        await trio.sleep(LOOK_AT_ALL * 1.5)
        assert host.mtus == [(MACS[1], mtu)], "told once, and of no other port"

    run(machine, scene)


NOTICED_WITHIN = 0.05  # seconds; on an idle machine it takes less than 10 ms


async def until_said(host: Host, *said: tuple[str, int]) -> None:
    await until(lambda: host.said == [(what, MACS[number]) for what, number in said])


def test_port_that_appears_is_open_at_once(machine: Machine) -> None:
    machine.host.ip("link del vnet1")

    async def scene(host: Host) -> None:
        assert ("closed", MACS[1]) in host.said
        host.said.clear()
        plug_in(machine, 1)
        before = trio.current_time()
        await until_said(host, ("opened", 1))
        assert host.at["opened", MACS[1]] - before < NOTICED_WITHIN

    run(machine, scene)


@pytest.mark.parametrize("how", ["vanishes", "loses its other end", "is taken down"])
def test_port_that_goes_is_closed_at_once_and_its_frames_wait_until_it_is_back(
    machine: Machine, how: str
) -> None:
    async def scene(host: Host) -> None:
        host.said.clear()
        match how:
            case "vanishes":
                machine.host.ip("link del vnet1")
            case "loses its other end":
                machine.vms[1].ip("link set eth0 down")
            case "is taken down":
                machine.host.ip("link set vnet1 down")
        before = trio.current_time()
        if how == "is taken down":
            # Whoever sends learns it from the kernel, whether or not the event has been read.
            host.send(1, FRAME + b"first")
            assert host.said == [("closed", MACS[1])]
        else:
            await until_said(host, ("closed", 1))
            assert host.at["closed", MACS[1]] - before < NOTICED_WITHIN
            host.send(1, FRAME + b"first")
        host.send(1, FRAME + b"second")
        assert [each.frame for each in host.held] == [FRAME + b"first", FRAME + b"second"]
        match how:
            case "vanishes":
                plug_in(machine, 1)
            case "loses its other end":
                machine.vms[1].ip("link set eth0 up")
            case "is taken down":
                machine.host.ip("link set vnet1 up")
        await until_said(host, ("closed", 1), ("opened", 1))
        assert not host.held
        assert not host.drops.counts

    run(machine, scene)


def test_frames_that_waited_reach_the_vm_in_order_before_later_ones(machine: Machine) -> None:
    async def scene(host: Host) -> None:
        host.said.clear()
        machine.host.ip("link set vnet1 down")
        for number in range(5):
            host.send(1, FRAME + bytes([number]))
        with closing(raw(machine.vms[1])) as vm1:
            machine.host.ip("link set vnet1 up")
            await until(lambda: host.said[-2:] == [("closed", MACS[1]), ("opened", MACS[1])])
            host.send(1, FRAME + b"\5")
            assert [vm1.recv(2048)[14] for _ in range(6)] == list(range(6))

    run(machine, scene)


SOL_PACKET, PACKET_VNET_HDR = 263, 15


def test_a_super_packet_of_tens_of_thousands_of_segments_is_counted_once_and_goes_nowhere(
    machine: Machine,
) -> None:
    header = b"\x30\x39\x01\xbb" + bytes(8) + b"\x50\x10\x10\x00" + bytes(4)
    packet = ip.build(bytes([10, 0, 1, 1]), bytes([10, 0, 1, 2]), TCP, header + bytes(60_000))
    frame = ethernet.EthernetHeader(MACS[2], MACS[1], ethernet.IPV4).encode() + packet

    async def scene(host: Host) -> None:
        with closing(raw(machine.vms[1])) as vm1:
            vm1.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            super_packet = struct.pack("=BBHHHH", 1, 1, 54, 1, 34, 16) + frame
            vm1.sendto(super_packet, ("eth0", ethernet.IPV4))
            vm1.send(bytes(10) + FRAME + b"behind it")
            await until(lambda: bool(host.frames(1)))
        assert host.drops.counts == {(DropReason.MALFORMED, "red"): 1}
        assert not [each for _, each in host.received if is_tcp(each)]
        assert host.ports.unreadable == 0

    run(machine, scene)


class Reach(NamedTuple):
    """What of the host's own stack a VM on vnet1 reaches."""

    arp: bool
    udp: bool
    ping6: bool
    udp6: bool


def reach_of_vm1(machine: Machine) -> Reach:
    """Try to reach the host's own addresses from vm1, as a VM would that means harm."""
    vm1 = machine.vms[1]
    port_mac = machine.host.call(mac_of, "vnet1")
    vm1.ip(
        "route replace 192.0.2.1/32 dev eth0",
        "route replace 2001:db8::1/128 dev eth0",
    )
    arp = vm1.run("ping", "-c1", "-W0.3", "192.0.2.1", check=False)
    answered_arp = "lladdr" in vm1.run("ip", "neigh", "show", "192.0.2.1").stdout
    ping6 = vm1.run("ping", "-c1", "-W0.3", "2001:db8::1", check=False)
    vm1.ip(
        f"neigh replace 192.0.2.1 lladdr {port_mac} dev eth0",
        f"neigh replace 2001:db8::1 lladdr {port_mac} dev eth0",
    )

    def listen(family: int) -> socket.socket:
        listener = socket.socket(family, socket.SOCK_DGRAM)
        listener.bind(("", 7000))
        listener.settimeout(0.5)
        return listener

    def send(family: int, address: str) -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"let me in", (address, 7000))

    reached = []
    for family, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with closing(machine.host.call(listen, family)) as listener:
            vm1.call(send, family, address)
            try:
                listener.recv(100)
                reached.append(True)
            except TimeoutError:
                reached.append(False)
    vm1.ip("neigh del 192.0.2.1 dev eth0", "neigh del 2001:db8::1 dev eth0")
    return Reach(answered_arp and arp is not None, reached[0], ping6.returncode == 0, reached[1])


def mac_of(interface: str) -> MacAddress:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, 0x8927, struct.pack("40s", interface.encode()))
    return MacAddress(answer[18:24])


@pytest.mark.parametrize("rp_filter_of_all", [0, 2])
def test_a_vm_reaches_nothing_of_the_hosts_own_stack(machine: Machine, rp_filter_of_all: int) -> None:
    # The kernel takes the larger value of an interface's own and this one: 2 is the loose mode.
    machine.host.sysctl({"net/ipv4/conf/all/rp_filter": rp_filter_of_all})
    machine.host.ip("link set vnet1 up")
    before = reach_of_vm1(machine)
    assert before.udp6, "this test shows nothing unless an ordinary interface answers"
    assert before.arp or rp_filter_of_all, "the same"

    async def scene(host: Host) -> None:
        assert reach_of_vm1(machine) == Reach(arp=False, udp=False, ping6=False, udp6=False)

    run(machine, scene)


def test_a_port_that_cannot_be_kept_apart_is_not_served(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine.host.ip("link set vnet1 up", "link set vnet2 up")
    monkeypatch.setattr(isolation, "_SETTINGS", (("ipv4/conf/{}/rp_filter", "not a number"),))

    async def scene(host: Host) -> None:
        host.send(1, FRAME)
        assert [each.frame for each in host.held] == [FRAME]
        await trio.sleep(0.3)

    run(machine, scene)
    said = [record.getMessage() for record in caplog.records if "vnet1" in record.getMessage()]
    assert len(said) == 1
    assert "Invalid argument: '/proc/sys/net/ipv4/conf/vnet1/rp_filter'" in said[0]


def test_port_that_is_refused_later_harms_no_other_and_is_tried_again_once_it_is_another(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = isolation._write

    def refuse_the_last_of_vnet1(setting: Path, value: str) -> None:
        if setting.match("ipv4/conf/vnet1/rp_filter"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(setting))
        write(setting, value)

    def said() -> list[str]:
        return [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]

    async def scene(host: Host) -> None:
        machine.host.ip("link del vnet1")
        await until(lambda: not host.is_open(1))
        with monkeypatch.context() as refusing:
            refusing.setattr(isolation, "_write", refuse_the_last_of_vnet1)
            plug_in(machine, 1)
            before = machine.host.call(settings_of, "vnet1")
            await until(lambda: bool(said()))
            await trio.sleep(0.3)
        assert len(said()) == 1
        assert said()[0].startswith(
            "port vnet1 is left alone until its interface is another: host.port[vnet1]:"
        )
        assert not host.is_open(1)
        assert machine.host.call(settings_of, "vnet1") == before
        assert before["ipv6/conf/{}/disable_ipv6"] == "0", "this shows nothing of half a port"
        with closing(raw(machine.vms[2])) as vm2:
            host.send(2, FRAME + b"still here")
            assert vm2.recv(2048) == FRAME + b"still here"

        machine.host.ip("link del vnet1")
        plug_in(machine, 1)
        await until(lambda: host.is_open(1))

    run(machine, scene)


def settings_of(interface: str) -> dict[str, str]:
    names = ("ipv6/conf/{}/disable_ipv6", "ipv4/conf/{}/rp_filter", "ipv4/conf/{}/forwarding")
    return {name: Path("/proc/sys/net", name.format(interface)).read_text().strip() for name in names}


def test_a_port_is_put_back_as_it_was(machine: Machine) -> None:
    def state() -> tuple[dict[str, str], str]:
        flags = machine.host.run("ip", "link", "show", "vnet1").stdout
        return settings_of("vnet1"), flags[flags.index("<") : flags.index(">")]

    async def scene(host: Host) -> None:
        settings, flags = state()
        assert list(settings.values()) == ["1", "1", "0"]
        assert "NOARP" in flags
        assert "UP" in flags

    machine.host.sysctl({"net/ipv4/ip_forward": 1})
    before = machine.host.call(state)
    run(machine, scene)
    assert machine.host.call(state) == before


def test_a_port_that_comes_later_is_served_and_one_that_goes_harms_no_other(machine: Machine) -> None:
    machine.host.ip("link del vnet1")

    async def scene(host: Host) -> None:
        for _ in range(2):
            host.send(1, FRAME)
            assert [each.frame for each in host.held] == [FRAME]
            with closing(raw(machine.vms[2])) as vm2:
                host.send(2, FRAME + b"still here")
                assert vm2.recv(2048) == FRAME + b"still here"

            plug_in(machine, 1)
            host.received.clear()
            with closing(raw(machine.vms[1])) as vm1:
                await until_joined(machine, 1)
                vm1.send(FRAME + b"back")
                await until(lambda: bool(host.frames(1)))
            machine.host.ip("link del vnet1")
            await until(lambda: not host.is_open(1))

    run(machine, scene)


def test_a_port_that_goes_down_is_served_again_once_it_is_up(machine: Machine) -> None:
    async def scene(host: Host) -> None:
        machine.host.ip("link set vnet1 down")
        host.send(1, FRAME)
        assert [each.frame for each in host.held] == [FRAME]
        machine.host.ip("link set vnet1 up")
        await until_joined(machine, 1)
        with closing(raw(machine.vms[1])) as vm1:
            vm1.send(FRAME + b"back")
            await until(lambda: bool(host.frames(1)))

    run(machine, scene)


TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x2, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 1, 2


def open_tap(name: str) -> int:
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    return tap


def test_a_hypervisors_tap_gives_segments_with_finished_checksums(machine: Machine) -> None:
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/net/tun")
    machine.host.ip("link del vnet1")
    source, destination = bytes([10, 0, 1, 1]), bytes([10, 0, 1, 2])
    data = bytes(range(250)) * 16
    header = b"\x30\x39\x01\xbb" + bytes(8) + b"\x50\x10\x10\x00" + bytes(4)
    packet = ip.build(source, destination, TCP, header + data)
    frame = ethernet.EthernetHeader(MACS[2], MACS[1], ethernet.IPV4).encode() + packet
    # What a guest's driver says: TSO over IPv4, 54 octets of headers, 1000 a segment, checksum at 34 + 16.
    super_packet = struct.pack("=BBHHHH", 1, 1, 54, 1000, 34, 16) + frame

    async def scene(host: Host) -> None:
        tap = machine.host.call(open_tap, "vnet1")
        try:
            await until(lambda: host.is_open(1))
            os.write(tap, super_packet)
            await until(lambda: sum(is_tcp(frame) for _, frame in host.received) == 4)
            segments = [frame for _, frame in host.received if is_tcp(frame)]
            assert b"".join(segment[54:] for segment in segments) == data
            for segment in segments:
                # Over a right checksum, the sum is 0.
                assert transport_checksum(source, destination, TCP, segment[34:]) == 0

            host.send(1, FRAME + b"to the guest")
            read = b""
            while not read.endswith(b"to the guest"):  # the kernel multicasts on its own account before
                assert select.select([tap], [], [], 5)[0]
                read = os.read(tap, 4096)
            assert read[10:] == FRAME + b"to the guest"
        finally:
            os.close(tap)

    run(machine, scene)


def is_tcp(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x00" and frame[23] == TCP
