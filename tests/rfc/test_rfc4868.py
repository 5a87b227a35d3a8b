"""RFC 4868, HMAC-SHA-256, -384 and -512 as PRF and for integrity: its test vectors (section 2.7)."""

from __future__ import annotations

import hmac

import pytest

from policies.ipsec import Integrity, Prf
from policies.secret import Secret
from tunnels.ike import keys
from tunnels.ike.ciphers import CbcHmac

LARGE = b"\xaa" * 131
RISING = bytes(range(1, 65))
HI, WANT = b"Hi There", b"what do ya want for nothing?"
PRF_INPUTS = [
    (b"\x0b" * 20, HI),
    (b"Jefe", WANT),
    (b"\xaa" * 20, b"\xdd" * 50),
    (RISING[:25], b"\xcd" * 50),
    (LARGE, b"Test Using Larger Than Block-Size Key - Hash Key First"),
    (
        LARGE,
        (
            b"This is a test using a larger than block-size key and a larger than block-size data. "
            b"The key needs to be hashed before being used by the HMAC algorithm."
        ),
    ),
]

PRF_256 = [
    "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
    "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
    "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
    "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
]

PRF_384 = [
    "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
    "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
    "88062608d3e6ad8a0aa2ace014c8a86f0aa635d947ac9febe83ef4e55966144b2a5ab39dc13814b94e3ab6e101a34f27",
    "3e8a69b7783c25851933ab6290af6ca77a9981480850009cc5577c6e1f573b4e6801dd23c4a7d679ccf8a386c674cffb",
    "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
    "6617178e941f020d351e2f254e8fd32c602420feb0b8fb9adccebb82461e99c5a678cc31e799176d3860e6110c46523e",
]

PRF_512 = [
    "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
    "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
    "fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39bf3e848279a722c806b485a47e67c807b946a337bee8942674278859e13292fb",
    "b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3dba91ca5c11aa25eb4d679275cc5788063a5f19741120c4f2de2adebeb10a298dd",
    "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598",
    "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944b6022cac3c4982b10d5eeb55c3e4de15134676fb6de0446065c97440fa8c6a58",
]

AUTH_256 = [
    "198a607eb44bfbc69903a0f1cf2bbdc5",
    "167f928588c5cc2eef8e3093caa0e87c",
    "cdcb1220d1ecccea91e53aba3092f962",
    "372efcf9b40b35c2115b1346903d2ef4",
]

AUTH_384 = [
    "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973",
    "2c7353974f1842fd66d53c452ca42122b28c0b594cfb184d",
    "809f439be00274321d4a538652164b53554a508184a0c316",
    "5b540085c6e6358096532b2493609ed1cb298f774f87bb5c",
]

AUTH_512 = [
    "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8",
    "cb370917ae8a7ce28cfd1d8f4705d6141c173b2a9362c15df235dfb251b15454",
    "2ee7acd783624ca9398710f3ee05ae41b9f9b0510c87e49e586cc9bf961733d8",
    "5e6688e5a3daec826ca32eaea224eff5e700628947470e13ad01302561bab108",
]


def secret_of(number: int, length: int) -> bytes:
    """The keys of the four cases of each algorithm.

    The last is printed otherwise for SHA-384, and for SHA-512 with 16 octets too many in front.
    """
    if number == 3 and length == 48:
        return RISING[:32] + bytes(range(0x0A, 0x1A))
    return (b"\x0b" * length, b"Jefe" * (length // 4), b"\xaa" * length, RISING[:length])[number]


DATA = (HI, WANT, b"\xdd" * 50, b"\xcd" * 50)


@pytest.mark.parametrize(
    ("algorithm", "expected"), [(Prf.SHA2_256, PRF_256), (Prf.SHA2_384, PRF_384), (Prf.SHA2_512, PRF_512)]
)
def test_section_2_7_1_prf(algorithm: Prf, expected: list[str]) -> None:
    assert [keys.prf(algorithm, *each).hex() for each in PRF_INPUTS] == expected


@pytest.mark.parametrize(
    ("algorithm", "length", "expected"),
    [
        (Integrity.SHA2_256, 32, AUTH_256),
        (Integrity.SHA2_384, 48, AUTH_384),
        (Integrity.SHA2_512, 64, AUTH_512),
    ],
)
def test_section_2_7_2_authenticator(algorithm: Integrity, length: int, expected: list[str]) -> None:
    made = [
        CbcHmac(Secret(bytes(16)), algorithm, Secret(secret_of(number, length))).icv(data).hex()
        for number, data in enumerate(DATA)
    ]

    assert made == expected


def test_section_2_3_icv_is_half_of_the_hash() -> None:
    for algorithm, name in zip(Integrity, ("sha256", "sha384", "sha512"), strict=True):
        cipher = CbcHmac(Secret(bytes(16)), algorithm, Secret(b"key"))
        whole = hmac.digest(b"key", b"data", name)
        assert cipher.icv(b"data") == whole[: len(whole) // 2]
