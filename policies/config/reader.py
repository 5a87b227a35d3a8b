"""Reads TOML tables key by key, and notes everything that is wrong with them.

Nothing here stops at the first mistake: a key that cannot be used is noted, and
reading goes on, so that the operator sees the whole list in one run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from policies.errors import Problem

T = TypeVar("T")
D = TypeVar("D")

Parse = Callable[[object], T]
"""Makes a value of what TOML gave, or raises ValueError with what would be right."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LABEL = re.compile(r"[^\[\]]{1,64}")


class MeantAs(ValueError):
    """A value that is wrong, but plain enough in its meaning to check the rest by `value`."""

    def __init__(self, message: str, value: Any) -> None:
        super().__init__(message)
        self.value = value


class Notes:
    """What is wrong so far, and where each key stands in the file."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._positions: dict[str, tuple[int, ...]] = {"": ()}

    def note(self, problem: Problem) -> None:
        self._problems.append(problem)

    def place(self, path: str, position: tuple[int, ...]) -> None:
        self._positions.setdefault(path, position)

    def position(self, path: str) -> tuple[int, ...]:
        """Where a path stands, or the nearest table above it that is in the file."""
        while path not in self._positions:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._positions[path]

    def problems(self) -> list[Problem]:
        """Every problem once, in the order of the file."""
        return sorted(dict.fromkeys(self._problems), key=lambda problem: self.position(problem.path))


class Reader:
    """One table of the file, whose keys are taken one by one; `finish` notes those left over.

    A path names an entry of an array by its name, `tenant[red].subnet[web].vsid`; an entry
    that has none, or whose name is taken, goes by its place, counted from 1: `tenant[#2]`.
    Relative paths of files start at `base`.
    """

    def __init__(
        self,
        table: Mapping[str, object],
        base: Path,
        notes: Notes,
        path: str = "",
        position: tuple[int, ...] = (),
    ) -> None:
        self.path = path
        self.base = base
        self.names = frozenset(table)
        self._table = table
        self._notes = notes
        self._position = position
        self._known: list[str] = []
        self._missing: list[str] = []
        self._unsound: set[str] = set()
        notes.place(path, position)
        for index, key in enumerate(table):
            notes.place(self.at(key), (*position, index))

    def at(self, key: str) -> str:
        """The path of a key of this table."""
        if not _BARE_KEY.fullmatch(key):
            key = shown(key)
        return f"{self.path}.{key}" if self.path else key

    def note(self, key: str, message: str, item: str = "") -> None:
        self._unsound.add(key)
        self._notes.note(Problem(self.at(key) + item, message))

    def has(self, key: str) -> bool:
        return key in self._table

    def required(self, key: str, parse: Parse[T]) -> T | None:
        """The value of a key that must be there, or None where it is missing or wrong."""
        self._known.append(key)
        if key not in self._table:
            self._missing.append(key)
            return None
        return self._parsed(key, self._table[key], parse, None)

    def optional(self, key: str, parse: Parse[T], default: D) -> T | D:
        """The value of a key, or the default where it is absent or wrong."""
        self._known.append(key)
        if key not in self._table:
            return default
        return self._parsed(key, self._table[key], parse, default)

    def required_list(self, key: str, parse: Parse[T]) -> tuple[T, ...]:
        """The sound items of a list that must be there and must not be empty."""
        if key not in self._table:
            self._known.append(key)
            self._missing.append(key)
            return ()
        if self._table[key] == []:
            self.note(key, "is empty; give at least one")
        return self.optional_list(key, parse)

    def optional_list(self, key: str, parse: Parse[T]) -> tuple[T, ...]:
        """The sound items of a list; none where it is absent."""
        self._known.append(key)
        written = self._table.get(key, [])
        if not isinstance(written, list):
            self.note(key, f"{shown(written)} is not a list; write [{shown(written)}]")
            written = [written]
        items: dict[T, None] = {}
        for index, value in enumerate(written):
            place = f"[#{index + 1}]" if len(written) > 1 else ""
            self._notes.place(self.at(key) + place, (*self._notes.position(self.at(key)), index))
            item = self._parsed(key, value, parse, None, place)
            if item is None:
                continue
            if item in items:
                self.note(key, f"{shown(value)} is given twice", place)
            else:
                items[item] = None
        return tuple(items)

    def table(self, key: str, read: Callable[[Reader], T]) -> T | None:
        """What `read` makes of the table of a key, or None where it is absent."""
        self._known.append(key)
        if key not in self._table:
            return None
        value = self._table[key]
        if not isinstance(value, dict):
            right = f"; write [{key}]" if not self.path else ""
            self.note(key, f"{shown(value)} is not a table of keys{right}")
            return None
        return read(self._below(value, self.at(key), self._notes.position(self.at(key))))

    def tables(self, key: str, read: Callable[[Reader], T], named_by: str = "name") -> tuple[T, ...]:
        """What `read` makes of each table of an array such as `[[tenant]]`; one of its keys names it."""
        self._known.append(key)
        written = self._table.get(key, [])
        if not isinstance(written, list):
            self.note(key, f"there may be several, so write {self._array_header(key)}")
            written = [written] if isinstance(written, dict) else []
        results: list[T] = []
        labels: set[str] = set()
        for index, value in enumerate(written):
            label = value.get(named_by) if isinstance(value, dict) else None
            if not _fits_path(label) or label in labels:
                label = f"#{index + 1}"
            labels.add(label)
            if isinstance(value, dict):
                position = (*self._notes.position(self.at(key)), index)
                results.append(read(self._below(value, f"{self.at(key)}[{label}]", position)))
            else:
                right = f"write {self._array_header(key)}"
                self.note(key, f"{shown(value)} is not a table of keys; {right}", f"[{label}]")
        return tuple(results)

    def finish(self) -> frozenset[str]:
        """Note the keys that nobody asked for and those that are missing; return all that are not sound.

        What depends on one of these had better not be judged.
        """
        misspelt: set[str] = set()
        for key in self._table:
            if key in self._known:
                continue
            meant = close_match(key, self._known)
            right = f'did you mean "{meant}"?' if meant else f"known: {listed(self._known) or 'none'}"
            self.note(key, f"is not a key of this table; {right}")
            misspelt.update([meant] if meant else [])
        for key in self._missing:
            if key not in misspelt:
                self.note(key, "is missing")
        return frozenset(self._unsound | misspelt)

    def _below(self, table: Mapping[str, object], path: str, position: tuple[int, ...]) -> Reader:
        return Reader(table, self.base, self._notes, path, position)

    def _parsed(self, key: str, value: object, parse: Parse[T], default: D, item: str = "") -> T | D:
        try:
            return parse(value)
        except MeantAs as error:
            self._notes.note(Problem(self.at(key) + item, str(error)))
            meant: T = error.value
            return meant
        except ValueError as error:
            self.note(key, str(error), item)
            return default

    def _array_header(self, key: str) -> str:
        return "[[" + re.sub(r"\[.*?\]", "", self.at(key)) + "]]"


def _fits_path(label: object) -> TypeGuard[str]:
    return isinstance(label, str) and label.isprintable() and _LABEL.fullmatch(label) is not None


def shown(value: object) -> str:
    """A value as the operator wrote it, shortened; never raises."""
    match value:
        case bool():
            return str(value).lower()
        case int() if abs(value) >= 1 << 64:
            return "a huge number"
        case int() | float():
            return str(value)
        case str():
            text = value if len(value) <= 60 else value[:57] + "..."
            return f'"{text if text.isprintable() else text.encode("unicode_escape").decode()}"'
        case dict():
            return "a table"
        case list():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def close_match(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    # Among very many names the search is slow, and its result likely to mislead.
    candidates = sorted(set(known))[:500]
    return next(iter(difflib.get_close_matches(word[:64], candidates, n=1)), None)


def listed(words: Iterable[str]) -> str:
    """A dozen of the words, and how many more there are."""
    every = sorted(set(words))
    more = f" and {len(every) - 12} more" if len(every) > 12 else ""
    return ", ".join(every[:12]) + more
