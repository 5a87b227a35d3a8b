"""What ESP makes of the effects of one side, and whether both sides' ESP can talk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from policies.selectors import Selectors
from tunnels.effects import ChildSa, Effect, InstallChild, MoveChildren, RemoveChild, SendBy
from tunnels.ike.child import SelectorSet, selector_set

LINGER = 5.0


class Esp:
    """What it receives by, and what it sends each set of selectors by."""

    def __init__(self) -> None:
        self.installed: dict[int, ChildSa] = {}
        self.lingering: dict[int, float] = {}
        self.sender: dict[SelectorSet, int] = {}
        self.silent: set[int] = set()
        """Those that are sent by only when something has arrived by them."""

    def apply(self, effect: Effect, now: float) -> None:
        match effect:
            case InstallChild(child, sending):
                self.installed[child.inbound_spi] = child
                if sending:
                    self.sender[selector_set(child.selectors)] = child.inbound_spi
                else:
                    self.silent.add(child.inbound_spi)
            case SendBy(spi):
                self.silent.discard(spi)
                self.sender[selector_set(self.installed[spi].selectors)] = spi
            case RemoveChild(spi, linger):
                child = self.installed.pop(spi)
                self.silent.discard(spi)
                if linger:
                    self.lingering[spi] = now + LINGER
                if self.sender.get(selector_set(child.selectors)) == spi:
                    del self.sender[selector_set(child.selectors)]
            case MoveChildren(spis, path):
                for spi in spis:
                    self.installed[spi] = msgspec.structs.replace(self.installed[spi], path=path)

    def arrived(self, spi: int) -> None:
        """A packet has come by it."""
        if spi in self.silent:
            self.silent.discard(spi)
            self.sender[selector_set(self.installed[spi].selectors)] = spi

    def receives(self, spi: int, now: float) -> bool:
        return spi in self.installed or self.lingering.get(spi, now) > now

    @property
    def pairs(self) -> set[tuple[int, int]]:
        """The SPIs of each pair, ours first."""
        return {(each.inbound_spi, each.outbound_spi) for each in self.installed.values()}

    def sends_by(self, selectors: Selectors) -> int | None:
        """The SPI at which the other side gets what is sent by these selectors now."""
        own = self.sender.get(selector_set(selectors))
        return None if own is None else self.installed[own].outbound_spi

    def problems(self, peer: Esp, wanted: Sequence[Selectors], now: float) -> list[str]:
        """Say where it is not the case that there is one pair for each, and that its packets arrive."""
        found = [] if agree(self, peer) else [f"{self.pairs} are not {peer.pairs}"]
        counts = Counter(selector_set(each.selectors) for each in self.installed.values())
        for each in wanted:
            if counts[selector_set(each)] != 1:
                found.append(f"{counts[selector_set(each)]} pairs for {each}")
            spi = self.sends_by(each)
            if spi is None or not peer.receives(spi, now):
                found.append(f"nothing gets through for {each}")
        return found


def agree(one: Esp, other: Esp) -> bool:
    """Whether each pair of one side is the other's, seen from there, with the same keys."""
    keys = {
        (each.inbound_spi, each.outbound_spi): (each.inbound, each.outbound)
        for each in one.installed.values()
    }
    theirs = {
        (each.outbound_spi, each.inbound_spi): (each.outbound, each.inbound)
        for each in other.installed.values()
    }
    return keys == theirs
