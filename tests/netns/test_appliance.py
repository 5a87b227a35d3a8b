"""`isthmus run`: its start, its signals and its end, and what it says of a machine that does not fit.

sender eth1 ---- eth1 edge-1
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from gateway.lab.laboratory import Laboratory
from gateway.lab.namespaces import Namespace
from gateway.lab.processes import Process
from gateway.packets import ip, nvgre
from policies.addresses import MacAddress, Vsid, gateway_mac
from tests.configurations import (
    host_port,
    node,
    provider_gateway,
    provider_host,
    record,
    subnet,
    table,
    tenant,
)

pytestmark = pytest.mark.netns

EDGE, SENDER = "192.0.2.254", "192.0.2.11"
WEB = Vsid(5001)


def configuration(lab: Laboratory, underlay: str = "") -> str:
    """That of a gateway whose Red has a VM on hv1."""
    return (
        node("edge-1", EDGE, state=lab.directory)
        + f"{underlay}\n[gateway]\n"
        + provider_host("hv1", SENDER)
        + tenant("red")
        + subnet("web", WEB, "10.0.1.0/24", "fd00:1::/64")
        + record("10.0.1.5", "02:00:00:00:01:05", "hv1")
    )


def host_configuration(lab: Laboratory, interface: str) -> str:
    """That of a host with this VM's port."""
    return (
        node("edge-1", EDGE, state=lab.directory)
        + table("[host]", name="edge-1")
        + host_port(interface)
        + provider_host("edge-1", EDGE)
        + provider_gateway("gw", "192.0.2.1")
        + tenant("red", "gw")
        + subnet("web", WEB, "10.0.1.0/24")
    )


@pytest.fixture
def laboratory() -> Iterator[Laboratory]:
    with Laboratory() as lab:
        lab.link(lab.namespace("sender"), "eth1", lab.namespace("edge-1"), "eth1")
        lab.namespaces["sender"].ip(f"address add {SENDER}/24 dev eth1", "link set eth1 up")
        lab.namespaces["edge-1"].ip(f"address add {EDGE}/24 dev eth1", "link set eth1 up")
        yield lab


def start(lab: Laboratory, *, underlay: str = "", prefix: tuple[str, ...] = ()) -> Process:
    file = lab.directory / "edge-1.toml"
    file.write_text(configuration(lab, underlay))
    command = [*prefix, sys.executable, "-m", "gateway.cli", "run", str(file)]
    return lab.start("edge-1", lab.namespaces["edge-1"], *command)


def start_host(lab: Laboratory, *, interface: str = "vnet0", prefix: tuple[str, ...] = ()) -> Process:
    """Start it in the role of a host, with one port."""
    file = lab.directory / f"host-{interface}.toml"
    file.write_text(host_configuration(lab, interface))
    command = [*prefix, sys.executable, "-m", "gateway.cli", "run", str(file)]
    return lab.start("edge-1", lab.namespaces["edge-1"], *command)


def plug_in(lab: Laboratory) -> None:
    """Give the machine a VM's port, vnet0."""
    lab.link(lab.namespace("vm"), "eth0", lab.namespaces["edge-1"], "vnet0")


def echo_to_gateway() -> bytes:
    """An NVGRE packet with a ping of the gateway's address by the VM 10.0.1.5."""
    request = bytes((8, 0, 0xF7, 0xFE, 0, 1, 0, 0))
    packet = ip.build(socket.inet_aton("10.0.1.5"), socket.inet_aton("10.0.1.1"), 1, request)
    frame = gateway_mac(WEB) + MacAddress.parse("02:00:00:00:01:05") + b"\x08\x00" + packet
    return nvgre.encode(WEB) + frame


def ask_gateway(namespace: Namespace) -> bytes:
    """Send it from the host's provider address, and return the NVGRE packet that comes back."""

    def exchange() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE) as raw:
            raw.settimeout(5)
            raw.bind((SENDER, 0))
            raw.sendto(echo_to_gateway(), (EDGE, 0))
            return raw.recv(65535)[20:]

    return namespace.call(exchange)


def test_gateway_answers_from_its_first_moment_and_stops_when_told(laboratory: Laboratory) -> None:
    process = start(laboratory)
    process.wait_for(r"ready: gateway edge-1, on 192\.0\.2\.254 \(eth1, MTU 1500\), engine (python|xdp)")

    answer = ask_gateway(laboratory.namespaces["sender"])

    assert answer[:8] == nvgre.encode(WEB)
    assert answer[42] == 0, "not an echo reply"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert "stopping: SIGTERM" in process.output()
    assert process.output().rstrip().endswith("stopped")
    assert "Traceback" not in process.output()


def test_ctrl_c_ends_it_as_well(laboratory: Laboratory) -> None:
    process = start(laboratory)
    process.wait_for("ready")

    process.send_signal(signal.SIGINT)

    assert process.wait(10) == 0
    assert "Traceback" not in process.output()


def test_hangup_has_it_read_its_file_again(laboratory: Laboratory) -> None:
    process = start(laboratory)
    process.wait_for("ready")

    process.send_signal(signal.SIGHUP)

    process.wait_for("reloaded: nothing has changed")
    assert process.returncode is None


def test_signals_that_it_was_started_to_ignore_stay_ignored(laboratory: Laboratory) -> None:
    process = start(laboratory, prefix=("sh", "-c", "trap '' HUP INT; exec \"$@\"", "sh"))
    process.wait_for("ready")

    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGUSR1)

    process.wait_for(r"^\{.*\}$")
    assert process.returncode is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert re.findall("stopping: .*", process.output()) == ["stopping: SIGTERM"]


@pytest.fixture
def starting(laboratory: Laboratory) -> Iterator[tuple[Process, TextIO]]:
    """A process that has begun to read its configuration, and the pipe by which it reads."""
    file = laboratory.directory / "edge-1.fifo"
    os.mkfifo(file, 0o600)
    command = (sys.executable, "-m", "gateway.cli", "run", str(file))
    process = laboratory.start("edge-1", laboratory.namespaces["edge-1"], *command)
    with file.open("w") as pipe:  # which waits until it is opened for reading
        yield process, pipe


def test_signals_that_come_while_it_starts_are_heeded_once_it_can(
    laboratory: Laboratory, starting: tuple[Process, TextIO]
) -> None:
    process, pipe = starting
    process.send_signal(signal.SIGUSR1)
    pipe.write(configuration(laboratory))
    pipe.close()

    process.wait_for(r"^\{.*\}$")
    process.wait_for("ready")
    assert process.returncode is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_process_told_to_stop_while_it_starts_stops_in_order(
    laboratory: Laboratory, starting: tuple[Process, TextIO], number: signal.Signals
) -> None:
    process, pipe = starting
    process.send_signal(number)
    pipe.write(configuration(laboratory))
    pipe.close()

    assert process.wait(10) == 0
    assert f"stopping: {number.name}" in process.output()
    assert "Traceback" not in process.output()


def test_counters_are_one_line_of_json(laboratory: Laboratory) -> None:
    process = start(laboratory)
    process.wait_for("ready")

    process.send_signal(signal.SIGUSR1)
    counters = json.loads(process.wait_for(r"^\{.*\}$")[0])

    assert counters["node"] == "edge-1"
    assert counters["records"] == 1
    assert counters["drops"] == []
    assert counters["underlay"] == {"kernel_drops": 0, "icmp_errors": 0, "merged": 0}
    assert counters["ports"] == {"kernel_drops": 0, "unreadable": 0}
    assert [(meter["tenant"], meter["subnet"], meter["vsid"]) for meter in counters["meters"]] == [
        ("red", "web", 5001)
    ]


@pytest.mark.parametrize(("mtu", "warns"), [(1321, True), (1322, False)])
def test_underlay_that_carries_too_little_for_ipv6_is_warned_of(
    laboratory: Laboratory, mtu: int, warns: bool
) -> None:
    laboratory.namespaces["edge-1"].ip(f"link set eth1 mtu {mtu}")

    process = start(laboratory)

    process.wait_for("ready")
    said = (
        "the underlay's MTU of 1321 leaves IPv6 guests 1279 octets: fewer than the 1280 that every IPv6 link"
    )
    assert (said in process.output()) is warns


@pytest.fixture
def read_by_us(laboratory: Laboratory) -> Iterator[subprocess.Popen[bytes]]:
    """A gateway that is ready, and whose standard output is a small pipe that we may read or close."""
    file = laboratory.directory / "edge-1.toml"
    file.write_text(configuration(laboratory))
    command = [sys.executable, "-m", "gateway.cli", "run", str(file)]
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen(
        laboratory.namespaces["edge-1"].command(*command), stdout=writing, stderr=subprocess.PIPE
    ) as process:
        os.close(writing)
        process.stdout = os.fdopen(reading, "rb")
        try:
            for line in process.stdout:
                if b"ready" in line:
                    break
            yield process
        finally:
            process.kill()


def test_standard_output_that_nobody_reads_does_not_stall_it(
    laboratory: Laboratory, read_by_us: subprocess.Popen[bytes]
) -> None:
    for _ in range(100):
        read_by_us.send_signal(signal.SIGUSR1)
        time.sleep(0.005)

    assert ask_gateway(laboratory.namespaces["sender"])
    read_by_us.send_signal(signal.SIGTERM)
    assert read_by_us.wait(10) == 0


def test_standard_output_that_was_closed_does_not_stop_it(
    laboratory: Laboratory, read_by_us: subprocess.Popen[bytes]
) -> None:
    assert read_by_us.stdout
    assert read_by_us.stderr
    read_by_us.stdout.close()
    read_by_us.send_signal(signal.SIGUSR1)

    assert ask_gateway(laboratory.namespaces["sender"])
    read_by_us.send_signal(signal.SIGTERM)
    assert read_by_us.wait(10) == 0
    assert read_by_us.stderr.read() == b""


def test_what_the_network_sends_never_stops_it(laboratory: Laboratory) -> None:
    process = start(laboratory)
    process.wait_for("ready")
    sender = laboratory.namespaces["sender"]

    def throw() -> None:
        valid = echo_to_gateway()
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_GRE) as raw:
            raw.bind((SENDER, 0))
            for length in range(1, len(valid)):
                raw.sendto(valid[:length], (EDGE, 0))
            for position in range(len(valid)):
                raw.sendto(valid[:position] + b"\xff" + valid[position + 1 :], (EDGE, 0))

    sender.call(throw)

    assert ask_gateway(sender)
    process.send_signal(signal.SIGUSR1)
    counters = json.loads(process.wait_for(r"^\{.*\}$")[0])
    assert {"malformed", "not-nvgre", "unknown-vsid"} <= {drop["reason"] for drop in counters["drops"]}
    assert process.returncode is None


@pytest.mark.parametrize(
    ("underlay", "address", "message"),
    [
        pytest.param(
            "",
            "192.0.2.99/24",
            "underlay.provider_addresses: 192.0.2.254 is on no interface of this machine; "
            "its addresses are 192.0.2.99",
            id="address on no interface",
        ),
        pytest.param(
            'interfaces = ["eth9"]',
            f"{EDGE}/24",
            "underlay.interfaces: eth9 is not on this machine",
            id="interface",
        ),
        pytest.param(
            "mtu = 9000", f"{EDGE}/24", "underlay.mtu: 9000 is more than the 1500 of eth1", id="mtu"
        ),
    ],
)
def test_machine_that_does_not_fit_is_told_of_by_the_key(
    laboratory: Laboratory, underlay: str, address: str, message: str
) -> None:
    laboratory.namespaces["edge-1"].ip("address flush dev eth1", f"address add {address} dev eth1")

    process = start(laboratory, underlay=underlay)

    assert process.wait(20) == 2
    assert message in process.output()
    assert "Traceback" not in process.output()


def test_missing_privilege_is_said_in_one_sentence(laboratory: Laboratory) -> None:
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all")
    process = start(laboratory, prefix=bare)

    assert process.wait(20) == 2
    assert "underlay: raw sockets need root or CAP_NET_RAW: run as root, or grant it" in process.output()
    assert "Traceback" not in process.output()


def test_host_that_may_not_keep_its_ports_apart_does_not_claim_to_be_ready(laboratory: Laboratory) -> None:
    plug_in(laboratory)
    only_raw = ("setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all", "--ambient-caps=-all")
    process = start_host(laboratory, prefix=only_raw)

    assert process.wait(20) == 2
    said = "host.port[vnet0]: keeping a port apart needs root or CAP_NET_ADMIN: run as root, or grant it"
    assert said in process.output()
    assert "ready" not in process.output()
    assert "Traceback" not in process.output()


# As containers have it.
READ_ONLY = ("unshare", "--mount", "sh", "-c", 'mount --bind -o ro /proc/sys /proc/sys && exec "$@"', "sh")
REFUSED = "host.port[vnet0]: keeping a port apart needs to write below /proc/sys/net, which is read-only:"


def state_of_port(lab: Laboratory) -> tuple[str, bool]:
    edge = lab.namespaces["edge-1"]
    link = edge.run("ip", "link", "show", "vnet0").stdout
    return link[link.index("<") : link.index(">")], edge.call(is_ipv6_off, "vnet0")


def test_host_whose_settings_are_read_only_does_not_claim_to_be_ready(laboratory: Laboratory) -> None:
    plug_in(laboratory)
    before = state_of_port(laboratory)

    process = start_host(laboratory, prefix=READ_ONLY)

    assert process.wait(20) == 2
    assert REFUSED in process.output()
    assert "ready" not in process.output()
    assert "Traceback" not in process.output()
    assert state_of_port(laboratory) == before


def test_port_that_comes_later_and_cannot_be_kept_apart_is_left_alone(laboratory: Laboratory) -> None:
    process = start_host(laboratory, prefix=READ_ONLY)
    process.wait_for("ready")

    plug_in(laboratory)
    before = state_of_port(laboratory)
    process.wait_for(r"ERROR .*: port vnet0 is left alone")
    time.sleep(0.5)

    assert process.output().count(REFUSED) == 1
    assert state_of_port(laboratory) == before
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_port_on_the_underlays_own_interface_is_refused_before_anything_is_changed(
    laboratory: Laboratory,
) -> None:
    edge = laboratory.namespaces["edge-1"]

    def state() -> tuple[str, bool]:
        return edge.run("ip", "-details", "link", "show", "eth1").stdout, edge.call(is_ipv6_off, "eth1")

    before = state()
    process = start_host(laboratory, interface="eth1")

    assert process.wait(20) == 2
    assert "host.port[eth1].interface: eth1 belongs to the underlay; name" in process.output()
    assert "Traceback" not in process.output()
    assert state() == before


def is_ipv6_off(interface: str) -> bool:
    return Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6").read_text() == "1\n"


def test_second_process_with_the_same_address_is_refused_and_the_first_goes_on(
    laboratory: Laboratory,
) -> None:
    start(laboratory).wait_for("ready")

    second = start(laboratory)

    assert second.wait(20) == 2
    assert "underlay.provider_addresses: 192.0.2.254 is served by another isthmus already" in second.output()
    assert "Traceback" not in second.output()
    assert ask_gateway(laboratory.namespaces["sender"])


def test_address_of_a_process_that_was_killed_is_served_by_the_next(laboratory: Laboratory) -> None:
    first = start(laboratory)
    first.wait_for("ready")
    first.send_signal(signal.SIGKILL)
    first.wait(10)

    start(laboratory).wait_for("ready")


def test_same_address_in_another_network_namespace_is_another_address(laboratory: Laboratory) -> None:
    start(laboratory).wait_for("ready")
    elsewhere = laboratory.namespace("elsewhere")
    elsewhere.ip("link add eth1 type veth", f"address add {EDGE}/24 dev eth1", "link set eth1 up")
    file = laboratory.directory / "edge-1.toml"

    other = laboratory.start("other", elsewhere, sys.executable, "-m", "gateway.cli", "run", str(file))

    other.wait_for("ready")


def test_lookup_node_alone_runs_without_an_underlay(tmp_path: Path, laboratory: Laboratory) -> None:
    file = tmp_path / "lookup.toml"
    file.write_text(f'[appliance]\nname = "nva-1"\nstate = "{tmp_path}/state"\n[lookup]\n')

    namespace = laboratory.namespaces["edge-1"]
    process = laboratory.start("nva-1", namespace, sys.executable, "-m", "gateway.cli", "run", str(file))

    process.wait_for("ready: lookup service on 127.0.0.1:7637, store sqlite")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
