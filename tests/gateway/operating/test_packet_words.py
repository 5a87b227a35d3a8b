from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import ARP, GRE, Ether
from scapy.packet import Packet, Raw

from gateway.operating.packet_words import of_frame_untrusted, of_packet_untrusted

V4 = IP(src="10.0.1.5", dst="10.0.2.5")
V6 = IPv6(src="fd00:1::5", dst="fd00:2::5")
OUTER = IP(src="192.0.2.254", dst="198.51.100.11")
MAC = "02:00:00:00:01:05"


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (
            V4 / TCP(sport=40000, dport=443, flags="S"),
            "10.0.1.5.40000 > 10.0.2.5.443: tcp S, 40 octets, ttl 64",
        ),
        (V4 / TCP(sport=1, dport=2, flags="PA"), "10.0.1.5.1 > 10.0.2.5.2: tcp P., 40 octets, ttl 64"),
        (V6 / UDP(sport=53, dport=5353), "fd00:1::5.53 > fd00:2::5.5353: udp, 48 octets, ttl 64"),
        (V4 / ICMP(seq=7), "10.0.1.5 > 10.0.2.5: icmp echo request seq 7, 28 octets, ttl 64"),
        (
            V4 / ICMP(type=3, code=4, nexthopmtu=1400) / bytes(V4 / UDP() / bytes(8)),
            "10.0.1.5 > 10.0.2.5: icmp unreachable: fragmentation needed, MTU 1400, 64 octets, ttl 64",
        ),
        (
            V6 / ICMPv6PacketTooBig(mtu=1400) / bytes(V6 / UDP() / bytes(8)),
            "fd00:1::5 > fd00:2::5: icmp6 packet too big, MTU 1400, 104 octets, ttl 64",
        ),
        (
            IP(src="10.0.1.5", dst="10.0.2.5", frag=10, id=5, proto=17) / Raw(bytes(16)),
            "10.0.1.5 > 10.0.2.5: fragment at 80 of 0x5, 36 octets, ttl 64",
        ),
        (
            OUTER / GRE(key_present=1, proto=0x6558, key=5001 << 8) / Ether(src=MAC) / V4 / ICMP(seq=1),
            (
                "192.0.2.254 > 198.51.100.11 NVGRE VSID 5001: "
                "10.0.1.5 > 10.0.2.5: icmp echo request seq 1, 28 octets, ttl 64"
            ),
        ),
        (
            OUTER
            / UDP(sport=4500, dport=4500, chksum=0)
            / Raw(bytes.fromhex("c000000100000009") + bytes(40)),
            "192.0.2.254.4500 > 198.51.100.11.4500 ESP SPI c0000001 seq 9, 48 octets in UDP",
        ),
        (
            OUTER / UDP(sport=500, dport=500) / Raw(bytes(18) + b"\x22\x20" + bytes(3) + b"\x07" + bytes(8)),
            "192.0.2.254.500 > 198.51.100.11.500 IKE IKE_SA_INIT response 7, 32 octets",
        ),
        (
            OUTER / UDP(sport=4500, dport=4500) / Raw(bytes(4 + 18) + b"\xf0\x08" + bytes(8)),
            "192.0.2.254.4500 > 198.51.100.11.4500 IKE exchange 240 request 0, 28 octets",
        ),
        (
            OUTER / UDP(sport=500, dport=500) / Raw(bytes(27)),
            "192.0.2.254.500 > 198.51.100.11.500 IKE, 27 octets are too short",
        ),
    ],
    ids=[
        "syn",
        "push",
        "udp6",
        "echo",
        "needed",
        "too big",
        "fragment",
        "nvgre",
        "esp",
        "ike",
        "ike in 4500",
        "short ike",
    ],
)
def test_packet_is_told_in_one_line(packet: Packet, words: str) -> None:
    assert of_packet_untrusted(bytes(packet)) == words


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (
            ARP(op=1, hwsrc=MAC, psrc="10.0.1.5", pdst="10.0.1.6"),
            f"arp who has 10.0.1.6? tell 10.0.1.5 ({MAC})",
        ),
        (ARP(op=2, hwsrc=MAC, psrc="10.0.1.5"), f"arp 10.0.1.5 is at {MAC}"),
    ],
    ids=["request", "reply"],
)
def test_arp_is_told_as_what_it_asks_and_says(frame: Packet, words: str) -> None:
    assert of_frame_untrusted(bytes(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / frame)) == words


@given(st.binary(max_size=200))
def test_any_octets_are_one_line(octets: bytes) -> None:
    for words in (of_frame_untrusted(octets), of_packet_untrusted(octets)):
        assert words
        assert "\n" not in words


@given(st.binary(max_size=120), st.sampled_from([1, 6, 17, 47, 50, 58]))
def test_any_octets_behind_an_ip_header_are_one_line(octets: bytes, protocol: int) -> None:
    assert of_packet_untrusted(bytes(IP(proto=protocol, src="10.0.1.5", dst="10.0.2.5") / Raw(octets)))
