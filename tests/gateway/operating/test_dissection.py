from __future__ import annotations

import random

from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import GRE, Ether

from gateway.operating.dissection import fields_untrusted

INNER = Ether(dst="02:00:00:00:01:06", src="02:00:00:00:01:05") / IP(src="10.0.1.5", dst="10.0.1.6") / ICMP()


def test_every_layer_of_an_encapsulated_packet_is_shown_with_its_fields() -> None:
    outer = (
        IP(src="198.51.100.11", dst="203.0.113.12") / GRE(key_present=1, key=5001 << 8, proto=0x6558) / INNER
    )

    shown = fields_untrusted(bytes(outer), is_ethernet=False)

    assert [line for line in shown.splitlines() if line.startswith("###")] == [
        "###[ IP ]###",
        "###[ GRE ]###",
        "###[ Ethernet ]###",
        "###[ IP ]###",
        "###[ ICMP ]###",
    ]
    assert "198.51.100.11" in shown
    assert "10.0.1.5" in shown
    assert "echo-request" in shown


def test_octets_of_any_kind_are_shown_somehow() -> None:
    chance = random.Random(11)
    whole = bytes(INNER)
    for _ in range(300):
        octets = bytearray(whole[: chance.randrange(len(whole) + 1)])
        for _ in range(chance.randrange(4)):
            if octets:
                octets[chance.randrange(len(octets))] = chance.randrange(256)
        assert fields_untrusted(bytes(octets), is_ethernet=bool(chance.randrange(2))).startswith("###[ ")
