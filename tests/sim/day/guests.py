"""What VMs ask their network."""

from __future__ import annotations

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether

from tests.sim.day.plan import Vm


def discover(vm: Vm) -> bytes:
    """A DHCP client's first message."""
    mac = str(vm.key[1])
    return bytes(
        Ether(src=mac, dst="ff:ff:ff:ff:ff:ff")
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP(op=1, xid=7637, chaddr=vm.key[1])
        / DHCP(options=[("message-type", "discover"), "end"])
    )


def solicit(vm: Vm) -> bytes:
    """A router solicitation."""
    mac = str(vm.key[1])
    return bytes(
        Ether(src=mac, dst="33:33:00:00:00:02")
        / IPv6(src="fe80::5", dst="ff02::2", hlim=255)
        / ICMPv6ND_RS()
        / ICMPv6NDOptSrcLLAddr(lladdr=mac)
    )
