"""The cluster of docs/cluster.md, from its own files, in network namespaces.

      lookup-1 .11   lookup-2 .12   lookup-3 .13   edge-1 .254   edge-2 .253   operator .20
          |              |              |              |             |             |
          +--------------+--- 192.0.2.0/24, a switch --+-------------+-------------+
                                        |
            hv1 198.51.100.11 ------- router ------- hv2 203.0.113.12

Each lookup node has an etcd member beside it. Everything is `isthmus run` with the document's
files, and the network is written by `isthmus apply`.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from gateway.lab import echo, nodes
from gateway.lab.certificates import AUTHORITY, CertificateAuthority
from gateway.lab.migration import Mover, Operator, Outcome, Talkers
from gateway.lab.namespaces import LabError, Namespace, connect
from gateway.lab.nodes import LOOKUP_PORT, OPERATOR, LookupPlan
from gateway.lab.processes import Process
from gateway.lab.topology import UPLINK, Datacenter, Node, Plan, Vm, standard_plan
from policies.services import LookupAccess
from tests.interop.etcd import READY

DOCUMENT = Path(__file__).parents[2] / "docs" / "cluster.md"
COMMANDS = ("etcd", "etcdctl", "nft")
LOOKUPS = tuple(Node(f"lookup-{n}", (f"192.0.2.1{n}/24",)) for n in (1, 2, 3))
EDGES = (Node("edge-1", ("192.0.2.254/24",)), Node("edge-2", ("192.0.2.253/24",)))
CONSOLE = Node("operator", ("192.0.2.20/24",))
ROUTER = "192.0.2.1"
MOVING = ("red-web1", "red-web2")
ETCD_PORT = 2379


def plan() -> Plan:
    """Red's web and db, and Blue's web, which has the addresses of Red's; a VM of each on each host."""
    whole = standard_plan(tenants=("red", "blue"), underlay=(4,))
    vms = tuple(vm for vm in whole.vms if (vm.tenant, vm.subnet) != ("blue", "db"))
    subnets = tuple(each for each in whole.subnets if (each.tenant, each.name) != ("blue", "db"))
    return msgspec.structs.replace(whole, gateways=EDGES, vms=vms, subnets=subnets)


def document_blocks(language: str) -> dict[str, str]:
    """Return the document's blocks in a language by the file that their first line names."""
    pattern = rf"^```{language}\n# ([\w.-]+?)[;\n](.*?)^```"
    found = re.findall(pattern, DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return {name: text.partition("\n")[2] if text.startswith(" ") else text for name, text in found}


class ClusterOperator(Operator):
    """Asks one lookup node after the other, from the console."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster, cluster.lookup)
        self._namespace = cluster.console

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Ask the nodes in their order. Raises LabError with the last one's reason."""
        *others, last = (node.name for node in LOOKUPS)
        for name in others:
            with suppress(LabError, OSError):
                return self.ask_node(name, method, path, body)
        return self.ask_node(last, method, path, body)

    def ask_node(self, name: str, method: str, path: str, body: object = None) -> Any:
        """Ask one node. Raises LabError with what it says is wrong."""
        node = next(node for node in LOOKUPS if node.name == name)
        self._address = node.provider_addresses[0]
        return super().ask(method, path, body)


class Cluster(Datacenter):
    """Everything built and started; `with Cluster() as cluster`."""

    def __init__(self) -> None:
        super().__init__(plan())
        self.folder = self.directory / "cluster"
        self.lookup = LookupPlan(files=self.folder)
        self.daemons: dict[str, Process] = {}
        """What runs, by the node's name; etcd members as `etcd-1` and so on."""

    def build(self) -> None:
        router = self.namespace("underlay")
        router.sysctl({"net/ipv4/ip_forward": 1})
        router.ip("link add middle type bridge", f"address add {ROUTER}/24 dev middle", "link set middle up")
        for node in (*LOOKUPS, *EDGES, CONSOLE):
            self._attach(node, router)
        for node in self.plan.hosts:
            self._build_node(node, router)
        for vm in self.plan.vms:
            self.add_vm(vm)
        self.wait_until_ready(self.namespaces.values())
        self._write_files()
        for member in (1, 2, 3):
            self.start_member(member)
        for member in (1, 2, 3):
            self.daemons[f"etcd-{member}"].wait_for(READY, 30)
        names = [node.name for node in (*LOOKUPS, *EDGES, *self.plan.hosts)]
        for name in names:
            self.run_node(name)
        for name in names[:3]:
            self.daemons[name].wait_for(r"\[lookup\] listens", 30)
        self.applied = self.isthmus("apply", str(self.folder / "network.toml"))
        if self.applied.returncode:
            raise LabError(f"isthmus apply: {self.applied.stderr}")
        for name in names[3:]:
            self.daemons[name].wait_for(r"\bready\b", 30)
        self.operator = ClusterOperator(self)
        self.operator.wait_for_records(sum(len(vm.addresses) for vm in self.plan.vms))
        self.mover = Mover(self, self.daemons, self.operator)

    def close(self) -> None:
        members = {f"etcd-{number}" for number in (1, 2, 3)} & self.daemons.keys()
        for process in self.daemons.values():
            process.send_signal(signal.SIGCONT)
        others = [self.daemons[name] for name in self.daemons.keys() - members]
        for process in others:
            process.send_signal(signal.SIGTERM)
        for process in others:
            with suppress(LabError):
                process.wait(5)
        for name in members:  # one that misses the others would take its time to leave
            self.daemons[name].send_signal(signal.SIGKILL)
        super().close()

    # --- processes

    def start_member(self, number: int) -> None:
        """Start an etcd member by the document's command, with what it has stored before."""
        text = document_blocks("sh")["lookup-1"].replace("\\\n", " ")
        words = []
        for word in shlex.split(text):
            # All but the list of the members is the member's own.
            own = word if "=" in word else _of_number(word, number)
            words.append(own.replace("/var/lib/etcd", str(self.directory / f"etcd-{number}")))
        command = ["env", "-C", str(self.folder), *words, "--logger", "zap"]
        namespace = self.namespaces[f"lookup-{number}"]
        self.daemons[f"etcd-{number}"] = self.start(f"etcd-{number}", namespace, *command)

    def run_node(self, name: str) -> Process:
        """Start `isthmus run` on a node, with the state that it had."""
        command = nodes.run_command(self.folder / f"{name}.toml")
        process = self.daemons[name] = self.start(name, self.namespaces[name], *command)
        return process

    def kill(self, *names: str) -> None:
        """End processes at once."""
        for name in names:
            self.daemons[name].send_signal(signal.SIGKILL)
        for name in names:
            self.daemons[name].wait()

    def isthmus(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Type a command at the operator's console, as the document shows it."""
        access = self.access()
        where = [word for url in access.nodes for word in ("--lookup", url)]
        where += ["--token-file", str(access.token_file), "--ca", str(access.authority_file)]
        return self.console.run(sys.executable, "-m", "gateway.cli", command, *arguments, *where, check=False)

    def leader(self) -> int:
        """Return the number of the etcd member that leads."""
        urls = ",".join(f"https://{node.provider_addresses[0]}:{ETCD_PORT}" for node in LOOKUPS)
        files = {"cacert": "ca.pem", "cert": "lookup-1.pem", "key": "lookup-1.key"}
        options = [f"--{name}={self.folder / file}" for name, file in files.items()]
        command = ["etcdctl", *options, "--endpoints", urls, "--command-timeout", "2s"]
        done = self.namespaces[CONSOLE.name].run(
            *command, "endpoint", "status", "--write-out", "json", check=False
        )
        for each in json.loads(done.stdout or "[]"):
            if each["Status"]["leader"] == each["Status"]["header"]["member_id"]:
                return int(each["Endpoint"].rpartition(":")[0][-1])
        raise AssertionError(f"no member leads: {done.stderr}")

    # --- the network between them

    def cut_from_etcd(self, name: str) -> None:
        """Lose every packet between a lookup node and etcd's client ports; its own clients reach it."""
        rules = (
            "table inet cut { chain out { type filter hook output priority 0; "
            f"tcp dport {ETCD_PORT} drop; }}; "
            f"chain in {{ type filter hook input priority 0; tcp sport {ETCD_PORT} drop; }}; }}"
        )
        self.namespaces[name].run("nft", "-f", "-", stdin=rules + "\n")

    def heal(self, name: str) -> None:
        """Undo `cut_from_etcd`."""
        self.namespaces[name].run("nft", "delete", "table", "inet", "cut")

    # --- who asks, and who talks

    def access(self, *names: str, certificate: str | None = None) -> LookupAccess:
        """Return how to ask some lookup nodes, or all: as the operator, or by a certificate."""
        wanted = [next(each for each in LOOKUPS if each.name == name) for name in names] or list(LOOKUPS)
        urls = tuple(f"https://{node.provider_addresses[0]}:{LOOKUP_PORT}" for node in wanted)
        authority = self.folder / "ca.pem"
        if certificate is None:
            return LookupAccess(urls, self.lookup.token_file(OPERATOR), authority)
        files = (self.folder / f"{certificate}.pem", self.folder / f"{certificate}.key")
        return LookupAccess(urls, None, authority, *files)

    @property
    def console(self) -> Namespace:
        return self.namespaces[CONSOLE.name]

    def planned(self, name: str) -> Vm:
        """Return a VM's plan."""
        return next(vm for vm in self.plan.vms if vm.name == name)

    def beyond(self, name: str) -> str:
        """Return the host that a VM is not on."""
        return "hv2" if self.host_of(name) == "hv1" else "hv1"

    def talk(self, name: str, observers: tuple[str, ...]) -> Talkers:
        """Have a VM and its observers send each other a thousand datagrams a second."""
        self.mover.stops.clear()
        places = {each: (self.vm(each), self.planned(each).address()) for each in observers}
        return Talkers(self, self.planned(name), places)

    def end(self, talkers: Talkers) -> Outcome:
        """End the talk, and say what was lost."""
        return talkers.end(self.mover.stops)

    def reaches(self, observer: str, name: str) -> bool:
        """Whether one VM gets an answer from another, by both its addresses."""
        vm = self.planned(name)
        return all(self.vm(observer).call(echo.reachable, vm.address(each), 1.0) for each in (4, 6))

    def wait_until(self, condition: Callable[[], bool], or_else: str, timeout: float = 15) -> float:
        """Wait until a condition holds, and return how long that took, in seconds."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < timeout, f"{or_else} after {timeout:g} s"
            time.sleep(0.05)
        return time.monotonic() - began

    # --- building

    def _attach(self, node: Node, router: Namespace) -> None:
        namespace = self.namespace(node.name)
        connect(namespace, UPLINK, router, node.name)
        router.ip(f"link set {node.name} master middle up")
        namespace.ip(
            f"link set {UPLINK} up",
            f"address add {node.addresses[0]} dev {UPLINK}",
            f"route add default via {ROUTER} dev {UPLINK}",
        )

    def _write_files(self) -> None:
        self.folder.mkdir()
        authority = CertificateAuthority(self.folder)
        (self.folder / "ca.pem").write_bytes((self.folder / AUTHORITY).read_bytes())
        for node in (*LOOKUPS, *EDGES, *self.plan.hosts):
            authority.issue(node.name, node.provider_addresses)
        for secret in ("operator.token", "seattle.psk"):
            file = self.folder / secret
            file.touch(mode=0o600)
            file.write_text("the-laboratory-s-secret")
        blocks = document_blocks("toml")
        texts = {"network": blocks["network.toml"], "edge-1": blocks["edge-1.toml"]}
        texts |= {f"lookup-{n}": _of_number(blocks["lookup-1.toml"], n) for n in (1, 2, 3)}
        texts["edge-2"] = _replaced(blocks["edge-1.toml"], {"edge-1": "edge-2", "192.0.2.254": "192.0.2.253"})
        host = blocks["hv1.toml"]
        texts["hv1"] = host + self._ports("hv1", host)
        bare = host.partition("[[host.port]]")[0]
        bare = _replaced(bare, {"hv1": "hv2", "198.51.100.11": "203.0.113.12"})
        texts["hv2"] = bare + self._ports("hv2", bare)
        for name, text in texts.items():
            local = f'[appliance]\nstate = "{self.directory / name}"\nengine = "python"\n'
            here = _replaced(text, {"[appliance]\n": local, "/etc/isthmus": str(self.folder)})
            (self.folder / f"{name}.toml").write_text(here)

    def _ports(self, host: str, text: str) -> str:
        """The ports of a host that the document leaves out: its other VMs', and of those that move to it."""
        lines = []
        for vm in self.plan.vms:
            if (vm.host == host or vm.name in MOVING) and f'interface = "{vm.port}"' not in text:
                addresses = json.dumps([address.partition("/")[0] for address in vm.addresses])
                lines += ["", "[[host.port]]", f'interface = "{vm.port}"', f'tenant = "{vm.tenant}"']
                lines += [f'subnet = "{vm.subnet}"', f'mac = "{vm.mac}"', f"addresses = {addresses}"]
        return "\n".join(lines) + "\n"


def _of_number(text: str, number: int) -> str:
    """A file or a word of the first lookup node, made another's. The list of all members stays."""
    own = {"lookup-1": f"lookup-{number}", "192.0.2.11": f"192.0.2.1{number}"}
    lines = text.split("\n")
    return "\n".join(line if line.startswith("endpoints") else _replaced(line, own) for line in lines)


def _replaced(text: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text
