"""Seals and opens the packets of one SA: RFC 4106, RFC 7634, and RFC 3602 with RFC 4868.

Both ways take the whole sequence number. Its upper half is authenticated where
extended sequence numbers were agreed on, and never sent (RFC 4303 section 2.2.1).
"""

from __future__ import annotations

import struct
from hmac import compare_digest
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.hazmat.primitives.hmac import HMAC

from policies.ipsec import Encryption, EspSuite, Integrity
from tunnels.effects import EspKeys
from tunnels.esp import wire

_LOW = 0xFFFFFFFF
_SALT_LENGTH = 4
_AEAD_IV_LENGTH = 8
_AEAD_ICV_LENGTH = 16
_BLOCK = 16

_AEAD_HEADER = struct.Struct("!IIQ")  # SPI, sequence number, IV
_HEADER = struct.Struct("!II")
_EXTENDED = struct.Struct("!IQ")  # SPI, extended sequence number (RFC 4106 section 5)
_UPPER = struct.Struct("!I")
_NONCE = struct.Struct("!QQ")

_KEY_LENGTHS = {
    Encryption.AES_128_GCM: 16,
    Encryption.AES_256_GCM: 32,
    Encryption.CHACHA20_POLY1305: 32,
    Encryption.AES_128_CBC: 16,
    Encryption.AES_256_CBC: 32,
}
_HASHES: dict[Integrity, HashAlgorithm] = {
    Integrity.SHA2_256: SHA256(),
    Integrity.SHA2_384: SHA384(),
    Integrity.SHA2_512: SHA512(),
}


class NotAuthentic(Exception):
    """The integrity check value is not that of the packet."""


class Sealing(Protocol):
    """Makes packets of one SA."""

    def seal(self, sequence: int, packet: bytes) -> bytes:
        """Return the ESP packet that carries an IP packet. Each sequence number is used once."""


class Opening(Protocol):
    """Reads packets of one SA."""

    shortest: int
    """Fewer octets are no packet, and not to be opened."""

    def open_untrusted(self, sequence: int, packet: bytes) -> bytes:
        """Return the decrypted payload with its trailer. Raises NotAuthentic, having changed nothing."""


class Overhead:
    """What a suite adds to a packet: `fixed` octets, with the trailer, and padding up to `alignment`."""

    __slots__ = ("alignment", "fixed")

    def __init__(self, suite: EspSuite) -> None:
        if suite.encryption.is_aead:
            self.alignment = 4
            self.fixed = wire.HEADER_LENGTH + _AEAD_IV_LENGTH + _AEAD_ICV_LENGTH
        else:
            self.alignment = _BLOCK
            self.fixed = wire.HEADER_LENGTH + _BLOCK + _hash_of(suite).digest_size // 2

    def largest_within(self, room: int) -> int:
        """Return the length of the largest IP packet whose ESP packet has at most `room` octets."""
        return (room - self.fixed) // self.alignment * self.alignment - wire.TRAILER_LENGTH


def sealing(suite: EspSuite, spi: int, keys: EspKeys) -> Sealing:
    """Make the outbound side of an SA. Raises ValueError for keys that do not fit the suite."""
    return (_AeadSealing if suite.encryption.is_aead else _CbcSealing)(suite, spi, keys)


def opening(suite: EspSuite, spi: int, keys: EspKeys) -> Opening:
    """Make the inbound side of an SA. Raises ValueError for keys that do not fit the suite."""
    return (_AeadOpening if suite.encryption.is_aead else _CbcOpening)(suite, spi, keys)


def _aead(suite: EspSuite, keys: EspKeys) -> tuple[AESGCM | ChaCha20Poly1305, bytes]:
    key, salt = keys.encryption[:-_SALT_LENGTH], keys.encryption[-_SALT_LENGTH:]
    if len(key) != _KEY_LENGTHS[suite.encryption]:
        raise ValueError(f"{len(keys.encryption)} octets are no key for {suite.encryption}")
    if suite.encryption is Encryption.CHACHA20_POLY1305:
        return ChaCha20Poly1305(key), bytes(salt)
    return AESGCM(key), bytes(salt)


class _AeadSealing:
    """The IV is the sequence number: it never repeats under one key (RFC 4106 section 3.1)."""

    __slots__ = ("_encrypt", "_extended", "_salt", "_spi")

    _trailers = wire.trailers(4)
    _ipv4, _ipv6 = _trailers[4], _trailers[6]

    def __init__(self, suite: EspSuite, spi: int, keys: EspKeys) -> None:
        aead, self._salt = _aead(suite, keys)
        self._encrypt = aead.encrypt
        self._extended = suite.extended_sequence_numbers
        self._spi = spi

    def seal(self, sequence: int, packet: bytes) -> bytes:
        header = _AEAD_HEADER.pack(self._spi, sequence & _LOW, sequence)
        trailer = (self._ipv4 if packet[0] < 0x60 else self._ipv6)[len(packet) & 3]
        covered = _EXTENDED.pack(self._spi, sequence) if self._extended else header[:8]
        return header + self._encrypt(self._salt + header[8:], packet + trailer, covered)


class _AeadOpening:
    __slots__ = ("_decrypt", "_extended", "_salt", "_spi", "shortest")

    def __init__(self, suite: EspSuite, spi: int, keys: EspKeys) -> None:
        aead, self._salt = _aead(suite, keys)
        self._decrypt = aead.decrypt
        self._extended = suite.extended_sequence_numbers
        self._spi = spi
        self.shortest = wire.HEADER_LENGTH + _AEAD_IV_LENGTH + wire.TRAILER_LENGTH + _AEAD_ICV_LENGTH

    def open_untrusted(self, sequence: int, packet: bytes) -> bytes:
        covered = _EXTENDED.pack(self._spi, sequence) if self._extended else packet[:8]
        try:
            return self._decrypt(self._salt + packet[8:16], packet[16:], covered)
        except InvalidTag:
            raise NotAuthentic from None


def _hash_of(suite: EspSuite) -> HashAlgorithm:
    if suite.integrity is None:
        raise ValueError(f"{suite.encryption} needs an integrity algorithm")
    return _HASHES[suite.integrity]


def _cbc(suite: EspSuite, keys: EspKeys) -> Cipher[modes.CBC]:
    if len(keys.encryption) != _KEY_LENGTHS[suite.encryption]:
        raise ValueError(f"{len(keys.encryption)} octets are no key for {suite.encryption}")
    return Cipher(algorithms.AES(keys.encryption), modes.CBC(bytes(_BLOCK)))


class _Hmac:
    """An HMAC of an SA, cut to half, keyed once and copied for each packet (RFC 4868 section 2)."""

    __slots__ = ("_keyed", "length")

    def __init__(self, suite: EspSuite, keys: EspKeys) -> None:
        algorithm = _hash_of(suite)
        if len(keys.integrity) != algorithm.digest_size:
            raise ValueError(f"{len(keys.integrity)} octets are no key for {suite.integrity}")
        self.length = algorithm.digest_size // 2
        self._keyed = HMAC(keys.integrity, algorithm)

    def of(self, covered: bytes) -> bytes:
        computed = self._keyed.copy()
        computed.update(covered)
        return computed.finalize()[: self.length]


class _CbcSealing:
    """Keeps one cipher running over all packets.

    Before each packet it encrypts a block with the sequence number; what that gives is
    the packet's IV, by the rules of CBC. So nobody can tell an IV in advance
    (RFC 3602 section 3, NIST SP 800-38A appendix C), though no randomness is drawn.
    """

    __slots__ = ("_encrypt", "_extended", "_hmac", "_spi")

    _trailers = wire.trailers(_BLOCK)
    _ipv4, _ipv6 = _trailers[4], _trailers[6]

    def __init__(self, suite: EspSuite, spi: int, keys: EspKeys) -> None:
        self._encrypt = _cbc(suite, keys).encryptor().update
        self._hmac = _Hmac(suite, keys)
        self._extended = suite.extended_sequence_numbers
        self._spi = spi

    def seal(self, sequence: int, packet: bytes) -> bytes:
        trailer = (self._ipv4 if packet[0] < 0x60 else self._ipv6)[len(packet) & 15]
        sealed = _HEADER.pack(self._spi, sequence & _LOW) + self._encrypt(
            _NONCE.pack(self._spi, sequence) + packet + trailer
        )
        covered = sealed + _UPPER.pack(sequence >> 32) if self._extended else sealed
        return sealed + self._hmac.of(covered)


class _CbcOpening:
    """Keeps one cipher running: a packet's IV is the block before it, and what that becomes is left out."""

    __slots__ = ("_decrypt", "_extended", "_hmac", "shortest")

    def __init__(self, suite: EspSuite, _spi: int, keys: EspKeys) -> None:
        self._decrypt = _cbc(suite, keys).decryptor().update
        self._hmac = _Hmac(suite, keys)
        self._extended = suite.extended_sequence_numbers
        self.shortest = wire.HEADER_LENGTH + 2 * _BLOCK + self._hmac.length

    def open_untrusted(self, sequence: int, packet: bytes) -> bytes:
        length = self._hmac.length
        sealed = packet[:-length]
        covered = sealed + _UPPER.pack(sequence >> 32) if self._extended else sealed
        if (len(sealed) - wire.HEADER_LENGTH) % _BLOCK or not compare_digest(
            self._hmac.of(covered), packet[-length:]
        ):
            raise NotAuthentic
        return self._decrypt(sealed[wire.HEADER_LENGTH :])[_BLOCK:]
