"""What a site's tunnel may use: algorithms, proposals and lifetimes, by the names that operators know.

The values of the enumerations are the words of strongSwan's proposal strings,
which most documents of other vendors can be translated to.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class Encryption(StrEnum):
    """A cipher (RFC 8247 section 2.1, RFC 8221 section 5); CBC is with padding to 16 octets."""

    AES_128_GCM = "aes128gcm16"
    AES_256_GCM = "aes256gcm16"
    CHACHA20_POLY1305 = "chacha20poly1305"
    AES_128_CBC = "aes128"
    AES_256_CBC = "aes256"

    @property
    def is_aead(self) -> bool:
        """Whether it authenticates too, so that no integrity algorithm goes with it."""
        return self not in (Encryption.AES_128_CBC, Encryption.AES_256_CBC)


class Integrity(StrEnum):
    """HMAC with SHA-2, its output cut to half (RFC 4868)."""

    SHA2_256 = "sha256"
    SHA2_384 = "sha384"
    SHA2_512 = "sha512"


class Prf(StrEnum):
    """A pseudorandom function of IKE: HMAC with SHA-2 (RFC 4868)."""

    SHA2_256 = "prfsha256"
    SHA2_384 = "prfsha384"
    SHA2_512 = "prfsha512"


class Group(StrEnum):
    """A Diffie-Hellman group. `NONE` in an ESP proposal: a new child SA may do without a new exchange."""

    ECP_256 = "ecp256"
    ECP_384 = "ecp384"
    ECP_521 = "ecp521"
    X25519 = "x25519"
    MODP_2048 = "modp2048"
    NONE = "none"


class IkeProposal(msgspec.Struct, frozen=True):
    """Alternatives for an IKE SA, each kind in order of preference; AEAD and CBC never in one proposal."""

    encryption: tuple[Encryption, ...]
    integrity: tuple[Integrity, ...]
    """Empty with AEAD ciphers."""
    prf: tuple[Prf, ...]
    groups: tuple[Group, ...]

    def __str__(self) -> str:
        return "-".join((*self.encryption, *self.integrity, *self.prf, *self.groups))


class EspProposal(msgspec.Struct, frozen=True):
    """Alternatives for a child SA."""

    encryption: tuple[Encryption, ...]
    integrity: tuple[Integrity, ...]
    groups: tuple[Group, ...] = (Group.NONE,)
    """Perfect forward secrecy: required unless `NONE` is among them."""
    extended_sequence_numbers: tuple[bool, ...] = (True, False)

    def __str__(self) -> str:
        groups = () if self.groups == (Group.NONE,) else self.groups
        numbers = ("esn" if extended else "noesn" for extended in self.extended_sequence_numbers)
        return "-".join((*self.encryption, *self.integrity, *groups, *numbers))


class IkeSuite(msgspec.Struct, frozen=True):
    """What was agreed on for an IKE SA."""

    encryption: Encryption
    integrity: Integrity | None
    prf: Prf
    group: Group

    def __str__(self) -> str:
        return "-".join(filter(None, (self.encryption, self.integrity, self.prf, self.group)))


class EspSuite(msgspec.Struct, frozen=True):
    """What was agreed on for a child SA."""

    encryption: Encryption
    integrity: Integrity | None
    extended_sequence_numbers: bool
    group: Group = Group.NONE

    def __str__(self) -> str:
        pfs = self.group if self.group is not Group.NONE else None
        numbers = "esn" if self.extended_sequence_numbers else None
        return "-".join(filter(None, (self.encryption, self.integrity, pfs, numbers)))


class Lifetimes(msgspec.Struct, frozen=True):
    """When an SA is replaced: in seconds, octets and packets.

    These are soft limits, from which a random part of a tenth is taken, so that
    both sides don't rekey at once. An SA that could not be replaced ends at
    the hard limit, a tenth and at least half a minute above.
    """

    ike_seconds: float = 4 * 3600
    child_seconds: float = 3600
    child_bytes: int = 1 << 40
    child_packets: int = 1 << 31
    """With 32-bit sequence numbers it is always below 2^32 (RFC 4303 section 3.3.3)."""


class SiteStart(StrEnum):
    """Who brings a site's tunnel up, and when."""

    START = "start"
    """We do, at once and for ever."""
    TRAP = "trap"
    """We do, when the first packet wants to go there."""
    RESPOND = "respond"
    """The peer does."""


class SelectorMode(StrEnum):
    """How a site's prefixes become the traffic selectors of child SAs."""

    ALL = "all"
    """One child SA for all of them."""
    PAIRS = "pairs"
    """One for each pair of a local and a remote prefix: what policy-based devices want."""
    ANY = "any"
    """One for everything, 0.0.0.0/0 and ::/0: what route-based devices want."""


_DEFAULT_GROUPS = (Group.X25519, Group.ECP_384, Group.ECP_256)
_AEAD = (Encryption.AES_256_GCM, Encryption.CHACHA20_POLY1305, Encryption.AES_128_GCM)
_CBC = (Encryption.AES_256_CBC, Encryption.AES_128_CBC)
_HMACS = (Integrity.SHA2_256, Integrity.SHA2_384, Integrity.SHA2_512)
_PRFS = (Prf.SHA2_384, Prf.SHA2_256, Prf.SHA2_512)

MODERN_IKE = (IkeProposal(_AEAD, (), _PRFS, _DEFAULT_GROUPS),)
MODERN_ESP = (EspProposal(_AEAD, (), (*_DEFAULT_GROUPS, Group.NONE)),)
COMPATIBLE_IKE = (
    IkeProposal(_AEAD, (), _PRFS, (*_DEFAULT_GROUPS, Group.MODP_2048)),
    IkeProposal(_CBC, _HMACS, _PRFS, (*_DEFAULT_GROUPS, Group.MODP_2048)),
)
COMPATIBLE_ESP = (
    EspProposal(_AEAD, (), (*_DEFAULT_GROUPS, Group.MODP_2048, Group.NONE)),
    EspProposal(_CBC, _HMACS, (*_DEFAULT_GROUPS, Group.MODP_2048, Group.NONE)),
)
PROFILES: Mapping[str, tuple[tuple[IkeProposal, ...], tuple[EspProposal, ...]]] = {
    "modern": (MODERN_IKE, MODERN_ESP),
    "compatible": (COMPATIBLE_IKE, COMPATIBLE_ESP),
}
