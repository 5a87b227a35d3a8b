"""The embedded store's file: opened by one process at a time, or refused in words."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

from gateway.lookup.stores import sqlite_rows
from policies.errors import ConfigurationError, Problem

# "Isth", so that another program's database is not taken for ours.
APPLICATION_ID = 0x49737468

_TABLES = {"entries", "history", "meta"}
_DAMAGED = "it is damaged: restore it from a backup, or remove it"

_CAUSES = {
    "SQLITE_FULL": "the disk is full",
    "SQLITE_READONLY": "it is read-only",
    "SQLITE_IOERR": "the disk fails",
    "SQLITE_CANTOPEN": "it cannot be opened",
    "SQLITE_CORRUPT": _DAMAGED,
    "SQLITE_NOTADB": "it is no database: restore it from a backup, or remove it",
    "SQLITE_BUSY": "another process holds it",
    "SQLITE_NOMEM": "there is no memory left",
}


class DatabaseFile:
    """A database that nobody else has open, in WAL mode, durable at each commit."""

    def __init__(self, path: Path) -> None:
        """Open or make it, with mode 0600 and its folder with 0700. Raises ConfigurationError."""
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(
                path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise self._refusal(error.strerror or str(error)) from error
        try:
            self._claim()
            self._prepare()
            self._identity = _identity(path)
        except BaseException:
            os.close(self._lock)
            raise

    def connect(self) -> sqlite3.Connection:
        """A connection that may be used by any thread, one at a time. Transactions are begun by hand."""
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        # A commit is acknowledged only once it is on the disk; and a power cut after that loses nothing.
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def close(self) -> None:
        """Let another process have it. Connections are closed by whoever made them."""
        os.close(self._lock)

    def is_there(self) -> bool:
        """Whether the file is still the one that was opened: what is written to another's place is lost."""
        return _identity(self.path) == self._identity

    def trouble(self, error: sqlite3.Error) -> str:
        """What went wrong, for an operator."""
        return f"{self.path}: {cause(error)}"

    def _claim(self) -> None:
        # The file itself has SQLite's own locks, which closing any descriptor of it would drop.
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise self._refusal("another process has it open") from error

    def _prepare(self) -> None:
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self.path.chmod(0o600)
        except OSError as error:
            raise self._refusal(error.strerror or str(error)) from error
        try:
            connection = self.connect()
            try:
                self._check_or_make(connection)
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise self._refusal(cause(error)) from error

    def _check_or_make(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if tables and application != APPLICATION_ID:
            raise self._refusal("it is another program's database")
        if version > (known := sqlite_rows.VERSION_WITH_GRANTS):
            raise self._refusal(
                f"a newer version of isthmus wrote it (schema {version}; this one knows {known})"
            )
        connection.execute("PRAGMA journal_mode = WAL")
        if not tables:
            connection.executescript(
                f"BEGIN; {sqlite_rows.SCHEMA}"
                f"PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {sqlite_rows.FIRST_VERSION}; COMMIT;"
            )
        elif not tables >= _TABLES or not _is_whole(connection):
            raise self._refusal(_DAMAGED)

    def _refusal(self, message: str) -> ConfigurationError:
        return ConfigurationError([Problem(str(self.path), message)])


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_whole(connection: sqlite3.Connection) -> bool:
    """Whether every page is what it should be: some tenths of a second for a million records."""
    ((verdict,),) = connection.execute("PRAGMA quick_check(1)")
    return verdict == "ok" and len(connection.execute("SELECT revision FROM meta").fetchall()) == 1


def cause(error: sqlite3.Error) -> str:
    """SQLite's error in words."""
    name: str = getattr(error, "sqlite_errorname", "")
    for prefix, words in _CAUSES.items():
        if name.startswith(prefix):
            return f"{words} ({name})"
    return str(error)
