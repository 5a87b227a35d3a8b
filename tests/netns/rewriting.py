"""Datacenters in which both mechanisms live together, and what their VMs see of each other.

web and app are rewritten, db is encapsulated; each has a VM on hv1 and one on hv2.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from gateway.lab.demo_sites import SitesDemo, with_sites
from gateway.lab.narration import Narrator
from gateway.lab.nodes import LookupPlan
from gateway.lab.premises import SERVER
from gateway.lab.processes import Process
from gateway.lab.terminal import Terminal
from gateway.lab.topology import Datacenter, Plan, standard_plan
from tests.netns.moving import World

SITE = "seattle-server"


def mixed_plan(
    *, one_link: bool = False, tenants: Sequence[str] = ("red", "blue"), with_site: bool = True
) -> Plan:
    """Two rewritten subnets of each tenant and an encapsulated one, and Red's site."""
    plan = standard_plan(
        tenants=tenants, subnets=("web", "app", "db"), rewritten=("web", "app"), one_link=one_link
    )
    sites = with_sites(plan).sites[:1] if with_site else ()
    return msgspec.structs.replace(plan, sites=sites)


@contextlib.contextmanager
def mixed_world(
    plan: Plan, folder: Path, moving: Sequence[str] = (), served_by: str = "edge-1"
) -> Iterator[World]:
    """Build it, with the VMs that may move, and with its site's tunnel up."""
    folder.mkdir(exist_ok=True)
    with Datacenter(plan) as lab:
        built = World(lab, LookupPlan(files=folder, moving=tuple(moving), served_by=(served_by,)))
        if plan.sites:
            narrator = Narrator()
            SitesDemo(lab, narrator, Terminal(lab, narrator)).connect()
            assert narrator.failures == []
        yield built


def show(*lines: object) -> None:
    """Say what was seen, for whoever runs pytest with -s."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def address_of(world: World, name: str, version: int = 4) -> str:
    """Return the customer address of a VM, or of the site's server."""
    return SERVER[version == 6] if name == SITE else world.vm(name).address(version)


def provider_address_of(world: World, name: str, version: int = 4) -> str:
    """Return what stands for a rewritten VM's customer address in the underlay."""
    return str(world.records(name)[version == 6]["pa"])


def ping(world: World, source: str, target: str, *options: str) -> str:
    """Ping an address twice from a VM, and return what was said."""
    command = ("ping", "-n", "-c", "2", "-i", "0.1", "-W", "2", *options, target)
    return world.lab.vm(source).run(*command, check=False).stdout


def hops(world: World, source: str, target: str, *options: str) -> list[str]:
    """Return the routers on the way to an address, and what answers there."""
    command = ("traceroute", "-n", "-q", "1", "-w", "1", "-m", "8", *options, target)
    said = world.lab.vm(source).run(*command, check=False).stdout
    return [line.split()[1] for line in said.splitlines()[1:]]


def transfer(world: World, source: str, target: str, version: int, octets: int = 1_000_000) -> str:
    """Send octets by TCP from one machine to another, whole, and return what was said of it."""
    port = str(5001 + len(world.lab.processes))
    receiver = world.lab.start_python(
        f"{target}-receives", world.lab.vm(target), "gateway.lab.probe", "receive", port
    )
    receiver.wait_for("^listening")
    command = ("send", address_of(world, target, version), port, str(octets))
    sender: Process = world.lab.start_python(
        f"{source}-sends", world.lab.vm(source), "gateway.lab.probe", *command
    )
    assert sender.wait(30) == 0, sender.output()
    return sender.output()


@contextlib.contextmanager
def narrow(world: World, names: Sequence[str], mtu: int) -> Iterator[None]:
    """Have the underlay's router carry packets of so many octets at most to some nodes, and say so."""
    routes = [
        f"{half} dev {node.name}"
        for node in world.lab.plan.nodes
        for interface in node.interfaces
        for half in interface.network.subnets()
        if node.name in names
    ]
    world.lab.router.ip(*(f"route add {route} mtu lock {mtu}" for route in routes))
    yield
    world.lab.router.ip(*(f"route del {route}" for route in routes))


def learned_mtu(world: World, source: str, target: str) -> int | None:
    """Return the path MTU that a VM's kernel has learned towards an address."""
    said = world.lab.vm(source).run("ip", "route", "get", target).stdout
    found = re.search(r"\bmtu (\d+)", said)
    return int(found.group(1)) if found else None


def forget_path_mtus(world: World, *names: str) -> None:
    """Have VMs forget what they have learned of paths."""
    for name in names:
        world.lab.vm(name).ip("route flush cache")
        world.lab.vm(name).run("ip", "-6", "route", "flush", "cache")
