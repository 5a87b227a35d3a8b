"""RFC 7634, ChaCha20-Poly1305: the ESP packet of appendix A, octet by octet."""

from __future__ import annotations

import struct

import pytest

from policies.ipsec import Encryption, EspSuite
from policies.secret import Secret
from tunnels.effects import EspKeys
from tunnels.esp import wire
from tunnels.esp.transform import NotAuthentic, opening, sealing

SUITE = EspSuite(Encryption.CHACHA20_POLY1305, None, False)
KEYS = EspKeys(Secret(bytes(range(0x80, 0xA4))), Secret())
SPI = 0x01020304
SOURCE_PACKET = bytes.fromhex(
    """45 00 00 54 a6 f2 00 00 40 01 e7 78 c6 33 64 05
    c0 00 02 05 08 00 5b 7a 3a 08 00 00 55 3b ec 10
    00 07 36 27 08 09 0a 0b 0c 0d 0e 0f 10 11 12 13
    14 15 16 17 18 19 1a 1b 1c 1d 1e 1f 20 21 22 23
    24 25 26 27 28 29 2a 2b 2c 2d 2e 2f 30 31 32 33
    34 35 36 37"""
)
ESP_PACKET = bytes.fromhex(
    """01 02 03 04 00 00 00 05 10 11 12 13
    14 15 16 17 24 03 94 28 b9 7f 41 7e 3c 13 75 3a
    4f 05 08 7b 67 c3 52 e6 a7 fa b1 b9 82 d4 66 ef
    40 7a e5 c6 14 ee 80 99 d5 28 44 eb 61 aa 95 df
    ab 4c 02 f7 2a a7 1e 7c 4c 4f 64 c9 be fe 2f ac
    c6 38 e8 f3 cb ec 16 3f ac 46 9b 50 27 73 f6 fb
    94 e6 64 da 91 65 b8 28 29 f6 41 e0 76 aa a8 26
    6b 7f b0 f7 b1 1b 36 99 07 e1 ad 43"""
)


def test_appendix_a_packet_opens() -> None:
    payload = opening(SUITE, SPI, KEYS).open_untrusted(5, ESP_PACKET)
    assert payload == SOURCE_PACKET + bytes.fromhex("01 02 02 04")
    assert wire.decode_payload(payload) == SOURCE_PACKET


def test_appendix_a_packet_with_another_sequence_number_is_not_authentic() -> None:
    changed = ESP_PACKET[:7] + b"\x06" + ESP_PACKET[8:]
    with pytest.raises(NotAuthentic):
        opening(SUITE, SPI, KEYS).open_untrusted(6, changed)


def test_appendix_a_packet_is_sealed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours has its sequence number for an IV, so here the IV of the example takes that place."""

    class ExampleHeader:
        @staticmethod
        def pack(spi: int, low: int, _: int) -> bytes:
            return struct.pack("!IIQ", spi, low, 0x1011121314151617)

    monkeypatch.setattr("tunnels.esp.transform._AEAD_HEADER", ExampleHeader)
    assert sealing(SUITE, SPI, KEYS).seal(5, SOURCE_PACKET) == ESP_PACKET


def test_section_3_keying_material_is_a_key_and_a_salt() -> None:
    for length in (32, 35, 37):
        with pytest.raises(ValueError, match="no key"):
            sealing(SUITE, SPI, EspKeys(Secret(bytes(length)), Secret()))
