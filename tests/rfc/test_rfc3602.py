"""RFC 3602, AES-CBC in ESP: the tunnel-mode packets of section 4, which lack an ICV and here get one."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from policies.ipsec import Encryption, EspSuite, Integrity
from policies.secret import Secret
from tunnels.effects import EspKeys
from tunnels.esp import wire
from tunnels.esp.transform import opening

KEY = bytes.fromhex("01234567 89abcdef 01234567 89abcdef")
SPI = 0x8765

CASE_7 = (
    2,
    """00008765 00000002 f4e76524 4f6407ad f13dc138 0f673f37
    773b5241 a4c44922 5e4f3ce5 ed611b0c 237ca96c f74a9301 3c1b0ea1 a0cf70f8
    e4ecaec7 8ac53aad 7a0f022b 859243c6 47752e94 a859352b 8a4d4d2d ecd136e5
    c177f132 ad3fbfb2 201ac990 4c74ee0a 109e0ca1 e4dfe9d5 a100b842 f1c22f0d""",
    """45000054 09040000 4001f988 c0a87b03 c0a87bc8 08009f76 a90a0100 b49c083d
    02a20400 08090a0b 0c0d0e0f 10111213 14151617 18191a1b 1c1d1e1f 20212223
    24252627 28292a2b 2c2d2e2f 30313233 34353637""",
)
CASE_8 = (
    5,
    """00008765 00000005 85d47224 b5f3dd5d 2101d4ea 8dffab22
    15b92683 819596a8 047232cc 00f7048f e45318e1 1f8a0f62 ede3c3fc 61203bb5
    0f980a08 c9843fd3 a1b06d5c 07ff9639 b7eb7dfb 3512e5de 435e7207 ed971ef3
    d2726d9b 5ef6affc 6d17a0de cbb13892""",
    """45000044 090c0000 4001f990 c0a87b03 c0a87bc8 0800d63c aa0a0200 c69c083d
    a3de0300 ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff
    ffffffff""",
)


@pytest.mark.parametrize(
    ("integrity", "digest"),
    [
        (Integrity.SHA2_256, hashlib.sha256),
        (Integrity.SHA2_384, hashlib.sha384),
        (Integrity.SHA2_512, hashlib.sha512),
    ],
)
@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("case", [CASE_7, CASE_8], ids=["case 7", "case 8"])
def test_section_4_packet_opens(
    case: tuple[int, str, str], extended: bool, integrity: Integrity, digest: type
) -> None:
    """RFC 4868 section 2: the ICV is the first half of the HMAC; its key is as long as the whole."""
    sequence, octets, inner = case
    length = digest().digest_size
    key = bytes(range(length))
    sealed = bytes.fromhex(octets)
    covered = sealed + bytes(4) if extended else sealed
    icv = hmac.new(key, covered, digest).digest()[: length // 2]
    suite = EspSuite(Encryption.AES_128_CBC, integrity, extended)
    payload = opening(suite, SPI, EspKeys(Secret(KEY), Secret(key))).open_untrusted(sequence, sealed + icv)
    assert wire.decode_payload(payload) == bytes.fromhex(inner)
