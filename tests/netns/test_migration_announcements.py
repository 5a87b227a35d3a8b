"""How a VM that has moved is noticed, what an operator sees of it, and what comes of contradictions."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.lab import announcements, echo
from gateway.lab.announcements import Announcement
from gateway.lab.topology import VM_INTERFACE, Vm
from tests.netns.moving import SERVER, World, plan_with_third_host, world

pytestmark = pytest.mark.netns

# A VM for each test: a record that has moved five times in three minutes is frozen.
MOVING = tuple(f"red-{subnet}{number}" for subnet in ("web", "db") for number in range(1, 6))
OBSERVERS = ("observer-web", "observer-db")


@pytest.fixture(scope="module")
def datacenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("lookup")
    with world(plan_with_third_host(vms_per_subnet=5), MOVING, folder) as built:
        yield built


@pytest.mark.parametrize(
    ("name", "announce"),
    [
        pytest.param("red-web1", announcements.gratuitous_arp, id="gratuitous ARP request"),
        pytest.param("red-web2", announcements.gratuitous_arp_reply, id="gratuitous ARP reply"),
        pytest.param("red-web3", announcements.reverse_arp, id="RARP"),
        pytest.param("red-db1", announcements.unsolicited_advertisement, id="unsolicited NA"),
    ],
)
def test_an_announcement_moves_all_addresses_of_the_vm(
    datacenter: World, name: str, announce: Announcement
) -> None:
    before, host = datacenter.records(name), datacenter.beyond(name)

    with no_word_of_its_own(datacenter, name):
        datacenter.mover.announced(datacenter.vm(name), host, announce=announce)
        # Before it would have been asked.
        assert datacenter.wait_until_at(name, host) < 0.9

    after = datacenter.records(name)
    assert [record["epoch"] for record in after] == [record["epoch"] + 1 for record in before]
    assert len({record["pa"] for record in after}) == 1
    for observer in OBSERVERS:
        assert datacenter.reaches(observer, name)


def test_a_vm_that_only_sends_data_is_heard(datacenter: World) -> None:
    name = "red-db2"
    host = datacenter.beyond(name)

    with no_word_of_its_own(datacenter, name):
        datacenter.mover.announced(datacenter.vm(name), host, announce=None)
        datacenter.say(name, "observer-web")
        assert datacenter.wait_until_at(name, host) < 0.9

    for observer in OBSERVERS:
        assert datacenter.reaches(observer, name)


def test_a_vm_that_says_nothing_is_asked(datacenter: World) -> None:
    name = "red-db3"
    host = datacenter.beyond(name)

    with no_word_of_its_own(datacenter, name):
        datacenter.mover.announced(datacenter.vm(name), host, announce=None)
        assert 0.5 < datacenter.wait_until_at(name, host) < 3

    for observer in OBSERVERS:
        assert datacenter.reaches(observer, name)


def test_a_vm_that_moves_too_often_stays_where_it_is_until_the_operator_lets_it_move(
    datacenter: World,
) -> None:
    name = "red-web4"
    vm = datacenter.vm(name)
    for _ in range(5):
        host = datacenter.beyond(name)
        datacenter.mover.announced(vm, host)
        datacenter.wait_until_at(name, host)
    frozen_at = datacenter.lab.host_of(name)

    beyond = datacenter.beyond(name)
    datacenter.mover.announced(vm, beyond)
    datacenter.processes[beyond].wait_for("cannot be claimed: frozen")

    assert datacenter.place(name) == frozen_at
    status = datacenter.operator.ask("GET", "/v1/status")
    frozen = [alert["message"] for alert in status["alerts"] if alert["kind"] == "frozen"]
    assert any(vm.address() in message for message in frozen), status["alerts"]
    assert status["alert_counts"]["frozen"] >= 1

    for address in (vm.address(), vm.address(6)):
        done = datacenter.isthmus("records", "unfreeze", "FILE", "--address", address, "--tenant", "red")
        assert done.returncode == 0, done.stderr
    datacenter.wait_until_at(name, beyond)
    for observer in OBSERVERS:
        assert datacenter.reaches(observer, name)


def test_an_orchestrated_move_is_told_by_the_command_line(datacenter: World) -> None:
    name = "red-web5"
    vm, host = datacenter.vm(name), datacenter.beyond(name)
    old = datacenter.lab.host_of(name)

    done = datacenter.isthmus("migrate", "FILE", "--vm", vm.address(), "--to", host, "--tenant", "red")

    assert (done.stderr, done.returncode) == ("", 0)
    assert (
        len(re.findall(rf"{vm.mac}: from {old} at \S+ to {host} at \S+, epoch 2$", done.stdout, re.MULTILINE))
        == 2
    )
    assert re.search(rf"^{old} knows$", done.stdout, re.MULTILINE)
    assert re.search(rf"^{host} knows$", done.stdout, re.MULTILINE)
    datacenter.mover.announced(vm, host, announce=None)
    for observer in OBSERVERS:
        assert datacenter.reaches(observer, name)
    assert [record["epoch"] for record in datacenter.records(name)] == [2, 2]


def test_the_command_line_shows_who_follows(datacenter: World) -> None:
    datacenter.wait_until_followed(("hv1", "hv2", "hv3", "edge-1"))

    done = datacenter.isthmus("nodes", "FILE")
    as_json = json.loads(datacenter.isthmus("nodes", "FILE", "--json").stdout)

    assert (done.stderr, done.returncode) == ("", 0)
    for role, node in (("gateway", "edge-1"), ("host", "hv1"), ("host", "hv2"), ("host", "hv3")):
        assert re.search(
            rf"^{role} +{node} +revision \d+  up to date, connected for \d+ s$", done.stdout, re.MULTILINE
        )
    assert len({node["revision"] for node in as_json}) == 1


def test_of_two_hosts_that_claim_a_vm_at_once_one_has_it(datacenter: World) -> None:
    name = "red-db4"
    vm = datacenter.vm(name)
    datacenter.mover.announced(vm, "hv3")
    datacenter.wait_until_at(name, "hv3")
    twin = add_twin(datacenter, vm, "hv2")
    with no_word_of_its_own(datacenter, name):
        datacenter.mover.announced(vm, "hv1", announce=None)
        both = [
            threading.Thread(
                target=datacenter.lab.vm(each).call,
                args=(announcements.send_frame, announcements.gratuitous_arp(vm)),
            )
            for each in (name, twin)
        ]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        datacenter.wait_until(lambda: datacenter.hosts(name) != {"hv3"}, "nobody has it")
        time.sleep(0.5)
        datacenter.wait_until_followed(("hv1", "hv2", "hv3", "edge-1"))

    winner, loser = (name, twin) if datacenter.place(name) == "hv1" else (twin, name)
    before = {each: heard(datacenter, each) for each in (name, twin)}
    # From a third host, from the other subnet, and from beside either of the two.
    beside = [
        next(each for each in MOVING if each != name and datacenter.lab.host_of(each) == host)
        for host in ("hv1", "hv2")
    ]
    for observer in (*OBSERVERS, *beside):
        assert datacenter.lab.vm(observer).call(echo.reachable, vm.address())
    assert heard(datacenter, winner) - before[winner] == len(OBSERVERS) + len(beside)
    assert heard(datacenter, loser) == before[loser]


@contextlib.contextmanager
def no_word_of_its_own(world: World, name: str) -> Iterator[None]:
    """Keep a guest's kernel from reporting its IPv6 groups once it has a carrier: that would be heard."""
    vm, guest = world.vm(name), world.lab.vm(name)
    guest.sysctl({f"net/ipv6/conf/{VM_INTERFACE}/disable_ipv6": 1})
    yield
    guest.sysctl({f"net/ipv6/conf/{VM_INTERFACE}/disable_ipv6": 0})
    address = next(address for address in vm.addresses if ":" in address)
    guest.ip(
        f"address add {address} dev {VM_INTERFACE}",
        f"route add ::/0 via {vm.gateway(6)} dev {VM_INTERFACE}",
    )


def add_twin(world: World, vm: Vm, host: str) -> str:
    """Have the same VM at another host, too, and say nothing: as after a hypervisor that was thought dead."""
    twin = msgspec.structs.replace(vm, name=f"{vm.name}-twin", host=SERVER)
    world.lab.add_vm(twin)
    world.lab.vm(twin.name).sysctl({f"net/ipv6/conf/{VM_INTERFACE}/disable_ipv6": 1})
    mark = world.processes[host].size()
    world.lab.node(SERVER).ip(f"link set {vm.port} netns {world.lab.node(host).path}")
    world.processes[host].wait_for(rf"port {vm.port} is (open|up again)", start=mark)
    return twin.name


def heard(world: World, name: str) -> int:
    """Count the echo requests that a VM's kernel has received."""
    text = world.lab.vm(name).call(Path("/proc/thread-self/net/snmp").read_text)
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Icmp:"))
    return int(dict(zip(names, values, strict=True))["InEchos"])
