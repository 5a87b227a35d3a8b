"""A stop in order within 5 s, whoever does not answer, does not read or has long gone.

live ---- eth1 edge-1 eth2 ---- dead
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway import control
from gateway.lab.laboratory import Laboratory
from gateway.lab.processes import Process
from policies.errors import Unanswered
from tests.configurations import RED, edge_1, gateway, site, subnet, table, tenant

pytestmark = pytest.mark.netns

# What the service manager, and an operator, may count on.
IN_TIME = 5.0

EDGE = edge_1(state="state-edge-1") + table("[lookup]", listen="127.0.0.1:7637") + RED
SITES = (("live", "192.0.2.1", "172.16.1.0/24"), ("dead", "198.51.100.1", "172.16.2.0/24"))


def device(name: str, address: str, prefix: str) -> str:
    """The configuration of a site's device, to which the datacenter is a site."""
    return (
        gateway(name, address, state=f"state-{name}")
        + tenant("red", name)
        + subnet("lan", 5101, prefix)
        + site("edge-1", "10.0.1.0/24", "192.0.2.254", gateway=name, psk_file=f"{name}.psk", start="respond")
    )


class World(Laboratory):
    """The gateway with two sites, and both sites' devices."""

    def build(self) -> None:
        edge, live, dead = (self.namespace(name) for name in ("edge-1", "live", "dead"))
        self.link(live, "eth1", edge, "eth1")
        self.link(dead, "eth1", edge, "eth2")
        edge.ip("address add 192.0.2.254/24 dev eth1", "address add 198.51.100.254/24 dev eth2")
        edge.ip("link set lo up")
        live.ip("address add 192.0.2.1/24 dev eth1")
        dead.ip("address add 198.51.100.1/24 dev eth1", "route add default via 198.51.100.254")
        sites = [site(name, prefix, address) for name, address, prefix in SITES]
        (self.directory / "edge-1.toml").write_text(EDGE + "".join(sites))
        for name, address, prefix in SITES:
            secret = self.directory / f"{name}.psk"
            secret.touch(mode=0o600)
            secret.write_text(f"only for {name}")
            (self.directory / f"{name}.toml").write_text(device(name, address, prefix))

    def run_node(self, name: str, *prefix: str) -> Process:
        """Start one of them."""
        file = self.directory / f"{name}.toml"
        return self.start(
            name, self.namespaces[name], *prefix, sys.executable, "-m", "gateway.cli", "run", str(file)
        )

    def start_all(self, *prefix: str) -> tuple[Process, list[Process]]:
        """Start the devices live and dead, then the gateway; return it and them when its tunnels are up."""
        devices = [self.run_node(name) for name, _, _ in SITES]
        for device in devices:
            device.wait_for("ready")
        edge = self.run_node("edge-1", *prefix)
        self._wait_for_sites()
        return edge, devices

    def _wait_for_sites(self) -> None:
        path = control.socket_path(self.directory / "state-edge-1", "edge-1")
        deadline = time.monotonic() + 20
        while True:
            try:
                if [site["state"] for site in control.ask(path, "sites")] == ["up", "up"]:
                    return
            except Unanswered:
                assert time.monotonic() < deadline
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def fall_silent(self, name: str) -> None:
        """Have a device be there no more, without a word."""
        self.namespaces[name].ip("link set eth1 down")

    def connect(self, request: bytes) -> socket.socket:
        """Ask the lookup service something, and leave the answer unread."""

        def opened() -> socket.socket:
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(10)
            client.connect(("127.0.0.1", 7637))
            client.setblocking(False)
            while request:
                try:
                    client.sendall(request)
                except BlockingIOError:
                    break  # neither side reads any more
                if not request.startswith(b"GET /openapi"):
                    break
            client.settimeout(10)
            return client

        made: socket.socket = self.namespaces["edge-1"].call(opened)
        return made


@pytest.fixture
def world() -> Iterator[World]:
    with World() as lab:
        yield lab


@pytest.fixture
def full_pipe(tmp_path: Path) -> Iterator[Path]:
    """Somewhere to write to until it is full, which it soon is."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    os.write(reader, bytes(4000))
    yield path
    os.close(reader)


def stop(process: Process, *signals: signal.Signals) -> tuple[int, float]:
    """Tell a process to stop; return its exit code, and how many seconds that took."""
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    for each in signals:
        time.sleep(0.2)
        process.send_signal(each)
    return process.wait(20), time.monotonic() - begun


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def rest(client: socket.socket) -> bytes:
    found = b""
    while chunk := client.recv(65536):
        found += chunk
    return found


def test_stop_takes_less_than_5_s_with_a_dead_peer_slow_clients_and_a_log_that_nobody_reads(
    world: World, full_pipe: Path
) -> None:
    edge, (live, _) = world.start_all("sh", "-c", f'exec "$@" > {full_pipe}', "sh")
    world.fall_silent("dead")
    with ExitStack() as clients:
        watches = [clients.enter_context(world.connect(request("/v1/watch"))) for _ in range(3)]
        for watch in watches:
            assert watch.recv(65536).startswith(b"HTTP/1.1 200")
        slow = clients.enter_context(world.connect(request("/openapi.json") * 64))
        half = clients.enter_context(
            world.connect(b"POST /v1/migrate HTTP/1.1\r\nHost: localhost\r\nContent-Le")
        )

        code, seconds = stop(edge)

        assert (code, seconds < IN_TIME) == (0, True), seconds
        for watch in watches:
            assert rest(watch).endswith(b"0\r\n\r\n")  # they were told that it is over
        assert half.recv(65536) == b""
        with pytest.raises(ConnectionResetError):
            rest(slow)
    live.wait_for(r"\bdown\b")


def test_stop_takes_no_time_where_everybody_answers(world: World) -> None:
    edge, _ = world.start_all()
    with world.connect(request("/v1/watch")) as watch:
        watch.recv(65536)

        code, seconds = stop(edge)

        assert rest(watch).endswith(b"0\r\n\r\n")
    assert (code, seconds < 1.5) == (0, True), seconds


def test_stop_while_somebody_captures_tells_peers_as_ever(world: World) -> None:
    edge, devices = world.start_all()
    with world.connect(request("/v1/capture?side=both")) as capture:
        assert capture.recv(65536).startswith(b"HTTP/1.1 200")

        code, seconds = stop(edge)

        rest(capture)
    assert (code, seconds < 1.5) == (0, True), seconds
    for device in devices:
        device.wait_for(r"\bdown\b")


def test_second_signal_waits_for_no_peer(world: World) -> None:
    edge, _ = world.start_all()
    world.fall_silent("dead")
    world.fall_silent("live")

    code, seconds = stop(edge, signal.SIGTERM)

    assert (code, seconds < 1.5) == (0, True), seconds


def test_store_that_hangs_does_not_keep_the_process(world: World) -> None:
    """A thread that never comes back, as one does that writes to a disk that is gone."""
    file = world.directory / "edge-1.toml"
    file.write_text(EDGE)
    hangs = (
        "import sys, threading; from gateway.lookup.stores import sqlite;"
        " sqlite.SqliteStore._let_go = lambda _self: threading.Event().wait();"
        " from gateway.cli import main; sys.argv[1:] = ['run', sys.argv[1]]; main()"
    )
    edge = world.start("edge-1", world.namespaces["edge-1"], sys.executable, "-c", hangs, str(file))
    edge.wait_for("ready")

    code, seconds = stop(edge)

    assert (code, seconds < IN_TIME) == (1, True), seconds
    assert "something hangs, so this ends without it; threads: MainThread, " in edge.output()
