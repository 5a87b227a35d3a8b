"""Reads proposals in the words of strongSwan, such as "aes256gcm16-prfsha384-ecp384"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import TypeVar

from policies.config.reader import close_match, shown
from policies.ipsec import Encryption, EspProposal, Group, IkeProposal, Integrity, Prf

Algorithm = Encryption | Integrity | Prf | Group | bool
"""What a word stands for; a truth value says whether sequence numbers are extended."""

A = TypeVar("A", bound=StrEnum)

_SYNONYMS: Mapping[str, Algorithm] = {
    "aes": Encryption.AES_128_CBC,
    "aes128gcm": Encryption.AES_128_GCM,
    "aes128gcm128": Encryption.AES_128_GCM,
    "aes256gcm": Encryption.AES_256_GCM,
    "aes256gcm128": Encryption.AES_256_GCM,
    "sha2_256": Integrity.SHA2_256,
    "sha2_384": Integrity.SHA2_384,
    "sha2_512": Integrity.SHA2_512,
    "curve25519": Group.X25519,
    "modpnone": Group.NONE,
    "esn": True,
    "noesn": False,
}
_WORDS: Mapping[str, Algorithm] = {
    **{member.value: member for kind in (Encryption, Integrity, Prf, Group) for member in kind},
    **_SYNONYMS,
}

# RFC 8247 sections 2.1 to 2.4 for IKE, RFC 8221 sections 5 and 6 for ESP. ENCR_NULL is
# allowed in ESP, but a tunnel across the Internet that hides nothing is nobody's wish here.
_FORBIDDEN = {
    "des": "RFC 8247 section 2.1 says MUST NOT, for its key of 56 bits",
    "null": "RFC 8247 section 2.1 says MUST NOT, for it hides nothing",
    "blowfish": "RFC 8221 section 5 says MUST NOT",
    "blowfish128": "RFC 8221 section 5 says MUST NOT",
    "blowfish192": "RFC 8221 section 5 says MUST NOT",
    "blowfish256": "RFC 8221 section 5 says MUST NOT",
    "md5": "RFC 8247 section 2.3 says MUST NOT, for MD5 is broken",
    "md5_128": "RFC 8247 section 2.3 says MUST NOT, for MD5 is broken",
    "prfmd5": "RFC 8247 section 2.2 says MUST NOT, for MD5 is broken",
    "modp768": "RFC 8247 section 2.4 says MUST NOT, for it can be broken",
    "modp1024s160": "RFC 8247 section 2.4 says MUST NOT, for it can be broken",
    "modpnull": "it exchanges no secret",
}
_UNSUPPORTED = re.compile(
    r"3des|aes192|aes(128|192|256)ctr|aes(128|192|256)ccm(8|12|16|64|96|128)?|aes192gcm(8|12|16|64|96|128)?"
    r"|aes(128|256)gcm(8|12|64|96)|aes(128|192|256)gmac|chacha20poly1305compat|camellia\w*|cast128"
    r"|serpent\d*|twofish\d*|sha|sha1|sha1_160|sha256_96|sha2_256_96|aesxcbc|aescmac|prfsha1|prfaesxcbc"
    r"|prfaescmac|prfcamelliaxcbc|modp(1024|1536|3072|4096|6144|8192)|modp2048s(224|256)|ecp(192|224)"
    r"|ecp(224|256|384|512)bp|curve448|x448"
)


def ike_proposal(value: object) -> IkeProposal:
    """A proposal for an IKE SA. Raises ValueError.

    As with strongSwan an integrity algorithm stands for the pseudorandom
    function of the same hash, where none is named.
    """
    words = _words(value)
    encryption = _of(Encryption, words)
    integrity = _of(Integrity, words)
    prf = _of(Prf, words) or tuple(Prf(f"prf{each}") for each in integrity)
    groups = _of(Group, words)
    _check_ciphers(value, encryption)
    if _numbers(words):
        raise ValueError(f"{shown(value)} has esn or noesn, which are for esp_proposals; leave it out")
    if not encryption[0].is_aead and not integrity:
        raise ValueError(f"{shown(value)} has no integrity algorithm; add sha256, sha384 or sha512")
    if not prf:
        raise ValueError(f"{shown(value)} has no prf; add prfsha256, prfsha384 or prfsha512")
    if not groups:
        raise ValueError(f"{shown(value)} has no group; add x25519, ecp384, ecp256 or another")
    if Group.NONE in groups:
        raise ValueError(f"{shown(value)} has none for a group, which is for esp_proposals; leave it out")
    return IkeProposal(encryption, () if encryption[0].is_aead else integrity, prf, groups)


def esp_proposal(value: object) -> EspProposal:
    """A proposal for a child SA. Raises ValueError.

    A group means perfect forward secrecy. Without esn and noesn, both are proposed.
    """
    words = _words(value)
    encryption = _of(Encryption, words)
    integrity = _of(Integrity, words)
    _check_ciphers(value, encryption)
    if prf := _of(Prf, words):
        raise ValueError(f"{shown(value)} has {prf[0]}, which is for ike_proposals; leave it out")
    if encryption[0].is_aead and integrity:
        message = f"{shown(value)} has {integrity[0]} beside {encryption[0]}, which needs none; leave it out"
        raise ValueError(message)
    if not encryption[0].is_aead and not integrity:
        raise ValueError(f"{shown(value)} has no integrity algorithm; add sha256, sha384 or sha512")
    return EspProposal(
        encryption, integrity, _of(Group, words) or (Group.NONE,), _numbers(words) or (True, False)
    )


def _words(value: object) -> list[Algorithm]:
    if not isinstance(value, str):
        raise ValueError(f'{shown(value)} is not a proposal such as "aes256gcm16-prfsha384-ecp384"')
    algorithms: list[Algorithm] = []
    for word in value.lower().split("-"):
        if word in _FORBIDDEN:
            raise ValueError(f"{word} in {shown(value)} is refused: {_FORBIDDEN[word]}")
        if word not in _WORDS:
            raise ValueError(_unknown(word, value))
        if _WORDS[word] in algorithms:
            raise ValueError(f"{shown(value)} has {word} twice")
        algorithms.append(_WORDS[word])
    return algorithms


def _unknown(word: str, value: object) -> str:
    if _UNSUPPORTED.fullmatch(word):
        return f"{word} in {shown(value)} is not supported; use another, or a profile"
    meant = close_match(word, _WORDS)
    right = f'did you mean "{meant}"?' if meant else "docs/sites.md lists those that there are"
    return f"{shown(word)} in {shown(value)} is not an algorithm; {right}"


def _check_ciphers(value: object, encryption: tuple[Encryption, ...]) -> None:
    if not encryption:
        raise ValueError(f"{shown(value)} has no cipher; add aes256gcm16 or another")
    if len({cipher.is_aead for cipher in encryption}) == 2:
        # RFC 7296 section 3.3: one needs an integrity algorithm, the other must have none.
        raise ValueError(f"{shown(value)} mixes AEAD ciphers with CBC; write them as two proposals")


def _of(kind: type[A], algorithms: Iterable[Algorithm]) -> tuple[A, ...]:
    return tuple(each for each in algorithms if isinstance(each, kind))


def _numbers(algorithms: Iterable[Algorithm]) -> tuple[bool, ...]:
    return tuple(each for each in algorithms if isinstance(each, bool))
