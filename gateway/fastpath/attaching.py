"""The program on the underlay's interfaces: in their drivers where all of those can, else behind them.

All have it in one mode, since a driver may lose what a native program wants to send through it.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from pyroute2.netlink.exceptions import NetlinkError

from gateway.fastpath import drivers, features, links
from gateway.fastpath.features import Features, Interface
from gateway.fastpath.kernel import BpfRefused
from gateway.fastpath.links import Link, Mode
from gateway.fastpath.status import Attached
from gateway.underlay.claims import claimed
from policies.errors import ConfigurationError
from policies.model import FastPathMode, FastPathSettings

GONE = "the interface is gone"
TAKEN_OFF = "somebody has detached it"
LOSES = "what a native program redirects there would be lost now"

CLAIM = "fast path"
"""What a process that has one claims, under the name of its pins' folder: so others see that it runs."""


def pins_of(name: str) -> Path:
    """Where the links of an appliance are pinned."""
    return features.PINS / pinned_as(name)


def pinned_as(name: str) -> str:
    """Return a name as the BPF file system takes it, which has no dots: two names never become one."""
    return name.replace("%", "%25").replace(".", "%2e")


class Links:
    """One program, attached to each interface. It blocks for milliseconds wherever it asks the kernel."""

    def __init__(
        self, places: Sequence[_Place], settings: FastPathSettings, *, are_taken_over: bool = False
    ) -> None:
        self._places = places
        self._settings = settings
        self.pinned = settings.pinned
        self.are_taken_over = are_taken_over
        """Whether they have an earlier process's program yet."""
        self._held = ExitStack()

    def hold(self, claim: ExitStack) -> None:
        """Keep something until they are closed."""
        self._held = claim

    @property
    def attached(self) -> tuple[Attached, ...]:
        """Each interface, as it was when it was last looked at."""
        return tuple(
            Attached(place.name, place.mode, place.why, is_there=place.is_there) for place in self._places
        )

    @property
    def indices(self) -> list[int]:
        """Of the interfaces that the program is attached to."""
        return [place.index for place in self._places if place.is_there]

    def present(self) -> dict[str, int | None]:
        """Return by which index each interface is known now, None where it is gone. This does not block."""
        return {
            # One that has another name by now is the same interface still.
            place.name: links.index_of(place.name) or (place.index if links.is_one(place.index) else None)
            for place in self._places
        }

    def say(self, name: str, why: str) -> None:
        """Have it said why the program is not attached to an interface."""
        for place in self._places:
            if place.name == name:
                place.why = why

    def look(self, present: Mapping[str, int | None]) -> None:
        """See where it is still attached, by what `present` has returned: `attached` says so then.

        Where what a native program sends by an interface would be lost by now, it is taken off that.
        """
        for place in self._places:
            if place.is_there and not (place.is_attached() and present[place.name] == place.index):
                place.is_there = False
                place.why = GONE if present[place.name] != place.index else TAKEN_OFF
        native = [place for place in self._places if place.is_there and place.mode is FastPathMode.NATIVE]
        silent = _silent({place.index: place.name for place in native}) if native else []
        for place in native:
            if place.name in silent:
                place.take_off(LOSES)

    def attach(self, program: int, names: Collection[str], found: Sequence[Interface]) -> None:
        """Attach a program to interfaces that it is off, in the mode that all there are can have.

        `found` are these, and those that have it. Where it follows that those have another mode, they change
        over; where one of them cannot, it is no longer there. Raises BpfRefused: then it is on none of these.
        """
        comers = [place for place in self._places if place.name in names]
        others = [place for place in self._places if place.is_there and place.name not in names]
        indices = {each.name: each.index for each in found}
        try:
            for place in comers:
                place.index = indices[place.name]
            why = self._attach_natively(program, comers, others, found)
            if why is not None:
                self._attach_generically(program, comers, others)
        except BaseException:
            for place in comers:
                place.let_go()
            raise
        for place in (*comers, *others):
            if place.is_there:
                place.why = why or ""

    def _attach_natively(
        self, program: int, comers: Iterable[_Place], others: Iterable[_Place], found: Sequence[Interface]
    ) -> str | None:
        """Attach it in the drivers, or return why not: if that is insisted on, raise BpfRefused."""
        if self._settings.mode is FastPathMode.GENERIC:
            return ""
        insists = self._settings.mode is FastPathMode.NATIVE
        reason = next(filter(None, map(features.why_not_native, found)), None)
        if reason is None:
            try:
                for place in (*comers, *others):
                    place.take(program, Mode.NATIVE)
            except BpfRefused as refused:
                if insists:
                    raise
                return str(refused)
            reason = _loses({each.index: each.name for each in found}) or None
        if reason is not None and insists:
            raise BpfRefused(errno.EOPNOTSUPP, "attaching natively", reason)
        return reason

    @staticmethod
    def _attach_generically(program: int, comers: Iterable[_Place], others: Iterable[_Place]) -> None:
        for place in comers:
            place.take(program, Mode.GENERIC)
        for place in others:
            try:
                place.take(program, Mode.GENERIC)
            except BpfRefused as refused:
                place.why = str(refused)

    def replace(self, program: int, before: int) -> None:
        """Have another program take the place of the present one, on each interface in one step.

        Interfaces that it has been detached from are left out. Raises BpfRefused: then each has `before`.
        """
        there = [place.link for place in self._places if place.link is not None and place.is_attached()]
        try:
            for link in there:
                _replace(link, program)
        except BpfRefused:
            for link in there:
                _put_back(link, before)
            raise

    def close(self) -> None:
        """Detach it, unless it is pinned."""
        for place in self._places:
            if place.link is not None:
                place.link.close()
        self._held.close()


class _Place:
    """An interface, and the link by which the program is attached to it, if it is."""

    def __init__(self, name: str, index: int, pin: Path | None, link: Link | None = None) -> None:
        """`pin` is the name that the link is to have in the BPF file system, if any."""
        self.name = name
        self.index = index
        self.link = link
        self.is_there = link is not None
        self.why = ""
        self._pin = pin

    @property
    def mode(self) -> FastPathMode:
        is_native = self.link is not None and self.link.mode is Mode.NATIVE
        return FastPathMode.NATIVE if is_native else FastPathMode.GENERIC

    def is_attached(self) -> bool:
        return self.link is not None and self.link.is_attached()

    def take(self, program: int, mode: Mode) -> None:
        """Attach a program, if it is not attached in this mode. Raises BpfRefused: then there is none."""
        if self.is_there and self.link is not None and self.link.mode is mode:
            return
        self.let_go()
        link = links.attach(program, self.index, mode)
        try:
            if self._pin is not None:
                link.pin(self._pin)
        except BaseException:
            link.close()
            raise
        self.link, self.is_there = link, True

    def take_off(self, why: str) -> None:
        """Detach it as somebody else may: what is known of the link stays, for whoever uses that now."""
        self.is_there, self.why = False, why
        if self.link is not None:
            _detach(self.link)

    def let_go(self) -> None:
        """Detach what is attached."""
        self.is_there = False
        if self.link is None:
            return
        if self._pin is not None:
            links.unpin(self._pin)
        # Not by its end alone, which comes later where it was pinned.
        _detach(self.link)
        self.link.close()
        self.link = None


def attach(program: int, name: str, found: Features, settings: FastPathSettings) -> Links:
    """Attach a program, or take over the links that are pinned under an appliance's name.

    What is taken over keeps the program that it has, until it is replaced. Raises BpfRefused.
    """
    with ExitStack() as claim:
        with suppress(ConfigurationError):  # another one of our name has it, and is found out later
            claim.enter_context(claimed(CLAIM, pins_of(name).name, "appliance.name"))
        made = _attached(program, name, found, settings)
        made.hold(claim.pop_all())
    return made


def _attached(program: int, name: str, found: Features, settings: FastPathSettings) -> Links:
    pins = pins_of(name)
    taken = _take_over(pins, {each.index: each.name for each in found.interfaces}, settings)
    if taken is not None:
        return taken
    clean(name)
    places = [
        _Place(each.name, each.index, _pin_of(pins, each.name) if settings.pinned else None)
        for each in found.interfaces
    ]
    made = Links(places, settings)
    try:
        made.attach(program, [each.name for each in found.interfaces], found.interfaces)
    except BaseException:
        clean(name)
        raise
    return made


def clean(name: str) -> None:
    """Detach what an earlier process of this appliance has left pinned."""
    pins = pins_of(name)
    if not _is_there(pins):
        return
    for pin in pins.iterdir():
        with suppress(BpfRefused):  # of what is no link, or is off already
            link = links.open_pinned(pin)
            if link is not None:
                with link:
                    # Without its name alone it would stay for as long as anybody has it open.
                    link.detach()
        links.unpin(pin)
    pins.rmdir()


def _pin_of(pins: Path, interface: str) -> Path:
    return pins / pinned_as(interface)


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
    with ExitStack() as stack:
        found = map(links.open_pinned, sorted(pins.iterdir()))
        opened = [stack.enter_context(link) for link in found if link is not None]
        modes = {FastPathMode(link.mode.value) for link in opened}
        if {link.ifindex for link in opened} != indices.keys() or settings.mode not in {
            FastPathMode.AUTO,
            *modes,
        }:
            return None
        stack.pop_all()
    places = [
        _Place(indices[link.ifindex], link.ifindex, _pin_of(pins, indices[link.ifindex]), link)
        for link in opened
    ]
    return Links(places, settings, are_taken_over=True)


def _replace(link: Link, program: int) -> None:
    try:
        link.replace(program)
    except BpfRefused as refused:
        if refused.errno != errno.ENOLINK:  # it has been detached, or its interface deleted, just now
            raise


def _put_back(link: Link, program: int) -> None:
    try:
        link.replace(program)
    except BpfRefused:
        # Better none than one whose tables nobody writes any more.
        _detach(link)


def _loses(indices: dict[int, str]) -> str:
    """Why what a native program redirects would be lost, as far as the kernel tells; empty: it would not."""
    silent = _silent(indices)
    if not silent:
        return ""
    return f"{', '.join(silent)} would lose what a native program redirects there"


def _silent(indices: dict[int, str]) -> list[str]:
    """The names of the interfaces of which the kernel tells that they do not send what is redirected."""
    try:
        known = drivers.read() or {}
    except (OSError, NetlinkError):
        # As where interfaces come and go meanwhile: the next look tells.
        return []
    return [name for index, name in indices.items() if index in known and not known[index].sends]


def _detach(link: Link) -> None:
    with suppress(BpfRefused):  # of what somebody has detached, or an interface that is gone
        link.detach()
