"""Twenty-five VMs, each moved four times by its own word and four times by the operator's, under load.

  hv1            hv2            hv3                              seattle-server
25 VMs  <---->  25 VMs     observer-web, observer-db                   |
   |              |              |                       seattle (strongSwan, or isthmus)
   +---------- underlay ---------+---------- edge-1 ------------- internet
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from gateway.lab.demo_sites import SitesDemo, with_sites
from gateway.lab.migration import Outcome, start_transfer
from gateway.lab.namespaces import Namespace
from gateway.lab.narration import Narrator
from gateway.lab.premises import SERVER
from gateway.lab.processes import Process
from gateway.lab.terminal import Terminal
from gateway.lab.topology import Vm
from tests.netns.moving import World, plan_with_third_host, world

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.long]

VMS = 25
# A fifth announced move in three minutes freezes a record.
MOVES = 4
PREMISES = "seattle-server"
OBSERVERS = ("observer-web", "observer-db", PREMISES)
SETTLING = 0.3

# Octets a second of a moderate transfer, and of all of it: it is under way through all moves of a VM.
RATE = 1_000_000
OCTETS = 6_000_000


@pytest.fixture(scope="module")
def datacenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    plan = with_sites(plan_with_third_host(vms_per_subnet=(VMS + 1) // 2))
    moving = [vm.name for vm in plan.vms if vm.host != "hv3"]
    folder: Path = tmp_path_factory.mktemp("lookup")
    with world(plan, moving, folder) as built:
        narrator = Narrator()
        SitesDemo(built.lab, narrator, Terminal(built.lab, narrator)).dial()
        assert narrator.failures == []
        yield built


class Tally:
    """What all the moves of one kind have come to."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.pauses: list[float] = []
        self.sent = 0
        self.lost: dict[str, list[int]] = {}
        self.duplicates = 0

    def add(self, name: str, outcome: Outcome) -> None:
        self.pauses += (pause.milliseconds for pause in outcome.pauses)
        for stream in outcome.streams:
            self.sent += stream.sent
            self.duplicates += stream.duplicates
            if stream.lost:
                self.lost[f"{name} {self.how}, {stream.name}"] = stream.lost

    def __str__(self) -> str:
        lost = sum(len(numbers) for numbers in self.lost.values())
        return (
            f"{len(self.pauses):4} {self.how} moves: {self.sent} datagrams, lost outside the pauses {lost}, "
            f"twice {self.duplicates}; {spread('pause', self.pauses)}"
        )


def in_words(convergence: Mapping[str, float]) -> str:
    p50, p99, longest = (convergence[name] for name in ("p50_ms", "p99_ms", "max_ms"))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {longest:.1f} ms"


def spread(what: str, milliseconds: Sequence[float]) -> str:
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return f"{what} p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, max {max(milliseconds):.1f} ms"


def test_no_vm_of_many_loses_a_packet_outside_its_pauses(
    datacenter: World, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    announced, orchestrated = Tally("announced"), Tally("orchestrated")
    moving = [vm for vm in datacenter.lab.plan.vms if vm.host != "hv3"][:VMS]
    for number, vm in enumerate(moving):
        observer = OBSERVERS[number % len(OBSERVERS)]
        receiver, sender = start_transfer(datacenter.lab, vm, observer, 5001, OCTETS, RATE)
        for tally in (announced, orchestrated):
            tally.add(vm.name, move_to_and_fro(datacenter, vm, tally.how, receiver))
        assert sender.returncode is None, f"the transfer to {vm.name} was over before the moves"
        assert sender.wait(60) == 0, sender.output()
    status = datacenter.operator.ask("GET", "/v1/status")
    convergence = status["convergence"]

    lines = (
        f"{VMS} VMs, seen from {', '.join(OBSERVERS)}, in {time.monotonic() - began:.0f} s",
        str(announced),
        str(orchestrated),
        f"{VMS} transfers by TCP of {OCTETS} octets each went on through {2 * MOVES} moves, and are whole",
        f"from a claim to everybody, {convergence['moves']} moves: {in_words(convergence)}",
    )
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert announced.lost | orchestrated.lost == {}
    assert announced.duplicates + orchestrated.duplicates == 0
    assert len(announced.pauses) == len(orchestrated.pauses) == VMS * MOVES
    assert convergence["moves"] == 2 * VMS * MOVES
    assert status["alert_counts"] == {}


def move_to_and_fro(world: World, vm: Vm, how: str, receiver: Process) -> Outcome:
    """Move a VM as often as it may, under a thousand datagrams a second to and from each observer."""
    talkers = world.talk_with(vm.name, {name: address_of(world, name) for name in OBSERVERS})
    inside = [talkers.inside, receiver]
    time.sleep(SETTLING)
    for _ in range(MOVES):
        if how == "announced":
            world.mover.announced(vm, world.beyond(vm.name), inside)
        else:
            answer = world.mover.orchestrated(vm, world.beyond(vm.name), inside)
            assert all(answer["learned"].values()), answer
        world.wait_until_at(vm.name, world.lab.host_of(vm.name))
        time.sleep(SETTLING)
    outcome = world.end(talkers)
    assert all(stream.sent > 1000 for stream in outcome.streams)
    return outcome


def address_of(world: World, name: str) -> tuple[Namespace, str]:
    address = SERVER[0] if name == PREMISES else world.vm(name).address()
    return world.lab.vm(name), address
