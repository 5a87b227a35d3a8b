from __future__ import annotations

import msgspec
import pytest

from policies.ipsec import Encryption, EspSuite, Integrity
from policies.secret import Secret
from tests.tunnels.esp.pairs import GCM, SUITES, keys, packet
from tunnels.effects import EspKeys
from tunnels.esp import wire
from tunnels.esp.transform import NotAuthentic, Overhead, opening, sealing

SPI = 0xC0FFEE01
CBC = EspSuite(Encryption.AES_256_CBC, Integrity.SHA2_256, True)

every_suite = pytest.mark.parametrize("suite", SUITES, ids=str)


@every_suite
@pytest.mark.parametrize("sequence", [1, 0xFFFFFFFF])
def test_what_was_sealed_opens_whatever_its_length(suite: EspSuite, sequence: int) -> None:
    seal, open_ = sealing(suite, SPI, keys(suite, 1)), opening(suite, SPI, keys(suite, 1))
    for size in (28, 29, 30, 31, 32, 44, 1399, 1400):
        octets = packet(size)[1]
        sealed = seal.seal(sequence, octets)
        assert wire.decode_header_untrusted(sealed) == (SPI, sequence & 0xFFFFFFFF)
        assert wire.decode_payload(open_.open_untrusted(sequence, sealed)) == octets


@every_suite
def test_length_is_what_the_overhead_says(suite: EspSuite) -> None:
    seal, overhead = sealing(suite, SPI, keys(suite, 1)), Overhead(suite)
    for room in range(200, 240):
        largest = overhead.largest_within(room)
        assert len(seal.seal(room, packet(largest)[1])) <= room
        assert len(seal.seal(room + 100, packet(largest + 1)[1])) > room


@every_suite
def test_any_changed_bit_and_any_missing_octet_is_noticed(suite: EspSuite) -> None:
    seal, open_ = sealing(suite, SPI, keys(suite, 1)), opening(suite, SPI, keys(suite, 1))
    sealed = seal.seal(9, packet(60)[1])
    # The AEAD ciphers authenticate the SPI that the SA has, and the associations look at the octets.
    for position in range(4 if suite.extended_sequence_numbers else 0, len(sealed)):
        if suite.encryption.is_aead and suite.extended_sequence_numbers and position < 8:
            continue
        changed = bytearray(sealed)
        changed[position] ^= 0x10
        with pytest.raises(NotAuthentic):
            open_.open_untrusted(9, bytes(changed))
    for length in range(open_.shortest, len(sealed)):
        with pytest.raises(NotAuthentic):
            open_.open_untrusted(9, sealed[:length])
    assert wire.decode_payload(open_.open_untrusted(9, sealed)) == packet(60)[1]


@every_suite
def test_packet_of_another_key_or_another_upper_half_is_not_authentic(suite: EspSuite) -> None:
    sealed = sealing(suite, SPI, keys(suite, 1)).seal(9, packet()[1])
    with pytest.raises(NotAuthentic):
        opening(suite, SPI, keys(suite, 2)).open_untrusted(9, sealed)
    if suite.extended_sequence_numbers:
        with pytest.raises(NotAuthentic):
            opening(suite, SPI, keys(suite, 1)).open_untrusted(9 + (1 << 32), sealed)


@every_suite
def test_initialisation_vector_never_repeats(suite: EspSuite) -> None:
    seal = sealing(suite, SPI, keys(suite, 1))
    length = 8 if suite.encryption.is_aead else 16
    octets = packet()[1]
    vectors = {seal.seal(n, octets)[8 : 8 + length] for n in range(1, 1001)}
    assert len(vectors) == 1000


def test_vector_of_cbc_is_no_block_that_was_seen_before() -> None:
    """RFC 3602 section 3: it has to be unpredictable, so not the packet before it, either."""
    seal = sealing(CBC, SPI, keys(CBC, 1))
    seen: set[bytes] = set()
    for sequence in range(1, 200):
        sealed = seal.seal(sequence, bytes([0x45]) + bytes(79))[8:-16]
        blocks = {sealed[at : at + 16] for at in range(0, len(sealed), 16)}
        assert not seen & blocks
        seen |= blocks


@pytest.mark.parametrize("suite", [each for each in SUITES if not each.encryption.is_aead], ids=str)
def test_packets_of_cbc_open_in_any_order_and_after_lost_and_forged_ones(suite: EspSuite) -> None:
    seal, open_ = sealing(suite, SPI, keys(suite, 1)), opening(suite, SPI, keys(suite, 1))
    octets = [packet(40 + n)[1] for n in range(9)]
    sealed = [seal.seal(n + 1, each) for n, each in enumerate(octets)]
    for n in (3, 1, 8, 0, 5):
        with pytest.raises(NotAuthentic):
            open_.open_untrusted(n + 1, sealed[n][:-1] + b"\0")
        assert wire.decode_payload(open_.open_untrusted(n + 1, sealed[n])) == octets[n]


@every_suite
def test_keys_of_another_length_are_refused(suite: EspSuite) -> None:
    right = keys(suite, 1)
    short = EspKeys(Secret(right.encryption[1:]), right.integrity)
    for make in (sealing, opening):
        with pytest.raises(ValueError, match="no key"):
            make(suite, SPI, short)
        if suite.integrity is not None:
            with pytest.raises(ValueError, match="no key"):
                make(suite, SPI, EspKeys(right.encryption, Secret(b"short")))


def test_cbc_without_integrity_is_refused() -> None:
    bare = msgspec.structs.replace(CBC, integrity=None)
    with pytest.raises(ValueError, match="integrity"):
        sealing(bare, SPI, keys(CBC, 1))


def test_overhead_of_the_common_cipher_is_what_the_standards_add_up_to() -> None:
    """RFC 4303 sections 2.1 to 2.8, RFC 4106 section 3: 8 + 8 + 2 + 16, and up to 3 of padding."""
    assert Overhead(GCM).largest_within(1480) == 1446
