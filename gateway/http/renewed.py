"""What is made of some files, and made again when they change: certificates and tokens are renewed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from policies.errors import ConfigurationError, Problem

log = logging.getLogger("isthmus.http")

T = TypeVar("T")

_Seen = tuple[tuple[int, int, int], ...]


class Renewed(Generic[T]):
    """What is made of some files: made again when one of them has changed.

    Where that fails later, what was made last goes on: half of a renewed pair may be there.
    """

    def __init__(self, key: str, files: tuple[Path | None, ...], make: Callable[[], T]) -> None:
        """`make` raises OSError or ValueError; `key` is where the configuration names the files.

        Raises ConfigurationError.
        """
        self._key = key
        self._files = tuple(file for file in files if file is not None)
        self._make = make
        self._tried = self._look()
        try:
            self._value = make()
        except (OSError, ValueError) as error:
            raise ConfigurationError([Problem(key, self._in_words(error))]) from error

    @property
    def value(self) -> T:
        """What the files say now."""
        seen = self._look()
        if seen != self._tried:
            self._tried = seen
            try:
                self._value = self._make()
            except (OSError, ValueError) as error:
                words = "%s: what was there before goes on: %s"
                log.warning(words, self._key, self._in_words(error), extra={"event": "file-refused"})
        return self._value

    def _look(self) -> _Seen:
        return tuple(_look(file) for file in self._files)

    def _in_words(self, error: Exception) -> str:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        return f"{', '.join(str(file) for file in self._files)}: {reason}"


def _look(file: Path) -> tuple[int, int, int]:
    """What tells two states of a file apart; one that is not there is like no other."""
    try:
        status = file.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)
