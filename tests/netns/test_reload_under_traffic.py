"""Reloads of a gateway and its host while traffic runs: what has not changed notices nothing.

red-web1 .. green-web1, then violet-web1                  seattle-server, boston-server, genoa-server
         |                                                         |
   hv1, hv2 ------- underlay ------- internet ------- seattle, boston, genoa (isthmus run)
                        |
                     edge-1
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from gateway import control
from gateway.lab import nodes, premises
from gateway.lab.premises import Internet, Premises
from gateway.lab.processes import Process
from gateway.lab.topology import Datacenter, Plan, Site, standard_plan
from gateway.sites.status import SiteStatus
from tests.netns.pings import Pings, lost

pytestmark = pytest.mark.netns

EDGE = "192.0.2.254"
SITES = {"red": "seattle", "blue": "boston", "green": "genoa"}
UNCHANGED = ("seattle", "boston")
NEW = "violet"
VM, OTHER_VM = "10.0.1.5", "10.0.1.6"
MISCONFIGURED = 2


def plan_of(*tenants: str) -> Plan:
    """Every tenant with a VM on each of two hosts."""
    planned = standard_plan(tenants=("red", "blue", "green", NEW), subnets=("web",), underlay=(4,))
    return msgspec.structs.replace(
        planned,
        subnets=tuple(each for each in planned.subnets if each.tenant in tenants),
        vms=tuple(each for each in planned.vms if each.tenant in tenants),
    )


class World(Datacenter):
    """Three tenants with a site each, all up. All VMs are built, those of the tenant to come too."""

    def __init__(self) -> None:
        super().__init__(plan_of(*SITES, NEW))
        self.premises: dict[str, Premises] = {}
        self.nodes: dict[str, Process] = {}

    def start_all(self) -> None:
        """Start every node, and wait until every site is up."""
        internet = Internet(self)
        sites = []
        for tenant, name in SITES.items():
            place = self.premises[name] = internet.premises(name, routed=False)
            file = self.directory / f"{name}.psk"
            file.touch(mode=0o600)
            file.write_text(f"between edge-1 and {name}")
            ike = {"local_id": "edge-1.example", "remote_id": f"{name}.example", "psk_file": f"{name}.psk"}
            prefixes = premises.PREFIXES
            sites.append(Site(tenant=tenant, name=name, prefixes=prefixes, peer=place.public, ike=ike))
        self.plan = msgspec.structs.replace(plan_of(*SITES), sites=tuple(sites))
        for tenant, name in SITES.items():
            self.start_device(tenant, name)
        self.nodes = nodes.start(self)
        self.wait_until(lambda: all(each.state == "up" for each in self.sites().values()), "all sites up")

    def start_device(self, tenant: str, name: str) -> None:
        ike = {"local_id": f"{name}.example", "remote_id": "edge-1.example", "psk_file": f"{name}.psk"}
        datacenter = Site(
            tenant=tenant,
            name="datacenter",
            gateway=name,
            prefixes=("10.0.1.0/24", "fd00:1::/64"),
            peer=EDGE,
            ike=ike,
            others={"start": "respond"},
        )
        plan = premises.as_datacenter(self.premises[name], tenant, 5101, datacenter)
        file = self.directory / f"{name}.toml"
        file.write_text(nodes.configuration(plan, plan.gateways[0], state=self.directory / name))
        device = self.start(name, self.premises[name].device, *nodes.run_command(file))
        device.wait_for(r"\bready\b", 20)

    def file(self, node: str) -> Path:
        return self.directory / f"{node}.toml"

    def sites(self) -> dict[str, SiteStatus]:
        """How each site is, by its name."""
        answer = control.ask(control.socket_path(self.directory / "edge-1", "edge-1"), "sites")
        return {each.site: each for each in msgspec.convert(answer, list[SiteStatus])}

    def spis(self, *names: str) -> dict[str, list[tuple[str, str]]]:
        """The SPIs of sites' child SAs, ours and the peers'."""
        sites = self.sites()
        return {
            name: [(child.inbound_spi, child.outbound_spi) for child in sites[name].children]
            for name in names
        }

    def isthmus(self, command: str, node: str = "edge-1", *options: str) -> subprocess.CompletedProcess[str]:
        """Type a command with a node's configuration, as its operator."""
        argv = (sys.executable, "-m", "gateway.cli", command, str(self.file(node)), *options)
        return self.namespaces[node].run(*argv, check=False)

    def write_with(self, plan: Plan, node: str, *changes: tuple[str, str]) -> None:
        """Write a node's configuration anew, by another plan and with more changes in its text."""
        found = next(each for each in plan.nodes if each.name == node)
        text = nodes.configuration(plan, found, state=self.directory / node)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        self.file(node).write_text(text)

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not {what} in {timeout:g} s"
            time.sleep(0.05)

    def reaches(self, source: str, target: str) -> bool:
        argv = ("ping", "-n", "-c", "1", "-W", "0.3", target)
        return "1 received" in self.vm(source).run(*argv, check=False).stdout

    @property
    def enlarged(self) -> Plan:
        """With the tenant to come."""
        return msgspec.structs.replace(plan_of(*SITES, NEW), sites=self.plan.sites)


class Traffic:
    """Pings by the hundred between VMs, and between VMs and sites, each way and in the background."""

    def __init__(self, world: World, without: str = "") -> None:
        self._flows: dict[str, Pings] = {}
        for tenant, name in SITES.items():
            vm = world.vm(f"{tenant}-web1")
            self._flows[f"{tenant}-web1 to {tenant}-web2"] = Pings(world, vm, OTHER_VM)
            if name != without:
                self._flows[f"{tenant}-web1 to {name}"] = Pings(world, vm, premises.SERVER[0])
                self._flows[f"{name} to {tenant}-web1"] = Pings(world, world.premises[name].server, VM)
        time.sleep(1)

    def end(self) -> dict[str, tuple[int, int]]:
        """End it, and return how many packets each flow has sent and lost."""
        time.sleep(1)
        return {flow: pings.end() for flow, pings in self._flows.items()}


def tell(what: str, counts: dict[str, tuple[int, int]], **figures: object) -> None:
    sent = sum(sent for sent, _ in counts.values())
    missing = sum(missing for _, missing in counts.values())
    words = "; ".join(f"{name} {value}" for name, value in figures.items())
    sys.stdout.write(f"\n{what}: {missing} of {sent} pings lost in {len(counts)} flows; {words}\n")


@pytest.fixture(scope="module")
def world(require_tools: Callable[..., None]) -> Iterator[World]:
    require_tools("ping")
    with World() as made:
        made.start_all()
        yield made


def test_reload_that_is_refused_changes_nothing(world: World) -> None:
    before, spis = world.sites(), world.spis(*SITES.values())
    traffic = Traffic(world)

    world.write_with(world.plan, "edge-1", ("vsid = 5001", "vsid = 6001"))
    wrong = world.isthmus("reload")
    world.write_with(world.plan, "edge-1", ('engine = "python"', 'engine = "auto"'))
    restart = world.isthmus("reload")
    world.write_with(world.plan, "edge-1")
    counts = traffic.end()

    assert (wrong.returncode, restart.returncode) == (MISCONFIGURED, MISCONFIGURED)
    assert "vsid" in wrong.stderr
    assert "appliance.engine: has changed, which needs a restart: python -> auto" in restart.stderr
    assert lost(counts) == {}
    assert world.spis(*SITES.values()) == spis
    after = world.sites()
    assert {name: after[name].since for name in after} == {name: before[name].since for name in before}
    assert world.isthmus("diff").stdout == "nothing differs\n"
    tell("two reloads refused", counts, SPIs=f"unchanged {spis}")


def test_reload_that_fails_half_way_returns_to_what_was(world: World) -> None:
    """The host's new port is served by somebody else: by then its tables and records have changed."""
    traffic = Traffic(world)
    port = next(vm.port for vm in world.enlarged.vms if vm.name == f"{NEW}-web1")

    def claim() -> socket.socket:
        other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        other.bind(f"\0isthmus/port/{port}")
        return other

    world.write_with(world.enlarged, "hv1")
    differs = world.isthmus("diff", "hv1").stdout
    with world.namespaces["hv1"].call(claim):
        failed = world.isthmus("reload", "hv1")
    counts = traffic.end()

    assert failed.returncode == MISCONFIGURED
    assert f"{port} is served by another isthmus already" in failed.stderr
    assert world.isthmus("diff", "hv1").stdout == differs != "nothing differs\n"
    assert nodes.counters(world.nodes["hv1"])["records"] == 2 * 2 * len(SITES)
    assert lost(counts) == {}
    world.write_with(world.plan, "hv1")
    tell("a reload failed half-way", counts, said=failed.stderr.strip().splitlines()[0])


def test_reload_that_nobody_confirms_rolls_back_by_itself(world: World) -> None:
    spis = world.spis(*UNCHANGED)
    for host in ("hv1", "hv2"):
        world.write_with(world.enlarged, host)
        assert world.isthmus("reload", host).returncode == 0
    traffic = Traffic(world, without="genoa")

    without_genoa = tuple(site for site in world.plan.sites if site.name != "genoa")
    world.write_with(msgspec.structs.replace(world.enlarged, sites=without_genoa), "edge-1")
    said = world.isthmus("reload", "edge-1", "--confirm", "4")
    began = time.monotonic()
    sys.stdout.write(f"\n{said.stdout}")
    assert "rolls back in 4 s, unless: isthmus confirm" in said.stdout
    sites_meanwhile = set(world.sites())
    world.wait_until(lambda: "genoa" in world.sites(), "rolled back", 15)
    took = time.monotonic() - began
    world.wait_until(lambda: world.sites()["genoa"].state == "up", "up again")
    counts = traffic.end()
    late = world.isthmus("confirm")

    assert sites_meanwhile == set(UNCHANGED)
    assert 2 < took < 8
    assert late.returncode == MISCONFIGURED
    assert "nothing waits to be confirmed: it was rolled back: nobody has confirmed it" in late.stderr
    assert lost(counts) == {}
    assert world.spis(*UNCHANGED) == spis
    tell("an unconfirmed reload rolled back", counts, after=f"{took:.1f} s", SPIs=f"unchanged {spis}")
    for node in ("hv1", "hv2", "edge-1"):
        world.write_with(world.plan, node)
        assert world.isthmus("reload", node).returncode == 0


def test_reload_that_adds_a_tenant_and_changes_one_site_of_three_loses_no_packet(world: World) -> None:
    before, spis = world.sites(), world.spis(*SITES.values())
    assert not world.reaches(f"{NEW}-web1", OTHER_VM)
    traffic = Traffic(world)

    for host in ("hv1", "hv2"):
        world.write_with(world.enlarged, host)
        assert world.isthmus("reload", host).returncode == 0
    genoa = f'peer = "{world.premises["genoa"].public}"'
    world.write_with(world.enlarged, "edge-1", (genoa, f'{genoa}\nliveness = "20 s"'))
    differs = json.loads(world.isthmus("diff", "edge-1", "--json").stdout)
    said = world.isthmus("reload", "edge-1", "--confirm", "60")
    sys.stdout.write(f"\n{said.stdout}")
    world.wait_until(lambda: world.spis("genoa")["genoa"] != spis["genoa"], "authenticated again")
    assert world.isthmus("confirm").stdout == "confirmed\n"
    counts = traffic.end()

    after = world.sites()
    assert {each["path"] for each in differs} == {
        f"tenant[{NEW}]",
        "provider_host[hv1].tenants",
        "provider_host[hv2].tenants",
        "tenant[green].site[genoa].liveness",
    }
    assert "green/genoa authenticates again" in said.stdout
    assert lost({flow: each for flow, each in counts.items() if "genoa" not in flow}) == {}
    assert world.spis(*UNCHANGED) == {name: spis[name] for name in UNCHANGED}
    for name in UNCHANGED:
        assert after[name].since == before[name].since
        assert after[name].sent_packets > before[name].sent_packets
    assert world.spis("genoa")["genoa"] != spis["genoa"]
    world.wait_until(lambda: world.reaches(f"{NEW}-web1", OTHER_VM), "the new tenant carried")
    tell(
        "a tenant added and one site of three changed",
        counts,
        SPIs=f"of the others unchanged {world.spis(*UNCHANGED)}",
        genoa=f"{spis['genoa']} -> {world.spis('genoa')['genoa']}",
        lost=lost(counts),
    )
