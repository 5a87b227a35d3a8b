"""What appliances of other names have left pinned on our interfaces, as one that has been renamed since.

Such a program carries on by what it was told last: nobody tells it of changes, nor counts what it carries.
Nobody needs it either, unless its appliance runs: one isthmus beside another, on the same interface.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import msgspec

from gateway.fastpath import links
from gateway.fastpath.attaching import CLAIM, pins_of
from gateway.fastpath.features import PINS
from gateway.fastpath.kernel import BpfRefused
from gateway.underlay.claims import is_claimed


class Leftover(msgspec.Struct, frozen=True):
    """A program that is pinned, and attached to an interface of ours."""

    owner: str
    """The appliance that has pinned it."""
    interface: str
    pin: Path
    program: int
    is_served: bool
    """Whether its appliance runs."""

    def __str__(self) -> str:
        return f"program {self.program} on {self.interface}, which {self.owner} has pinned at {self.pin},"

    def remove(self) -> None:
        """Detach it. Raises OSError, as BpfRefused. This blocks for some milliseconds."""
        link = links.open_pinned(self.pin)
        if link is not None:
            with link:
                link.detach()
        links.unpin(self.pin)
        with suppress(OSError):  # where it has more, on interfaces of others
            self.pin.parent.rmdir()


def of_others(name: str, interfaces: Sequence[str]) -> tuple[Leftover, ...]:
    """Find what others than this appliance have pinned on interfaces, as far as this process may look.

    This blocks for some milliseconds.
    """
    names = {index: each for each in interfaces if (index := links.index_of(each)) is not None}
    return tuple(_found(pins_of(name), names))


def _found(ours: Path, names: dict[int, str]) -> Iterator[Leftover]:
    for folder in _entries(PINS):
        for pin in _entries(folder) if folder != ours else ():
            try:
                link = links.open_pinned(pin)
            except BpfRefused:
                continue
            if link is None:
                continue
            with link:
                if link.ifindex in names:
                    interface, program = names[link.ifindex], link.program()
                    is_served = is_claimed(CLAIM, folder.name)
                    yield Leftover(unquote(folder.name), interface, pin, program, is_served)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        # There is none, or it is another user's.
        return []
