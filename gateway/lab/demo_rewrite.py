"""The demo's second mechanism: VMs of Red whose packets are rewritten instead of encapsulated."""

from __future__ import annotations

import re
import sys

from gateway.lab import wire
from gateway.lab.certificates import AUTHORITY
from gateway.lab.demo_sites import EDGE
from gateway.lab.narration import Narrator
from gateway.lab.nodes import LookupPlan
from gateway.lab.premises import SERVER
from gateway.lab.terminal import Terminal
from gateway.lab.topology import UPLINK, Datacenter
from gateway.lab.wire import Packet

SUBNET = "app"
VM, PEER, ENCAPSULATED = "red-app1", "red-app2", "red-db2"
FULL = "1472"  # octets of a ping of 1500

PICTURE = f"""
Red's subnet {SUBNET} is rewritten: each address of its VMs has a provider address of its own, and hosts and
gateway exchange the one for the other. web and db are encapsulated, as before.

   hv1                          hv2                          seattle, Red's premises
     {VM} 10.0.3.5            {PEER} 10.0.3.6            seattle-server {SERVER[0]}
                                  {ENCAPSULATED}  10.0.2.6
"""


class RewriteDemo:
    """The steps, in order, in a datacenter that is at work."""

    def __init__(self, lab: Datacenter, narrator: Narrator, lookup: LookupPlan) -> None:
        self.lab = lab
        self.tell = narrator
        self.terminal = Terminal(lab, narrator)
        self.lookup = lookup

    def show(self) -> None:
        """Go through all of it."""
        self.tell.heading("IP rewrite: nothing is added to a packet, and no octet of MTU is lost")
        self.tell.say(PICTURE)
        self.plain_packets()
        self.both_worlds()

    def plain_packets(self) -> None:
        file = self.lab.directory / "rewritten.pcap"
        capture = self.lab.capture(self.lab.node("hv1"), UPLINK, file)
        said = self.terminal.ping(VM, "10.0.3.6", "-c", "2", "-i", "0.2", "-M", "do", "-s", FULL)
        self.tell.claim(" 2 received" in said, "A packet of 1500 octets crosses whole.")
        speaker = self.lab.start_python(
            f"{PEER}-says", self.lab.vm(PEER), "gateway.lab.probe", "say", "80", f"I am {PEER}."
        )
        speaker.wait_for("^listening")
        said = self.terminal.probe(VM, "ask", "10.0.3.6", "80")
        self.tell.claim(said == f"I am {PEER}.\n", f"10.0.3.6 is {PEER}, by TCP too.")
        capture.stop()
        seen = [packet for packet in wire.packets(file) if _is_of_both_pools(packet)]
        self.tell.say(f"read back from a capture of hv1's {UPLINK}:")
        for packet in seen:
            self.tell.output(str(packet))
        self.tell.claim(
            {packet.protocol for packet in seen} == {"ICMP", "TCP"}
            and all(packet.is_sound for packet in seen),
            "They are plain ICMP and TCP between provider addresses, and every checksum is right.",
        )

    def both_worlds(self) -> None:
        for target, who in (("10.0.2.6", f"{ENCAPSULATED}, encapsulated"), (SERVER[0], "at the premises")):
            said = self.terminal.ping(VM, target, "-c", "2", "-i", "0.2")
            self.tell.claim(" 2 received" in said, f"{target}, {who}, answers: the gateway translates.")
        said = self.terminal.ping(VM, "10.0.2.6", "-c", "1", "-M", "do", "-s", FULL)
        self.tell.claim(
            "mtu = 1458" in said, "The gateway sends on by NVGRE, and says how much fits into that."
        )
        file = self.lab.directory / f"{EDGE}.toml"
        command = (sys.executable, "-m", "gateway.cli", "leases", str(file))
        done = self.lab.node(EDGE).run(*command, "--ca", str(self.lookup.files / AUTHORITY), check=False)
        self.tell.command(EDGE, f"isthmus leases {file.name}", done.stdout + done.stderr)
        self.tell.claim(
            all(
                re.search(rf"/{re.escape(ca)}$", done.stdout, re.MULTILINE) for ca in ("10.0.2.6", SERVER[0])
            ),
            "Both have an address of the gateway's pool, for as long as they are talked to.",
        )


def _is_of_both_pools(packet: Packet) -> bool:
    """Whether it is between the two VMs, by their hosts' pools, whose addresses none of the hosts has."""
    own = {"198.51.100.11", "203.0.113.12"}
    ends = {packet.source, packet.destination}
    return {each[:7] for each in ends} == {"198.51.", "203.0.1"} and not ends & own
