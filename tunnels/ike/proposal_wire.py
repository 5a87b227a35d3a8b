"""Security Association payloads: proposals and their transforms, to bytes and back (RFC 7296 section 3.3).

Both nest in one way: a substructure says its length and whether another
follows, and its holder says how many there are. All have to agree.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice

from policies.errors import MalformedPacket
from tunnels.ike.constants import AttributeType, Protocol, TransformType, named
from tunnels.ike.payloads import Proposal, SecurityAssociation, Transform

MOST_PROPOSALS = 64
MOST_TRANSFORMS = 512
"""Of all proposals of a payload together."""
MOST_ATTRIBUTES = 16
"""Of one transform, beside the key length."""

_SUBSTRUCTURE = struct.Struct("!BxH")  # what follows, length
_PROPOSAL = struct.Struct("!BBBB")  # number, protocol, size of the SPI, count of transforms
_TRANSFORM = struct.Struct("!BxH")  # type, ID
_ATTRIBUTE = struct.Struct("!HH")  # format and type, value or length of the value

_LAST = 0
_ANOTHER_PROPOSAL = 2
_ANOTHER_TRANSFORM = 3
_SHORT_FORMAT = 0x8000
_KEY_LENGTH = _SHORT_FORMAT | AttributeType.KEY_LENGTH

_SPI_SIZES: dict[int, tuple[int, ...]] = {Protocol.IKE: (0, 8), Protocol.AH: (4,), Protocol.ESP: (4,)}


def decode_untrusted(body: bytes) -> SecurityAssociation:
    """Return what is offered, with protocols and transforms that are unknown here by their numbers.

    Raises MalformedPacket.
    """
    proposals: list[Proposal] = []
    transforms = 0
    for content in _substructures(body, _ANOTHER_PROPOSAL):
        proposal = _proposal(content)
        transforms += len(proposal.transforms)
        if len(proposals) == MOST_PROPOSALS or transforms > MOST_TRANSFORMS:
            raise MalformedPacket("an SA payload offers more than anybody can mean")
        proposals.append(proposal)
    if not proposals:
        raise MalformedPacket("an SA payload offers nothing")
    return SecurityAssociation(tuple(proposals))


def encode(payload: SecurityAssociation) -> bytes:
    """Return what follows the payload's generic header."""
    return _chain([_encode_proposal(proposal) for proposal in payload.proposals], _ANOTHER_PROPOSAL)


def _proposal(content: bytes) -> Proposal:
    if len(content) < _PROPOSAL.size:
        raise MalformedPacket("a proposal is too short")
    number, protocol, spi_size, count = _PROPOSAL.unpack_from(content)
    end = _PROPOSAL.size + spi_size
    if len(content) < end:
        raise MalformedPacket("a proposal is too short for its SPI")
    if spi_size not in _SPI_SIZES.get(protocol, (spi_size,)):
        raise MalformedPacket(f"a proposal for protocol {protocol} has an SPI of {spi_size} octets")
    substructures = _substructures(content[end:], _ANOTHER_TRANSFORM)
    # One more than there should be is enough to know, however many follow.
    transforms = tuple(map(_transform, islice(substructures, count + 1)))
    if len(transforms) != count:
        raise MalformedPacket(f"a proposal does not have the {count} transforms that it counts")
    return Proposal(number, named(Protocol, protocol), content[_PROPOSAL.size : end], transforms)


def _encode_proposal(proposal: Proposal) -> bytes:
    head = _PROPOSAL.pack(proposal.number, proposal.protocol, len(proposal.spi), len(proposal.transforms))
    transforms = [_encode_transform(transform) for transform in proposal.transforms]
    return head + proposal.spi + _chain(transforms, _ANOTHER_TRANSFORM)


def _transform(content: bytes) -> Transform:
    if len(content) < _TRANSFORM.size:
        raise MalformedPacket("a transform is too short")
    kind, number = _TRANSFORM.unpack_from(content)
    key_length: int | None = None
    unknown: list[bytes] = []
    for attribute in _attributes(content):
        name, value = _ATTRIBUTE.unpack_from(attribute)
        if name == _KEY_LENGTH and key_length is None:
            key_length = value
        elif len(unknown) < MOST_ATTRIBUTES:
            unknown.append(attribute)
        else:
            raise MalformedPacket("a transform has more attributes than anybody can mean")
    return Transform(named(TransformType, kind), number, key_length, b"".join(unknown))


def _encode_transform(transform: Transform) -> bytes:
    attributes = b"" if transform.key_length is None else _ATTRIBUTE.pack(_KEY_LENGTH, transform.key_length)
    return _TRANSFORM.pack(transform.type, transform.id) + attributes + transform.unknown_attributes


def _attributes(transform: bytes) -> Iterator[bytes]:
    position = _TRANSFORM.size
    while position < len(transform):
        if len(transform) < position + _ATTRIBUTE.size:
            raise MalformedPacket("an attribute is too short")
        name, value = _ATTRIBUTE.unpack_from(transform, position)
        end = position + _ATTRIBUTE.size + (0 if name & _SHORT_FORMAT else value)
        if end > len(transform):
            raise MalformedPacket("an attribute is longer than its transform")
        yield transform[position:end]
        position = end


def _substructures(content: bytes, another: int) -> Iterator[bytes]:
    follows = another if content else _LAST
    position = 0
    while follows == another:
        if len(content) < position + _SUBSTRUCTURE.size:
            raise MalformedPacket("an SA payload ends where it says that more follows")
        follows, length = _SUBSTRUCTURE.unpack_from(content, position)
        end = position + length
        if length < _SUBSTRUCTURE.size or end > len(content):
            raise MalformedPacket(f"{length} octets cannot be the length of a part of an SA payload")
        yield content[position + _SUBSTRUCTURE.size : end]
        position = end
    if follows != _LAST or position != len(content):
        raise MalformedPacket("an SA payload goes on where it says that it ends")


def _chain(contents: list[bytes], another: int) -> bytes:
    last = len(contents) - 1
    return b"".join(
        _SUBSTRUCTURE.pack(another if place < last else _LAST, _SUBSTRUCTURE.size + len(content)) + content
        for place, content in enumerate(contents)
    )
