"""What happened before a restart: the last events, in a file of the state folder.

Whoever looks at three in the morning may look at an appliance that was restarted at two. The file is
bounded, and what cannot be read of it is passed over: it is history, and nothing is decided by it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from gateway.operating.events import KEPT, Event

LONGEST = 1 << 20
"""Octets of the file, above which its older half is left out."""


class Diary:
    """One appliance's file of events, a line of JSON each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decoder = msgspec.json.Decoder(Event)

    def read(self) -> list[Event]:
        """Return the last events of the file, oldest first; none where there is no file that can be read."""
        try:
            with self._path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 2 * LONGEST))
                lines = file.read(2 * LONGEST).splitlines()
        except OSError:
            return []
        events = (self._decode(line) for line in lines[-KEPT:])
        return [event for event in events if event is not None]

    def write(self, events: Iterable[Event]) -> None:
        """Add events. Raises OSError, and then some of them may be written."""
        octets = b"".join(msgspec.json.encode(event) + b"\n" for event in events)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._path, flags, 0o600), "ab") as file:
            file.write(octets)
            size = file.tell()
        if size > LONGEST:
            self._shorten()

    def _shorten(self) -> None:
        """Leave the older half out: whoever is killed meanwhile has the one file or the other."""
        with self._path.open("rb") as file:
            file.seek(-LONGEST // 2, os.SEEK_END)
            file.readline()  # the rest of a line that was cut
            octets = file.read()
        shorter = self._path.with_name(f"{self._path.name}.new")
        shorter.unlink(missing_ok=True)
        with os.fdopen(os.open(shorter, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(octets)
        shorter.replace(self._path)

    def _decode(self, line: bytes) -> Event | None:
        try:
            return self._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None


def diary_path(state: Path, name: str) -> Path:
    """Where the events of the appliance of this name and state folder are."""
    return state / f"{name}.events"
