"""From a Diffie-Hellman exchange to the keys of an IKE SA and of its child SAs.

RFC 7296 sections 2.13, 2.14, 2.17 and 2.18. Everything secret is a `Secret`, which does not print.
"""

from __future__ import annotations

import hmac

import msgspec

from policies.ipsec import Encryption, EspSuite, Group, IkeSuite, Integrity, Prf
from policies.secret import Secret
from tunnels.effects import EspKeys
from tunnels.ike.entropy import Entropy
from tunnels.ike.groups import PrivateValue, private_value

_HASHES: dict[Prf | Integrity, str] = {
    Prf.SHA2_256: "sha256",
    Prf.SHA2_384: "sha384",
    Prf.SHA2_512: "sha512",
    Integrity.SHA2_256: "sha256",
    Integrity.SHA2_384: "sha384",
    Integrity.SHA2_512: "sha512",
}
_HASH_OCTETS = {"sha256": 32, "sha384": 48, "sha512": 64}

_SALT_OCTETS = 4  # RFC 4106 section 8.1, RFC 5282 section 7.1, RFC 7634 section 2
_ENCRYPTION_OCTETS = {
    Encryption.AES_128_GCM: 16 + _SALT_OCTETS,
    Encryption.AES_256_GCM: 32 + _SALT_OCTETS,
    Encryption.CHACHA20_POLY1305: 32 + _SALT_OCTETS,
    Encryption.AES_128_CBC: 16,
    Encryption.AES_256_CBC: 32,
}


NONCE_LENGTH = 32
"""Of ours, in octets: at least half of any PRF's key (section 2.10)."""


class Nonces(msgspec.Struct, frozen=True):
    """Of one exchange: the initiator's and the responder's."""

    initiator: bytes
    responder: bytes

    @property
    def lowest(self) -> bytes:
        """What decides between two exchanges that collide: octet by octet (section 2.8.1)."""
        return min(self.initiator, self.responder)

    @property
    def joined(self) -> bytes:
        return self.initiator + self.responder


class KeyPair:
    """Our half of one Diffie-Hellman exchange. It is used once, for perfect forward secrecy."""

    def __init__(self, group: Group, private: PrivateValue) -> None:
        self.group = group
        self.public = private.public()
        self._private = private

    @classmethod
    def generate(cls, group: Group, entropy: Entropy) -> KeyPair:
        """Return a fresh pair."""
        return cls(group, private_value(group, entropy))

    def shared(self, peer_public: bytes) -> Secret:
        """Return what both sides now share, as the group's document writes it.

        Raises Refused (INVALID_SYNTAX) for a public value that is none of the group's or
        that gives the secret away (RFC 6989 section 2, RFC 7748 section 6.1).
        """
        return self._private.shared(peer_public)

    def __repr__(self) -> str:
        return f"<KeyPair of {self.group}>"


class IkeKeys(msgspec.Struct, frozen=True):
    """The seven keys of an IKE SA: SK_d, SK_ai, SK_ar, SK_ei, SK_er, SK_pi and SK_pr (section 2.14).

    With AEAD the last 4 octets of an encryption key are the salt and the integrity keys are
    empty (RFC 5282 section 7).
    """

    derive: Secret
    integrity_initiator: Secret
    integrity_responder: Secret
    encryption_initiator: Secret
    encryption_responder: Secret
    auth_initiator: Secret
    auth_responder: Secret


def prf(algorithm: Prf, key: bytes, data: bytes) -> Secret:
    """Return the pseudorandom function's output, of its preferred key length (RFC 4868 section 2.1.2)."""
    return Secret(hmac.digest(key, data, _HASHES[algorithm]))


def prf_plus(algorithm: Prf, key: bytes, seed: bytes, count: int) -> Secret:
    """Return as many octets as needed, at most 255 outputs of the function (section 2.13)."""
    if count > 255 * _prf_octets(algorithm):
        raise ValueError(f"prf+ cannot give {count} octets")
    block, stream = b"", b""
    while len(stream) < count:
        number = len(stream) // _prf_octets(algorithm) + 1
        block = prf(algorithm, key, block + seed + bytes((number,)))
        stream += block
    return Secret(stream[:count])


def ike_keys(
    suite: IkeSuite,
    shared: Secret,
    nonces: Nonces,
    initiator_spi: bytes,
    responder_spi: bytes,
) -> IkeKeys:
    """Return the keys of a first IKE SA (section 2.14)."""
    skeyseed = prf(suite.prf, nonces.joined, shared)
    return _expanded(suite, skeyseed, nonces.joined + initiator_spi + responder_spi)


def rekeyed_ike_keys(
    old_prf: Prf,
    old_derive: Secret,
    suite: IkeSuite,
    shared: Secret,
    nonces: Nonces,
    initiator_spi: bytes,
    responder_spi: bytes,
) -> IkeKeys:
    """Return the keys of an IKE SA that replaces another (section 2.18).

    SKEYSEED is made with the old SA's function, the rest with the new one's; nonces and SPIs are
    those of the exchange that rekeyed, whose initiator is the new SA's initiator.
    """
    skeyseed = prf(old_prf, old_derive, shared + nonces.joined)
    return _expanded(suite, skeyseed, nonces.joined + initiator_spi + responder_spi)


def child_keys(
    function: Prf,
    derive: Secret,
    suite: EspSuite,
    shared: Secret | None,
    nonces: Nonces,
) -> tuple[EspKeys, EspKeys]:
    """Return the keys from the exchange's initiator to its responder, and those back (section 2.17)."""
    encryption, integrity = _encryption_octets(suite.encryption), _integrity_octets(suite.integrity)
    seed = (shared or b"") + nonces.joined
    stream = prf_plus(function, derive, seed, 2 * (encryption + integrity))
    forth, forth_integrity, back, back_integrity = _cut(
        stream, (encryption, integrity, encryption, integrity)
    )
    return EspKeys(forth, forth_integrity), EspKeys(back, back_integrity)


def _expanded(suite: IkeSuite, skeyseed: Secret, seed: bytes) -> IkeKeys:
    function = _prf_octets(suite.prf)
    integrity = _integrity_octets(suite.integrity)
    encryption = _encryption_octets(suite.encryption)
    lengths = (function, integrity, integrity, encryption, encryption, function, function)
    return IkeKeys(*_cut(prf_plus(suite.prf, skeyseed, seed, sum(lengths)), lengths))


def _cut(stream: bytes, lengths: tuple[int, ...]) -> list[Secret]:
    pieces, start = [], 0
    for length in lengths:
        pieces.append(Secret(stream[start : start + length]))
        start += length
    return pieces


def _prf_octets(algorithm: Prf) -> int:
    return _HASH_OCTETS[_HASHES[algorithm]]


def _integrity_octets(algorithm: Integrity | None) -> int:
    """The key is as long as the hash (RFC 4868 section 2.1.1)."""
    return 0 if algorithm is None else _HASH_OCTETS[_HASHES[algorithm]]


def _encryption_octets(algorithm: Encryption) -> int:
    return _ENCRYPTION_OCTETS[algorithm]
