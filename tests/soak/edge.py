"""A real gateway between numbered packets' two ends, with a lookup service that has its records changed.

    talkers ------- eth0 [ edge-1 ] eth1 ------- sinks (places of the hosts sink0, sink2 ...)
                         [ lookup ] eth2 ------- sinks (places of the hosts sink1, sink3 ...)

Both `isthmus run` are in one namespace: the gateway follows the lookup service by HTTP on loopback. The
talkers' addresses and the places' are answered for by the kernels of the namespaces at the far ends, which
leave NVGRE to numbered.bpf.c.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from gateway import control
from gateway.fastpath import links
from gateway.lab import nodes
from gateway.lab.laboratory import Laboratory
from gateway.lab.namespaces import LabError, Namespace, tool
from gateway.lab.processes import Process
from gateway.lookup.claims import Write
from gateway.lookup.entries import Placement, RecordKey
from gateway.lookup.stores.sqlite_file import DatabaseFile
from gateway.lookup.stores.sqlite_writer import Transaction
from gateway.operating.report import Report
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.errors import ConfigurationError, Unanswered
from tests.soak.numbered import (
    FIRST_PLACE,
    PORT_ALLOWED,
    SUBNETS,
    TALKER_SUFFIX,
    TENANTS,
    Ends,
    Numbered,
    Place,
    Talker,
)

EDGE, LOOKUP = "edge-1", "lookup"
LOOKUP_PORT = 7637
_NETS = (("198.51.100", "2001:db8:1:"), ("203.0.113", "2001:db8:2:"), ("192.0.2", "2001:db8:3:"))
"""Of eth0, eth1 and eth2."""
GATEWAY4, GATEWAY6 = f"{_NETS[0][0]}.254", f"{_NETS[0][1]}:254"
_TALKING = (("talk0", "11"), ("talk1", "12"))
_HOSTS = 8
BURST = 4096
"""Octets that the tenant with a limit may have at once."""
_LATE = """
[[tenant]]
name = "late"
gateways = ["edge-1"]
[[tenant.subnet]]
name = "net0"
vsid = 8001
prefixes = ["10.0.0.0/16"]
"""
"""A tenant that comes and goes."""


def places() -> tuple[Place, ...]:
    """Two for each host, one of each family."""
    return tuple(
        Place(number, f"sink{number // 2}", number // 2 & 1, address)
        for number in range(2 * _HOSTS)
        for four, six in [_NETS[1 + (number // 2 & 1)]]
        for address in [f"{six}:{FIRST_PLACE + number:x}" if number & 1 else f"{four}.{FIRST_PLACE + number}"]
    )


def talkers() -> tuple[Talker, ...]:
    """One for each virtual subnet, at two hosts in turn."""
    four, six = _NETS[0]
    found = []
    for subnet in SUBNETS:
        octet, other = (_TALKING[(subnet.index + n) % 2][1] for n in (0, 1))
        found.append(Talker(f"{four}.{octet}", f"{six}:{octet}", f"{four}.{other}"))
    return tuple(found)


class Edge(Laboratory):
    """The namespaces, both processes, and the programs at the ends. `engine` is the gateway's.

    `limit` is in bits a second, of the one tenant that has any.
    """

    def __init__(self, numbered: Numbered, engine: str, limit: int) -> None:
        super().__init__()
        self.numbered = numbered
        self.places = places()
        self._engine = engine
        self.limit = limit
        self._links: list[links.Link] = []

    # --- what is built

    def build(self) -> None:
        self.talking, self.edge, self.sinking = map(self.namespace, ("talkers", EDGE, "sinks"))
        self.link(self.talking, "g0", self.edge, "eth0")
        self.link(self.sinking, "s0", self.edge, "eth1")
        self.link(self.sinking, "s1", self.edge, "eth2")
        for n, (four, six) in enumerate(_NETS):
            self.edge.ip(f"address add {four}.254/24 dev eth{n}", f"address add {six}:254/64 dev eth{n}")
        four, six = _NETS[0]
        for _, octet in _TALKING:
            self.talking.ip(
                f"address add {four}.{octet}/24 dev g0", f"address add {six}:{octet}/64 dev g0 nodad"
            )
        for place in self.places:
            length = 64 if ":" in place.address else 24
            self.sinking.ip(f"address add {place.address}/{length} dev s{place.link}")
        self.wait_until_ready(self.namespaces.values())
        self._attach(self.talking, "g0", "back")
        for interface in ("s0", "s1"):
            self._attach(self.sinking, interface, "sink")
        if self._engine == "python":
            # The gateway turns GRO off, and a veth without a program then takes nothing redirected.
            self._attach(self.edge, "eth0", "pass")

    def close(self) -> None:
        try:
            super().close()
        finally:
            while self._links:
                self._links.pop().close()

    def _attach(self, namespace: Namespace, interface: str, program: str) -> None:
        def attach() -> links.Link:
            index = socket.if_nametoindex(interface)
            return links.attach(self.numbered.programs[program], index, links.Mode.NATIVE)

        self._links.append(namespace.call(attach))

    # --- what runs

    def start_all(self, processor: int | None) -> None:
        """Fill the store and the tables, and start both processes, by one processor if it is named."""
        layout = self.numbered.layout
        where = [number * 5 % len(self.places) for number in range(layout.records)]
        for record in range(layout.records):  # those of one MAC are together
            where[record] = where[record >> layout.shared << layout.shared]
        for name in ("operator", EDGE):
            token = self.directory / f"{name}.token"
            token.touch(mode=0o600)
            token.write_text(secrets.token_urlsafe(24))
        self._write_files()
        # Records are only of virtual subnets that are there: so these are written first.
        first = self._start(LOOKUP, processor)
        first.wait_for("network is written to the store", 30)
        first.stop()
        self._fill(where)
        self.lookup = self._start(LOOKUP, processor)
        self.gateway = self._start(EDGE, processor)
        wanted = layout.records + 2 * len(SUBNETS)
        self.wait_until(lambda: self._knows(wanted), f"{wanted} records")
        ends = Ends(
            gateway_mac=self._mac(self.edge, "eth0"),
            own_mac=self._mac(self.talking, "g0"),
            gateway4=GATEWAY4,
            gateway6=GATEWAY6,
            links=(self._index(self.sinking, "s0"), self._index(self.sinking, "s1")),
            talkers=talkers(),
            places=self.places,
        )
        self.numbered.write(ends, where)
        self.talking.call(self.numbered.send_by, self._index(self.talking, "g0"))
        self._greet()

    def _knows(self, records: int) -> bool:
        """Whether the gateway, with its fast path if any, knows so many records and how to reach them."""
        report = self.report()
        fast = report.fastpath
        return report.records == records and (
            fast is None or (fast.records == records and not fast.hops_unresolved)
        )

    def token(self, name: str) -> str:
        return (self.directory / f"{name}.token").read_text()

    def _start(self, name: str, processor: int | None) -> Process:
        command = nodes.run_command(self.directory / f"{name}.toml")
        if processor is not None:
            command = [tool("taskset"), "-c", str(processor), *command]
        process = self.start(name, self.edge, *command)
        process.wait_for(r"\bready\b", 30)
        return process

    def _greet(self) -> None:
        """Have every place's neighbour entry be there: what asks for one first waits, and may be lost."""
        for interface, place in ((f"eth{1 + place.link}", place) for place in self.places):
            self.edge.run("ping", "-n", "-c", "1", "-W", "2", "-I", interface, place.address)
        for _, octet in _TALKING:
            for net in (f"{_NETS[0][0]}.", f"{_NETS[0][1]}:"):
                self.edge.run("ping", "-n", "-c", "1", "-W", "2", f"{net}{octet}")

    def _mac(self, namespace: Namespace, interface: str) -> bytes:
        (link,) = json.loads(namespace.run(tool("ip"), "-json", "link", "show", interface).stdout)
        return bytes.fromhex(link["address"].replace(":", ""))

    def _index(self, namespace: Namespace, interface: str) -> int:
        return namespace.call(socket.if_nametoindex, interface)

    # --- what they are configured with

    def _write_files(self) -> None:
        lookup = f"127.0.0.1:{LOOKUP_PORT}"
        node = [f'state = "{self.directory / EDGE}"', f'engine = "{self._engine}"']
        (self.directory / f"{EDGE}.toml").write_text(
            "\n".join(
                [
                    "[appliance]",
                    f'name = "{EDGE}"',
                    *node,
                    "[underlay]",
                    f'provider_addresses = ["{GATEWAY4}", "{GATEWAY6}"]',
                    'interfaces = ["eth0", "eth1", "eth2"]',
                    "[gateway]",
                    f'lookup = ["http://{lookup}"]',
                    f'token_file = "{self.directory / EDGE}.token"',
                ]
            )
        )
        (self.directory / f"{LOOKUP}.toml").write_text("\n".join(self._lookup_file()))

    def _lookup_file(self) -> Iterator[str]:
        yield from ("[appliance]", f'name = "{LOOKUP}"', f'state = "{self.directory / LOOKUP}"')
        yield from ("[lookup]", f'listen = "127.0.0.1:{LOOKUP_PORT}"')
        for name, role in (("operator", "operator"), (EDGE, "gateway")):
            yield from ("[[lookup.token]]", f'name = "{name}"', f'role = "{role}"')
            yield f'token_file = "{self.directory / name}.token"'
        tenants = str(list(TENANTS)).replace("'", '"')
        hosts = {name: [f"{_NETS[0][0]}.{octet}", f"{_NETS[0][1]}:{octet}"] for name, octet in _TALKING}
        for place in self.places:
            hosts.setdefault(place.host, []).append(place.address)
        for name, addresses in hosts.items():
            yield from ("[[provider_host]]", f'name = "{name}"', f"tenants = {tenants}")
            yield f"provider_addresses = {addresses}"
        yield from ("[[provider_gateway]]", f'name = "{EDGE}"')
        yield f'provider_addresses = ["{GATEWAY4}", "{GATEWAY6}"]'
        for tenant in TENANTS:
            yield from ("[[tenant]]", f'name = "{tenant}"', f'gateways = ["{EDGE}"]')
            for subnet in (each for each in SUBNETS if each.tenant == tenant):
                yield from ("[[tenant.subnet]]", f'name = "{subnet.name}"', f"vsid = {subnet.vsid}")
                yield f"prefixes = {list(subnet.prefixes)}"
                yield from self._talker(subnet.index)
            if tenant == "ruled":
                yield from ("[[tenant.access]]", 'name = "one port"', 'action = "allow"', 'protocol = "udp"')
                yield f"ports = [{PORT_ALLOWED}]"
            if tenant == "slow":
                yield from ("[tenant.limits]", f'rate = "{self.limit} bit/s"', f"burst = {BURST}")

    def _talker(self, index: int) -> Iterator[str]:
        """A talker's records: static, so that nothing moves it."""
        subnet, (host, _) = SUBNETS[index], _TALKING[index % 2]
        for version in (4, 6):
            yield from ("[[tenant.record]]", f'ca = "{subnet.address(TALKER_SUFFIX, version)}"')
            yield from (f'mac = "{subnet.talker_mac}"', f'host = "{host}"')

    def _fill(self, where: list[int]) -> None:
        """Write the records as the store's writer would, all at once."""
        layout = self.numbered.layout
        file = DatabaseFile(self.directory / LOOKUP / "records.sqlite")
        connection: sqlite3.Connection = file.connect()
        connection.execute("BEGIN IMMEDIATE")
        transaction = Transaction(connection)
        transaction.write(
            [
                Write(
                    RecordKey(
                        Vsid(layout.subnet(record).vsid), CustomerAddress.parse(layout.address(record))
                    ),
                    Placement(
                        MacAddress.parse(layout.mac(record)),
                        ProviderAddress.parse(self.places[place].address),
                        self.places[place].host,
                    ),
                    1,
                )
                for record, place in enumerate(where)
            ]
        )
        transaction.finish(0)
        connection.execute("COMMIT")
        connection.close()
        file.close()

    # --- what is asked of them

    def ask(self, name: str, command: str) -> Any:
        """Ask a node by its control socket. Raises LabError."""
        try:
            return control.ask(control.socket_path(self.directory / name, name), command)
        except (ConfigurationError, Unanswered) as error:
            said = next((each.tail() for each in reversed(self.processes) if each.name == name), "")
            raise LabError(f"{name}: {error}\n{said}") from None

    def report(self) -> Report:
        """The gateway's counters."""
        return msgspec.convert(self.ask(EDGE, "report"), Report)

    def reload(self) -> None:
        """Have a tenant come, or go if it is there, and both nodes read their files."""
        file = self.directory / f"{LOOKUP}.toml"
        text = file.read_text()
        file.write_text(text.replace(_LATE, "") if _LATE in text else text + _LATE)
        self.ask(LOOKUP, "reload")
        self.ask(EDGE, "reload")

    def wait_until(self, is_so: Callable[[], bool], what: str, timeout: float = 30) -> None:
        """Wait until something is so. Raises LabError."""
        deadline = time.monotonic() + timeout
        while not is_so():
            if time.monotonic() > deadline:
                raise LabError(f"{what}: not in {timeout:g} s")
            time.sleep(0.05)

    def queues(self, namespace: Namespace, interface: str) -> Counter[str]:
        """What a veth's driver has counted for its queues, added up."""
        found: Counter[str] = Counter()
        for line in namespace.run(tool("ethtool"), "-S", interface).stdout.splitlines():
            name, _, value = line.strip().partition(": ")
            if match := re.fullmatch(r"([rt]x)_queue_\d+_(\w+)", name):
                found[f"{match[1]}_{match[2]}"] += int(value)
        return found
