"""RFC 4106, AES-GCM in ESP. The packets are those of section 4 of draft-mcgrew-gcm-test-01."""

from __future__ import annotations

import pytest

from policies.ipsec import Encryption, EspSuite
from policies.secret import Secret
from tests.tunnels.esp.pairs import packet
from tunnels.effects import EspKeys
from tunnels.esp.transform import NotAuthentic, opening, sealing

EXTENDED = (
    EspSuite(Encryption.AES_128_GCM, None, True),
    "4c80cdefbb5d10da906ac73c3613a634 2e443b68",
    0x4321,
    0x87654321_00000000,
    "00004321 00000000 4956ed7e3b244cfe",
    """fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34
    cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce
    61bc17d768fd9732 459018148f6cbe722fd04796562dfdb4""",
    """45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000
    00000000045f736970045f756470037369700963796265726369747902646b00
    0021000101020201""",
)
PLAIN = (
    EspSuite(Encryption.AES_256_GCM, None, False),
    "abbccddef00112233445566778899aababbccddef00112233445566778899aab 11223344",
    0x4A2CBFE3,
    2,
    "4a2cbfe3 00000002 0102030405060708",
    """ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763
    748a637985771d347f0545659f14e99def842d8eb335f4eecfdbf831824b4c49
    15956c96""",
    """4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee000000000
    7002400020bf0000020405b40101040201020201""",
)


@pytest.mark.parametrize("case", [EXTENDED, PLAIN], ids=["extended sequence numbers", "32 bits"])
def test_section_4_packet_opens(case: tuple[EspSuite, str, int, int, str, str, str]) -> None:
    suite, key, spi, sequence, header, sealed, payload = case
    reading = opening(suite, spi, EspKeys(Secret(bytes.fromhex(key)), Secret()))
    octets = bytes.fromhex(header) + bytes.fromhex(sealed)
    assert reading.open_untrusted(sequence, octets) == bytes.fromhex(payload)
    with pytest.raises(NotAuthentic):
        reading.open_untrusted(sequence + (1 << 32), bytes([*octets[:-1], octets[-1] ^ 1]))


def test_section_5_upper_half_of_an_extended_sequence_number_is_authenticated() -> None:
    suite, key, spi, sequence, header, sealed, _ = EXTENDED
    reading = opening(suite, spi, EspKeys(Secret(bytes.fromhex(key)), Secret()))
    with pytest.raises(NotAuthentic):
        reading.open_untrusted(sequence + (1 << 32), bytes.fromhex(header) + bytes.fromhex(sealed))


def test_section_3_1_vector_is_the_whole_sequence_number_so_that_it_never_repeats() -> None:
    keys = EspKeys(Secret(bytes(20)), Secret())
    sealing_ = sealing(EXTENDED[0], 1, keys)
    assert sealing_.seal(7, packet()[1])[8:16] == (7).to_bytes(8)
    assert sealing_.seal((1 << 32) + 7, packet()[1])[8:16] == ((1 << 32) + 7).to_bytes(8)
