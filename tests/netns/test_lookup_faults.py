"""Processes of the lookup service, of hosts and of gateways die or stand still, and no wrong mapping stays.

edge-1 serves records; hv1, hv2, hv3 and the second gateway edge-2 follow it.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.lab import announcements
from gateway.lab.capture import read_frames
from gateway.lab.topology import UPLINK, Node, Vm
from gateway.packets import ip, nvgre
from gateway.packets.checksum import internet_checksum
from gateway.packets.ethernet import IPV4, EthernetHeader
from policies.addresses import CustomerAddress, MacAddress, Vsid, gateway_mac
from tests.netns.moving import SERVER, World, plan_with_third_host, world

pytestmark = pytest.mark.netns

EDGE_2 = Node("edge-2", ("198.18.4.253/24", "2001:db8:4::253/64"))
FOLLOWERS = ("hv1", "hv2", "hv3", "edge-2")
MOVING = tuple(f"red-{subnet}{number}" for subnet in ("web", "db") for number in range(1, 5))
OBSERVERS = ("observer-web", "observer-db")
GRE = 47


@pytest.fixture(scope="module")
def datacenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    plan = plan_with_third_host(vms_per_subnet=4)
    plan = msgspec.structs.replace(plan, gateways=(*plan.gateways, EDGE_2))
    folder: Path = tmp_path_factory.mktemp("lookup")
    with world(plan, MOVING, folder) as built:
        yield built


@pytest.fixture(autouse=True)
def all_is_well_again(datacenter: World) -> Iterator[None]:
    datacenter.wait_until_followed(FOLLOWERS)
    yield
    for name, process in datacenter.processes.items():
        if process.returncode is not None:
            datacenter.restart(name)


def test_outage_of_the_lookup_service_is_not_noticed_by_those_who_stay(datacenter: World) -> None:
    before = everything(datacenter)
    talkers = datacenter.talk("red-web1", OBSERVERS)
    time.sleep(0.2)
    with lookup_service_away(datacenter):
        time.sleep(0.5)
    datacenter.wait_until_followed(FOLLOWERS)
    outcome = datacenter.end(talkers)

    assert {stream.name: stream.lost for stream in outcome.streams if stream.lost} == {}
    assert everything(datacenter) == before


def test_a_vm_that_moves_during_an_outage_is_found_after_it(datacenter: World) -> None:
    name = "red-web2"
    before = everything(datacenter)
    host = datacenter.beyond(name)
    with lookup_service_away(datacenter):
        datacenter.mover.announced(datacenter.vm(name), host)
        time.sleep(0.3)

    datacenter.wait_until_at(name, host, timeout=8)

    expect_reachable(datacenter, name)
    after = everything(datacenter)
    others = {key for key, record in before.items() if record["mac"] != datacenter.vm(name).mac}
    assert {key: after[key] for key in others} == {key: before[key] for key in others}


def test_a_host_that_starts_during_an_outage_knows_what_it_knew_last(datacenter: World) -> None:
    name = "red-db2"
    datacenter.mover.announced(datacenter.vm(name), datacenter.beyond(name))
    datacenter.wait_until_at(name, datacenter.lab.host_of(name))
    datacenter.wait_until_followed(FOLLOWERS)
    with lookup_service_away(datacenter):
        kill(datacenter, "hv3")
        datacenter.restart("hv3")
        for observer in OBSERVERS:
            datacenter.wait_until_reached(observer, name)


def test_a_gateway_that_has_never_learned_anything_is_silent(datacenter: World, tmp_path: Path) -> None:
    echo = echo_request_for_the_gateway(datacenter.vm("red-web1"))
    with lookup_service_away(datacenter):
        kill(datacenter, "edge-2")
        shutil.rmtree(datacenter.lab.directory / "edge-2")
        datacenter.restart("edge-2")
        assert answers(datacenter, echo, tmp_path / "before.pcap") == 0

    datacenter.wait_until_followed(FOLLOWERS)

    assert answers(datacenter, echo, tmp_path / "after.pcap") == 1


def test_a_move_waits_for_a_lookup_service_that_stands_still(datacenter: World) -> None:
    name = "red-db1"
    host = datacenter.beyond(name)
    others = datacenter.talk("red-web1", OBSERVERS)
    datacenter.processes[SERVER].send_signal(signal.SIGSTOP)
    datacenter.mover.announced(datacenter.vm(name), host)
    datacenter.mover.stops.clear()
    time.sleep(2)
    datacenter.processes[SERVER].send_signal(signal.SIGCONT)

    assert datacenter.wait_until_at(name, host) < 2
    expect_reachable(datacenter, name)
    outcome = datacenter.end(others)
    assert {stream.name: stream.lost for stream in outcome.streams if stream.lost} == {}


@pytest.mark.parametrize(("victim", "name"), [("old host", "red-web3"), ("new host", "red-db3")])
def test_killed_in_the_middle_of_a_move(datacenter: World, victim: str, name: str) -> None:
    move_and_kill(datacenter, name, victim, 0.02)


@pytest.mark.long
@pytest.mark.interop
@pytest.mark.parametrize("victim", ["old host", "new host", "lookup service"])
def test_killed_at_every_moment_of_a_move(datacenter: World, victim: str) -> None:
    name = "red-web4"
    for delay in (0, 0.005, 0.01, 0.03, 0.06):
        move_and_kill(datacenter, name, victim, delay)
    unfreeze(datacenter, name)


def move_and_kill(world: World, name: str, victim: str, delay: float) -> None:
    """Move a VM, kill a process so many seconds later, start it again; the VM is at its new host at last."""
    old, new = world.lab.host_of(name), world.beyond(name)
    killed = {"old host": old, "new host": new, "lookup service": SERVER}[victim]
    world.lab.move(name, new)
    time.sleep(delay)
    world.lab.vm(name).call(announcements.send_frame, announcements.gratuitous_arp(world.vm(name)))
    time.sleep(delay)
    kill(world, killed)
    world.restart(killed)

    world.wait_until_at(name, new, timeout=10)
    world.wait_until_followed(FOLLOWERS)
    expect_reachable(world, name)
    assert world.place(name) == new


def unfreeze(world: World, name: str) -> None:
    vm = world.vm(name)
    for address in (vm.address(), vm.address(6)):
        world.operator.ask("POST", f"/v1/records/{vm.vsid}/{address}/unfreeze")


def everything(world: World) -> dict[str, Any]:
    """Return all records, by VSID and address."""
    records = world.operator.ask("GET", "/v1/records?limit=1000")["records"]
    return {f"{record['vsid']}/{record['ca']}": record for record in records}


def expect_reachable(world: World, name: str) -> None:
    for observer in OBSERVERS:
        world.wait_until_reached(observer, name)


def kill(world: World, name: str) -> None:
    """End a node's process at once."""
    world.processes[name].send_signal(signal.SIGKILL)
    world.processes[name].wait()


@contextlib.contextmanager
def lookup_service_away(world: World) -> Iterator[None]:
    """Have its only node killed, and back afterwards."""
    kill(world, SERVER)
    yield
    world.restart(SERVER)


def echo_request_for_the_gateway(vm: Vm) -> bytes:
    """What a host would send for a VM that pings its gateway, with NVGRE around it."""
    source, destination = CustomerAddress.parse(vm.address()), CustomerAddress.parse(vm.gateway())
    request = bytes((8, 0, 0, 0, 0, 1, 0, 1))
    checksum = internet_checksum(request)
    packet = ip.build(source, destination, 1, request[:2] + checksum.to_bytes(2) + request[4:])
    header = EthernetHeader(gateway_mac(Vsid(vm.vsid)), MacAddress.parse(vm.mac), IPV4)
    return nvgre.encode(vm.vsid) + header.encode() + packet


def answers(world: World, payload: bytes, file: Path) -> int:
    """Send the second gateway an NVGRE packet from hv1, and count what it sends back."""
    target = EDGE_2.provider_addresses[0]
    capture = world.lab.capture(world.lab.node("edge-2"), UPLINK, file)

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, GRE) as sock:
            sock.sendto(payload, (target, 0))

    world.lab.node("hv1").call(send)
    time.sleep(0.5)
    capture.stop()
    frames = [frame[14:] for frame in read_frames(file)]
    source = socket.inet_aton(target)
    return sum(packet[0] >> 4 == 4 and packet[9] == GRE and packet[12:16] == source for packet in frames)
