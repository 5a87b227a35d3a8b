"""What is sent for a VM where it goes on: by its own kernel, or by the hypervisor that has taken it over."""

from __future__ import annotations

import socket
from collections.abc import Callable

from gateway.lab.topology import VM_INTERFACE, Vm
from gateway.packets import arp, ndp
from gateway.packets.arp import ArpPacket
from gateway.packets.ethernet import ARP, IPV6, RARP, EthernetHeader
from policies.addresses import BROADCAST_MAC, CustomerAddress, MacAddress

Announcement = Callable[[Vm], bytes]
"""Makes the frame that announces a VM."""

_ALL_NODES = CustomerAddress.parse("ff02::1")
_ALL_NODES_MAC = MacAddress.parse("33:33:00:00:00:01")
_NO_MAC = MacAddress(bytes(6))


def gratuitous_arp(vm: Vm) -> bytes:
    """The announcement that a guest makes of its own address (RFC 5227 section 3)."""
    mac, address = MacAddress.parse(vm.mac), CustomerAddress.parse(vm.address())
    return _broadcast(mac, ARP, ArpPacket(arp.REQUEST, mac, address, _NO_MAC, address))


def gratuitous_arp_reply(vm: Vm) -> bytes:
    """The same as a reply that nobody has asked for (RFC 5944 section 4.6)."""
    mac, address = MacAddress.parse(vm.mac), CustomerAddress.parse(vm.address())
    return _broadcast(mac, ARP, ArpPacket(arp.REPLY, mac, address, BROADCAST_MAC, address))


def reverse_arp(vm: Vm) -> bytes:
    """What QEMU sends on a guest's behalf once it has taken it over: it knows no address (RFC 903)."""
    mac, nothing = MacAddress.parse(vm.mac), bytes(4)
    frame = _broadcast(mac, RARP, ArpPacket(arp.REVERSE_REQUEST, mac, nothing, mac, nothing))
    return frame.ljust(60, b"\0")


def unsolicited_advertisement(vm: Vm) -> bytes:
    """The announcement that a guest makes of its own IPv6 address (RFC 4861 section 7.2.6)."""
    mac, address = MacAddress.parse(vm.mac), CustomerAddress.parse(vm.address(6))
    packet = ndp.advertisement(address, _ALL_NODES, address, mac, router=False, solicited=False)
    return EthernetHeader(_ALL_NODES_MAC, mac, IPV6).encode() + packet


def send_frame(frame: bytes) -> None:
    """Send a frame as the VM in whose namespace we are."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((VM_INTERFACE, 0))
        raw.send(frame)


def _broadcast(mac: MacAddress, ethertype: int, packet: ArpPacket) -> bytes:
    return EthernetHeader(BROADCAST_MAC, mac, ethertype).encode() + packet.encode()
