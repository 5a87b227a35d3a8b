"""A gateway of ours, enterprises with strongSwan, and traffic between them.

red-web1, blue-web1                      seattle-server, boston-server 172.16.0.10
         |                                              |
        hv1 --- underlay --- internet ---(nat)--- seattle, boston (strongSwan)
                   |
                edge-1 (isthmus run)
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import cached_property
from typing import Any

import msgspec
import pytest

from gateway import control
from gateway.lab import nodes, premises
from gateway.lab.namespaces import LabError, Namespace
from gateway.lab.premises import Internet, Premises
from gateway.lab.processes import POLL_SECONDS, Process
from gateway.lab.strongswan import Child, Connection, StrongSwan
from gateway.lab.topology import Datacenter, Plan, Site, standard_plan
from gateway.sites.status import SiteStatus
from policies.errors import ConfigurationError, Unanswered

EDGE = "192.0.2.254"
EDGE_ID = "edge-1.example"
VM_SUBNETS = ("10.0.1.0/24", "fd00:1::/64")
VM = "10.0.1.5"
SERVER = premises.SERVER[0]
SECRET = "only for the laboratory"  # noqa: S105 - as it says
CONNECTION = "edge"
CHILD = "net"

# What we and strongSwan are configured with, so that just one suite is possible.
GCM = ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384")
SUITES = {
    "gcm256-ecp384": GCM,
    "chacha-x25519": ("chacha20poly1305-prfsha256-x25519", "chacha20poly1305-x25519"),
    "cbc256-sha256-ecp256": ("aes256-sha256-ecp256", "aes256-sha256-ecp256"),
    "cbc256-sha384-modp2048": ("aes256-sha384-modp2048", "aes256-sha384-modp2048"),
    "cbc128-sha512-ecp521": ("aes128-sha512-ecp521", "aes128-sha512-ecp521"),
    "gcm128-ecp256": ("aes128gcm16-prfsha256-ecp256", "aes128gcm16-ecp256"),
}


class Initiator(StrEnum):
    """Who dials."""

    ISTHMUS = "isthmus"
    STRONGSWAN = "strongswan"


def matrix(names: Iterable[str], quick: Collection[tuple[str, Initiator]]) -> list[Any]:
    """Each name with each side dialling; those that are not quick are marked as long."""
    return [
        pytest.param(
            name,
            initiator,
            id=f"{name}-{initiator}",
            marks=() if (name, initiator) in quick else pytest.mark.long,
        )
        for name in names
        for initiator in Initiator
    ]


def plan(underlay: Sequence[int]) -> Plan:
    """One host with a VM each of Red and Blue, which have the same address, and the gateway."""
    standard = standard_plan(subnets=("web",), vms_per_subnet=1, underlay=underlay)
    return msgspec.structs.replace(standard, hosts=standard.hosts[:1])


def site_named(
    name: str,
    *,
    tenant: str = "red",
    peer: str = "any",
    suite: tuple[str, str] = GCM,
    ike: Mapping[str, Any] | None = None,
    **others: Any,
) -> Site:
    """A site with a pre-shared key, in NAME.psk, and both its identities; `ike` overrides them."""
    identities: dict[str, Any] = {"local_id": EDGE_ID, "remote_id": f"{name}.example"}
    return Site(
        tenant=tenant,
        name=name,
        prefixes=premises.PREFIXES,
        peer=peer,
        ike={**identities, **(ike or {"psk_file": f"{name}.psk"})},
        others={"ike_proposals": [suite[0]], "esp_proposals": [suite[1]], **others},
    )


def connection_of(
    name: str,
    *,
    suite: tuple[str, str] = GCM,
    initiates: bool = False,
    child_rekey_seconds: float | None = None,
    **others: Any,
) -> Connection:
    """The enterprise's side of `site_named`."""
    secret = None if "certificate" in others else SECRET
    given: dict[str, Any] = {
        "local_id": f"{name}.example",
        "remote_id": EDGE_ID,
        "psk": secret,
        "proposals": suite[0],
    }
    given |= others
    child = Child(
        local=premises.PREFIXES,
        remote=VM_SUBNETS,
        proposals=suite[1],
        start="start" if initiates else "none",
        rekey_seconds=child_rekey_seconds,
    )
    given.setdefault("children", {CHILD: child})
    return Connection(remote_address=EDGE, **given)


class Gateway:
    """The running gateway, and what it says of its sites."""

    def __init__(self, lab: Datacenter, process: Process, name: str = "edge-1") -> None:
        self.process = process
        self._socket = control.socket_path(lab.directory / name, name)

    def site(self, name: str) -> SiteStatus:
        """Return what it says of a site. Raises LabError."""
        sites = msgspec.convert(self._ask("sites"), list[SiteStatus])
        return next(each for each in sites if each.site == name)

    def reload(self) -> None:
        """Have it read its configuration and secrets again. Raises LabError."""
        self._ask("reload")

    def _ask(self, question: str) -> Any:
        """Ask as the command line does."""
        try:
            return control.ask(self._socket, question)
        except (Unanswered, ConfigurationError) as error:
            raise LabError(f"{question}: {error}\n{self.process.tail(40)}") from error

    def kill(self) -> None:
        """End it at once: its peers learn nothing. Raises LabError."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait_until_up(self, name: str, timeout: float = 20) -> SiteStatus:
        """Return what is said of a site once it is up. Raises LabError."""
        return self.wait_for(name, lambda site: site.state == "up", "up", timeout)

    def wait_for_error(self, name: str, pattern: str, timeout: float = 20) -> str:
        """Return a site's last error once it matches a pattern, whatever the case. Raises LabError."""

        def matches(site: SiteStatus) -> bool:
            return site.last_error is not None and bool(
                re.search(pattern, site.last_error.why, re.IGNORECASE)
            )

        last = self.wait_for(name, matches, f"wrong by {pattern!r}", timeout).last_error
        return last.why if last is not None else ""

    def wait_for(
        self, name: str, condition: Callable[[SiteStatus], bool], wanted: str, timeout: float = 20
    ) -> SiteStatus:
        """Return what is said of a site once a condition holds of it. Raises LabError."""
        deadline = time.monotonic() + timeout
        while not condition(site := self.site(name)):
            if time.monotonic() > deadline:
                raise LabError(f"{name} is not {wanted} in {timeout:g} s: {site}\n{self.process.tail(40)}")
            time.sleep(20 * POLL_SECONDS)
        return site


class World(Datacenter):
    """The datacenter with hv1 running, and the internet; premises are added, the gateway is started."""

    def __init__(self, underlay: Sequence[int] = (4,)) -> None:
        super().__init__(plan(underlay))
        self.premises: dict[str, Premises] = {}

    def build(self) -> None:
        super().build()
        self.internet = Internet(self)

    @cached_property
    def nat(self) -> premises.Nat:
        """The one NAT router."""
        return self.internet.nat()

    def add_premises(self, name: str, *, nat: premises.Nat | None = None) -> Premises:
        """Attach an enterprise, and put its secret where the gateway looks for it."""
        added = self.premises[name] = self.internet.premises(name, nat)
        self.put_secret(f"{name}.psk", SECRET)
        return added

    def put_secret(self, name: str, text: str | bytes) -> None:
        """Write a file beside edge-1.toml that nobody else can read."""
        file = self.directory / name
        file.touch(mode=0o600)
        file.write_bytes(text.encode() if isinstance(text, str) else text)

    def start_gateway(self, *sites: Site) -> Gateway:
        """Start hv1 and edge-1 with these sites. Raises LabError."""
        self.plan = msgspec.structs.replace(self.plan, sites=sites)
        return Gateway(self, nodes.start(self)["edge-1"])

    def restart_gateway(self) -> Gateway:
        """Start edge-1 again with the configuration that it has. Raises LabError."""
        file = self.directory / "edge-1.toml"
        process = self.start("edge-1-again", self.node("edge-1"), *nodes.run_command(file))
        process.wait_for(r"\bready\b")
        return Gateway(self, process)

    def strongswan(self, name: str, connection: Connection, **settings: Any) -> StrongSwan:
        """Make an enterprise's strongSwan with one connection; the caller starts it."""
        device = self.premises[name].device
        return StrongSwan(self, f"{name}-swan", device, {CONNECTION: connection}, **settings)

    def let_speak(self, machine: Namespace, words: str) -> None:
        """Have a machine say something to whoever asks."""
        name = f"{machine.name}-says"
        self.start_python(name, machine, "gateway.lab.probe", "say", "80", words).wait_for("^listening")

    def ask(self, machine: Namespace, address: str) -> str:
        """Return what the machine with an address says to another. Raises LabError."""
        command = (sys.executable, "-m", "gateway.lab.probe", "ask", address, "80", "--timeout", "5")
        return machine.run(*command).stdout.strip()

    def server(self, name: str) -> Namespace:
        """Return the namespace of an enterprise's server."""
        return self.premises[name].server


def started(
    world: World,
    initiator: Initiator,
    *,
    suite: tuple[str, str] = GCM,
    site: Mapping[str, Any] | None = None,
    connection: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    prepare: Callable[[StrongSwan], None] = lambda _: None,
    child: str = CHILD,
) -> tuple[Gateway, StrongSwan]:
    """Start both ends of Red's site seattle; whoever dials is the last.

    `site` and `connection` are keys of the two configurations, and `settings` those of StrongSwan.
    Raises LabError where an end does not start; the tunnel may still fail.
    """
    place = world.premises.get("seattle") or world.add_premises("seattle")
    start = "start" if initiator is Initiator.ISTHMUS else "respond"
    ours = site_named("seattle", suite=suite, **{"peer": place.public, "start": start, **(site or {})})
    theirs = connection_of("seattle", suite=suite, **(connection or {}))
    swan = world.strongswan("seattle", theirs, **(settings or {}))
    prepare(swan)
    if initiator is Initiator.ISTHMUS:
        swan.start()
        return world.start_gateway(ours), swan
    gateway = world.start_gateway(ours)
    swan.start()
    swan.initiate(child, check=False)
    return gateway, swan


def connected(world: World, initiator: Initiator, **options: Any) -> tuple[Gateway, StrongSwan]:
    """Do what `started` does, and wait until the tunnel is up. Raises LabError."""
    gateway, swan = started(world, initiator, **options)
    gateway.wait_until_up("seattle")
    swan.wait_until_up(CONNECTION)
    return gateway, swan


def lost(source: Namespace, target: str = SERVER, *, count: int = 3, interval: float = 0.05) -> int:
    """Ping and return how many packets were lost."""
    command = ("ping", "-n", "-q", "-c", str(count), "-i", f"{interval:g}", "-W", "2", target)
    said = source.run(*command, check=False, timeout=60 + count * interval).stdout
    sent, received = map(int, re.findall(r"(\d+) packets transmitted, (\d+) received", said)[0])
    return int(sent - received)


def transfers(world: World, source: Namespace, sink: Namespace, address: str, octets: int) -> bool:
    """Whether a transfer by TCP arrives whole, with the same hash at both ends."""
    receiver = world.start_python("receiver", sink, "gateway.lab.probe", "receive", "5001")
    receiver.wait_for("^listening")
    command = (sys.executable, "-m", "gateway.lab.probe", "send", address, "5001", str(octets))
    try:
        return "the receiver has the same" in source.run(*command, timeout=120, check=False).stdout
    finally:
        receiver.stop()
        world.processes.remove(receiver)


class Traffic:
    """A ping flood and a TCP stream between two machines, both in the background."""

    def __init__(
        self, world: Datacenter, source: Namespace, sink: Namespace, address: str, seconds: float
    ) -> None:
        self.pings = int(seconds * 200)
        self._seconds = seconds
        server = world.start("iperf3-server", sink, "iperf3", "-s", "-1", "--forceflush")
        server.wait_for("listening")
        # Without a limit it would lose packets by filling queues, with large segments by the path's MTU.
        stream = ("-t", f"{seconds:g}", "-b", "20M", "-M", "1200", "-J", "--connect-timeout", "5000")
        flood = ("-n", "-q", "-c", str(self.pings), "-i", "0.005", "-W", "2")
        self._stream = world.start("iperf3", source, "iperf3", "-c", address, *stream)
        self._flood = world.start("ping", source, "ping", *flood, address)
        self._begun = time.monotonic()

    def wait(self, seconds: float) -> None:
        """Wait until so many seconds after the start."""
        time.sleep(max(0.0, self._begun + seconds - time.monotonic()))

    def pings_lost(self) -> int:
        """Wait until the flood ends, and return how many pings got no answer. Raises LabError."""
        self._flood.wait(self._seconds * 2 + 20)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", self._flood.output())
        if found is None:
            raise LabError(f"ping said {self._flood.output()}")
        return int(found[1]) - int(found[2])

    def slowest_second(self) -> float:
        """Wait until the stream ends, and return how much its slowest second carried, of what it should.

        Retransmissions say nothing: libipsec's threads reorder packets, and TCP takes that for loss.
        Raises LabError.
        """
        self._stream.wait(self._seconds + 30)
        report = json.loads(self._stream.output())
        if "error" in report:
            raise LabError(f"iperf3: {report['error']}")
        rates = [
            each["sum"]["bits_per_second"] for each in report["intervals"] if each["sum"]["seconds"] > 0.5
        ]
        return float(min(rates) / 20e6)
