"""Files that two strangers read as they were meant: scapy, and Wireshark's own reader where that is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgReader

from gateway.operating.pcapng import ETHERNET, RAW_IP, Writer

FRAME = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(dst="10.0.1.5") / UDP() / b"abc")
PACKET = bytes(IP(src="192.0.2.254", dst="198.51.100.11") / UDP() / b"abcd")
AT = 1_795_364_648_123_456_789


def written(file: Path) -> Path:
    writer = Writer(2000)
    file.write_bytes(
        writer.begin("isthmus")
        + writer.packet("red/web", ETHERNET, AT, FRAME, length=len(FRAME), is_inbound=True)
        + writer.packet(
            "underlay 192.0.2.254",
            RAW_IP,
            AT + 1,
            PACKET[:30],
            length=len(PACKET),
            is_inbound=False,
            comment="dropped: no-record",
        )
        + writer.packet("red/web", ETHERNET, AT + 2, FRAME, length=len(FRAME), is_inbound=False)
        + writer.end(AT + 2, lost=7)
    )
    return file


def test_each_packet_is_read_with_its_place_its_way_and_its_comment(tmp_path: Path) -> None:
    with PcapNgReader(str(written(tmp_path / "a.pcapng"))) as reader:
        packets = list(reader)

    assert [bytes(packet) for packet in packets] == [FRAME, PACKET[:30], FRAME]
    assert [packet.sniffed_on for packet in packets] == ["red/web", "underlay 192.0.2.254", "red/web"]
    assert [packet.direction for packet in packets] == [1, 2, 2]
    assert [packet.comment for packet in packets] == [None, b"dropped: no-record", None]
    assert packets[1].wirelen == len(PACKET)
    assert abs(float(packets[0].time) - AT / 1e9) < 1e-6


def test_wiresharks_own_reader_finds_nothing_wrong(
    tmp_path: Path, require_tools: Callable[..., None]
) -> None:
    require_tools("tshark")
    fields = (
        "frame.interface_name",
        "frame.time_epoch",
        "frame.len",
        "frame.cap_len",
        "frame.comment",
        "ip.dst",
    )
    command = ["tshark", "-r", str(written(tmp_path / "a.pcapng")), "-T", "fields", "-E", "separator=,"]
    for field in fields:
        command += ["-e", field]

    result = subprocess.run(command, capture_output=True, text=True, check=True)

    whole, cut = str(len(FRAME)), str(len(PACKET))
    assert [line.split(",") for line in result.stdout.splitlines()] == [
        ["red/web", "1795364648.123456789", whole, whole, "", "10.0.1.5"],
        ["underlay 192.0.2.254", "1795364648.123456790", cut, "30", "dropped: no-record", "198.51.100.11"],
        ["red/web", "1795364648.123456791", whole, whole, "", "10.0.1.5"],
    ]


def test_places_of_one_name_and_two_link_types_are_two_interfaces(tmp_path: Path) -> None:
    writer = Writer()
    octets = writer.begin("isthmus")
    for link_type, packet in ((ETHERNET, FRAME), (RAW_IP, PACKET), (ETHERNET, FRAME)):
        octets += writer.packet("red", link_type, AT, packet, length=len(packet), is_inbound=True)
    (tmp_path / "b.pcapng").write_bytes(octets)

    with PcapNgReader(str(tmp_path / "b.pcapng")) as reader:
        assert [type(packet) for packet in reader] == [Ether, IP, Ether]
