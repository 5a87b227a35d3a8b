"""The program on the underlay's interfaces: in their drivers where all of those can, else behind them."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from gateway.fastpath import drivers, features, links
from gateway.fastpath.features import Features
from gateway.fastpath.kernel import BpfRefused
from gateway.fastpath.links import BPF_FILE_SYSTEM, Link, Mode
from gateway.fastpath.status import Attached
from policies.model import FastPathMode, FastPathSettings


def pins_of(name: str) -> Path:
    """Where the links of an appliance are pinned."""
    return BPF_FILE_SYSTEM / "isthmus" / name.replace(".", "-")


class Links:
    """One program, attached to each interface. It blocks for milliseconds wherever it asks the kernel."""

    def __init__(
        self,
        links: Sequence[Link],
        attached: Sequence[Attached],
        *,
        pinned: bool,
        are_taken_over: bool = False,
    ) -> None:
        self._links = list(links)
        self.attached = tuple(attached)
        self.pinned = pinned
        self.are_taken_over = are_taken_over
        """Whether they have an earlier process's program yet."""

    def look(self) -> None:
        """See where it is still attached: `attached` says so from then on."""
        self.attached = tuple(
            msgspec.structs.replace(each, is_there=link.is_attached())
            for link, each in zip(self._links, self.attached, strict=True)
        )

    @property
    def indices(self) -> list[int]:
        """Of the interfaces."""
        return [link.ifindex for link in self._links]

    def replace(self, program: int, before: int) -> None:
        """Have another program take the place of the present one, on each interface in one step.

        Interfaces that it has been detached from are left out. Raises BpfRefused: then each has `before`.
        """
        there = [link for link in self._links if link.is_attached()]
        try:
            for link in there:
                link.replace(program)
        except BpfRefused:
            for link in there:
                _put_back(link, before)
            raise

    def close(self) -> None:
        """Detach it, unless it is pinned."""
        for link in self._links:
            link.close()


def attach(program: int, name: str, found: Features, settings: FastPathSettings) -> Links:
    """Attach a program, or take over the links that are pinned under an appliance's name.

    What is taken over keeps the program that it has, until it is replaced. Raises BpfRefused.
    """
    pins = pins_of(name)
    indices = {each.index: each.name for each in found.interfaces}
    taken = _take_over(pins, indices, settings)
    if taken is not None:
        return taken
    clean(name)
    native: list[Link] | str = ""
    if settings.mode is not FastPathMode.GENERIC:
        native = _attach_natively(program, found, insists=settings.mode is FastPathMode.NATIVE)
    if isinstance(native, str):
        made, mode, why = _attach_all(program, indices, Mode.GENERIC), FastPathMode.GENERIC, native
    else:
        made, mode, why = native, FastPathMode.NATIVE, ""
    try:
        if settings.pinned:
            for link in made:
                link.pin(pins / indices[link.ifindex].replace(".", "-"))
    except BaseException:
        for link in made:
            link.close()
        clean(name)
        raise
    attached = [Attached(indices[link.ifindex], mode, why) for link in made]
    return Links(made, attached, pinned=settings.pinned)


def clean(name: str) -> None:
    """Detach what an earlier process of this appliance has left pinned."""
    pins = pins_of(name)
    if not _is_there(pins):
        return
    for pin in pins.iterdir():
        links.unpin(pin)
    pins.rmdir()


def pinned_programs(name: str) -> frozenset[int]:
    """The ids of the programs that are attached by what this appliance has pinned, as far as can be seen."""
    pins = pins_of(name)
    found: set[int] = set()
    for pin in pins.iterdir() if _is_there(pins) else ():
        try:
            link = links.open_pinned(pin)
        except BpfRefused:
            continue
        if link is not None:
            with link:
                found.add(link.program())
    return frozenset(found)


def _is_there(pins: Path) -> bool:
    """Whether anything is pinned there that is ours: where only root gets, an ordinary user has nothing."""
    try:
        return pins.is_dir()
    except PermissionError:
        return False


def _take_over(pins: Path, indices: dict[int, str], settings: FastPathSettings) -> Links | None:
    """Open the links that are pinned, if they are those that there would be now."""
    if not settings.pinned or not _is_there(pins):
        return None
    opened = [link for pin in sorted(pins.iterdir()) if (link := links.open_pinned(pin)) is not None]
    modes = {FastPathMode(link.mode.value) for link in opened}
    if {link.ifindex for link in opened} == indices.keys() and settings.mode in {FastPathMode.AUTO, *modes}:
        attached = [Attached(indices[link.ifindex], FastPathMode(link.mode.value)) for link in opened]
        return Links(opened, attached, pinned=True, are_taken_over=True)
    for link in opened:
        link.close()
    return None


def _put_back(link: Link, program: int) -> None:
    try:
        link.replace(program)
    except BpfRefused:
        # Better none than one whose tables nobody writes any more.
        with suppress(BpfRefused):  # of an interface that is gone
            link.detach()


def _attach_natively(program: int, found: Features, *, insists: bool) -> list[Link] | str:
    """Attach it in the drivers, or return why not. Raises BpfRefused instead where that is insisted on."""
    reason = next(filter(None, map(features.why_not_native, found.interfaces)), None)
    if reason is not None and not insists:
        return reason
    indices = {each.index: each.name for each in found.interfaces}
    try:
        made = _attach_all(program, indices, Mode.NATIVE)
    except BpfRefused as refused:
        if insists:
            raise
        return str(refused)
    reason = _loses(indices)
    if reason:
        for link in made:
            link.close()
        if insists:
            raise BpfRefused(errno.EOPNOTSUPP, "attaching natively", reason)
        return reason
    return made


def _attach_all(program: int, indices: Iterable[int], mode: Mode) -> list[Link]:
    made: list[Link] = []
    try:
        for index in indices:
            # One by one, so that what is made is closed below if the next one is refused.
            made += [links.attach(program, index, mode)]
    except BaseException:
        for link in made:
            link.close()
        raise
    return made


def _loses(indices: dict[int, str]) -> str:
    """Why what a native program redirects would be lost, as far as the kernel tells; empty: it would not."""
    known = drivers.read() or {}
    silent = [name for index, name in indices.items() if index in known and not known[index].sends]
    if not silent:
        return ""
    return f"{', '.join(silent)} would lose what a native program redirects there"
