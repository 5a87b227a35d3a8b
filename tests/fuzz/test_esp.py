"""Whatever comes as ESP is opened or dropped, and only what is authentic leaves a trace."""

from __future__ import annotations

import math

import pytest

from gateway.packets import ip
from policies.errors import MalformedPacket
from policies.ipsec import Encryption, EspSuite, Integrity
from tests.fuzz.mutation import INPUTS, mutations
from tests.tunnels.esp.pairs import GCM, OUR_SPI, PATH, SITE, back, child, joined, sealed
from tunnels.esp import wire
from tunnels.esp.associations import Opened
from tunnels.esp.drops import EspDrop

CBC = EspSuite(Encryption.AES_256_CBC, Integrity.SHA2_256, False)


def fuzz(suite: EspSuite, seed: int, count: int) -> None:
    us, peer = joined(child(suite))
    corpus = [sealed(peer, back(size)).packet for size in (28, 60, 100, 500)]
    traffic = us.traffic(SITE)
    opened = 0
    for octets in mutations(corpus, seed, count):
        before = (us._inbound[OUR_SPI].window.newest, traffic.last_received, us.children(SITE))
        try:
            result = us.open_untrusted(PATH, octets, 7.0)
        except Exception as failure:  # whatever is raised is what we look for
            pytest.fail(f"{failure!r} for bytes.fromhex({octets.hex()!r})")
        if isinstance(result, Opened):
            # A mutation may put a packet together again as it was.
            assert octets in corpus
            opened += 1
        else:
            after = (us._inbound[OUR_SPI].window.newest, traffic.last_received, us.children(SITE))
            assert after == before, octets.hex()
    assert opened <= len(corpus)
    assert us.drops[EspDrop.NOT_AUTHENTIC, SITE] > count // 50
    assert us.drops[EspDrop.UNKNOWN_SPI, None] > count // 50
    assert traffic.last_received == (7.0 if opened else -math.inf)


@pytest.mark.parametrize("suite", [GCM, CBC], ids=str)
def test_only_what_is_authentic_leaves_a_trace(suite: EspSuite) -> None:
    fuzz(suite, seed=4303, count=INPUTS // 2)


@pytest.mark.soak
@pytest.mark.parametrize("suite", [GCM, CBC], ids=str)
def test_only_what_is_authentic_leaves_a_trace_for_long(suite: EspSuite) -> None:
    fuzz(suite, seed=7634, count=INPUTS)


def payloads() -> list[bytes]:
    ipv6 = ip.build(bytes(range(16)), bytes(range(16, 32)), 17, bytes(30))
    return [
        back(size)[1] + trailer
        for size in (28, 60)
        for trailer in (bytes([0, 4]), bytes([1, 2, 2, 4]), bytes(8) + bytes([1, 1, 4]))
    ] + [ipv6 + bytes([0, 41]), bytes(9) + bytes([0, 59])]


def test_any_decrypted_payload_is_a_packet_or_malformed() -> None:
    decoded = 0
    for payload in mutations(payloads(), 4301, INPUTS):
        try:
            packet = wire.decode_payload(payload)
        except MalformedPacket:
            continue
        if packet is not None:
            assert payload.startswith(packet)
            assert len(packet) >= 20
            decoded += 1
    assert INPUTS // 50 < decoded < INPUTS
