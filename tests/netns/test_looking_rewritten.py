"""What an operator sees of IP rewrite by the command line: captures, traces, and how full the pools are.

red-web1 (rewritten) -- hv1 ------ underlay ------ hv2 -- red-web2 (rewritten), red-db2 (encapsulated)
                                      |
                                   edge-1 (gateway and lookup service)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.utils import PcapNgReader

from gateway.lab import echo, nodes
from gateway.lab.migration import Operator
from gateway.lab.nodes import LookupPlan
from gateway.lab.processes import Process
from gateway.lab.topology import Datacenter, standard_plan

pytestmark = pytest.mark.netns

WEB1, WEB2, DB2 = "10.0.1.5", "10.0.1.6", "10.0.2.6"


class World:
    """Everything at work, with every VM registered."""

    def __init__(self, lab: Datacenter, lookup: LookupPlan) -> None:
        self.lab = lab
        nodes.start(lab, lookup=lookup)
        Operator(lab, lookup).wait_for_records(sum(len(vm.addresses) for vm in lab.plan.vms))
        self._count = 0

    def says(self, node: str, command: str, *options: str) -> str:
        """Return what the command line prints."""
        return self.lab.node(node).run(*self._command(node, command, *options)).stdout

    def looking(self, node: str, *options: str) -> Process:
        """Start a capture, and return once it misses nothing."""
        self._count += 1
        command = self._command(node, "capture", *options)
        process = self.lab.start(f"capture-{self._count}", self.lab.node(node), *command)
        process.wait_for("^capturing")
        return process

    def ping(self, source: str, target: str) -> None:
        said = self.lab.vm(source).run("ping", "-n", "-c", "1", "-W", "2", target, check=False).stdout
        assert "1 received" in said

    def _command(self, node: str, command: str, *options: str) -> tuple[str, ...]:
        file = str(self.lab.directory / f"{node}.toml")
        return sys.executable, "-m", "gateway.cli", command, file, *options


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("lookup")
    with Datacenter(standard_plan(tenants=("red", "blue"), rewritten=("web",), underlay=(4,))) as lab:
        world = World(lab, LookupPlan(folder))
        for target in (WEB2, DB2):
            assert lab.vm("red-web1").call(echo.reachable_soon, target, 10.0)
        yield world


def ended(process: Process) -> list[str]:
    """Wait until a capture has ended by itself, and return its lines without their times."""
    process.wait(20)
    return [line.partition(" ")[2] for line in process.tail(100).splitlines() if re.match(r"\d\d:", line)]


def test_capture_shows_a_rewritten_packet_inside_by_the_customers_addresses(world: World) -> None:
    host = world.looking("hv1", "--tenant", "red", "--address", WEB2, "--frames", "4")
    world.ping("red-web1", WEB2)

    lines = ended(host)

    assert [line.partition(": ")[0] for line in lines] == [
        f"red/web vnet0 in  {WEB1} > {WEB2}",
        f"red/web out rewritten {WEB1} > {WEB2}",
        f"red/web in  rewritten {WEB2} > {WEB1}",
        f"red/web vnet0 out {WEB2} > {WEB1}",
    ]


def test_capture_of_the_gateway_shows_one_side_rewritten_and_the_other_in_nvgre(world: World) -> None:
    outer = world.looking("edge-1", "--tenant", "red", "--side", "outer", "--frames", "4")
    world.ping("red-web1", DB2)

    lines = ended(outer)

    assert re.match(r"underlay in  rewritten 198\.51\.100\.\d+ > 192\.0\.2\.\d+: icmp echo request", lines[0])
    assert f"NVGRE VSID 5002: {WEB1} > {DB2}" in lines[1]
    assert f"NVGRE VSID 5002: {DB2} > {WEB1}" in lines[2]
    assert re.match(r"underlay out rewritten 192\.0\.2\.\d+ > 198\.51\.100\.\d+: icmp echo reply", lines[3])


def test_file_for_wireshark_has_the_packets_as_the_underlay_carries_them(world: World) -> None:
    file = world.lab.directory / "rewritten.pcapng"
    options = ("--tenant", "red", "--side", "outer", "--frames", "2", "--write", str(file))
    capture = world.looking("hv1", *options)
    world.ping("red-web1", WEB2)
    capture.wait(20)

    with PcapNgReader(str(file)) as reader:
        request, reply = reader
    assert ICMP in request
    assert request.comments == reply.comments == [b"rewritten"]
    assert (request[IP].src, request[IP].dst) == (reply[IP].dst, reply[IP].src)
    before = bytes(request)
    del request[IP].chksum, request[ICMP].chksum
    assert bytes(request) == before


def test_trace_tells_the_provider_addresses_and_whose_they_are(world: World) -> None:
    sent = traced(world, "hv1", "--tenant", "red", "--from", WEB1, "--to", DB2)
    found = re.fullmatch(r"forwarded from (\S+) to (\S+), rewritten, db, 100 octets", sent["verdict"])
    assert found

    come = traced(world, "edge-1", "--from-provider", found[1], "--to-provider", found[2])

    assert come["steps"]["sender"] == f"{found[1]} is {WEB1} of tenant red, at hv1"
    assert come["steps"]["receiver"] == f"{found[2]} stands for {DB2} of tenant red, leased by edge-1"
    assert "in NVGRE, VSID 5002 (db)" in come["verdict"]


def test_trace_by_the_file_knows_the_leases_of_the_lookup_service(world: World) -> None:
    told = traced(world, "hv1", "--tenant", "red", "--from", WEB1, "--to", DB2)

    by_file = json.loads(
        world.says("hv1", "trace", "--file", "--tenant", "red", "--from", WEB1, "--to", DB2, "--json")
    )

    assert by_file["by"].endswith("and the lookup service")
    assert by_file["verdict"] == told["verdict"]


def test_packet_between_two_tenants_provider_addresses_is_dropped_as_trace_says(world: World) -> None:
    red = address_of(world, "red", "hv1")
    blue = address_of(world, "blue", "hv2")

    told = traced(world, "hv1", "--from-provider", blue, "--to-provider", red)

    assert told["verdict"] == "dropped: other-tenant"


def test_status_says_what_is_rewritten_and_how_full_the_pools_are(world: World) -> None:
    host, node = world.says("hv1", "status"), world.says("edge-1", "status")

    assert "engine python, rewriting 198.51.100.128/25" in host
    assert re.search(r"^pool +198\.51\.100\.128/25 \(hv1\): 2 of 126 held$", node, re.MULTILINE)
    assert re.search(r"^pool +192\.0\.2\.128/26 \(edge-1\): \d+ of 62 held$", node, re.MULTILINE)


def traced(world: World, node: str, *options: str) -> dict[str, Any]:
    """Ask a running node, and return the verdict, and what each step says."""
    said = json.loads(world.says(node, "trace", *options, "--json"))
    assert said["by"] == "the running appliance"
    steps = {step["name"]: step["detail"] for step in said["steps"]}
    return {"verdict": said["verdict"], "steps": steps}


def address_of(world: World, tenant: str, host: str) -> str:
    """The provider address of a tenant's rewritten VM at a host."""
    source, target = (WEB1, WEB2) if host == "hv1" else (WEB2, WEB1)
    told = traced(world, host, "--tenant", tenant, "--from", source, "--to", target)
    found = re.match(r"forwarded from (\S+) to ", told["verdict"])
    assert found
    return found[1]
