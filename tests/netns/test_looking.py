"""What an operator sees of a gateway that works, by the command line: captures, traces, status and rates.

red-web1, blue-web1 ------- underlay ------- internet ---- seattle (isthmus run) --- seattle-server
                               |
                            edge-1 (isthmus run); blue's site oslo has nobody at its address
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import GRE
from scapy.utils import PcapNgReader

from gateway.lab.namespaces import environment
from gateway.lab.processes import Process
from tests.interop.strongswan import SERVER, VM, lost, site_named
from tests.netns.test_sites import Pair

pytestmark = pytest.mark.netns

NOBODY = "198.18.99.9"
PINGS = 5


class Looking(Pair):
    """Red's site is up, and Blue's of the same addresses is not."""

    def build(self) -> None:
        super().build()
        self.premises["seattle"] = self.internet.premises("seattle", None, routed=False)
        self.put_secret("seattle.psk", "shared by both")
        self.put_secret("oslo.psk", "nobody's")
        gateway = self.start_gateway(
            site_named("seattle", start="respond"),
            site_named("oslo", tenant="blue", peer=NOBODY, start="start"),
        )
        device = self.add_device("seattle", self.plan.gateways[0].provider_addresses[0])
        gateway.wait_until_up("seattle")
        device.wait_until_up("datacenter")
        self.gateway = gateway

    def says(self, command: str, *options: str, code: int = 0, node: str = "edge-1") -> str:
        """Return what the command line prints, which ends with an exit code."""
        file = str(self.directory / f"{node}.toml")
        result = self.node(node).run(
            sys.executable, "-m", "gateway.cli", command, file, *options, check=False
        )
        assert result.returncode == code, result
        return result.stdout

    def looking(self, *options: str, node: str = "edge-1") -> Process:
        """Start a capture, and return once it misses nothing."""
        file = str(self.directory / f"{node}.toml")
        command = (sys.executable, "-m", "gateway.cli", "capture", file, *options)
        self.count = getattr(self, "count", 0) + 1
        process = self.start(f"capture-{self.count}", self.node(node), *command)
        process.wait_for("^capturing")
        return process

    def both_ping(self) -> None:
        """Red reaches seattle, Blue does not reach oslo, and their packets look alike."""
        assert lost(self.vm("red-web1"), SERVER, count=PINGS) == 0
        assert lost(self.vm("blue-web1"), SERVER, count=PINGS) == PINGS


@pytest.fixture(scope="module")
def world() -> Iterator[Looking]:
    with Looking() as world:
        yield world


def ended(process: Process) -> str:
    """Wait until a capture has ended by itself, and return what it printed."""
    process.wait(20)
    return process.tail(1000)


def shown(output: str) -> Counter[tuple[str, str]]:
    """Count the lines of a capture by place and way."""
    lines = re.findall(r"^\d\d:\d\d:\d\d\.\d{6} (\S+(?: \S+)?) (in |out) ", output, re.MULTILINE)
    return Counter((place, way.strip()) for place, way in lines)


def test_capture_shows_a_tenants_packets_at_each_place_and_no_others(world: Looking) -> None:
    inner = world.looking("--tenant", "red", "--address", SERVER, "--frames", str(4 * PINGS))
    outer = world.looking("--site", "red/seattle", "--side", "outer", "--frames", str(2 * PINGS))
    world.both_ping()

    seen = shown(ended(inner))
    assert seen == {
        ("red/web", "in"): PINGS,
        ("red/seattle", "out"): PINGS,
        ("red/seattle", "in"): PINGS,
        ("red/web", "out"): PINGS,
    }
    said = ended(outer)
    assert shown(said) == {("underlay 192.0.2.254", "out"): PINGS, ("underlay 192.0.2.254", "in"): PINGS}
    assert said.count(" ESP SPI ") == 2 * PINGS
    assert f"{2 * PINGS} packets captured, 0 lost" in said


def test_capture_of_what_is_dropped_says_why(world: Looking) -> None:
    process = world.looking("--dropped", "--frames", str(PINGS))
    world.both_ping()

    lines = [line for line in ended(process).splitlines() if "DROPPED" in line]
    assert len(lines) == PINGS
    assert all(re.search(rf"blue/web in +{VM} > {SERVER}: .* DROPPED site-down$", line) for line in lines)


def test_capture_shows_that_a_peer_does_not_answer(world: Looking) -> None:
    said = ended(world.looking("--site", "blue/oslo", "--side", "outer", "--frames", "1", "--seconds", "15"))
    ends = rf"192\.0\.2\.254\.500 > {re.escape(NOBODY)}\.500"
    assert re.search(rf"underlay 192\.0\.2\.254 out {ends} IKE IKE_SA_INIT request 0", said), said


def test_capture_that_is_written_is_read_by_others_and_holds_one_tenant(
    world: Looking, require_tools: Callable[..., None]
) -> None:
    file = world.directory / "red.pcapng"
    process = world.looking(
        "--tenant", "red", "--side", "both", "--write", str(file), "--frames", str(8 * PINGS)
    )
    world.both_ping()
    ended(process)

    with PcapNgReader(str(file)) as reader:
        packets = list(reader)
    assert len(packets) == 8 * PINGS
    assert {packet.sniffed_on for packet in packets} == {"red/web", "red/seattle", "underlay 192.0.2.254"}
    assert {packet[GRE].key >> 8 for packet in packets if GRE in packet} == {5001}
    addresses = {(packet[IP].src, packet[IP].dst) for packet in packets if packet.sniffed_on == "red/seattle"}
    assert addresses == {(VM, SERVER), (SERVER, VM)}

    require_tools("tshark")
    read = subprocess.run(
        ["tshark", "-r", str(file), "-T", "fields", "-e", "_ws.expert.message", "-e", "ip.checksum.status"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HOME": str(world.directory)},
    )
    assert len(read.stdout.splitlines()) == 8 * PINGS
    assert "alformed" not in read.stdout


def test_capture_is_a_pipe_that_its_reader_may_close(world: Looking) -> None:
    file = str(world.directory / "edge-1.toml")
    command = world.node("edge-1").command(
        "sh", "-c", f"{sys.executable} -m gateway.cli capture {file} --write - | head -c 200 | wc -c"
    )
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    )
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        lost(world.vm("red-web1"), SERVER, count=1)
    assert process.communicate(timeout=5)[0].strip() == "200"


def test_capture_costs_a_running_gateway_nothing_once_it_has_ended(world: Looking) -> None:
    ended(world.looking("--seconds", "0.5"))
    assert lost(world.vm("red-web1"), SERVER) == 0
    assert world.says("status", "--check", code=1).startswith("edge-1: ")


def test_trace_of_a_running_gateway_knows_which_site_is_down(world: Looking) -> None:
    ends = ("--from", VM, "--to", SERVER)
    before = json.loads(world.says("top", "--once", "--json"))["drops"]

    red, blue = (world.says("trace", "--tenant", tenant, *ends) for tenant in ("red", "blue"))
    by_file = world.says("trace", "--tenant", "blue", *ends, "--file")

    assert red.startswith("by the running appliance\n")
    assert "=> forwarded into the tunnel to seattle" in red
    assert "=> dropped: site-down" in blue
    assert "=> forwarded into the tunnel to oslo" in by_file
    assert json.loads(world.says("trace", "--tenant", "blue", *ends, "--json"))["outcome"] == "dropped"
    assert before == json.loads(world.says("top", "--once", "--json"))["drops"] == []


def test_trace_uses_the_mtu_of_the_tunnel_that_stands(world: Looking) -> None:
    mtu = json.loads(world.says("sites", "red/seattle", "--json"))[0]["children"][0]["mtu"]
    ends = ("--tenant", "red", "--from", VM, "--to", SERVER)
    assert "forwarded" in world.says("trace", *ends, "--size", str(mtu))
    assert "dropped: too-big" in world.says("trace", *ends, "--size", str(mtu + 1))


def test_status_says_first_that_a_site_is_down_and_monitoring_hears_of_it(world: Looking) -> None:
    lines = world.says("status").splitlines()
    assert re.match(r"edge-1: \d thing", lines[0])
    assert lines[1].startswith("  !! site blue/oslo is down")
    assert "sites          1 of 2 up" in lines
    assert json.loads(world.says("status", "--check", "--json", code=1))["sites_up"] == 1
    assert world.says("status", "--check", node="hv1").startswith("hv1: all is well\n")


def test_top_shows_about_what_is_sent(world: Looking) -> None:
    command = world.vm("red-web1").command("ping", "-q", "-i", "0.01", "-s", "972", SERVER)
    ping = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        rates: dict[str, Any] = json.loads(world.says("top", "--once", "--json", "--tenant", "red"))
        plain = world.says("top", "--once")
    finally:
        ping.terminate()
        ping.wait()
    rows = {row["name"]: row for row in rates["rows"]}
    assert set(rows) == {"", "web", "seattle"}
    for name in ("web", "seattle"):
        assert 40 < rows[name]["from_packets"] <= 130, rows
        assert rows[name]["from_bits"] == pytest.approx(8000 * rows[name]["from_packets"], rel=0.1)
    assert rows["seattle"]["is_up"] is True
    assert "oslo (DOWN)" in plain


def test_top_of_a_tenant_that_is_not_there_says_who_is(world: Looking) -> None:
    file = str(world.directory / "edge-1.toml")
    command = (sys.executable, "-m", "gateway.cli", "top", file, "--once", "--tenant", "rde")
    result = world.node("edge-1").run(*command, check=False)
    assert (result.returncode, result.stderr.splitlines()[0]) == (
        2,
        "tenant: there is no rde; there are: blue, red",
    )


def test_top_in_a_terminal_that_can_place_nothing_writes_lines(world: Looking) -> None:
    main, terminal = pty.openpty()
    file = str(world.directory / "edge-1.toml")
    command = world.node("edge-1").command(sys.executable, "-m", "gateway.cli", "top", file)
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, env={**environment(), "TERM": "dumb"}
    )
    os.close(terminal)
    said = ""
    try:
        deadline = time.monotonic() + 20
        while said.count("seattle") < 2 and time.monotonic() < deadline:
            if select.select([main], [], [], 0.5)[0]:
                said += os.read(main, 65536).decode()
    finally:
        process.terminate()
        process.wait(10)
        os.close(main)
    assert said.count("seattle") >= 2
    assert "\x1b" not in said


def test_top_in_a_terminal_heeds_its_keys(world: Looking) -> None:
    ours, theirs = pty.openpty()
    file = str(world.directory / "edge-1.toml")
    command = world.node("edge-1").command(sys.executable, "-m", "gateway.cli", "top", file)
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment(), "TERM": "xterm"}
    )
    os.close(theirs)

    def wait_for(words: bytes) -> None:
        seen, deadline = b"", time.monotonic() + 20
        while words not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([ours], [], [], 0.2)[0]:
                seen += os.read(ours, 65536)

    try:
        wait_for(b"sorted by bits")
        os.write(ours, b"t")
        wait_for(b"sorted by tenant")
        os.write(ours, b"q")
        wait_for(b"\x1b[?1049l")  # the screen is as it was
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_sites_in_detail_tell_what_has_happened(world: Looking) -> None:
    lines = world.says("sites", "red/seattle").splitlines()
    assert lines[0].startswith("red/seattle: up since ")
    assert re.search(r"  up: aes256gcm16", lines[-2])
    assert re.search(r"  authenticated: ", lines[-1])
    assert "oslo" not in "\n".join(lines)


def test_events_are_those_of_the_tenant_and_the_kind_that_is_wanted(world: Looking) -> None:
    events = [json.loads(line) for line in world.says("events", "--tenant", "red", "--json").splitlines()]
    assert {"site-authenticated", "site-up"} <= {event["event"] for event in events}
    assert {event["tenant"] for event in events} == {"red"}
    (up,) = world.says("events", "--kind", "site-up").splitlines()
    assert "site-up red/seattle" in up


def test_who_may_not_ask_is_told_whom_to_be(world: Looking) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    public = Path("/tmp") / f"looking-{os.getpid()}.toml"  # noqa: S108 - read, and by somebody else
    try:
        public.write_text((world.directory / "edge-1.toml").read_text())
        public.chmod(0o644)
        code = "import os, sys; os.setuid(65534); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        result = world.node("edge-1").run(
            sys.executable, "-c", code, "-m", "gateway.cli", "status", str(public), check=False
        )
    finally:
        public.unlink()
    assert result.returncode == 1
    assert "is for its owner alone: run this as root, or as the user of the service" in result.stderr


def test_what_happened_before_a_restart_is_told_after_it(world: Looking) -> None:
    before = world.says("events", "--kind", "site-up").splitlines()
    world.gateway.wait_for_error("oslo", "no answer", timeout=40)
    (oslo,) = json.loads(world.says("sites", "blue/oslo", "--json"))

    world.gateway.process.send_signal(signal.SIGTERM)
    world.gateway.process.wait()
    world.gateway = world.restart_gateway()
    world.gateway.wait_until_up("seattle")

    assert world.says("events", "--kind", "site-up").splitlines()[: len(before)] == before
    lines = world.says("sites", "red/seattle").splitlines()
    assert any(line.endswith("down: this node stops") for line in lines)
    (after,) = json.loads(world.says("sites", "blue/oslo", "--json"))
    assert after["since"] == pytest.approx(oslo["history"][0]["at"])
