"""The demo, as a newcomer runs it.

hv1 --- underlay (a router) --- hv2
             |
           edge-1
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.lab import demo, demo_migration, nodes, strongswan, tools
from gateway.lab.demo import Demo

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "gateway.cli", "demo"]


def test_demo_proves_itself_in_time_and_leaves_captures(tmp_path: Path) -> None:
    scapy = pytest.importorskip("scapy.all")
    done = subprocess.run(
        [*COMMAND, "--pcap", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.stderr, done.returncode) == ("", 0), done.stdout
    assert "\x1b[" not in done.stdout  # a log has no colours
    held, claims, seconds = re.findall(r"(\d+) of (\d+) claims hold; ([\d.]+) s", done.stdout)[0]
    assert int(held) == int(claims) > 45
    assert float(seconds) < 120
    assert "50000000 bytes" in done.stdout

    packets = list(scapy.rdpcap(str(tmp_path / "edge-1.pcap")))
    nvgre = [packet for packet in packets if scapy.GRE in packet]
    assert {packet[scapy.GRE].key >> 8 for packet in nvgre} == {5001, 5002, 6001, 6002}
    assert {packet[scapy.GRE].proto for packet in nvgre} == {0x6558}
    assert {bytes(packet[scapy.GRE])[:2].hex() for packet in nvgre} == {"2000"}
    outer = [packet[scapy.IP] for packet in packets if scapy.IP in packet]
    assert all(packet.flags == "DF" and packet.frag == 0 for packet in outer if packet.proto == 47)
    for name in ("hv1", "hv2"):
        assert len(scapy.rdpcap(str(tmp_path / f"{name}.pcap"))) > 50


def test_demo_does_without_installed_tools(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tools, "find", tools.probe)
    monkeypatch.setattr(strongswan, "missing", lambda: "swanctl is not installed")
    # Without the tools a move is shown as with them, but for the pings: nothing is left to show here.
    monkeypatch.setattr(demo_migration.MigrationDemo, "move", lambda *_, **__: None)

    assert demo.run() == 0
    said = capsys.readouterr().out
    for name in ("ping", "traceroute", "tracepath"):
        assert said.count(f"({name} is not installed here, so this is a probe of our own)") == 1
    assert (
        "(swanctl is not installed, so each VPN device is a second isthmus, which dials the gateway)" in said
    )


def test_demo_fails_and_says_which_claim_does_not_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def show(self: Demo) -> None:
        self.start_nodes()
        self.across_subnets()

    # With all records the hosts need no gateway, so the claims that it carries packets are wrong.
    monkeypatch.setattr(demo, "knows", lambda _node, _vm: True)
    monkeypatch.setattr(Demo, "show", show)
    monkeypatch.setattr(demo_migration, "show", lambda _narrator: None)

    assert demo.run() == 1
    said = capsys.readouterr()
    sentence = "The gateway carried those 12 requests: only it has the records of the db subnets."
    assert f"does not hold: {sentence}" in said.out
    assert f"isthmus demo: does not hold: {sentence}" in said.err


def test_demo_whose_node_does_not_start_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nodes, "run_command", lambda _file: ["sh", "-c", "echo out of luck; exit 3"])

    assert demo.run() == 1
    assert "hv1 ended with 3" in capsys.readouterr().err


def running_since(pid: str) -> str | None:
    """Tell a process from a later one with its number; None: it has ended, and may wait to be reaped."""
    try:
        _, _, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *others = fields.split()
    return None if state in "ZX" else others[18]  # starttime of proc(5)


def test_demo_stopped_by_ctrl_c_takes_everything_down() -> None:
    process = subprocess.Popen(
        COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "All three are ready" in line:
                break
        pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        children = {pid: began for pid in pids if (began := running_since(pid)) is not None}
        assert len(children) >= 3, "".join(seen)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert errors == "isthmus demo: stopped; everything is taken down\n"
    assert not [pid for pid, began in children.items() if running_since(pid) == began]
