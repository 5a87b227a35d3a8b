"""What every table of appliance.toml has in common, before the tables are known to agree.

Each kind of table is one class, which says what its keys are (`read`) and what they
mean (`model`). A value that is missing or wrong is None there, or absent from its
tuple, and its key is in `unsound`; everything else can still be checked against the
rest. Only a file without a mistake is made into the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn, Protocol, TypeVar

import msgspec


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table, where it stands, and which of its keys are missing or wrong."""

    path: str
    unsound: frozenset[str] = frozenset()

    def incomplete(self) -> NoReturn:
        """Stop at a value that the reader or a check would have noted as missing.

        To go on without it could leave out an access rule, so a check that is missing is a bug to be seen.
        """
        raise RuntimeError(f"{self.path or 'the file'} is incomplete, and no check has said so")


class _Named(Protocol):
    @property
    def name(self) -> str | None: ...


N = TypeVar("N", bound=_Named)


def by_name(tables: Iterable[N]) -> dict[str, N]:
    """The tables that have a name; where two have the same, the first."""
    found: dict[str, N] = {}
    for table in tables:
        if table.name is not None:
            found.setdefault(table.name, table)
    return found
