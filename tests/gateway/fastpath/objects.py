"""Object files made by hand, for what no compiler would write."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

FUNCTION, SECTION, OBJECT = 2, 3, 1
CODE, SYMBOLS, STRINGS, RELOCATIONS = 1, 2, 3, 9

EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)
LOAD_MAP = struct.pack("<BBhiBBhi", 0x18, 1, 0, 0, 0, 0, 0, 0)


def call(distance: int) -> bytes:
    """A call of a function so many instructions behind the next one."""
    return struct.pack("<BBhi", 0x85, 0x10, 0, distance)


def helper(number: int) -> bytes:
    """A call of one of the kernel's helpers."""
    return struct.pack("<BBhi", 0x85, 0, 0, number)


class Symbol(msgspec.Struct, frozen=True):
    """A name for a place in a section, which is counted from 1 as in the object file."""

    name: str
    type: int
    section: int
    value: int = 0
    size: int = 8


class Section(msgspec.Struct, frozen=True):
    """A section with what is in it, and its relocations: at which octet, by which symbol."""

    name: str
    content: bytes
    relocations: Sequence[tuple[int, int]] = ()


def object_file(sections: Sequence[Section], symbols: Sequence[Symbol], machine: int = 247) -> bytes:
    """An ELF object with these sections, then their relocations, the symbols and the names."""
    relocations = [
        (b"".join(struct.pack("<QQ", at, symbol << 32 | 1) for at, symbol in section.relocations), number)
        for number, section in enumerate(sections, start=1)
        if section.relocations
    ]
    names = b"\0"
    places = {}
    for name in [*(section.name for section in sections), *(symbol.name for symbol in symbols)]:
        places[name] = len(names)
        names += name.encode() + b"\0"
    strings = 2 + len(sections) + len(relocations)
    table = b"".join(
        struct.pack("<IBBHQQ", places[each.name], each.type, 0, each.section, each.value, each.size)
        for each in symbols
    )
    contents = [
        *((places[section.name], CODE, section.content, 0, 0) for section in sections),
        *((0, RELOCATIONS, content, strings - 1, number) for content, number in relocations),
        (0, SYMBOLS, table, strings, 0),
        (0, STRINGS, names, 0, 0),
    ]
    headers, body = [bytes(64)], b""
    for place, kind, content, link, information in contents:
        position = 64 + len(body)
        headers.append(
            struct.pack("<IIQQQQIIQQ", place, kind, 0, 0, position, len(content), link, information, 8, 0)
        )
        body += content
    start = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(
            b"\x7fELF\x02\x01\x01",
            1,
            machine,
            1,
            0,
            0,
            64 + len(body),
            0,
            64,
            0,
            0,
            64,
            len(headers),
            strings,
        ),
    )
    return start + body + b"".join(headers)
