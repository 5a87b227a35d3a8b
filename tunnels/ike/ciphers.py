"""The ciphers of IKE's Encrypted payload: IV, ciphertext and ICV in one.

AEAD by RFC 5282 and RFC 7634 section 2, CBC with HMAC by RFC 7296 section 3.14 and RFC 4868.
Padding is not theirs: what they are given fills whole blocks.
"""

from __future__ import annotations

import hmac
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as LibraryCipher
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from policies.errors import MalformedPacket, Rejected
from policies.ipsec import Encryption, IkeSuite, Integrity
from policies.secret import Secret
from tunnels.ike.entropy import Entropy

_SALT_OCTETS = 4
_HMACS = {
    Integrity.SHA2_256: ("sha256", 16),
    Integrity.SHA2_384: ("sha384", 24),
    Integrity.SHA2_512: ("sha512", 32),
}


class NotAuthentic(Rejected):
    """The octets are not the peer's, or not as it sent them: drop them, and change nothing."""


class Cipher(Protocol):
    """Seals or opens with the keys of one direction."""

    name: str
    iv_octets: int
    block_octets: int
    icv_octets: int

    def seal(self, clear: bytes, plaintext: bytes, entropy: Entropy) -> bytes:
        """Return IV, ciphertext and ICV; `clear`, which goes before them, is covered by the ICV."""

    def open_untrusted(self, clear: bytes, sealed: bytes) -> bytes:
        """Return what was sealed. Raises MalformedPacket or NotAuthentic, and nothing else."""


def cipher_of(suite: IkeSuite, encryption: Secret, integrity: Secret) -> Cipher:
    """Return the suite's cipher with its keys. Raises ValueError for keys of wrong lengths."""
    if suite.encryption.is_aead:
        return Aead(suite.encryption, encryption)
    if suite.integrity is None:
        raise ValueError(f"{suite.encryption} needs an integrity algorithm beside it")
    return CbcHmac(encryption, suite.integrity, integrity)


class Aead:
    """AES-GCM with its whole tag, or ChaCha20-Poly1305: the nonce is salt and IV (RFC 5282 section 4).

    The IV counts, so no two are equal as long as one object seals all that a key seals.
    """

    iv_octets, block_octets, icv_octets = 8, 1, 16

    def __init__(self, encryption: Encryption, key: Secret) -> None:
        kind = ChaCha20Poly1305 if encryption is Encryption.CHACHA20_POLY1305 else AESGCM
        self.name = str(encryption)
        self._aead = kind(key[:-_SALT_OCTETS])
        self._salt = key[-_SALT_OCTETS:]
        self._sent = 0

    def seal(self, clear: bytes, plaintext: bytes, _entropy: Entropy) -> bytes:
        self._sent += 1
        iv = self._sent.to_bytes(self.iv_octets)
        return iv + self._aead.encrypt(self._salt + iv, plaintext, clear)

    def open_untrusted(self, clear: bytes, sealed: bytes) -> bytes:
        if len(sealed) < self.iv_octets + self.icv_octets:
            raise MalformedPacket(f"{len(sealed)} octets are too few for IV and ICV")
        nonce = self._salt + sealed[: self.iv_octets]
        try:
            return self._aead.decrypt(nonce, sealed[self.iv_octets :], clear)
        except InvalidTag:
            raise NotAuthentic("the message is not the peer's, or was changed on its way") from None


class CbcHmac:
    """AES-CBC, then HMAC with SHA-2, half of it, over everything before (RFC 4868 section 2.3)."""

    iv_octets, block_octets = 16, 16

    def __init__(self, key: Secret, integrity: Integrity, integrity_key: Secret) -> None:
        self.name = f"aes{len(key) * 8}-{integrity}"
        self._aes = algorithms.AES(key)
        self._hash, self.icv_octets = _HMACS[integrity]
        self._integrity_key = integrity_key

    def seal(self, clear: bytes, plaintext: bytes, entropy: Entropy) -> bytes:
        # An IV that can be foreseen would break CBC (RFC 7296 section 3.14).
        iv = entropy.octets(self.iv_octets)
        encryptor = LibraryCipher(self._aes, modes.CBC(iv)).encryptor()
        sealed = iv + encryptor.update(plaintext) + encryptor.finalize()
        return sealed + self.icv(clear + sealed)

    def open_untrusted(self, clear: bytes, sealed: bytes) -> bytes:
        blocks = len(sealed) - self.iv_octets - self.icv_octets
        if blocks < 0 or blocks % self.block_octets:
            raise MalformedPacket(f"{len(sealed)} octets cannot be IV, whole blocks and ICV")
        covered, icv = sealed[: -self.icv_octets], sealed[-self.icv_octets :]
        if not hmac.compare_digest(icv, self.icv(clear + covered)):
            raise NotAuthentic("the message is not the peer's, or was changed on its way")
        decryptor = LibraryCipher(self._aes, modes.CBC(covered[: self.iv_octets])).decryptor()
        return decryptor.update(covered[self.iv_octets :]) + decryptor.finalize()

    def icv(self, covered: bytes) -> bytes:
        """Return the HMAC of what is sent, cut to its half."""
        return hmac.digest(self._integrity_key, covered, self._hash)[: self.icv_octets]
