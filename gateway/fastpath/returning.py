"""The program is back on an interface that it was off: when that is tried, and what is said of it.

An interface that is deleted and made anew, as by ifupdown or with a driver that is loaded again, has no
program, and another index and MAC; and whoever may administrate BPF can detach one. Python carries what
comes there until the program is back. As long as the configuration has a fast path, that is
soon: not at once, since an interface that is being made is not what it will be in a moment.
"""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Awaitable, Callable, Mapping

import trio
from pyroute2.netlink.exceptions import NetlinkError

from gateway.fastpath import features, links
from gateway.fastpath.attaching import GONE, LOSES, TAKEN_OFF, Links
from gateway.fastpath.features import Interface
from gateway.fastpath.kernel import BpfRefused
from policies.model import FastPathMode

log = logging.getLogger("isthmus")

LOOK_EVERY = 1.0
"""Seconds between two looks at where the program is attached."""
SETTLING = 1.0
"""Seconds that an interface has to be there, the same all the time, until it is tried."""
FIRST_WAIT = 2.0
LONGEST_WAIT = 64.0
"""Seconds until it is tried again at an interface, or may be detached again and be tried at once. They
double each time."""
CALM = 60.0
"""Seconds after that wait in which it has stayed attached, and the next wait is the first one again."""

NO_CARRIER = "the interface is down, or has no carrier"

_THEN = {
    GONE: "it is waited for",
    TAKEN_OFF: 'it will be attached again: engine = "python" switches it off',
    LOSES: "it will be attached again as that can be now",
}
_TRIED = "it is tried now and then"

_ABOUT = {"event": "fastpath"}


class Patience:
    """When it is tried to attach to one interface, by what is seen of it. Times are in seconds."""

    def __init__(self) -> None:
        self._index: int | None = None
        self._waits = 0
        self._due = math.inf
        self._said = ""

    def is_due(self, index: int | None, now: float, *, is_there: bool) -> bool:
        """Take note of an interface's index, None if it is gone: whether it is to be tried now."""
        if index != self._index:
            self._index, self._due = index, now + SETTLING
            self._waits, self._said = 0, ""
        if is_there:
            if now >= self._due + CALM:
                self._waits, self._said = 0, ""
            return False
        return index is not None and now >= self._due

    def tried(self, now: float) -> None:
        """Have it not tried again for a while, longer each time."""
        self._due = now + min(FIRST_WAIT * 2**self._waits, LONGEST_WAIT)
        self._waits = min(self._waits + 1, 16)

    def is_news(self, why: str) -> bool:
        """Whether this reason is another one than was told last."""
        is_news, self._said = why != self._said, why
        return is_news


class Returning:
    """Looks at where the program is attached, and has it attached where it is not."""

    def __init__(
        self,
        links: Links,
        lost: Callable[[], object],
        attach: Callable[[str, int], Awaitable[bool]],
    ) -> None:
        """`lost` is told that `links` has fewer than before.

        `attach` takes an interface's name and present index, and attaches there, or returns False where that
        is not ready yet. It raises OSError, as BpfRefused, and NetlinkError.
        """
        self._links = links
        self._lost = lost
        self._attach = attach
        self._there = {each.interface for each in links.attached if each.is_there}
        self._patience = {each.interface: Patience() for each in links.attached}

    async def serve(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """Look once, and try what is due."""
        present = self._links.present()
        # In a thread, since the kernel may be busy with its interfaces.
        await trio.to_thread.run_sync(self._links.look, present)
        self._note_lost()
        for each in self._links.attached:
            index = present[each.interface]
            patience = self._patience[each.interface]
            is_due = patience.is_due(index, trio.current_time(), is_there=each.is_there)
            if is_due and index is not None:
                await self._try(each.interface, index, patience)

    def _note_lost(self) -> None:
        there = {each.interface for each in self._links.attached if each.is_there}
        for each in self._links.attached:
            if each.interface in self._there - there:
                what = "the fast path is no longer attached to %s: %s, and %s"
                log.warning(what, each.interface, each.why, _THEN.get(each.why, _TRIED), extra=_ABOUT)
        if self._there - there:
            self._lost()
        self._there = there

    async def _try(self, name: str, index: int, patience: Patience) -> None:
        before = {each.interface: each.mode for each in self._links.attached if each.is_there}
        try:
            if not await self._attach(name, index):
                self._links.say(name, NO_CARRIER)
                return
        except (OSError, NetlinkError) as refused:
            # An interface may go in the midst of it, and netlink says so in many ways.
            if patience.is_news(str(refused)):
                what = "the fast path cannot be attached to %s again, and is tried now and then: %s"
                log.warning(what, name, refused, extra=_ABOUT)
            self._links.say(name, str(refused))
        else:
            self._there.add(name)
            self._note_modes(name, before)
        patience.tried(trio.current_time())

    def _note_modes(self, name: str, before: Mapping[str, FastPathMode]) -> None:
        for each in self._links.attached:
            how = f"{each.mode.value}{': ' if each.why else ''}{each.why}"
            if each.interface == name:
                log.info("the fast path is attached to %s again, %s", name, how, extra=_ABOUT)
            elif each.is_there and before.get(each.interface, each.mode) is not each.mode:
                log.info("the fast path has changed over on %s, too: %s", each.interface, how, extra=_ABOUT)


def come_back(attached: Links, program: int, name: str, index: int, least_mtu: int) -> Interface | None:
    """Attach a program to an interface that it is off, and return what is known of that.

    None: it is not ready yet. It has to carry packets of `least_mtu` octets. Raises OSError, as BpfRefused,
    and NetlinkError. This blocks for some milliseconds.
    """
    there = links.interface(index)
    if there is None or not there.is_working:
        return None
    if there.mtu < least_mtu:
        # Of what Python sends, the kernel says that it is too large; what is redirected would be lost.
        why = f"its MTU is {there.mtu}, and the underlay's was {least_mtu} at the start"
        raise BpfRefused(errno.EMSGSIZE, f"attaching to {name}", why)
    found = features.look_at_interfaces(
        [each.interface for each in attached.attached if each.is_there or each.interface == name]
    )
    this = next((each for each in found if each.name == name), None)
    if this is None or this.index != index:
        return None
    attached.attach(program, [name], found)
    return this
