"""A program's maps in ordinary memory, to watch an engine where nothing may be loaded into the kernel."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.fastpath.elf import MapDefinition, ObjectFile

PROGRAM = 1_000
"""The descriptor of the first program; the others are counted on."""


class OrdinaryMap:
    """One map: what is in it as an array, and what is in it by keys."""

    def __init__(self, definition: MapDefinition, entries: int) -> None:
        self.values: dict[bytes, bytes] = {}
        self._octets = bytearray(entries * (definition.value_size + 7 & ~7))

    def memory(self) -> memoryview:
        return memoryview(self._octets)

    def update(self, key: bytes, value: bytes) -> None:
        self.values[key] = value

    def lookup(self, key: bytes) -> bytes | None:
        return self.values.get(key)


class OrdinaryLoaded:
    """What loading gives."""

    def __init__(self, source: ObjectFile, sizes: Mapping[str, int], number: int) -> None:
        self.maps = {
            name: OrdinaryMap(definition, sizes.get(name, definition.max_entries))
            for name, definition in source.maps.items()
        }
        self.programs = dict.fromkeys(source.programs, PROGRAM + number)
        self.is_open = True

    def close(self) -> None:
        self.is_open = False


class Loader:
    """Takes the place of `kernel.load`. Set `refusal` to have it refuse."""

    def __init__(self) -> None:
        self.made: list[OrdinaryLoaded] = []
        self.refusal: Exception | None = None

    def __call__(self, source: ObjectFile, sizes: Mapping[str, int]) -> OrdinaryLoaded:
        if self.refusal is not None:
            raise self.refusal
        self.made.append(OrdinaryLoaded(source, sizes, len(self.made)))
        return self.made[-1]
