"""Distinguished names: as operators write them, and as DER encodes them (RFC 5280 section 4.1.2.4)."""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.x509.oid import NameOID

from policies.errors import MalformedPacket

# Python refuses to write numbers of some thousand digits, and no type that anybody uses is half as long.
_LONGEST_TYPE = 64
# Whoever sends a longer one wants us to be busy: names are read before anybody has proved anything.
_LONGEST_NAME = 4096

Name = tuple[tuple[tuple[str, str], ...], ...]
"""Relative names in order, each of attributes: the dotted number of its type, and its value."""

_TYPES = {
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "S": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "STREET": NameOID.STREET_ADDRESS,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
    "SN": NameOID.SURNAME,
    "G": NameOID.GIVEN_NAME,
    "T": NameOID.TITLE,
    "SERIALNUMBER": NameOID.SERIAL_NUMBER,
    "DC": NameOID.DOMAIN_COMPONENT,
    "UID": NameOID.USER_ID,
    "E": NameOID.EMAIL_ADDRESS,
    "EMAIL": NameOID.EMAIL_ADDRESS,
    "EMAILADDRESS": NameOID.EMAIL_ADDRESS,
}
# The first word of each type is the one that is written.
_SHORT = {oid.dotted_string: word for word, oid in reversed(_TYPES.items())}

_SEQUENCE, _SET, _OBJECT_ID = 0x30, 0x31, 0x06
_STRINGS = {
    0x0C: "utf-8",
    0x12: "ascii",  # NumericString
    0x13: "ascii",  # PrintableString
    0x14: "latin-1",  # TeletexString, as everybody reads it
    0x16: "ascii",  # IA5String
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}


def parse(text: str) -> x509.Name:
    r"""Read a name such as "C=CH, O=Red, CN=edge-1", in the order of its encoding.

    A backslash takes the comma's or plus sign's meaning away. Raises ValueError.
    """
    relative = []
    for part in re.split(r"(?<!\\),", text):
        attributes = [_attribute(each) for each in re.split(r"(?<!\\)\+", part)]
        relative.append(x509.RelativeDistinguishedName(attributes))
    return x509.Name(relative)


def decode_untrusted(data: bytes) -> Name:
    """Return a name's attributes. Raises MalformedPacket and nothing else."""
    if len(data) > _LONGEST_NAME:
        raise MalformedPacket(f"a name in DER has {len(data)} octets")
    whole = _whole(_SEQUENCE, data)
    return tuple(
        tuple(sorted(_pair(each) for each in _elements(_SEQUENCE, relative)))
        for relative in _elements(_SET, whole)
    )


def folded(name: Name) -> Name:
    """Return what two equal names have in common: no case, single spaces (RFC 5280 section 7.1)."""
    return tuple(
        tuple(sorted((oid, " ".join(value.split()).casefold()) for oid, value in relative))
        for relative in name
    )


def shown(name: Name) -> str:
    """Return a name for people, in the order of its encoding."""
    return ", ".join(
        "+".join(f"{_SHORT.get(oid, oid)}={_escaped(value)}" for oid, value in relative) for relative in name
    )


def _escaped(value: str) -> str:
    visible = "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in value)
    return re.sub(r"([,+])", r"\\\1", visible)


def _attribute(text: str) -> x509.NameAttribute[str]:
    word, equals, value = text.partition("=")
    word, value = word.strip().upper(), re.sub(r"\\(.)", r"\1", value.strip())
    if not equals or not value:
        raise ValueError(f"{text.strip()!r} is no attribute such as CN=edge-1")
    if word not in _TYPES:
        raise ValueError(f"{word} is no attribute of a name that is known here: {', '.join(_TYPES)}")
    return x509.NameAttribute(_TYPES[word], value)


def _pair(encoded: bytes) -> tuple[str, str]:
    oid, rest = _element(encoded)
    value, behind = _element(rest)
    if oid[0] != _OBJECT_ID or behind:
        raise MalformedPacket("an attribute of a name is no pair of type and value")
    kind, content = value
    try:
        return _dotted(oid[1]), content.decode(_STRINGS[kind])
    except (KeyError, UnicodeDecodeError):
        return _dotted(oid[1]), f"#{kind:02x}{content.hex()}"


def _dotted(encoded: bytes) -> str:
    if not encoded or encoded[-1] & 0x80:
        raise MalformedPacket("a name has an attribute whose type ends early")
    if len(encoded) > _LONGEST_TYPE:
        raise MalformedPacket("a name has an attribute whose type is too long to write down")
    numbers, number = [], 0
    for octet in encoded:
        number = number << 7 | octet & 0x7F
        if not octet & 0x80:
            numbers.append(number)
            number = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - first * 40, *numbers[1:])))


def _whole(kind: int, data: bytes) -> bytes:
    (found, content), behind = _element(data)
    if found != kind or behind:
        raise MalformedPacket("not one name in DER")
    return content


def _elements(kind: int, data: bytes) -> list[bytes]:
    contents = []
    while data:
        (found, content), data = _element(data)
        if found != kind:
            raise MalformedPacket(f"a name has an element of type {found:#04x} in an unexpected place")
        contents.append(content)
    return contents


def _element(data: bytes) -> tuple[tuple[int, bytes], bytes]:
    """Split off one element: its tag and content, and what is behind it (X.690 section 8.1)."""
    if len(data) < 2:
        raise MalformedPacket("a name in DER ends early")
    kind, length, start = data[0], data[1], 2
    if length & 0x80:
        count = length & 0x7F
        start += count
        if not 1 <= count <= 4 or len(data) < start:
            raise MalformedPacket("a name in DER has a length that cannot be")
        length = int.from_bytes(data[2:start])
    if len(data) < start + length:
        raise MalformedPacket("a name in DER ends early")
    return (kind, data[start : start + length]), data[start + length :]
