"""What keeps IKE's messages secret and whole: the Encrypted payload, of one direction.

RFC 7296 section 3.14, RFC 7383 section 2.5 for fragments, RFC 5282 for AEAD and
RFC 7634 section 2 for ChaCha20. Only what the peer holds the key for gets through
`open_untrusted`: everything else leaves no trace.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from policies.errors import MalformedPacket, Rejected
from policies.ipsec import Encryption, IkeSuite, Integrity
from policies.secret import Secret
from tunnels.ike import fragments, wire
from tunnels.ike.constants import PayloadType
from tunnels.ike.entropy import Entropy
from tunnels.ike.payloads import Header, Payload

_PAYLOAD = struct.Struct("!BBH")  # next payload, critical bit, length with this header
_FRAGMENT = struct.Struct("!HH")  # number, total; from 1

_SALT_OCTETS = 4
_TAG_OCTETS = 16
_BLOCK_OCTETS = 16
_HMACS = {
    Integrity.SHA2_256: ("sha256", 16),
    Integrity.SHA2_384: ("sha384", 24),
    Integrity.SHA2_512: ("sha512", 32),
}


class NotAuthentic(Rejected):
    """The octets are not the peer's, or not as it sent them: drop them, and change nothing."""


class Opened(msgspec.Struct, frozen=True):
    """What was in an Encrypted payload; of a fragment its number and the total, from 1."""

    header: Header
    first_payload: int
    plaintext: bytes
    fragment: tuple[int, int] | None = None


class Protection:
    """Seals or opens the messages of one direction of one IKE SA.

    Keep one object for as long as the keys live: with AEAD its counter is what makes
    each IV new (RFC 5282 section 4).
    """

    def __init__(self, suite: IkeSuite, encryption: Secret, integrity: Secret) -> None:
        self._algorithm: _Algorithm
        if suite.encryption.is_aead:
            self._algorithm = _Aead(suite.encryption, encryption)
        else:
            if suite.integrity is None:
                raise ValueError(f"{suite.encryption} needs an integrity algorithm beside it")
            self._algorithm = _CbcHmac(encryption, suite.integrity, integrity)

    def __repr__(self) -> str:
        return f"<Protection by {self._algorithm.name}>"

    def seal(self, header: Header, payloads: Sequence[Payload], entropy: Entropy) -> bytes:
        """Return the whole message with all payloads in one Encrypted payload."""
        first, plaintext = wire.encode_payloads(payloads)
        return self._sealed(header, first, plaintext, None, entropy)

    def seal_fragments(
        self, header: Header, payloads: Sequence[Payload], limit: int, entropy: Entropy
    ) -> list[bytes]:
        """Return the message in datagrams of at most `limit` octets: one, or RFC 7383's fragments.

        `limit` is that of UDP's payload, after a Non-ESP Marker. Raises ValueError where it
        leaves no room.
        """
        first, plaintext = wire.encode_payloads(payloads)
        overhead = wire.HEADER_LENGTH + _PAYLOAD.size
        if overhead + self._algorithm.sealed_octets(len(plaintext)) <= limit:
            return [self._sealed(header, first, plaintext, None, entropy)]
        room = self._algorithm.plaintext_octets(limit - overhead - _FRAGMENT.size)
        if room < 1:
            raise ValueError(f"{limit} octets leave no room for a fragment")
        pieces = fragments.split(plaintext, room)
        return [
            # Only the first fragment names the first payload inside (RFC 7383 section 2.5).
            self._sealed(header, first if number == 1 else 0, piece, (number, len(pieces)), entropy)
            for number, piece in enumerate(pieces, 1)
        ]

    def open_untrusted(self, datagram: bytes) -> Opened:
        """Return what the peer sealed.

        The Encrypted payload has to be the only one of the message, as everybody sends it.
        Raises MalformedPacket or NotAuthentic, and nothing else.
        """
        header = wire.decode_header_untrusted(datagram)
        if header.next_payload not in (PayloadType.ENCRYPTED, PayloadType.ENCRYPTED_FRAGMENT):
            raise MalformedPacket(f"a message starts with payload {header.next_payload} instead of Encrypted")
        start = wire.HEADER_LENGTH + _PAYLOAD.size
        if len(datagram) < start:
            raise MalformedPacket("the message ends in the header of its Encrypted payload")
        first, _, length = _PAYLOAD.unpack_from(datagram, wire.HEADER_LENGTH)
        if wire.HEADER_LENGTH + length != len(datagram):
            raise MalformedPacket(f"an Encrypted payload of {length} octets does not fill its message")
        fragment = None
        if header.next_payload == PayloadType.ENCRYPTED_FRAGMENT:
            if len(datagram) < start + _FRAGMENT.size:
                raise MalformedPacket("the message ends in the header of its Encrypted Fragment payload")
            number, total = _FRAGMENT.unpack_from(datagram, start)
            if not 1 <= number <= total:
                raise MalformedPacket(f"fragment {number} of {total} cannot be")
            fragment = (number, total)
            start += _FRAGMENT.size
        plaintext = self._algorithm.open_untrusted(datagram[:start], datagram[start:])
        return Opened(header, first, plaintext, fragment)

    def _sealed(
        self,
        header: Header,
        first: int,
        plaintext: bytes,
        fragment: tuple[int, int] | None,
        entropy: Entropy,
    ) -> bytes:
        kind = PayloadType.ENCRYPTED if fragment is None else PayloadType.ENCRYPTED_FRAGMENT
        behind = b"" if fragment is None else _FRAGMENT.pack(*fragment)
        length = _PAYLOAD.size + len(behind) + self._algorithm.sealed_octets(len(plaintext))
        header = msgspec.structs.replace(header, next_payload=kind)
        clear = wire.encode_header(header, wire.HEADER_LENGTH + length)
        clear += _PAYLOAD.pack(first, 0, length) + behind
        return clear + self._algorithm.seal(clear, plaintext, entropy)


class _Algorithm(Protocol):
    name: str

    def sealed_octets(self, plaintext: int) -> int:
        """How long IV, ciphertext and ICV are for so many octets."""
        ...

    def plaintext_octets(self, room: int) -> int:
        """How many octets at most can be sealed into so many."""
        ...

    def seal(self, clear: bytes, plaintext: bytes, entropy: Entropy) -> bytes: ...

    def open_untrusted(self, clear: bytes, sealed: bytes) -> bytes: ...


class _Aead:
    """AES-GCM with its whole tag, or ChaCha20-Poly1305: the nonce is salt and IV (RFC 5282 section 4)."""

    _IV_OCTETS = 8

    def __init__(self, encryption: Encryption, key: Secret) -> None:
        kind = ChaCha20Poly1305 if encryption is Encryption.CHACHA20_POLY1305 else AESGCM
        self.name = str(encryption)
        self._cipher = kind(key[:-_SALT_OCTETS])
        self._salt = key[-_SALT_OCTETS:]
        self._sent = 0

    def sealed_octets(self, plaintext: int) -> int:
        return self._IV_OCTETS + plaintext + 1 + _TAG_OCTETS

    def plaintext_octets(self, room: int) -> int:
        return room - self._IV_OCTETS - 1 - _TAG_OCTETS

    def seal(self, clear: bytes, plaintext: bytes, _entropy: Entropy) -> bytes:
        self._sent += 1
        iv = self._sent.to_bytes(self._IV_OCTETS)
        # No padding is needed, only the octet that says so (RFC 5282 section 3).
        return iv + self._cipher.encrypt(self._salt + iv, plaintext + b"\0", clear)

    def open_untrusted(self, clear: bytes, sealed: bytes) -> bytes:
        if len(sealed) < self.sealed_octets(0):
            raise MalformedPacket(f"{len(sealed)} octets are too short for anything encrypted")
        iv, ciphertext = sealed[: self._IV_OCTETS], sealed[self._IV_OCTETS :]
        try:
            padded = self._cipher.decrypt(self._salt + iv, ciphertext, clear)
        except InvalidTag:
            raise NotAuthentic("the message is not the peer's, or was changed on its way") from None
        return _unpadded(padded)


class _CbcHmac:
    """AES-CBC, then HMAC over everything before it (RFC 7296 section 3.14, RFC 4868 section 2.3)."""

    def __init__(self, key: Secret, integrity: Integrity, integrity_key: Secret) -> None:
        self.name = f"aes{len(key) * 8}-{integrity}"
        self._cipher = algorithms.AES(key)
        self._hmac, self._icv_octets = _HMACS[integrity]
        self._hmac_key = integrity_key

    def sealed_octets(self, plaintext: int) -> int:
        return _BLOCK_OCTETS + plaintext + self._padding(plaintext) + 1 + self._icv_octets

    def plaintext_octets(self, room: int) -> int:
        return (room - _BLOCK_OCTETS - self._icv_octets) // _BLOCK_OCTETS * _BLOCK_OCTETS - 1

    def seal(self, clear: bytes, plaintext: bytes, entropy: Entropy) -> bytes:
        # An IV that can be foreseen would break CBC (RFC 7296 section 3.14).
        iv = entropy.octets(_BLOCK_OCTETS)
        padding = self._padding(len(plaintext))
        encryptor = Cipher(self._cipher, modes.CBC(iv)).encryptor()
        sealed = iv + encryptor.update(plaintext + bytes(padding) + bytes((padding,))) + encryptor.finalize()
        return sealed + self._icv(clear, sealed)

    def open_untrusted(self, clear: bytes, sealed: bytes) -> bytes:
        blocks = len(sealed) - _BLOCK_OCTETS - self._icv_octets
        if blocks < _BLOCK_OCTETS or blocks % _BLOCK_OCTETS:
            raise MalformedPacket(f"{len(sealed)} octets cannot be IV, whole blocks and ICV")
        covered, icv = sealed[: -self._icv_octets], sealed[-self._icv_octets :]
        if not hmac.compare_digest(icv, self._icv(clear, covered)):
            raise NotAuthentic("the message is not the peer's, or was changed on its way")
        decryptor = Cipher(self._cipher, modes.CBC(covered[:_BLOCK_OCTETS])).decryptor()
        return _unpadded(decryptor.update(covered[_BLOCK_OCTETS:]) + decryptor.finalize())

    def _icv(self, clear: bytes, sealed: bytes) -> bytes:
        return hmac.digest(self._hmac_key, clear + sealed, self._hmac)[: self._icv_octets]

    @staticmethod
    def _padding(plaintext: int) -> int:
        return -(plaintext + 1) % _BLOCK_OCTETS


def _unpadded(padded: bytes) -> bytes:
    """Cut off the padding, of any content, and its length in the last octet (RFC 7296 section 3.14)."""
    end = len(padded) - 1 - padded[-1]
    if end < 0:
        raise MalformedPacket(f"{padded[-1]} octets of padding are more than there is")
    return padded[:end]
