"""What others read in a capture of the underlay: tshark and scapy."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Ether
from scapy.utils import rdpcap


class Header(NamedTuple):
    """The outer addresses of an NVGRE packet, and its GRE header."""

    source: str
    destination: str
    flags: int
    protocol: int
    vsid: int
    flow_id: int


class Encapsulated(NamedTuple):
    """An NVGRE packet and the frame in it."""

    header: Header
    frame: Ether


def read_with_tshark(file: Path, underlay: int) -> list[Header]:
    """Return the GRE packets of a capture; `underlay` is the IP version of the provider addresses."""
    network = "ip" if underlay == 4 else "ipv6"
    fields = (f"{network}.src", f"{network}.dst", "gre.flags_and_version", "gre.proto", "gre.key")
    asked = [word for field in fields for word in ("-e", field)]
    # Of each field the first occurrence only: the others are of what is inside.
    command = ["tshark", "-n", "-r", str(file), "-Y", "gre", "-T", "fields", "-E", "occurrence=f", *asked]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    headers = []
    for line in said.splitlines():
        source, destination, *numbers = line.split("\t")
        flags, protocol, key = (int(number, 16) for number in numbers)
        headers.append(Header(source, destination, flags, protocol, key >> 8, key & 0xFF))
    return headers


def read_with_scapy(file: Path, underlay: int) -> list[Encapsulated]:
    """Return the GRE packets of a capture with the frames in them."""
    packets = []
    for packet in rdpcap(str(file)):
        if GRE not in packet:
            continue
        outer, gre = packet[IP if underlay == 4 else IPv6], packet[GRE]
        flags = int.from_bytes(bytes(gre)[:2])
        header = Header(outer.src, outer.dst, flags, gre.proto, gre.key >> 8, gre.key & 0xFF)
        packets.append(Encapsulated(header, gre[Ether]))
    return packets
