"""Compiled programs, read: what clang writes for the kernel's BPF machine, made ready to load.

An object file has programs and maps. A program is a function in the section of its kind; it calls
functions of its own section or of `.text`, and these are set behind it, since the kernel takes each
program in one piece. A map is a `struct map_definition` (helpers.h) in the section `maps`. Programs
keep no other data: whatever they read is in a map. Layouts are those of elf(5); relocations and
instructions are described in the kernel's Documentation/bpf (llvm_reloc.rst, instruction-set.rst).
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

import msgspec

_IDENTIFICATION = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian, version 1
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQ")
_INSTRUCTION = struct.Struct("<BBhi")  # operation, registers, offset, immediate value
_MAP = struct.Struct("<IIIII")

_RELOCATABLE = 1
_MACHINE_BPF = 247
_SYMBOLS, _RELOCATIONS, _NO_BITS = 2, 9, 8  # sections' types
_FUNCTION, _SECTION_ITSELF = 2, 3  # symbols' types

_LOAD_64 = 0x18  # takes two instructions' room
_CALL = 0x85
_OF_THIS_PROGRAM = 1  # a call's source register, where the immediate value is a distance

# The kernel takes a million instructions for a program; far more is a mistake.
_MOST_INSTRUCTIONS = 1_000_000
_MOST_SECTIONS = 1024
_LONGEST_NAME = 128


class MalformedObject(ValueError):
    """The bytes are no object file, or one with what the loader does not offer."""


class ProgramKind(enum.IntEnum):
    """What the kernel takes a program for: its BPF_PROG_TYPE, by the section it is in."""

    XDP = 6
    SYSCALL = 31


_KINDS = {"xdp": ProgramKind.XDP, "syscall": ProgramKind.SYSCALL}


class MapDefinition(msgspec.Struct, frozen=True, gc=False):
    """What a map is made from; sizes in octets, `type` and `flags` as in <linux/bpf.h>."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0


class MapUse(msgspec.Struct, frozen=True, gc=False):
    """An instruction, counted from the program's first, that wants a map's file descriptor."""

    instruction: int
    map: str


class ProgramCode(msgspec.Struct, frozen=True, gc=False):
    """A program with all that it calls; only the maps' file descriptors are missing."""

    kind: ProgramKind
    instructions: bytes
    map_uses: tuple[MapUse, ...]


class ObjectFile(msgspec.Struct, frozen=True):
    """What an object file holds. `built` says by what it was made of which source, where it does."""

    programs: dict[str, ProgramCode]
    maps: dict[str, MapDefinition]
    license: str
    built: str = ""


class _Section(msgspec.Struct, frozen=True, gc=False):
    name: str
    type: int
    content: bytes
    link: int
    information: int
    entry_size: int


class _Symbol(msgspec.Struct, frozen=True, gc=False):
    name: str
    type: int
    section: int
    value: int
    size: int


class _Relocation(msgspec.Struct, frozen=True, gc=False):
    symbol: _Symbol


def read_object(data: bytes) -> ObjectFile:
    """Return the programs and maps of an object file.

    Raises MalformedObject and nothing else, whatever the bytes are.
    """
    sections = _sections(data)
    symbols = _symbols(sections)
    definitions = _map_definitions(sections, symbols)
    linker = _Linker(sections, symbols, {place: name for name, (place, _) in definitions.items()})
    return ObjectFile(
        programs=linker.programs(),
        maps={name: definition for name, (_, definition) in definitions.items()},
        license=_text(sections, "license"),
        built=_text(sections, "built"),
    )


def _sections(data: bytes) -> list[_Section]:
    if len(data) < _HEADER.size or not data.startswith(_IDENTIFICATION):
        raise MalformedObject("this is no ELF object of 64 bits in little-endian order")
    (_, kind, machine, _, _, _, start, _, _, _, _, entry_size, count, names) = _HEADER.unpack_from(data)
    if kind != _RELOCATABLE or machine != _MACHINE_BPF:
        raise MalformedObject(f"ELF type {kind} for machine {machine} is no relocatable object for BPF")
    if entry_size != _SECTION.size or not names < count <= _MOST_SECTIONS:
        raise MalformedObject(f"{count} section headers of {entry_size} octets, names in section {names}")
    table = _slice(data, start, count * _SECTION.size, "the section headers")
    headers = list(_SECTION.iter_unpack(table))
    if sum(header[5] for header in headers if header[1] != _NO_BITS) > len(data):
        raise MalformedObject("the sections overlap: together they are larger than the file")
    name_table = _slice(data, headers[names][4], headers[names][5], "the sections' names")
    return [
        _Section(
            name=_name(name_table, name),
            type=kind,
            content=b"" if kind in (0, _NO_BITS) else _slice(data, offset, size, "a section"),
            link=link,
            information=information,
            entry_size=entry,
        )
        for name, kind, _, _, offset, size, link, information, _, entry in headers
    ]


def _symbols(sections: list[_Section]) -> list[_Symbol]:
    tables = [section for section in sections if section.type == _SYMBOLS]
    if len(tables) != 1:
        raise MalformedObject(f"{len(tables)} symbol tables instead of one")
    table = tables[0]
    if table.link >= len(sections) or len(table.content) % _SYMBOL.size:
        raise MalformedObject("the symbol table is no whole number of symbols with names")
    names = sections[table.link].content
    return [
        _Symbol(name=_name(names, name), type=info & 0xF, section=section, value=value, size=size)
        for name, info, _, section, value, size in _SYMBOL.iter_unpack(table.content)
    ]


def _map_definitions(
    sections: list[_Section], symbols: list[_Symbol]
) -> dict[str, tuple[int, MapDefinition]]:
    """By name, where in its section each map is defined, and how."""
    found: dict[str, tuple[int, MapDefinition]] = {}
    for symbol in symbols:
        if symbol.section >= len(sections) or sections[symbol.section].name != "maps":
            continue
        if symbol.type == _SECTION_ITSELF:
            continue
        content = sections[symbol.section].content
        if symbol.value + _MAP.size > len(content) or symbol.size != _MAP.size:
            raise MalformedObject(f"the map {symbol.name!r} is not defined by {_MAP.size} octets")
        if not symbol.name or symbol.name in found:
            raise MalformedObject(f"two maps are named {symbol.name!r}, or one has no name")
        found[symbol.name] = (symbol.value, MapDefinition(*_MAP.unpack_from(content, symbol.value)))
    return found


class _Linker:
    """Sets behind each program the functions that it calls."""

    def __init__(self, sections: list[_Section], symbols: list[_Symbol], maps: dict[int, str]) -> None:
        self._sections = sections
        self._symbols = symbols
        self._maps = maps
        self._functions = {
            (symbol.section, symbol.value): symbol for symbol in symbols if symbol.type == _FUNCTION
        }
        self._relocations = {
            index: self._relocations_of(index)
            for index in {symbol.section for symbol in self._functions.values()}
        }
        self._room = (
            _MOST_INSTRUCTIONS  # for all programs of the object: overlapping functions could need far more
        )

    def programs(self) -> dict[str, ProgramCode]:
        found: dict[str, ProgramCode] = {}
        for symbol in self._functions.values():
            kind = _KINDS.get(self._section(symbol.section).name)
            if kind is None:
                continue
            if not symbol.name or symbol.name in found:
                raise MalformedObject(f"two programs are named {symbol.name!r}, or one has no name")
            found[symbol.name] = self._link(kind, symbol)
        return found

    def _link(self, kind: ProgramKind, program: _Symbol) -> ProgramCode:
        code = bytearray()
        starts: dict[tuple[int, int], int] = {}  # of each function, counted in instructions
        calls: list[tuple[int, tuple[int, int]]] = []
        uses: list[MapUse] = []
        waiting = [program]
        while waiting:
            function = waiting.pop()
            place = (function.section, function.value)
            if place in starts:
                continue
            start = starts[place] = len(code) // _INSTRUCTION.size
            body = self._body(function)
            code += body
            relocations = self._relocations[function.section]
            for index, (operation, registers, _, immediate) in _walk(body):
                position = function.value + index * _INSTRUCTION.size
                relocation = relocations.get(position)
                if operation == _CALL and registers >> 4 == _OF_THIS_PROGRAM:
                    callee = self._callee(function.section, position, immediate, relocation)
                    calls.append((start + index, (callee.section, callee.value)))
                    waiting.append(callee)
                elif relocation is not None:
                    uses.append(MapUse(start + index, self._map(operation, immediate, relocation)))
        for index, place in calls:
            distance = starts[place] - index - 1
            struct.pack_into("<i", code, index * _INSTRUCTION.size + 4, distance)
        return ProgramCode(kind, bytes(code), tuple(uses))

    def _body(self, function: _Symbol) -> bytes:
        content = self._section(function.section).content
        end = function.value + function.size
        if not function.size or function.size % _INSTRUCTION.size or function.value % _INSTRUCTION.size:
            raise MalformedObject(f"the function {function.name!r} is no whole number of instructions")
        if end > len(content):
            raise MalformedObject(f"the function {function.name!r} ends behind its section")
        self._room -= function.size // _INSTRUCTION.size
        if self._room < 0:
            raise MalformedObject(f"the programs have more than {_MOST_INSTRUCTIONS} instructions")
        return content[function.value : end]

    def _callee(self, section: int, position: int, immediate: int, relocation: _Relocation | None) -> _Symbol:
        # A static function is named by its section and the distance in the instruction, a global
        # one by its symbol and a distance of -1; without relocation the call stays in its section.
        if relocation is None:
            place = (section, position + (immediate + 1) * _INSTRUCTION.size)
        else:
            symbol = relocation.symbol
            place = (symbol.section, symbol.value + (immediate + 1) * _INSTRUCTION.size)
        function = self._functions.get(place)
        if function is None:
            raise MalformedObject(f"a call leads to octet {place[1]} of section {place[0]}: no function")
        return function

    def _map(self, operation: int, immediate: int, relocation: _Relocation) -> str:
        symbol = relocation.symbol
        section = self._section(symbol.section).name
        if operation != _LOAD_64 or section != "maps":
            raise MalformedObject(f"a program refers to {symbol.name!r} in section {section!r}: no map")
        place = symbol.value + immediate  # a static map is named by its section and the distance
        name = self._maps.get(place)
        if name is None:
            raise MalformedObject(f"a program refers to octet {place} of the maps, where none begins")
        return name

    def _relocations_of(self, target: int) -> dict[int, _Relocation]:
        found: dict[int, _Relocation] = {}
        for section in self._sections:
            if section.type != _RELOCATIONS or section.information != target:
                continue
            if len(section.content) % _RELOCATION.size:
                raise MalformedObject(f"{section.name!r} is no whole number of relocations")
            for offset, information in _RELOCATION.iter_unpack(section.content):
                if information >> 32 >= len(self._symbols) or offset % _INSTRUCTION.size:
                    raise MalformedObject(f"{section.name!r} relocates octet {offset}, or by no symbol")
                found[offset] = _Relocation(self._symbols[information >> 32])
        return found

    def _section(self, index: int) -> _Section:
        if index >= len(self._sections):
            raise MalformedObject(f"a symbol is in section {index}, which is none")
        return self._sections[index]


def _walk(body: bytes) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Yield each instruction with its number; the second half of a long one is none."""
    half = False
    for index, instruction in enumerate(_INSTRUCTION.iter_unpack(body)):
        if half:
            half = False
            continue
        half = instruction[0] == _LOAD_64
        yield index, instruction


def _text(sections: list[_Section], name: str) -> str:
    for section in sections:
        if section.name == name:
            return section.content.split(b"\0", 1)[0].decode("ascii", errors="replace")
    return ""


def _slice(data: bytes, start: int, length: int, what: str) -> bytes:
    if start + length > len(data):
        raise MalformedObject(f"{what} would be {length} octets from {start} on, of {len(data)}")
    return data[start : start + length]


def _name(table: bytes, start: int) -> str:
    end = table.find(b"\0", start, start + _LONGEST_NAME)
    if end < 0:
        raise MalformedObject(f"no name of at most {_LONGEST_NAME} octets begins at {start}")
    try:
        return table[start:end].decode("ascii")
    except UnicodeDecodeError:
        raise MalformedObject(f"the name at {start} is not ASCII") from None
