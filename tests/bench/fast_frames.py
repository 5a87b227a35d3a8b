"""Frames of the kernel's own, sent by one program and counted by another: what live_frames.bpf.c is told.

The kernel runs the sending program as often as it is asked to (BPF_F_TEST_XDP_LIVE_FRAMES), on a frame
each time, and hands what it redirects to an interface as if it had come from one. That is several million
packets a second, which no socket sends, and the same for every way that is measured.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.fastpath import elf, kernel, links
from gateway.lab.namespaces import Namespace
from gateway.packets import ethernet, ip, nvgre
from gateway.packets.ethernet import EthernetHeader
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid, gateway_mac
from policies.facts import UDP
from tests.bench.rates import LATEST

OBJECT = Path(__file__).with_name("live_frames.bpf.o")

GRE = 47
INNER = 14 + 20 + nvgre.HEADER_LENGTH + ethernet.HEADER_LENGTH
HEADERS = 80
_PLAN = struct.Struct(f"<QIIIIIIII{HEADERS}s")
_PERIOD = struct.Struct("<Q")
_TICKS = 1e9 * 1024  # of a second
_TALLY = struct.Struct("<10Q")
CONTEXT = struct.Struct("<IIIIII")  # struct xdp_md
_NUMBER = struct.Struct("<I")

# Where a packet comes from and the first of those that it goes to, of every tenant.
CLIENT = CustomerAddress.parse("10.0.0.5")
CLIENT_MAC = MacAddress.parse("02:00:00:00:00:05")
FIRST = CustomerAddress.parse("64.0.1.0")
CLIENTS, SERVERS = "10.0.0.0/16", "64.0.0.0/4"
VSID = Vsid(0x2000)

# How often the program is run in a second: that often where it holds the frame back, and at least so often
# where it sends. A slower machine takes longer for what it is asked to send, and no other rate.
_HOLDS = 1e7
_SENDS = 3e6
_LONGER = 2  # a frame that is sent takes the time of so many more that are held back
_BATCH = 256

# Above all else that runs on its processor, as what comes from a wire is.
PRIORITY = 1


class Traffic(msgspec.Struct, frozen=True):
    """Frames to VMs by chance: of `tenants`, each with so many `records` that they go to."""

    tenants: int
    records: int
    size: int
    """Of the inner frame, in octets."""
    source: ProviderAddress
    destination: ProviderAddress
    source_mac: MacAddress
    next_hop: MacAddress
    stride: int = 1
    """How far apart the addresses are that they go to."""

    def frame(self) -> bytes:
        """One of them, to the first tenant's address 0.0.0.0."""
        length = self.size - ethernet.HEADER_LENGTH - 20
        datagram = (1024).to_bytes(2) + (9).to_bytes(2) + length.to_bytes(2) + bytes(length - 6)
        inner = EthernetHeader(gateway_mac(VSID), CLIENT_MAC, ethernet.IPV4).encode() + ip.build(
            CLIENT, CustomerAddress(bytes(4)), UDP, datagram
        )
        outer = EthernetHeader(self.next_hop, self.source_mac, ethernet.IPV4).encode()
        return outer + ip.build(self.source, self.destination, GRE, nvgre.encode(VSID) + inner)

    def plan(self, program: int = 0) -> bytes:
        """What the programs are told of it."""
        frame = self.frame()
        header = bytearray(frame[INNER : INNER + 20])
        header[10:12] = bytes(2)
        return _PLAN.pack(
            0,
            VSID,
            self.tenants,
            self.records,
            int.from_bytes(FIRST),
            self.stride,
            partial_sum(header),
            program,
            0,
            frame[:HEADERS],
        )


class Sent(msgspec.Struct, frozen=True):
    """What was sent, and what became of it."""

    seconds: float
    sent: int
    arrived: int
    octets: int
    routed: int
    """Of those that arrived, in the virtual subnet that they go to."""
    others: int
    """What else arrived."""
    to_the_same: bool
    """Whether the addresses of what arrived add up to those of what was sent."""


class Frames:
    """The programs of live_frames.bpf.c; what one of them sends leaves by a namespace's eth0."""

    def __init__(self, sender: Namespace) -> None:
        """Raises BpfRefused."""
        self._sender = sender
        self.loaded = kernel.load(elf.read_object(OBJECT.read_bytes()))
        self._plan = self.loaded.maps["plan"].memory()
        self._tally = self.loaded.maps["tally"].memory()
        self._interface = sender.call(socket.if_nametoindex, "eth0")
        sender.call(self.loaded.maps["ports"].update, _NUMBER.pack(0), _NUMBER.pack(self._interface))

    @property
    def programs(self) -> Mapping[str, int]:
        """Their file descriptors, by name."""
        return self.loaded.programs

    def plan(self, traffic: Traffic, program: int = 0) -> None:
        """Say what is sent, or which of `programs` decides it."""
        self._plan[: _PLAN.size] = traffic.plan(program)

    def send(self, traffic: Traffic, rate: float, seconds: float) -> Sent:
        """Send at a rate, for at least so long, and wait until nothing arrives any more."""
        frame = traffic.frame()
        self.plan(traffic)
        self._at_rest()
        _PERIOD.pack_into(self._plan, 0, int(_TICKS / rate))
        self._tally[: _TALLY.size] = bytes(_TALLY.size)
        count = int(seconds * max(_HOLDS - _LONGER * rate, _SENDS))
        self._sender.call(
            run,
            self.programs["generate"],
            frame,
            repeat=count,
            context=CONTEXT.pack(0, len(frame), 0, self._interface, 0, 0),
            live=True,
            batch=_BATCH,
        )
        self._at_rest()
        _, began, ended, sent, sent_addresses, arrived, arrived_addresses, octets, routed, others = (
            _TALLY.unpack_from(self._tally)
        )
        if sent < 2:
            raise AssertionError(f"{sent} frames were sent at {rate:,.0f} a second in {seconds:g} s")
        return Sent(
            seconds=(ended - began) / 1e9 * sent / (sent - 1),
            sent=sent,
            arrived=arrived,
            octets=octets,
            routed=routed,
            others=others,
            to_the_same=sent_addresses == arrived_addresses,
        )

    def _at_rest(self) -> None:
        seen = -1
        while seen != (seen := _TALLY.unpack_from(self._tally)[5]):
            time.sleep(LATEST)


def attach(program: int, interface: str) -> links.Link:
    """Attach a program to an interface of the namespace that this is called in."""
    return links.attach(program, socket.if_nametoindex(interface), links.Mode.NATIVE)


def partial_sum(header: bytes | bytearray) -> int:
    """The sum of an IPv4 header's words as the machine reads them, not folded."""
    return sum(struct.unpack(f"<{len(header) // 2}H", header))


def run(
    program: int, frame: bytes, *, repeat: int, context: bytes = b"", live: bool = False, batch: int = 0
) -> kernel.TestRun:
    """Run a program as kernel.test_run does, ahead of what else wants the processor. Raises BpfRefused."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    return kernel.test_run(program, frame, repeat=repeat, context=context, live=live, batch=batch)
