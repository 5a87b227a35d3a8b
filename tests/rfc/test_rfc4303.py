"""RFC 4303, ESP: what is sent, what is checked, and in which order."""

from __future__ import annotations

import pytest

from policies.ipsec import Encryption, EspSuite, Integrity
from tests.tunnels.esp.pairs import (
    OUR_SPI,
    PATH,
    PEER_SPI,
    SITE,
    SUITES,
    back,
    child,
    joined,
    keys,
    opened,
    packet,
    sealed,
)
from tunnels.esp import wire
from tunnels.esp.associations import Opened
from tunnels.esp.drops import EspDrop
from tunnels.esp.transform import opening
from tunnels.replay import WINDOW

NO_ESN = EspSuite(Encryption.CHACHA20_POLY1305, None, False)
CBC = EspSuite(Encryption.AES_128_CBC, Integrity.SHA2_256, False)


def test_section_2_1_spi_zero_is_nobodys() -> None:
    us, _ = joined(child())
    assert us.open_untrusted(PATH, bytes(100), 0.0) is EspDrop.UNKNOWN_SPI


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_section_2_2_and_3_3_3_first_packet_has_number_1_and_each_next_one_more(suite: EspSuite) -> None:
    us, _ = joined(child(suite))
    for number in range(1, 5):
        assert wire.decode_header_untrusted(sealed(us, packet()).packet) == (PEER_SPI, number)


def test_section_2_2_1_upper_half_of_an_extended_number_is_not_sent() -> None:
    us, _ = joined(child(soft_packets=1 << 60))
    before = len(sealed(us, packet()).packet)
    us._inbound[OUR_SPI].sent_packets = 1 << 40
    after = sealed(us, packet()).packet
    assert (len(after), after[4:8]) == (before, bytes([0, 0, 0, 1]))


@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_section_2_4_padding_counts_and_ends_what_is_encrypted_on_4_octets(suite: EspSuite) -> None:
    us, _ = joined(child(suite))
    reader = opening(suite, PEER_SPI, keys(suite, 2))
    for number, size in enumerate(range(60, 80), 1):
        payload = reader.open_untrusted(number, sealed(us, packet(size)).packet)
        assert len(payload) % 4 == 0
        padding = payload[size:-2]
        assert padding == bytes(range(1, len(padding) + 1))
        assert payload[-2:] == bytes([len(padding), 4])


def test_section_2_6_dummy_packet_is_discarded_without_being_an_error() -> None:
    assert wire.decode_payload(b"anything at all" + bytes([0, 59])) is None


def test_section_2_7_padding_for_traffic_flow_confidentiality_is_not_given_on() -> None:
    octets = packet()[1]
    assert wire.decode_payload(octets + bytes(200) + bytes([1, 1, 4])) == octets


@pytest.mark.parametrize("suite", [NO_ESN, CBC], ids=str)
def test_section_3_3_3_packet_that_would_make_the_number_begin_again_is_not_sent(suite: EspSuite) -> None:
    us, _ = joined(child(suite, soft_packets=1 << 40))
    us._inbound[OUR_SPI].sent_packets = (1 << 32) - 1
    assert us.seal(SITE, *packet(), 0.0) is EspDrop.EXHAUSTED


def test_section_3_4_2_packet_without_an_association_is_discarded_and_counted() -> None:
    us, _ = joined(child())
    us.open_untrusted(PATH, b"\1\2\3\4" + bytes(60), 0.0)
    assert us.drops[EspDrop.UNKNOWN_SPI, None] == 1


def test_section_3_4_3_window_is_checked_before_the_icv_and_moved_only_after_it() -> None:
    us, peer = joined(child(NO_ESN))
    octets = [sealed(peer, back()).packet for _ in range(WINDOW + 2)]
    opened(us, octets[1])
    assert us.open_untrusted(PATH, octets[1][:-1] + b"\0", 0.0) is EspDrop.REPLAYED
    ahead = octets[-1][:-1] + bytes([octets[-1][-1] ^ 1])
    assert us.open_untrusted(PATH, ahead, 0.0) is EspDrop.NOT_AUTHENTIC
    assert isinstance(us.open_untrusted(PATH, octets[0], 0.0), Opened), "the window has not moved"
    opened(us, octets[-1])
    assert us.open_untrusted(PATH, octets[1], 0.0) is EspDrop.REPLAYED


def test_section_3_4_3_32_bit_numbers_are_not_continued_beyond_their_end() -> None:
    us, peer = joined(child(NO_ESN, soft_packets=1 << 40))
    us._inbound[OUR_SPI].window.accept((1 << 32) - 1)
    assert us.open_untrusted(PATH, sealed(peer, back()).packet, 0.0) is EspDrop.REPLAYED


def test_appendix_a2_2_extended_numbers_go_on_across_32_bits_with_loss() -> None:
    us, peer = joined(child(soft_packets=1 << 60))
    peer._inbound[PEER_SPI].sent_packets = (1 << 32) - 5
    us._inbound[OUR_SPI].window.accept((1 << 32) - 5)
    octets = [sealed(peer, back()).packet for _ in range(10)]
    for number in (8, 1, 3, 9, 0):
        opened(us, octets[number])
    assert us._inbound[OUR_SPI].window.newest == (1 << 32) + 5
