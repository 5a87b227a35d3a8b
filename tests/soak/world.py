"""A datacenter as it is lived with: moving VMs, two sites, and everybody who asks.

seattle (strongSwan) --+                        +-- hv1   red-web1, blue-web1, blue-db1
                       +-- internet -- underlay +-- hv2   those that move
boston (isthmus) ------+                 |      +-- hv3   red-db1, blue-web2, blue-db2
                                      edge-1, with the lookup service

Red's web is rewritten, and all else is in NVGRE.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections import Counter
from typing import Any, Self

import msgspec

from gateway import control
from gateway.lab import demo_sites, nodes, premises
from gateway.lab.migration import Operator
from gateway.lab.namespaces import LabError
from gateway.lab.premises import Internet, Premises
from gateway.lab.processes import Process
from gateway.lab.strongswan import Child, Connection, StrongSwan
from gateway.lab.topology import Plan, Site, standard_plan
from gateway.operating.report import Report
from gateway.sites.status import SiteStatus
from policies.errors import ConfigurationError, Unanswered
from tests.netns.moving import HV3, World

EDGE = "edge-1"
MOVING = ("red-web2", "red-db2")
STAYING = {
    "red-web1": "hv1",
    "red-db1": "hv3",
    "blue-web1": "hv1",
    "blue-web2": "hv3",
    "blue-db1": "hv1",
    "blue-db2": "hv3",
}
SWAN, DEVICE = "seattle", "boston"
PEERS = {SWAN: "any", DEVICE: "198.18.2.2"}
"""Who dials: the one waits for its peer, and with the other both ends do."""
LIFETIMES = {"ike": 90, "child": 30}
"""In seconds."""
_IN_WORDS = {what: f"{seconds} s" for what, seconds in LIFETIMES.items()}
INTERVAL = 0.02
"""Seconds between two pings of a stream."""

GREEN = """
[[tenant]]
name = "green"
gateways = ["edge-1"]
[[tenant.subnet]]
name = "web"
vsid = 7001
prefixes = ["10.0.1.0/24"]
"""


class Stream(msgspec.Struct, frozen=True):
    """Who pings whom, and what it goes through."""

    name: str
    source: str
    target: str
    site: str = ""


STREAMS = (
    Stream("red VM to VM", "red-web1", "10.0.2.5"),
    Stream("red VM to VM by IPv6", "red-web1", "fd00:2::5"),
    Stream("red VM to rewritten VM", "red-db1", "10.0.1.5"),
    Stream("blue VM to VM", "blue-web1", "10.0.2.6"),
    Stream("red VM to strongSwan", "red-web1", premises.SERVER[0], SWAN),
    Stream("blue VM to isthmus", "blue-web1", premises.SERVER[0], DEVICE),
    Stream("strongSwan to red VM", f"{SWAN}-server", "10.0.2.5", SWAN),
    Stream("strongSwan to rewritten VM", f"{SWAN}-server", "10.0.1.5", SWAN),
    Stream("isthmus to blue VM", f"{DEVICE}-server", "10.0.2.5", DEVICE),
)


def plan() -> Plan:
    """Red and Blue, with VMs of Red that move, and a site each whose keys live shortly."""
    standard = standard_plan(vms_per_subnet=2, rewritten=("web",))
    subnets = tuple(
        subnet if subnet.tenant == "red" else msgspec.structs.replace(subnet, translation="encap")
        for subnet in standard.subnets
    )
    lifetimes = {"lifetimes": _IN_WORDS}
    with_sites = demo_sites.with_sites(standard)
    sites = tuple(
        msgspec.structs.replace(site, peer=PEERS[site.name], others=lifetimes) for site in with_sites.sites
    )
    vms = tuple(
        vm if vm.name in MOVING else msgspec.structs.replace(vm, host=STAYING[vm.name]) for vm in standard.vms
    )
    hosts = (*standard.hosts, HV3)
    return msgspec.structs.replace(with_sites, hosts=hosts, subnets=subnets, vms=vms, sites=sites)


class Askers:
    """Somebody who asks the HTTP interface a few times a second, until it is left."""

    QUESTIONS = ("/v1/status", "/v1/records", "/v1/network", "/v1/nodes", "/v1/leases", "/metrics")
    EVERY = 0.1

    def __init__(self, operator: Operator) -> None:
        self.asked = 0
        self.problems: list[str] = []
        self._operator = operator
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self.EVERY):
            question = self.QUESTIONS[self.asked % len(self.QUESTIONS)]
            began = time.monotonic()
            try:
                self._operator.text("GET", question)
            except (LabError, OSError) as error:
                self.problems.append(f"GET {question} after {time.monotonic() - began:.1f} s: {error}")
            self.asked += 1


class Soak(World):
    """The datacenter at work, its sites connected."""

    def connect(self) -> None:
        """Have both sites' devices dial."""
        internet = Internet(self.lab)
        by_name = {site.name: site for site in self.lab.plan.sites}
        self.swan = self._strongswan(by_name[SWAN], internet.premises(SWAN))
        self.device_plan = self._device_plan(by_name[DEVICE], internet.premises(DEVICE, routed=False))
        file = self.lab.directory / f"{DEVICE}.toml"
        state = self.lab.directory / DEVICE
        file.write_text(nodes.configuration(self.device_plan, self.device_plan.gateways[0], state=state))
        self.start_device()
        self.wait_until_up(SWAN, DEVICE)

    def start_device(self) -> None:
        """Start the isthmus that is Blue's device."""
        self.processes[DEVICE] = self.restart(DEVICE)

    @property
    def pids(self) -> dict[str, int]:
        """Every isthmus, by name."""
        return {name: process.pid for name, process in self.processes.items()}

    def end_process(self, name: str, number: signal.Signals) -> None:
        """Send a node a signal that ends it, and wait until it has."""
        process = self.processes[name]
        process.send_signal(number)
        process.wait(10)
        self.lab.processes.remove(process)

    # --- what nodes say

    def ask(self, name: str, command: str) -> Any:
        """Ask a node by its control socket. Raises LabError."""
        try:
            return control.ask(control.socket_path(self.lab.directory / name, name), command)
        except (ConfigurationError, Unanswered) as error:
            raise LabError(f"{name}: {error}") from None

    def sites(self) -> dict[str, SiteStatus]:
        """The gateway's sites by name."""
        return {site.site: site for site in msgspec.convert(self.ask(EDGE, "sites"), list[SiteStatus])}

    def wait_until_up(self, *names: str, timeout: float = 60) -> float:
        """Wait until packets pass to these sites, and return how long that took, in seconds."""
        sources = {SWAN: "red-web1", DEVICE: "blue-web1"}

        def all_up() -> bool:
            states = {name: site.state for name, site in self.sites().items()}
            return all(
                states[name] == "up" and self.pings(sources[name], premises.SERVER[0]) for name in names
            )

        return self.wait_until(all_up, f"{', '.join(names)}: not up", timeout)

    def pings(self, source: str, target: str) -> bool:
        """Whether one ping is answered."""
        said = self.lab.vm(source).run("ping", "-n", "-c", "1", "-W", "1", target, check=False)
        return said.returncode == 0

    def drops(self) -> Counter[tuple[str, str, str]]:
        """What each node has dropped so far: node, reason, tenant."""
        found: Counter[tuple[str, str, str]] = Counter()
        for name in self.processes:
            report = msgspec.convert(self.ask(name, "report"), Report)
            found.update({(name, drop.reason, drop.tenant): drop.packets for drop in report.drops})
        return found

    # --- who sends

    def start_streams(self, seconds: float) -> dict[Stream, Process]:
        """Have everybody ping for a while."""
        count = str(int(seconds / INTERVAL))
        words = ("-n", "-q", "-i", f"{INTERVAL:g}", "-c", count, "-W", "2")
        return {
            stream: self.lab.start(f"ping-{n}", self.lab.vm(stream.source), "ping", *words, stream.target)
            for n, stream in enumerate(STREAMS)
        }

    def end_streams(self, running: dict[Stream, Process]) -> dict[Stream, tuple[int, int]]:
        """Wait until they have, and return how many each has sent and lost. Raises LabError."""
        found = {}
        for stream, process in running.items():
            process.wait(120)
            self.lab.processes.remove(process)
            counts = re.search(r"(\d+) packets transmitted, (\d+) received", process.output())
            if counts is None:
                raise LabError(f"ping said {process.output()}")
            found[stream] = int(counts[1]), int(counts[1]) - int(counts[2])
        return found

    # --- files

    def edit(self, old: str, new: str) -> None:
        """Change the gateway's file."""
        file = self.file(EDGE)
        text = file.read_text()
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        file.write_text(text.replace(old, new))

    def reload(self) -> None:
        """Have the gateway take its file over. Raises LabError."""
        self.ask(EDGE, "reload")

    # --- how they are connected

    def _strongswan(self, site: Site, place: Premises) -> StrongSwan:
        child = Child(
            local=site.prefixes,
            remote=self._cloud_prefixes(site.tenant),
            start="start",
            rekey_seconds=LIFETIMES["child"],
        )
        connection = Connection(
            local_id=str(site.ike["remote_id"]),
            remote_id=str(site.ike["local_id"]),
            remote_address=self.lab.plan.gateways[0].provider_addresses[0],
            psk=(self.lab.directory / str(site.ike["psk_file"])).read_text(),
            proposals="aes256gcm16-prfsha384-ecp384",
            children={"datacenter": child},
        )
        device = StrongSwan(self.lab, f"{site.name}-strongswan", place.device, {EDGE: connection})
        device.start()
        return device

    def _device_plan(self, site: Site, place: Premises) -> Plan:
        datacenter = Site(
            tenant=site.tenant,
            name="datacenter",
            gateway=site.name,
            prefixes=self._cloud_prefixes(site.tenant),
            peer=self.lab.plan.gateways[0].provider_addresses[0],
            ike={
                "local_id": site.ike["remote_id"],
                "remote_id": site.ike["local_id"],
                "psk_file": site.ike["psk_file"],
            },
            others={"lifetimes": _IN_WORDS},
        )
        return premises.as_datacenter(place, site.tenant, 6101, datacenter)

    def _cloud_prefixes(self, tenant: str) -> tuple[str, ...]:
        subnets = (subnet for subnet in self.lab.plan.subnets if subnet.tenant == tenant)
        return tuple(prefix for subnet in subnets for prefix in subnet.prefixes)
