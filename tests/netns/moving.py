"""A datacenter with a lookup service in which VMs move: three hosts, a gateway, and a site if wanted."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway.lab import echo, nodes
from gateway.lab.certificates import AUTHORITY
from gateway.lab.demo_sites import write_secrets
from gateway.lab.migration import Mover, Operator, Outcome, Talkers
from gateway.lab.namespaces import LabError, Namespace
from gateway.lab.nodes import LookupPlan
from gateway.lab.processes import Process
from gateway.lab.topology import Datacenter, Node, Plan, Vm, standard_plan

HV3 = Node("hv3", ("198.18.3.13/24", "2001:db8:3::13/64"))
SERVER = "edge-1"


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
        write_secrets(lab)
        self.processes = self.start()
        self.server = lookup.served_by[0]
        self.operator = Operator(lab, lookup, self.server)
        self.operator.wait_for_records(sum(len(vm.addresses) for vm in lab.plan.vms))
        self.mover = Mover(lab, self.processes, self.operator)

    def start(self) -> dict[str, Process]:
        """Start every node, and wait until all are ready."""
        return nodes.start(self.lab, lookup=self.lookup)

    def vm(self, name: str) -> Vm:
        """Return a VM's plan."""
        return next(vm for vm in self.lab.plan.vms if vm.name == name)

    def beyond(self, name: str) -> str:
        """Return which of hv1 and hv2 a VM is not on."""
        return "hv2" if self.lab.host_of(name) == "hv1" else "hv1"

    # --- what the lookup service says

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return a VM's records, IPv4 first."""
        vm = self.vm(name)
        addresses = (address.partition("/")[0] for address in vm.addresses)
        return [self.operator.ask("GET", f"/v1/records/{vm.vsid}/{address}") for address in addresses]

    def hosts(self, name: str) -> set[str]:
        """Return the hosts that a VM's records name."""
        return {record["host"] for record in self.records(name)}

    def place(self, name: str) -> str:
        """Return the host that all records of a VM name."""
        hosts = self.hosts(name)
        assert len(hosts) == 1, f"{name} is half way: {self.records(name)}"
        return str(hosts.pop())

    def wait_until_at(self, name: str, host: str, timeout: float = 5) -> float:
        """Wait until all records of a VM name a host, and return how long that took, in seconds."""
        return self.wait_until(lambda: self.hosts(name) == {host}, f"{name} is not at {host}", timeout)

    def wait_until(self, condition: Callable[[], bool], or_else: str, timeout: float = 10) -> float:
        """Wait until a condition holds, and return how long that took, in seconds."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < timeout, f"{or_else} after {timeout:g} s"
            time.sleep(0.02)
        return time.monotonic() - began

    def isthmus(self, *arguments: str, node: str = "") -> subprocess.CompletedProcess[str]:
        """Type a command with a node's configuration, as its operator: `isthmus records get FILE ...`.

        The node is the one that serves records unless named.
        """
        node = node or self.server
        words = [word.replace("FILE", str(self.file(node))) for word in arguments]
        authority = str(self.lookup.files / AUTHORITY)
        command = [sys.executable, "-m", "gateway.cli", *words, "--ca", authority]
        return self.lab.node(node).run(*command, check=False)

    def file(self, node: str) -> Path:
        """Return where a node's configuration is."""
        return self.lab.directory / f"{node}.toml"

    # --- whom one reaches

    def talk(self, name: str, observers: Sequence[str]) -> Talkers:
        """Have a VM and its observers send each other a thousand datagrams a second."""
        return self.talk_with(
            name, {each: (self.lab.vm(each), self.vm(each).address()) for each in observers}
        )

    def talk_with(self, name: str, observers: Mapping[str, tuple[Namespace, str]]) -> Talkers:
        """Have a VM and whoever is named with a place and an address send each other as much."""
        self.mover.stops.clear()
        return Talkers(self.lab, self.vm(name), observers)

    def end(self, talkers: Talkers) -> Outcome:
        """End the talk, and say what was lost."""
        return talkers.end(self.mover.stops)

    def reaches(self, observer: str, name: str, timeout: float = 1) -> bool:
        """Whether one VM gets an answer from another, by both its addresses."""
        vm = self.vm(name)
        targets = (vm.address(), vm.address(6))
        return all(self.lab.vm(observer).call(echo.reachable, target, timeout) for target in targets)

    def wait_until_reached(self, observer: str, name: str, timeout: float = 5) -> float:
        """Wait until one VM gets answers from another, and return how long that took, in seconds."""
        return self.wait_until(
            lambda: self.reaches(observer, name), f"{observer} does not reach {name}", timeout
        )

    def say(self, name: str, to: str) -> None:
        """Have a VM send another one datagram by IPv4."""
        self.lab.vm(name).call(_send_datagram, self.vm(to).address())

    # --- what happens to processes

    def restart(self, name: str, timeout: float = 20) -> Process:
        """Start a node's process that has ended, with the configuration and the state that it had."""
        process = self.lab.start(name, self.lab.node(name), *nodes.run_command(self.file(name)))
        process.wait_for(r"\bready\b", timeout)
        self.processes[name] = process
        if name in self.lookup.served_by:
            self.wait_until(self._serves, f"{name} does not serve", timeout)
        return process

    def _serves(self) -> bool:
        """Whether the lookup service has read its records."""
        try:
            self.operator.ask("GET", "/readyz")
        except LabError:
            return False
        return True

    def wait_until_followed(self, names: Iterable[str], timeout: float = 15) -> float:
        """Wait until these nodes follow the lookup service and have nothing left to learn."""
        wanted = set(names)

        def all_follow() -> bool:
            nodes = self.operator.ask("GET", "/v1/nodes")
            return wanted <= {node["name"] for node in nodes if not node["behind"]}

        return self.wait_until(all_follow, f"{', '.join(sorted(wanted))} do not follow", timeout)


@contextlib.contextmanager
def world(plan: Plan, moving: Sequence[str], folder: Path, *, records: str = "all") -> Iterator[World]:
    """Build it, with the VMs that may move, and hosts that keep these records."""
    folder.mkdir(exist_ok=True)
    with Datacenter(plan) as lab:
        yield World(lab, LookupPlan(files=folder, moving=tuple(moving), records=records))


def _send_datagram(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"data, and nothing else", (address, 7008))
