"""What proves to a lookup node who we are, read again whenever its files change."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from policies.errors import ConfigurationError, Problem
from policies.model import LookupAccess
from policies.secret import Secret

log = logging.getLogger("isthmus.lookup")

T = TypeVar("T")

_Seen = tuple[tuple[int, int, int], ...]


class Rotated(Generic[T]):
    """What is made of some files: made again when one of them has changed.

    Where that fails later, what was made last goes on: half of a renewed pair may be there.
    """

    def __init__(self, files: tuple[Path, ...], make: Callable[[], T]) -> None:
        self._files = files
        self._make = make
        self._tried = self._look()
        try:
            self._value = make()
        except (OSError, ValueError) as error:
            raise ConfigurationError([Problem("lookup", _in_words(files, error))]) from error

    @property
    def value(self) -> T:
        """What the files say now."""
        seen = self._look()
        if seen != self._tried:
            self._tried = seen
            try:
                self._value = self._make()
            except (OSError, ValueError) as error:
                log.warning("the credential stays as it was: %s", _in_words(self._files, error))
        return self._value

    def _look(self) -> _Seen:
        return tuple(_look(file) for file in self._files)


def token(access: LookupAccess) -> Rotated[Secret] | None:
    """The token for the Authorization header. Raises ConfigurationError."""
    file = access.token_file
    return Rotated((file,), lambda: _read_token(file)) if file is not None else None


def tls(access: LookupAccess) -> Rotated[ssl.SSLContext]:
    """How nodes are verified, and how we show who we are. Raises ConfigurationError."""
    files = (access.authority_file, access.certificate_file, access.key_file)
    return Rotated(tuple(file for file in files if file is not None), lambda: _context(access))


def _read_token(file: Path) -> Secret:
    found = file.read_bytes().strip()
    if not found or not all(0x21 <= octet <= 0x7E for octet in found):
        raise ValueError("a token is one word of printable ASCII")
    return Secret(found)


def _context(access: LookupAccess) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=access.authority_file)
    if access.certificate_file is not None:
        context.load_cert_chain(access.certificate_file, access.key_file)
    return context


def _look(file: Path) -> tuple[int, int, int]:
    try:
        status = file.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def _in_words(files: tuple[Path, ...], error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{', '.join(str(file) for file in files)}: {reason}"
