"""Which algorithms are offered, chosen and accepted (RFC 7296 sections 2.7 and 3.3, RFC 8247).

What RFC 8247 calls MUST NOT has no entry in these tables, so it can be
neither offered nor chosen; it has a name, so that the peer's offer can be told in words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from policies.ipsec import Encryption, EspProposal, EspSuite, Group, IkeProposal, IkeSuite, Integrity, Prf
from tunnels.ike.constants import NotifyType, Protocol, TransformType
from tunnels.ike.payloads import Proposal, SecurityAssociation, Transform
from tunnels.ike.rejected import Refused

_ENCRYPTION, _PRF, _INTEGRITY = TransformType.ENCRYPTION, TransformType.PRF, TransformType.INTEGRITY
_GROUP, _NUMBERS = TransformType.KEY_EXCHANGE, TransformType.SEQUENCE_NUMBERS

_ENCRYPTIONS = {
    Encryption.AES_128_GCM: Transform(_ENCRYPTION, 20, 128),
    Encryption.AES_256_GCM: Transform(_ENCRYPTION, 20, 256),
    Encryption.CHACHA20_POLY1305: Transform(_ENCRYPTION, 28),
    Encryption.AES_128_CBC: Transform(_ENCRYPTION, 12, 128),
    Encryption.AES_256_CBC: Transform(_ENCRYPTION, 12, 256),
}
_PRFS = {
    Prf.SHA2_256: Transform(_PRF, 5),
    Prf.SHA2_384: Transform(_PRF, 6),
    Prf.SHA2_512: Transform(_PRF, 7),
}
_INTEGRITIES: dict[Integrity | None, Transform] = {
    Integrity.SHA2_256: Transform(_INTEGRITY, 12),
    Integrity.SHA2_384: Transform(_INTEGRITY, 13),
    Integrity.SHA2_512: Transform(_INTEGRITY, 14),
    None: Transform(_INTEGRITY, 0),
}
_GROUPS = {
    Group.NONE: Transform(_GROUP, 0),
    Group.MODP_2048: Transform(_GROUP, 14),
    Group.ECP_256: Transform(_GROUP, 19),
    Group.ECP_384: Transform(_GROUP, 20),
    Group.ECP_521: Transform(_GROUP, 21),
    Group.X25519: Transform(_GROUP, 31),
}
_SEQUENCE_NUMBERS = {False: Transform(_NUMBERS, 0), True: Transform(_NUMBERS, 1)}

_NO_INTEGRITY, _NO_GROUP = _INTEGRITIES[None], _GROUPS[Group.NONE]
# What a proposal says that names no transform of a type; without any other type it says nothing.
_NOTHING: dict[TransformType | int, list[Transform]] = {_INTEGRITY: [_NO_INTEGRITY], _GROUP: [_NO_GROUP]}

_OTHER_NAMES: dict[tuple[int, int], str] = {
    (_ENCRYPTION, 2): "des",
    (_ENCRYPTION, 3): "3des",
    (_ENCRYPTION, 11): "null",
    (_ENCRYPTION, 12): "aes",
    (_ENCRYPTION, 13): "aesctr",
    (_ENCRYPTION, 14): "aesccm8",
    (_ENCRYPTION, 15): "aesccm12",
    (_ENCRYPTION, 16): "aesccm16",
    (_ENCRYPTION, 18): "aesgcm8",
    (_ENCRYPTION, 19): "aesgcm12",
    (_ENCRYPTION, 20): "aesgcm16",
    (_ENCRYPTION, 23): "camellia",
    (_PRF, 1): "prfmd5",
    (_PRF, 2): "prfsha1",
    (_PRF, 4): "prfaesxcbc",
    (_PRF, 8): "prfaescmac",
    (_INTEGRITY, 1): "md5",
    (_INTEGRITY, 2): "sha1",
    (_INTEGRITY, 5): "aesxcbc",
    (_INTEGRITY, 8): "aescmac",
    (_GROUP, 1): "modp768",
    (_GROUP, 2): "modp1024",
    (_GROUP, 5): "modp1536",
    (_GROUP, 15): "modp3072",
    (_GROUP, 16): "modp4096",
    (_GROUP, 17): "modp6144",
    (_GROUP, 18): "modp8192",
    (_GROUP, 22): "modp1024s160",
    (_GROUP, 23): "modp2048s224",
    (_GROUP, 24): "modp2048s256",
    (_GROUP, 25): "ecp192",
    (_GROUP, 26): "ecp224",
    (_GROUP, 28): "ecp256bp",
    (_GROUP, 29): "ecp384bp",
    (_GROUP, 30): "ecp512bp",
    (_GROUP, 32): "curve448",
    (_GROUP, 35): "mlkem512",
    (_GROUP, 36): "mlkem768",
    (_GROUP, 37): "mlkem1024",
}
# Of what a stranger offers, for a line that somebody may read.
_MOST_LISTED = 16

_KINDS = {
    _ENCRYPTION: "for encryption",
    _PRF: "as PRF",
    _INTEGRITY: "for integrity",
    _GROUP: "for the key exchange",
    _NUMBERS: "as sequence numbers",
}

Chosen = Mapping[TransformType | int, Transform]
Suite = TypeVar("Suite")
_Algorithm = TypeVar("_Algorithm")


def offer_ike(proposals: Sequence[IkeProposal], spi: bytes = b"") -> SecurityAssociation:
    """Return what we offer for an IKE SA, the first proposal preferred.

    `spi` is ours, of 8 octets, when it shall replace another; else it is empty.
    """
    return SecurityAssociation(
        tuple(
            Proposal(number, Protocol.IKE, spi, tuple(_ike_transforms(each)))
            for number, each in enumerate(proposals, 1)
        )
    )


def offer_esp(proposals: Sequence[EspProposal], spi: bytes, *, with_groups: bool) -> SecurityAssociation:
    """Return what we offer for a child SA with our SPI of 4 octets.

    IKE_AUTH makes its child SA without a key exchange of its own, so there `with_groups`
    is False (RFC 7296 section 1.2).
    """
    return SecurityAssociation(
        tuple(
            Proposal(number, Protocol.ESP, spi, tuple(_esp_transforms(each, with_groups)))
            for number, each in enumerate(proposals, 1)
        )
    )


def choose_ike(
    offer: SecurityAssociation, ours: Sequence[IkeProposal], *, sent_group: Group | None = None
) -> tuple[IkeSuite, Proposal, bytes]:
    """Choose from the peer's offer for an IKE SA, by our order of preference.

    Returns the suite, the proposal to answer with (without an SPI) and the peer's SPI, empty
    in IKE_SA_INIT. `sent_group` is that of the peer's KE payload: it is preferred where we
    allow it, as another one would cost a round trip. Raises Refused.
    """
    sets = [tuple(_ike_transforms(each)) for each in ours]
    chosen, answer, spi = _choose(offer, Protocol.IKE, (0, 8), sets, _first(sent_group))
    return _ike_suite(chosen), answer, spi


def choose_esp(
    offer: SecurityAssociation,
    ours: Sequence[EspProposal],
    *,
    with_groups: bool,
    sent_group: Group | None = None,
) -> tuple[EspSuite, Proposal, bytes]:
    """Choose from the peer's offer for a child SA, by our order of preference.

    Returns the suite, the proposal to answer with (without an SPI) and the peer's SPI.
    `sent_group` is that of the peer's KE payload, `Group.NONE` where it sent none: it is
    preferred where we allow it. Raises Refused.
    """
    if not with_groups:
        # Whatever groups are offered in IKE_AUTH mean nothing (RFC 7296 section 1.2).
        offer = SecurityAssociation(tuple(_without_groups(each) for each in offer.proposals))
    sets = [tuple(_esp_transforms(each, with_groups)) for each in ours]
    chosen, answer, spi = _choose(offer, Protocol.ESP, (4,), sets, _first(sent_group))
    return _esp_suite(chosen), answer, spi


def accepted_ike(answer: SecurityAssociation, offered: SecurityAssociation) -> tuple[IkeSuite, bytes]:
    """Return what the peer chose of our offer for an IKE SA, and its SPI (empty in IKE_SA_INIT).

    Raises Refused where the answer is no choice of what was offered (RFC 7296 section 2.7).
    """
    chosen, spi = _accepted(answer, offered)
    return _ike_suite(chosen), spi


def accepted_esp(answer: SecurityAssociation, offered: SecurityAssociation) -> tuple[EspSuite, bytes]:
    """Return what the peer chose of our offer for a child SA, and its SPI.

    Raises Refused where the answer is no choice of what was offered (RFC 7296 section 2.7).
    """
    chosen, spi = _accepted(answer, offered)
    return _esp_suite(chosen), spi


def group_number(group: Group) -> int:
    """Return IANA's number of a group."""
    return _GROUPS[group].id


def group_of(number: int) -> Group | None:
    """Return the group that has IANA's number, None where we don't know it."""
    return next((group for group, transform in _GROUPS.items() if transform.id == number), None)


def group_name(number: int) -> str:
    """Return the name of the group that has IANA's number, for people."""
    return _name(Transform(_GROUP, number))


def _ike_transforms(proposal: IkeProposal) -> Iterator[Transform]:
    yield from (_ENCRYPTIONS[each] for each in proposal.encryption)
    yield from (_PRFS[each] for each in proposal.prf)
    yield from (_INTEGRITIES[each] for each in proposal.integrity)
    yield from (_GROUPS[each] for each in proposal.groups)


def _esp_transforms(proposal: EspProposal, with_groups: bool) -> Iterator[Transform]:
    yield from (_ENCRYPTIONS[each] for each in proposal.encryption)
    yield from (_INTEGRITIES[each] for each in proposal.integrity)
    if with_groups and proposal.groups != (Group.NONE,):
        yield from (_GROUPS[each] for each in proposal.groups)
    yield from (_SEQUENCE_NUMBERS[each] for each in proposal.extended_sequence_numbers)


def _without_groups(proposal: Proposal) -> Proposal:
    kept = tuple(each for each in proposal.transforms if each.type != _GROUP or each == _NO_GROUP)
    return msgspec.structs.replace(proposal, transforms=kept)


def _first(group: Group | None) -> Callable[[Transform], bool]:
    """Return a key by which the group's transform is sorted before all others."""
    preferred = None if group is None else _GROUPS[group]
    return lambda transform: transform != preferred


def _choose(
    offer: SecurityAssociation,
    protocol: Protocol,
    spi_lengths: Sequence[int],
    ours: Sequence[tuple[Transform, ...]],
    order: Callable[[Transform], bool],
) -> tuple[Chosen, Proposal, bytes]:
    for own in ours:
        for theirs in offer.proposals:
            if theirs.protocol != protocol or len(theirs.spi) not in spi_lengths or _is_zero(theirs.spi):
                continue
            chosen = _common(theirs.transforms, own, order)
            if chosen is not None:
                answer = msgspec.structs.replace(
                    theirs,
                    spi=b"",
                    transforms=tuple(each for each in chosen.values() if each in theirs.transforms),
                )
                return chosen, answer, theirs.spi
    raise Refused(NotifyType.NO_PROPOSAL_CHOSEN, _why_nothing(offer, protocol, ours))


def _common(
    theirs: Sequence[Transform], own: Sequence[Transform], order: Callable[[Transform], bool]
) -> Chosen | None:
    """Return one transform of each type; None where a type has none in common.

    A type that only one side names is fine where that side would also do without it
    (RFC 7296 section 3.3.6). Types that we don't know make a proposal unacceptable.
    """
    chosen: dict[TransformType | int, Transform] = {}
    for kind in dict.fromkeys(each.type for each in (*own, *theirs)):
        nothing = _NOTHING.get(kind, [])
        offered = [each for each in theirs if each.type == kind] or nothing
        wanted = [each for each in own if each.type == kind] or nothing
        both = sorted((each for each in wanted if each in offered), key=order)
        if not both:
            return None
        chosen[kind] = both[0]
    return chosen


def _accepted(answer: SecurityAssociation, offered: SecurityAssociation) -> tuple[Chosen, bytes]:
    if len(answer.proposals) != 1:
        raise Refused(
            NotifyType.INVALID_SYNTAX, f"the peer chose {len(answer.proposals)} proposals instead of one"
        )
    proposal = answer.proposals[0]
    ours = next((each for each in offered.proposals if each.number == proposal.number), None)
    if ours is None or proposal.protocol != ours.protocol:
        raise Refused(
            NotifyType.NO_PROPOSAL_CHOSEN, f"the peer chose proposal {proposal.number}, which we did not make"
        )
    if len(proposal.spi) != len(ours.spi) or _is_zero(proposal.spi):
        raise Refused(
            NotifyType.INVALID_SYNTAX, f"the peer chose a proposal with an SPI of {len(proposal.spi)} octets"
        )
    kinds = [each.type for each in proposal.transforms]
    chosen = _common(proposal.transforms, ours.transforms, _first(None))
    if chosen is None or len(kinds) != len(set(kinds)):
        raise Refused(
            NotifyType.NO_PROPOSAL_CHOSEN,
            f"the peer chose {_names(proposal.transforms)}, we offered {_names(ours.transforms)}",
        )
    return chosen, proposal.spi


def _ike_suite(chosen: Chosen) -> IkeSuite:
    return IkeSuite(
        encryption=_key_of(_ENCRYPTIONS, chosen[_ENCRYPTION]),
        integrity=_key_of(_INTEGRITIES, chosen.get(_INTEGRITY, _NO_INTEGRITY)),
        prf=_key_of(_PRFS, chosen[_PRF]),
        group=_key_of(_GROUPS, chosen[_GROUP]),
    )


def _esp_suite(chosen: Chosen) -> EspSuite:
    return EspSuite(
        encryption=_key_of(_ENCRYPTIONS, chosen[_ENCRYPTION]),
        integrity=_key_of(_INTEGRITIES, chosen.get(_INTEGRITY, _NO_INTEGRITY)),
        extended_sequence_numbers=_key_of(_SEQUENCE_NUMBERS, chosen[_NUMBERS]),
        group=_key_of(_GROUPS, chosen.get(_GROUP, _NO_GROUP)),
    )


def _key_of(table: Mapping[_Algorithm, Transform], transform: Transform) -> _Algorithm:
    return next(key for key, value in table.items() if value == transform)


def _is_zero(spi: bytes) -> bool:
    return spi != b"" and not any(spi)


def _why_nothing(
    offer: SecurityAssociation, protocol: Protocol, ours: Sequence[tuple[Transform, ...]]
) -> str:
    """Say what the peer offered and what we require: of one kind where that alone explains it."""
    meant = [each.transforms for each in offer.proposals if each.protocol == protocol]
    if not meant:
        return f"the peer offered no proposal for {protocol.name}"
    for kind, what in _KINDS.items():
        theirs = _of_kind(kind, meant)
        own = _of_kind(kind, ours)
        if theirs and own and not set(theirs) & set(own):
            return f"the peer offered only {_list(theirs)} {what}, we require one of {_list(own)}"
    return (
        f"the peer offered only {' or '.join(dict.fromkeys(map(_names, meant)))}, "
        f"we require one of {' or '.join(map(_names, ours))}"
    )


def _of_kind(kind: TransformType, proposals: Iterable[Iterable[Transform]]) -> list[Transform]:
    return list(dict.fromkeys(each for proposal in proposals for each in proposal if each.type == kind))


def _list(transforms: Sequence[Transform]) -> str:
    listed = ", ".join(dict.fromkeys(map(_name, transforms[:_MOST_LISTED])))
    return listed if len(transforms) <= _MOST_LISTED else f"{listed} and more"


def _names(transforms: Iterable[Transform]) -> str:
    return "-".join(map(_name, transforms))


def _name(transform: Transform) -> str:
    for table in (_ENCRYPTIONS, _PRFS, _INTEGRITIES, _GROUPS):
        for algorithm, known in table.items():
            if known == transform:
                return str(algorithm or "none")
    if transform.type == _NUMBERS and transform.id in (0, 1):
        return "esn" if transform.id else "noesn"
    name = _OTHER_NAMES.get((transform.type, transform.id), f"{transform.type:d}/{transform.id}")
    return name if transform.key_length is None else f"{name}:{transform.key_length}"
