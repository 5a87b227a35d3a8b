"""Vectors of AES-GCM, AES-CBC and ChaCha20-Poly1305 through the ciphers of IKE's messages.

They come from the package `cryptography-vectors`: CAVS 14.0 (gcmDecrypt, gcmEncryptExtIV) and 11.1
(CBCMMT), OpenSSL's and BoringSSL's tests.
"""

from __future__ import annotations

import pytest

from policies.ipsec import Encryption, Integrity
from policies.secret import Secret
from tests.tunnels.ike.entropy import SeededEntropy
from tests.vectors.files import Vector, vectors
from tunnels.ike.ciphers import Aead, CbcHmac, NotAuthentic

AES_OF = {128: Encryption.AES_128_GCM, 256: Encryption.AES_256_GCM}


def octets(vector: Vector, name: str) -> bytes:
    value = vector[name]
    return value.strip('"').encode() if value.startswith('"') else bytes.fromhex(value)


def aead(encryption: Encryption, vector: Vector, nonce: str = "iv") -> Aead:
    """A nonce is salt and IV; the counter is set to be at that IV next."""
    cipher = Aead(encryption, Secret(octets(vector, "key") + octets(vector, nonce)[:4]))
    cipher._sent = int.from_bytes(octets(vector, nonce)[4:]) - 1
    return cipher


@pytest.mark.parametrize("bits", [128, 256])
def test_gcm_of_nist_is_opened_or_refused(bits: int) -> None:
    opened = refused = 0
    for vector in vectors(f"ciphers/AES/GCM/gcmDecrypt{bits}.rsp", "count"):
        if (vector["ivlen"], vector["taglen"]) != ("96", "128"):
            continue
        cipher = aead(AES_OF[bits], vector)
        sealed = octets(vector, "iv")[4:] + octets(vector, "ct") + octets(vector, "tag")
        if "fail" in vector:
            with pytest.raises(NotAuthentic):
                cipher.open_untrusted(octets(vector, "aad"), sealed)
            refused += 1
        else:
            assert cipher.open_untrusted(octets(vector, "aad"), sealed) == octets(vector, "pt")
            opened += 1
    assert (opened + refused, refused > 100) == (375, True)


@pytest.mark.parametrize("bits", [128, 256])
def test_gcm_of_nist_is_sealed(bits: int) -> None:
    sealed = 0
    for vector in vectors(f"ciphers/AES/GCM/gcmEncryptExtIV{bits}.rsp", "count"):
        if (vector["ivlen"], vector["taglen"]) != ("96", "128"):
            continue
        made = aead(AES_OF[bits], vector).seal(octets(vector, "aad"), octets(vector, "pt"), SeededEntropy(1))
        assert made == octets(vector, "iv")[4:] + octets(vector, "ct") + octets(vector, "tag")
        sealed += 1
    assert sealed == 375


def test_chacha20_of_openssl_is_opened_or_refused() -> None:
    results = []
    for vector in vectors("ciphers/ChaCha20Poly1305/openssl.txt", "count"):
        if len(vector["iv"]) != 24:
            continue
        cipher = aead(Encryption.CHACHA20_POLY1305, vector)
        sealed = octets(vector, "iv")[4:] + octets(vector, "ciphertext") + octets(vector, "tag")
        if "result" in vector:
            with pytest.raises(NotAuthentic):
                cipher.open_untrusted(octets(vector, "aad"), sealed)
        else:
            plaintext = octets(vector, "plaintext")
            assert cipher.open_untrusted(octets(vector, "aad"), sealed) == plaintext
            assert cipher.seal(octets(vector, "aad"), plaintext, SeededEntropy(1)) == sealed
        results.append("result" in vector)
    assert (len(results), sum(results)) == (5, 1)


def test_chacha20_of_boringssl_is_sealed_and_opened() -> None:
    count = 0
    for vector in vectors("ciphers/ChaCha20Poly1305/boringssl.txt", "count"):
        if len(vector["tag"]) != 32:
            continue  # RFC 7634 has no shorter one
        cipher = aead(Encryption.CHACHA20_POLY1305, vector, "nonce")
        plaintext = octets(vector, "in")
        sealed = octets(vector, "nonce")[4:] + octets(vector, "ct") + octets(vector, "tag")
        assert cipher.seal(octets(vector, "ad"), plaintext, SeededEntropy(1)) == sealed
        assert cipher.open_untrusted(octets(vector, "ad"), sealed) == plaintext
        count += 1
    assert count == 66


@pytest.mark.parametrize("bits", [128, 256])
def test_cbc_of_nist_is_sealed_and_opened(bits: int) -> None:
    count = 0
    for vector in vectors(f"ciphers/AES/CBC/CBCMMT{bits}.rsp", "count"):

        class Given(SeededEntropy):
            iv = octets(vector, "iv")

            def octets(self, count: int) -> bytes:
                return self.iv[:count]

        cipher = CbcHmac(Secret(octets(vector, "key")), Integrity.SHA2_256, Secret(bytes(32)))
        sealed = cipher.seal(b"before", octets(vector, "plaintext"), Given(1))
        assert sealed[:-16] == octets(vector, "iv") + octets(vector, "ciphertext")
        assert cipher.open_untrusted(b"before", sealed) == octets(vector, "plaintext")
        count += 1
    assert count == 20
