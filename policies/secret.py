"""Octets that must not be seen."""

from __future__ import annotations


class Secret(bytes):
    """A key or a shared secret: it compares like any bytes, and prints only its length.

    A slice of it is plain bytes: whoever keeps one makes it a secret again.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{len(self)} secret octets>"

    __str__ = __repr__

    def __format__(self, _specification: str) -> str:
        return repr(self)
