"""A datacenter with a lookup service in which VMs move: three hosts, a gateway, and a site if wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from gateway.lab import nodes
from gateway.lab.migration import Mover, Operator, Outcome, Talkers
from gateway.lab.nodes import LookupPlan
from gateway.lab.processes import Process
from gateway.lab.topology import Datacenter, Node, Plan, Vm, standard_plan

HV3 = Node("hv3", ("198.18.3.13/24", "2001:db8:3::13/64"))


def plan_with_third_host(*, vms_per_subnet: int = 2) -> Plan:
    """Red's subnets web and db on hv1 and hv2, and an observer of each subnet on hv3."""
    plan = standard_plan(tenants=("red",), vms_per_subnet=vms_per_subnet)
    observers = tuple(
        Vm(
            name=f"observer-{subnet.name}",
            tenant=subnet.tenant,
            subnet=subnet.name,
            vsid=subnet.vsid,
            host="hv3",
            port=f"vnet{len(plan.vms) + number}",
            mac=f"02:00:00:00:{number + 1:02x}:fe",
            addresses=(f"10.0.{number + 1}.254/24", f"fd00:{number + 1}::fe/64"),
            gateways=subnet.gateways,
        )
        for number, subnet in enumerate(plan.subnets)
    )
    return msgspec.structs.replace(plan, hosts=(*plan.hosts, HV3), vms=(*plan.vms, *observers))


class World:
    """The datacenter at work, with every VM registered."""

    def __init__(self, lab: Datacenter, lookup: LookupPlan) -> None:
        self.lab = lab
        self.lookup = lookup
        self.processes: dict[str, Process] = nodes.start(lab, lookup=lookup)
        self.operator = Operator(lab, lookup)
        self.operator.wait_for_records(sum(len(vm.addresses) for vm in lab.plan.vms))
        self.mover = Mover(lab, self.processes, self.operator)

    def vm(self, name: str) -> Vm:
        """Return a VM's plan."""
        return next(vm for vm in self.lab.plan.vms if vm.name == name)

    def talk(self, name: str, observers: Sequence[str]) -> Talkers:
        """Have a VM and its observers send each other a thousand datagrams a second."""
        seen_by = {each: (self.lab.vm(each), self.vm(each).address()) for each in observers}
        self.mover.stops.clear()
        return Talkers(self.lab, self.vm(name), seen_by)

    def end(self, talkers: Talkers) -> Outcome:
        """End the talk, and say what was lost."""
        return talkers.end(self.mover.stops)


@contextlib.contextmanager
def world(plan: Plan, moving: Sequence[str], folder: Path) -> Iterator[World]:
    """Build it, with the VMs that may move."""
    folder.mkdir(exist_ok=True)
    with Datacenter(plan) as lab:
        yield World(lab, LookupPlan(files=folder, moving=tuple(moving)))
