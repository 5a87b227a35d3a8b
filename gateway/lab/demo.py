"""The demo: a small datacenter in network namespaces, and what Isthmus does there, proved.

Everything that it says is checked: the first claim that does not hold makes it fail.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path

import msgspec

from gateway.lab import demo_migration, nodes, wire
from gateway.lab.demo_sites import SitesDemo, with_sites, write_secrets
from gateway.lab.namespaces import LabError
from gateway.lab.narration import Narrator
from gateway.lab.processes import Process
from gateway.lab.terminal import Terminal
from gateway.lab.topology import UPLINK, Datacenter, Node, Plan, Vm, standard_plan
from gateway.lab.userns import INSIDE, ensure_privileged

PICTURE = """
Two hosts and a gateway, each in an underlay subnet of its own, a router between them;
nine VMs of two tenants, Red and Blue, which have chosen the very same addresses:

   hv1 198.51.100.11                      hv2 203.0.113.12
     red-web1  10.0.1.5  fd00:1::5          red-web2  10.0.1.6  fd00:1::6
     red-db1   10.0.2.5  fd00:2::5          red-db2   10.0.2.6  fd00:2::6
     blue-web1 10.0.1.5  fd00:1::5          blue-web2 10.0.1.6  fd00:1::6
     blue-db1  10.0.2.5  fd00:2::5          blue-db2  10.0.2.6  fd00:2::6
            |                               blue-db77 10.0.2.77 fd00:2::77
            |                                      |
            +---------- underlay router -----------+
                               |
                     edge-1 192.0.2.254, the gateway

Virtual subnets: Red web 5001, db 5002; Blue web 6001, db 6002. The hosts have lookup records of
the web subnets; those of the db subnets only the gateway has. So both ways of a packet can be seen.
"""

# 50 MB, from a VM that believes in an MTU of 1500.
TRANSFER = 50_000_000
CA_MTU = 1500 - 42  # IPv4 header 20, GRE with key 8, Ethernet 14
FORGED = 5

# Reasons that would mean that one of our own nodes sends what it should not.
BROKEN = {"malformed", "not-nvgre", "unknown-vsid", "loop", "vlan-tagged", "not-ip", "send-failed"}


def demo_plan() -> Plan:
    """Plan the standard datacenter, and one more VM whose address exists in Blue only."""
    plan = standard_plan()
    like = next(vm for vm in plan.vms if vm.name == "blue-db2")
    lone = msgspec.structs.replace(
        like,
        name="blue-db77",
        port=f"vnet{len(plan.vms)}",
        mac="02:00:00:00:02:77",
        addresses=("10.0.2.77/24", "fd00:2::77/64"),
    )
    return msgspec.structs.replace(plan, vms=(*plan.vms, lone))


def knows(node: Node, vm: Vm) -> bool:
    """Hosts lack the records of the db subnets, so that some traffic needs the gateway."""
    return vm.subnet == "web" or node.name == "edge-1"


def run(*, keep: bool = False, pcap: Path | None = None) -> int:
    """Show the demo; return 0 if every claim held, else 1.

    With `keep` it stays up until Enter or Ctrl-C. `pcap` is a folder for captures of the underlay.
    """
    begun = time.monotonic()
    try:
        ensure_privileged()
        if pcap is not None:
            pcap.mkdir(parents=True, exist_ok=True)
        with Datacenter(with_sites(demo_plan())) as lab:
            narrator = Narrator()
            try:
                Demo(lab, narrator, pcap).show()
                demo_migration.show(narrator)
                held = narrator.claims - len(narrator.failures)
                seconds = time.monotonic() - begun
                narrator.say(f"\n{held} of {narrator.claims} claims hold; {seconds:.1f} s.")
            except LabError as error:
                narrator.claim(False, str(error))
            for failure in narrator.failures:
                print(f"isthmus demo: does not hold: {failure}", file=sys.stderr)
            if keep:
                _stay(lab)
            return 1 if narrator.failures else 0
    except (LabError, OSError) as error:
        print(f"isthmus demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("isthmus demo: stopped; everything is taken down", file=sys.stderr)
        return 1


class Demo:
    """The steps, in order."""

    def __init__(self, lab: Datacenter, narrator: Narrator, pcap: Path | None) -> None:
        self.lab = lab
        self.tell = narrator
        self.terminal = Terminal(lab, narrator)
        self.pcap = pcap
        self.nodes: dict[str, Process] = {}
        self.captures: list[Process] = []

    def show(self) -> None:
        """Go through all of it."""
        self.tell.say(PICTURE)
        self.start_nodes()
        self.same_addresses()
        self.within_a_subnet()
        self.across_subnets()
        self.who_answers()
        self.isolation()
        self.learn_mtu()
        self.stop_captures()
        self.transfer()
        SitesDemo(self.lab, self.tell, self.terminal).show()
        self.summary()

    def start_nodes(self) -> None:
        self.tell.heading("Three machines start: two hosts and a gateway, one process each")
        write_secrets(self.lab)
        self.nodes = nodes.start(self.lab, knows)
        for name, process in self.nodes.items():
            ready = process.wait_for(r"\bready\b.*")
            self.tell.command(name, f"isthmus run {name}.toml", ready.string)
        self.tell.claim(len(self.nodes) == 3, "All three are ready.")
        if self.pcap is not None:
            for name in self.nodes:
                file = self.pcap / f"{name}.pcap"
                self.captures.append(self.lab.capture(self.lab.node(name), UPLINK, file))

    def same_addresses(self) -> None:
        self.tell.heading("Red and Blue use the same addresses on the same host")
        shown = [
            self.terminal.run(vm, "ip", "-brief", command, "show", "dev", "eth0")
            for vm in ("red-web1", "blue-web1")
            for command in ("link", "address")
        ]
        red, blue = [re.findall(r"02:00:\S+|10\.\S+|fd00:\S+", "".join(shown[i : i + 2])) for i in (0, 2)]
        self.tell.claim(
            red == blue and len(red) == 3,
            f"red-web1 and blue-web1, both on hv1, have {', '.join(red)}.",
        )

    def within_a_subnet(self) -> None:
        self.tell.heading("Within a virtual subnet: from host to host, across the underlay's subnets")
        before = self.carried_by_gateway()
        for target in ("10.0.1.6", "fd00:1::6"):
            said = self.terminal.ping("red-web1", target, "-c", "3", "-i", "0.2")
            self.tell.claim(
                _all_arrived(said, 3) and said.count("ttl=64") == 3,
                "red-web2 answers; TTL 64 shows that no router was on the way.",
            )
        self.tell.claim(
            self.carried_by_gateway() == before,
            "The gateway carried no packet of it: hosts that have the record encapsulate directly.",
        )

    def across_subnets(self) -> None:
        self.tell.heading("Across virtual subnets: the gateway, and it is exactly one hop")
        before = self.carried_by_gateway()
        for tenant in ("red", "blue"):
            for target in ("10.0.2.6", "fd00:2::6"):
                said = self.terminal.ping(f"{tenant}-web1", target, "-c", "3", "-i", "0.2")
                self.tell.claim(
                    _all_arrived(said, 3) and said.count("ttl=63") == 3,
                    f"{tenant}-db2 answers, one router away.",
                )
        self.tell.claim(
            self.carried_by_gateway() >= before + 12,
            "The gateway carried those 12 requests: only it has the records of the db subnets.",
        )
        for gateway, target in (("10.0.1.1", "10.0.2.6"), ("fd00:1::1", "fd00:2::6")):
            said = self.terminal.tool("red-web1", "traceroute", "-n", "-q", "1", "-w", "2", target)
            hops = [line.split()[1] for line in said.splitlines()[1:]]
            self.tell.claim(
                hops == [gateway, target],
                f"The way is {gateway}, the gateway of red-web1's own subnet, then {target}: one hop.",
            )
        self.on_the_wire()

    def on_the_wire(self) -> None:
        files = {name: self.lab.directory / f"wire-{name}.pcap" for name in ("hv1", "edge-1")}
        captures = [self.lab.capture(self.lab.node(name), UPLINK, file) for name, file in files.items()]
        self.terminal.ping("red-web1", "10.0.2.6", "-c", "1")
        for capture in captures:
            capture.stop()
        names = {address: node.name for node in self.lab.plan.nodes for address in node.provider_addresses}
        seen = {}
        for name, file in files.items():
            seen[name] = list(wire.echoes(file))
            self.tell.say(f"read back from a capture of {name}'s {UPLINK}:")
            for packet in seen[name]:
                self.tell.output(
                    f"{packet.outer_source} > {packet.outer_destination} NVGRE VSID {packet.vsid} "
                    f"FlowID {packet.flow_id}: {packet.source} > {packet.destination} "
                    f"ttl {packet.hop_limit}, {packet.what}"
                )
        way = {
            name: [
                (names.get(str(p.outer_source)), names.get(str(p.outer_destination)), p.vsid) for p in packets
            ]
            for name, packets in seen.items()
        }
        self.tell.claim(
            way["edge-1"] == [("hv1", "edge-1", 5001), ("edge-1", "hv2", 5002)],
            "The request comes to the gateway in Red's web subnet and leaves it in Red's db subnet.",
        )
        self.tell.claim(
            way["hv1"] == [("hv1", "edge-1", 5001), ("hv2", "hv1", 5001)],
            "The reply comes straight from hv2, which has the record of red-web1 and routes by itself.",
        )

    def who_answers(self) -> None:
        self.tell.heading("The same address is another machine in each tenant")
        for tenant in ("red", "blue"):
            name = f"{tenant}-db2"
            speaker = self.lab.start_python(
                f"{name}-says", self.lab.vm(name), "gateway.lab.probe", "say", "80", f"I am {name}."
            )
            speaker.wait_for("^listening")
        for tenant in ("red", "blue"):
            for target in ("10.0.2.6", "fd00:2::6"):
                said = self.terminal.probe(f"{tenant}-web1", "ask", target, "80")
                self.tell.claim(said == f"I am {tenant}-db2.\n", f"For {tenant}, {target} is {tenant}-db2.")

    def isolation(self) -> None:
        self.tell.heading("Red never reaches Blue")
        said = self.terminal.ping("blue-web1", "10.0.2.77", "-c", "2", "-i", "0.2")
        self.tell.claim(_all_arrived(said, 2), "10.0.2.77 exists in Blue, and Blue reaches it.")
        heard = self.terminal.heard("blue-db77")
        said = self.terminal.ping("red-web1", "10.0.2.77", "-c", "2", "-i", "0.2", "-W", "1")
        self.tell.claim(
            " 0 received" in said and "10.0.1.1 icmp_seq=1 Destination Host Unreachable" in said,
            "Red has no such address, and its own gateway says so.",
        )
        self.dropped("edge-1", "no-record", "red", at_least=2)

        self.tell.say("\nA VM takes an address that is not its own:")
        self.lab.vm("red-web1").ip("address add 10.0.1.99/32 dev eth0")
        said = self.terminal.ping(
            "red-web1", "10.0.1.6", "-I", "10.0.1.99", "-c", "2", "-i", "0.2", "-W", "1"
        )
        self.lab.vm("red-web1").ip("address del 10.0.1.99/32 dev eth0")
        self.tell.claim(" 0 received" in said, "Nothing comes back.")
        self.dropped("hv1", "spoofed-source", "red", at_least=2)

        self.tell.say(
            f"\nA stranger in the underlay sends {FORGED} NVGRE packets to edge-1, with Blue's VSID 6001 "
            "and the address of blue-web1:"
        )
        heard_by_db = self.terminal.heard("blue-db2")
        self.lab.router.call(
            wire.forge_echo_requests, "192.0.2.254", 6001, "02:00:00:00:01:05", "10.0.1.5", "10.0.2.6", FORGED
        )
        self.dropped("edge-1", "spoofed-source", "blue", at_least=FORGED)
        self.tell.claim(
            self.terminal.heard("blue-db2") == heard_by_db and self.terminal.heard("blue-db77") == heard,
            "Neither blue-db2 nor blue-db77 has heard a single echo request of all this.",
        )

    def learn_mtu(self) -> None:
        self.tell.heading(f"A VM left at MTU 1500 learns that {CA_MTU} octets fit into NVGRE")
        for gateway, target, headers in (("10.0.1.1", "10.0.2.6", 28), ("fd00:1::1", "fd00:2::6", 48)):
            too_large, fits = str(1500 - headers), str(CA_MTU - headers)
            said = self.terminal.ping("red-web1", target, "-c", "2", "-i", "0.2", "-M", "do", "-s", too_large)
            told = re.search(rf"From {gateway} icmp_seq=1 .*mtu ?= ?{CA_MTU}\b", said)
            cached = re.search(rf"message too long, mtu[=:] ?{CA_MTU}\b", said)
            self.tell.claim(
                bool(told and cached) and " 0 received" in said,
                f"{gateway} says that {CA_MTU} is the most, and the VM's own kernel has learned it.",
            )
            said = self.terminal.ping("red-web1", target, "-c", "2", "-i", "0.2", "-M", "do", "-s", fits)
            self.tell.claim(_all_arrived(said, 2), f"A packet of {CA_MTU} octets passes whole.")
        said = self.terminal.tool("red-web1", "tracepath", "-n", "10.0.2.6")
        self.tell.claim(
            f"Resume: pmtu {CA_MTU} hops 2" in said, f"The path MTU is {CA_MTU}, one router away."
        )

    def transfer(self) -> None:
        self.tell.heading(f"{TRANSFER // 1_000_000} MB by TCP, from a VM at MTU 1500 with its offloads on")
        said = self.terminal.run("red-web1", "ip", "-o", "link", "show", "dev", "eth0")
        self.tell.claim(" mtu 1500 " in said, "The VM has the MTU that it was born with.")
        self.lab.vm("red-web1").ip("route flush cache")
        receiver = self.lab.start_python(
            "receiver", self.lab.vm("red-db2"), "gateway.lab.probe", "receive", "5001"
        )
        receiver.wait_for("^listening")
        said = self.terminal.probe("red-web1", "send", "10.0.2.6", "5001", str(TRANSFER), timeout=60)
        receiver.wait(10)
        self.tell.command("red-db2", "python -m gateway.lab.probe receive 5001", receiver.output())
        sent, received = re.search(r"sha256 (\w+)", said), re.search(r"sha256 (\w+)", receiver.output())
        self.tell.claim(
            bool(sent and received and sent.group(1) == received.group(1))
            and f"received {TRANSFER} bytes" in receiver.output(),
            "All of it arrived, and both ends compute the same hash.",
        )
        fragments = {name: self.terminal.fragments(name) for name in self.nodes}
        self.tell.claim(
            not any(fragments.values()), "No node's kernel has cut or put together a packet: NVGRE is whole."
        )

    def summary(self) -> None:
        self.tell.heading("What was dropped, and why")
        reasons = set()
        for name, process in self.nodes.items():
            for (reason, tenant), packets in sorted(nodes.drops(process).items()):
                reasons.add(reason)
                self.tell.output(f"{name:8} {reason:20} {tenant or '-':8} {packets:6} packets")
        self.tell.claim(
            reasons.isdisjoint(BROKEN), "Each drop has one reason, and nothing was broken: only refused."
        )
        if self.pcap is not None:
            self.tell.say(
                f"captures for Wireshark: {', '.join(str(self.pcap / f'{n}.pcap') for n in self.nodes)}"
            )

    def stop_captures(self) -> None:
        for capture in self.captures:
            capture.stop()
        if self.captures:
            self.tell.say("\nThe captures end here, before the large transfer.")

    def dropped(self, node: str, reason: str, tenant: str, *, at_least: int) -> None:
        """Claim that a node has counted drops, and wait for it a little: it may still be at them."""
        deadline = time.monotonic() + 5
        while (count := nodes.drops(self.nodes[node]).get((reason, tenant), 0)) < at_least:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        self.tell.claim(count >= at_least, f"{node} has dropped {count} packets of {tenant} as {reason}.")

    def carried_by_gateway(self) -> int:
        """Count the packets that the gateway has forwarded, of all tenants."""
        meters = nodes.counters(self.nodes["edge-1"])["meters"]
        return sum(int(meter["received_packets"]) for meter in meters)


def _all_arrived(said: str, count: int) -> bool:
    return f"{count} packets transmitted, {count} received, 0% packet loss" in said


def _stay(lab: Datacenter) -> None:
    """Say how to enter a VM, and wait for Enter, or for a signal where there is no terminal."""
    # An ordinary user first enters the user namespace that all of it is in.
    user = f" --user=/proc/{os.getpid()}/ns/user --preserve-credentials" if os.environ.get(INSIDE) else ""
    print("\nIt stays up. Enter a machine, for instance with:\n")
    for namespace in lab.namespaces.values():
        print(f"  {namespace.name:10} nsenter{user} --net={namespace.path} bash")
    print("\nPress Enter or Ctrl-C to take it down.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        if sys.stdin.isatty():
            sys.stdin.readline()
        else:
            signal.pause()
