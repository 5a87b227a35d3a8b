"""Which tables and keys appliance.toml can have, found by asking the code that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from policies.config.node_tables import File
from policies.config.reader import Notes, Parse, Reader

T = TypeVar("T")
D = TypeVar("D")


class KeySchema(msgspec.Struct, frozen=True):
    """One key: whether it must be there, and what is taken where it is not."""

    name: str
    is_required: bool
    is_list: bool
    default: Any
    """As the model has it; None where absence has a meaning of its own, or the key must be there."""
    parse: Callable[[object], Any]
    """Makes a value of what TOML gave, of a list's items one by one. Raises ValueError."""


class TableSchema(msgspec.Struct, frozen=True):
    """One table, by its path: `appliance`, or `tenant.site.ike`."""

    path: str
    is_array: bool
    keys: tuple[KeySchema, ...]


def tables() -> Iterator[TableSchema]:
    """Yield every table that a file can have, each before those below it."""
    recorder = _Recorder("", is_array=False)
    File.read(recorder)
    yield from (table for table in recorder.described() if table.path)


class _Recorder(Reader):
    """Reads nothing, and takes down what is asked for."""

    def __init__(self, path: str, *, is_array: bool) -> None:
        super().__init__({}, Path(), Notes(), path)
        self._is_array = is_array
        self._keys: dict[str, KeySchema] = {}
        self._tables: list[_Recorder] = []

    def described(self) -> Iterator[TableSchema]:
        yield TableSchema(self.path, self._is_array, tuple(self._keys.values()))
        for table in self._tables:
            yield from table.described()

    def required(self, key: str, parse: Parse[T]) -> T | None:
        self._take_down(key, parse, is_required=True)
        return None

    def optional(self, key: str, parse: Parse[T], default: D) -> T | D:
        self._take_down(key, parse, default=default)
        return default

    def required_list(self, key: str, parse: Parse[T]) -> tuple[T, ...]:
        self._take_down(key, parse, is_required=True, is_list=True)
        return ()

    def optional_list(self, key: str, parse: Parse[T]) -> tuple[T, ...]:
        self._take_down(key, parse, is_list=True)
        return ()

    def table(self, key: str, read: Callable[[Reader], T]) -> T | None:
        return read(self._deeper(key, is_array=False))

    def tables(self, key: str, read: Callable[[Reader], T], named_by: str = "name") -> tuple[T, ...]:
        del named_by
        return (read(self._deeper(key, is_array=True)),)

    def finish(self) -> frozenset[str]:
        return frozenset()

    def _deeper(self, key: str, *, is_array: bool) -> _Recorder:
        recorder = _Recorder(self.at(key), is_array=is_array)
        self._tables.append(recorder)
        return recorder

    def _take_down(
        self,
        key: str,
        parse: Parse[Any],
        *,
        is_required: bool = False,
        is_list: bool = False,
        default: Any = None,
    ) -> None:
        self._keys[key] = KeySchema(key, is_required, is_list, default, parse)
