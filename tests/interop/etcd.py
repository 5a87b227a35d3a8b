"""A cluster of real etcd members, and what can happen to them.

    n1 10.77.0.1   n2 10.77.0.2   n3 10.77.0.3     node 10.77.0.9, where the store is
          |              |              |                |
          +-------------- switch ------+----------------+

Each member is a process in a namespace of its own: it can be killed, paused, and cut off
from the node, from the other members, or from both.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.lab.laboratory import Laboratory
from gateway.lab.namespaces import Namespace
from gateway.lab.processes import Process
from gateway.lookup.stores.etcd import EtcdStore
from policies.services import Etcd
from tests.interop.authority import Authority, Credential

T = TypeVar("T")

COMMANDS = ("etcd", "etcdctl")
READY = "serving client traffic"
NODE = "10.77.0.9"
CLIENT_PORT, PEER_PORT = 2379, 2380
TLS_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


class Tls:
    """An authority, what it issues, and where the files are."""

    def __init__(self, directory: Path, name: str = "etcd") -> None:
        self.authority = Authority(f"{name} authority")
        self._directory = directory / f"tls-{name}"
        self._directory.mkdir()
        self.authority_file = self._write("ca.pem", self.authority.pem)

    def issue(self, name: str, addresses: Sequence[str] = ()) -> tuple[Path, Path]:
        """Return the files of a certificate and of its key."""
        issued: Credential = self.authority.issue(name, usages=TLS_USAGES, addresses=addresses)
        return self._write(f"{name}.pem", issued.chain), self._write(f"{name}.key", issued.key)

    def _write(self, name: str, content: bytes) -> Path:
        path = self._directory / name
        path.write_bytes(content)
        return path


class Member:
    """One etcd, and the namespace that it is in."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.name = f"n{number}"
        self.address = f"10.77.0.{number}"
        self.namespace = cluster.attach(self.name, self.address)
        self._cluster = cluster
        self._process: Process | None = None

    @property
    def endpoint(self) -> str:
        return f"{self._cluster.scheme}://{self.address}:{CLIENT_PORT}"

    @property
    def process(self) -> Process:
        assert self._process is not None, f"{self.name} has not been started"
        return self._process

    def start(self) -> None:
        """Start it, with what it has stored before; `ready` waits."""
        scheme, peers = self._cluster.scheme, f"http://{self.address}:{PEER_PORT}"
        local = f"{scheme}://127.0.0.1:{CLIENT_PORT}"
        members = self._cluster.members or [self]
        cluster = ",".join(f"{each.name}=http://{each.address}:{PEER_PORT}" for each in members)
        self._process = self._cluster.start(
            self.name,
            self.namespace,
            *("etcd", "--name", self.name, "--logger", "zap", "--initial-cluster", cluster),
            *("--data-dir", str(self._cluster.directory / self.name)),
            *("--listen-client-urls", f"{self.endpoint},{local}", "--advertise-client-urls", self.endpoint),
            *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
            *self._cluster.tls_options(self),
        )

    def ready(self) -> None:
        self.process.wait_for(READY, timeout=20)

    def kill(self) -> None:
        """As a power failure does, but for what the kernel has not written yet."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def cut_off(self, addresses: Iterable[str]) -> None:
        """Lose every packet from and to some addresses, silently."""
        those = "{ " + ", ".join(addresses) + " }"
        rules = (
            "table ip cut { chain in { type filter hook input priority 0; ",
            f"ip saddr {those} drop; }}; ",
            f"chain out {{ type filter hook output priority 0; ip daddr {those} drop; }}; }}",
        )
        self.namespace.run("nft", "-f", "-", stdin="".join(rules) + "\n")

    def heal(self) -> None:
        self.namespace.run("nft", "delete", "table", "ip", "cut")


class Cluster(Laboratory):
    """Three members on a switch, started and ready, and the node beside them."""

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__()
        self.members: list[Member] = []
        self.tls = Tls(self.directory) if tls else None

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    def build(self) -> None:
        self.namespace("switch").ip("link add bridge type bridge", "link set bridge up")
        self.node = self.attach("node", NODE)
        self.members = [Member(self, number) for number in (1, 2, 3)]
        for member in self.members:
            member.start()
        for member in self.members:
            member.ready()

    def close(self) -> None:
        for member in self.members:
            member.kill()  # one that misses the others would take its time to leave
        super().close()

    def attach(self, name: str, address: str) -> Namespace:
        """Make a namespace with an address on the switch."""
        switch, namespace = self.namespaces["switch"], self.namespace(name)
        self.link(namespace, "eth0", switch, f"port-{name}")
        switch.ip(f"link set port-{name} master bridge")
        namespace.ip(f"address add {address}/24 dev eth0")
        return namespace

    def settings(self, tls: Tls | None = None, members: Sequence[Member] = ()) -> Etcd:
        """What a lookup node is configured with."""
        endpoints = tuple(member.endpoint for member in members or self.members)
        tls = tls or self.tls
        if tls is None:
            return Etcd(endpoints)
        certificate, key = tls.issue("lookup")
        return Etcd(endpoints, tls.authority_file, certificate, key)

    def tls_options(self, member: Member) -> tuple[str, ...]:
        if self.tls is None:
            return ()
        certificate, key = self.tls.issue(member.name, (member.address, "127.0.0.1"))
        options = {"cert": certificate, "key": key, "trusted-ca": self.tls.authority_file}
        return ("--client-cert-auth", *(f"--{name}-file={path}" for name, path in options.items()))

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run something of asyncio's on the node."""
        return self.node.call(asyncio.run, main)

    def leader(self) -> Member:
        """Ask the members who leads them."""
        for member in self.members:
            done = member.namespace.run(
                *("etcdctl", "endpoint", "status", "--write-out", "json", "--command-timeout", "2s"),
                check=False,
                timeout=10,
            )
            for each in json.loads(done.stdout or "[]"):
                status = each["Status"]
                if status["leader"] == status["header"]["member_id"]:
                    return member
        raise AssertionError("no member leads")

    def others(self, member: Member) -> list[Member]:
        return [each for each in self.members if each is not member]


class Single:
    """One member on a port of the loopback interface, for what needs no network of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        client, peer = free_ports(2)
        self.endpoint, self._peers = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        self._cluster = ("--name", "single", "--initial-cluster", f"single={self._peers}")
        self._data = directory / "data"
        self._process: Process | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, with what it has stored before, and wait until it answers."""
        self._process = Process(
            "etcd",
            [
                *("etcd", "--logger", "zap", "--data-dir", str(self._data), *self._cluster),
                *("--listen-client-urls", self.endpoint, "--advertise-client-urls", self.endpoint),
                *("--listen-peer-urls", self._peers, "--initial-advertise-peer-urls", self._peers),
            ],
            self._directory / f"{self._data.name}.log",
        )
        self._process.wait_for(READY, timeout=20)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def backup(self) -> Path:
        """Write all that it has to a file, as an operator does."""
        file = self._directory / "backup"
        self._control("--endpoints", self.endpoint, "snapshot", "save", str(file))
        return file

    def restore(self, backup: Path) -> None:
        """Begin again with what a backup has."""
        self.stop()
        self._data = self._directory / "restored"
        options = (*self._cluster, "--initial-advertise-peer-urls", self._peers)
        self._control("snapshot", "restore", str(backup), "--data-dir", str(self._data), *options)
        self.start()

    def _control(self, *arguments: str) -> None:
        subprocess.run(["etcdctl", *arguments], check=True, capture_output=True, timeout=20)


@asynccontextmanager
async def opened(settings: Etcd, now: Callable[[], float] = time.time) -> AsyncIterator[EtcdStore]:
    """A store, closed at the end."""
    store = await EtcdStore.open(settings, now=now)
    try:
        yield store
    finally:
        await store.close()


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nobody has just now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
