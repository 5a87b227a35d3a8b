"""The laboratory itself, with plain kernel forwarding.

hv1 --- underlay (a router) --- hv2
             |
           edge-1
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.lab import echo, namespaces, tools
from gateway.lab.laboratory import Laboratory
from gateway.lab.namespaces import LabError, Namespace
from gateway.lab.topology import Datacenter, Node, standard_plan

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]
SOON = 10.0

# What another process does with the laboratory, and tells of it before it comes to its end.
SCENARIO = """
import json, os, signal, sys
from gateway.lab.topology import Datacenter, standard_plan

with Datacenter(standard_plan(vms_per_subnet=1)) as lab:
    process = lab.start("sleep", lab.node("hv1"), "sleep", "1000")
    if sys.argv[1] != "be killed":
        lab.start("family", lab.vm("red-web1"), "sh", "-c", "sleep 1000 & wait")
    lab.capture(lab.node("hv1"), "eth1", lab.directory / "hv1.pcap")
    print(json.dumps({
        "pids": [process.pid for process in lab.processes],
        "namespaces": [os.stat(namespace.path).st_ino for namespace in lab.namespaces.values()],
        "directory": str(lab.directory),
    }), flush=True)
    if sys.argv[1] == "raise":
        raise RuntimeError("as planned")
    signal.pause()
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Datacenter]:
    with Datacenter(standard_plan()) as lab:
        yield lab


@pytest.fixture
def narrow() -> Iterator[Datacenter]:
    """The way to hv2 carries 1400 octets from the router on."""
    with Datacenter(standard_plan(tenants=())) as lab:
        lab.router.ip("link set hv2 mtu 1400")
        lab.node("hv2").ip("link set eth1 mtu 1400")
        yield lab


def address(lab: Datacenter, name: str, version: int) -> str:
    (node,) = (node for node in lab.plan.nodes if node.name == name)
    return next(str(i.ip) for i in node.interfaces if i.version == version)


@pytest.mark.parametrize("version", [4, 6])
def test_nodes_reach_each_other_through_the_underlay_router(lab: Datacenter, version: int) -> None:
    for source in ("hv1", "hv2", "edge-1"):
        for destination in ("hv1", "hv2", "edge-1"):
            assert lab.node(source).call(echo.reachable, address(lab, destination, version), 5.0)


def test_vms_of_two_tenants_have_the_same_addresses_on_the_same_host(lab: Datacenter) -> None:
    red, blue = (
        json.loads(lab.vm(name).run("ip", "-json", "address", "show", "dev", "eth0").stdout)[0]
        for name in ("red-web1", "blue-web1")
    )
    assert red["address"] == blue["address"] == "02:00:00:00:01:05"
    assert {a["local"] for a in red["addr_info"]} >= {"10.0.1.5", "fd00:1::5"}
    assert {a["local"] for a in red["addr_info"]} == {a["local"] for a in blue["addr_info"]}
    assert red["mtu"] == 1500
    assert [port for port in lab.node("hv1").interfaces() if port.startswith("vnet")] == [
        "vnet0",
        "vnet2",
        "vnet4",
        "vnet6",
    ]


def test_host_does_not_answer_on_a_vms_port(lab: Datacenter) -> None:
    # Without a switch nobody answers, also not for the addresses that the host itself has.
    vm = lab.vm("red-web1")
    vm.ip("route add 198.51.100.11/32 dev eth0")
    try:
        assert not vm.call(echo.reachable, "198.51.100.11", 0.3)
        assert not vm.call(echo.reachable, "10.0.1.1", 0.3)
    finally:
        vm.ip("route del 198.51.100.11/32 dev eth0")


def test_plan_scales_with_tenants_and_vms_and_chooses_the_underlay() -> None:
    plan = standard_plan(tenants=("a", "b", "c"), subnets=("x", "y"), vms_per_subnet=3, underlay=(6,))

    assert len(plan.vms) == 18
    assert len({(vm.host, vm.port) for vm in plan.vms}) == 18
    assert len({subnet.vsid for subnet in plan.subnets}) == 6
    assert plan.nodes[0] == Node("hv1", ("2001:db8:1::11/64",))
    with Datacenter(plan) as lab:
        assert lab.node("hv1").call(echo.reachable, "2001:db8::254", 5.0)


def test_a_guest_that_detects_duplicates_is_waited_for() -> None:
    plan = standard_plan(tenants=("red",), subnets=("web",), vms_per_subnet=1, detect_duplicates=True)
    with Datacenter(plan) as lab:
        shown = lab.vm("red-web1").run("ip", "-6", "address", "show", "dev", "eth0").stdout
    assert "fd00:1::5" in shown
    assert "tentative" not in shown


def test_function_called_in_a_namespace_opens_its_socket_there(lab: Datacenter) -> None:
    with lab.node("hv1").call(socket.create_server, ("198.51.100.11", 0)) as sock:
        assert sock.getsockname()[0] == "198.51.100.11"
    with pytest.raises(OSError, match="assign requested address"):
        lab.node("hv2").call(socket.create_server, ("198.51.100.11", 0))


def test_failed_iproute2_line_is_named(lab: Datacenter) -> None:
    with pytest.raises(LabError, match=r"hv1: 'ip link set nowhere up' failed: .*nowhere"):
        lab.node("hv1").ip("link set lo up", "link set nowhere up", "link set lo up")


def test_process_is_waited_for_until_it_says_something() -> None:
    with Laboratory() as lab:
        process = lab.start("talker", lab.namespace("box"), "sh", "-c", "echo one; echo two 2; exit 3")
        assert process.wait_for(r"two (\d)").group(1) == "2"
        with pytest.raises(LabError, match="talker ended with 3 before 'three':\none\ntwo 2"):
            process.wait_for("three")


def test_process_that_ignores_sigterm_is_killed() -> None:
    with Laboratory() as lab:
        process = lab.start("deaf", lab.namespace("box"), "sh", "-c", "trap '' TERM; echo deaf; sleep 1000")
        process.wait_for("deaf")
        assert process.stop(grace=0.1) == -signal.SIGKILL


def test_nothing_is_left_behind_after_an_exception() -> None:
    with _left_nothing(), _scenario("raise") as (process, told):
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "RuntimeError: as planned" in errors
        _assert_gone(told)
        assert not Path(told["directory"]).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_behind_after_a_signal(number: signal.Signals) -> None:
    with _left_nothing(), _scenario("wait") as (process, told):
        process.send_signal(number)
        process.communicate(timeout=30)
        _assert_gone(told)
        assert not Path(told["directory"]).exists()


def test_killed_laboratory_leaves_its_directory_and_nothing_else() -> None:
    with _left_nothing(), _scenario("be killed") as (process, told):
        process.kill()
        process.communicate(timeout=30)
        _assert_gone(told)
        shutil.rmtree(told["directory"])


def test_laboratory_works_as_an_ordinary_user() -> None:
    if os.geteuid() != 0 or not _may_become_another_user():
        pytest.skip("only root can become another user; an ordinary user's run shows the same by itself")
    code = (
        "from gateway.lab.userns import ensure_privileged\n"
        "ensure_privileged()\n"
        "from gateway.lab import echo\n"
        "from gateway.lab.topology import Datacenter, standard_plan\n"
        "with Datacenter(standard_plan()) as lab:\n"
        "    print(lab.node('hv1').call(echo.reachable, '2001:db8:2::12', 5.0))\n"
    )
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    readable = subprocess.run([*user, sys.executable, "-c", "import gateway.lab"], cwd=ROOT, check=False)
    if readable.returncode:
        pytest.skip(f"another user cannot read {ROOT} or {sys.executable}")
    with _left_nothing():
        done = subprocess.run(
            [*user, sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


@pytest.mark.parametrize("switch", ["max_user_namespaces", "max_net_namespaces"])
def test_forbidden_namespaces_are_refused_with_one_sentence(switch: str) -> None:
    # The limit is the user namespace's own, so it is lowered in one; without capabilities, root is anybody.
    code = (
        "from gateway.lab.namespaces import LabError\n"
        "from gateway.lab.userns import ensure_privileged\n"
        "try:\n    ensure_privileged()\n"
        "except LabError as error:\n    print(error)\n"
    )
    script = f'echo 0 >/proc/sys/user/{switch} && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        f"this machine forbids ordinary users network namespaces (user.{switch} is 0): "
        f"run this as root, or allow them with 'sudo sysctl user.{switch}=10000'\n"
    )


def test_missing_command_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(namespaces, "TOOL_PATH", str(tmp_path))

    with pytest.raises(LabError, match="the command 'ip' is missing: install it with 'apt install iproute2'"):
        namespaces.tool("ip")


def test_capture_is_complete_and_read_by_scapy(lab: Datacenter, tmp_path: Path) -> None:
    scapy = pytest.importorskip("scapy.all")
    capture = lab.capture(lab.node("edge-1"), "eth1", tmp_path / "edge-1.pcap")
    hv1 = lab.node("hv1")
    hv1.run(*tools.probe("ping").command("-c", "20", "-i", "0.01", "-s", "1000", "192.0.2.254"))
    assert capture.stop() == 0

    packets = [packet for packet in scapy.rdpcap(str(tmp_path / "edge-1.pcap")) if scapy.ICMP in packet]
    assert [packet[scapy.ICMP].seq for packet in packets] == [n for n in range(1, 21) for _ in range(2)]
    assert {len(packet) for packet in packets} == {1042}
    assert capture.output().endswith(" 0 dropped by the kernel\n")


@pytest.mark.parametrize("target", ["203.0.113.12", "2001:db8:2::12"])
def test_probe_pings_like_ping(narrow: Datacenter, target: str) -> None:
    ping = tools.probe("ping")
    hv1 = narrow.node("hv1")
    router = "198.51.100.1" if "." in target else "2001:db8:1::1"

    well = hv1.run(*ping.command("-n", "-c", "2", "-i", "0.01", target))
    assert f"64 bytes from {target}: icmp_seq=2 ttl=63 time=" in well.stdout
    assert "2 packets transmitted, 2 received, 0% packet loss" in well.stdout

    large = hv1.run(*ping.command("-c", "2", "-i", "0.01", "-s", "1400", "-M", "do", target), check=False)
    assert large.returncode == 1
    assert f"From {router} icmp_seq=1 " in large.stdout
    assert "(mtu = 1400)" in large.stdout
    assert "ping: local error: message too long, mtu=1400" in large.stdout

    late = hv1.run(*ping.command("-c", "1", "-t", "1", target), check=False)
    assert f"From {router} icmp_seq=1 Time" in late.stdout


@pytest.mark.parametrize("target", ["203.0.113.12", "2001:db8:2::12"])
def test_probes_find_the_routers_and_the_path_mtu(narrow: Datacenter, target: str) -> None:
    hv1 = narrow.node("hv1")
    router = "198.51.100.1" if "." in target else "2001:db8:1::1"

    hops = hv1.run(*tools.probe("traceroute").command("-n", "-q", "1", target)).stdout.splitlines()[1:]
    assert [hop.split()[:2] for hop in hops] == [["1", router], ["2", target]]

    path = hv1.run(*tools.probe("tracepath").command("-n", target)).stdout
    assert "[LOCALHOST] pmtu 1500" in path
    assert path.endswith("Resume: pmtu 1400 hops 2\n")


def test_transfer_arrives_whole_and_both_ends_say_so(lab: Datacenter) -> None:
    receiver = lab.start_python("receiver", lab.node("hv2"), "gateway.lab.probe", "receive", "5001")
    receiver.wait_for("^listening")
    send = [sys.executable, "-m", "gateway.lab.probe", "send"]
    sent = lab.node("hv1").run(*send, "203.0.113.12", "5001", "3000000").stdout

    assert sent.startswith("sent 3000000 bytes in ")
    assert "the receiver has the same" in sent
    digest = receiver.wait_for(r"sha256 (\w+)").group(1)
    assert f"sha256 {digest}" in sent


def test_counter_misses_no_packet_of_the_flood(lab: Datacenter) -> None:
    counter = lab.start_python("counter", lab.node("hv2"), "gateway.lab.probe", "count", "5002", "500")
    counter.wait_for("^counting")
    flood = [sys.executable, "-m", "gateway.lab.probe", "flood", "2001:db8:2::12", "5002"]
    lab.node("hv1").run(*flood, "--packets", "500", "--rate", "5000")

    assert counter.wait() == 0, counter.output()
    assert "received 500 of 500 packets, 0 of them again" in counter.output()


class _scenario:  # noqa: N801 - reads as a function where it is used
    """A laboratory in a process of its own."""

    def __init__(self, ending: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCENARIO, ending],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> tuple[subprocess.Popen[str], dict]:
        assert self.process.stdout is not None
        return self.process, json.loads(self.process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class _left_nothing:  # noqa: N801
    """The machine's own interfaces, named namespaces and directories are the same before and after."""

    def __enter__(self) -> None:
        self.before = _machine()

    def __exit__(self, kind: object, *_: object) -> None:
        assert kind is not None or _machine() == self.before


def _machine() -> tuple[str, str]:
    return (
        subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout,
        subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout,
    )


def _assert_gone(told: dict) -> None:
    deadline = time.monotonic() + SOON
    while left := _processes_in(told["namespaces"]) + [pid for pid in told["pids"] if _runs(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.01)


def _processes_in(inodes: list[int]) -> list[str]:
    """Whatever still holds one of these namespaces: a process inside, or a descriptor."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        for link in [process / "ns/net", *_descriptors(process)]:
            try:
                target = str(link.readlink())
            except OSError:  # it ended meanwhile, or is not ours to look at
                continue
            found += [f"{link} -> {target}" for inode in inodes if target == f"net:[{inode}]"]
    return found


def _descriptors(process: Path) -> list[Path]:
    try:
        return list((process / "fd").iterdir())
    except OSError:
        return []


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie waits for whoever adopted it


def _may_become_another_user() -> bool:
    attempt = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--", "true"]
    return subprocess.run(attempt, capture_output=True, check=False).returncode == 0


def test_namespace_is_gone_as_soon_as_it_is_closed() -> None:
    namespace = Namespace("alone")
    inode = Path(namespace.path).stat().st_ino
    assert _processes_in([inode])
    namespace.close()
    assert not _processes_in([inode])
