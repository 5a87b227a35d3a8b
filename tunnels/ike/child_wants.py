"""The child SAs that policy wants, and how a peer's selectors are narrowed to them (RFC 7296 section 2.9)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from policies.selectors import Selectors
from tunnels.ike.child import Want, selector_set
from tunnels.ike.policy import ChildPolicy


class Wants:
    """At first those of the configuration; a peer that takes only parts of one makes more of them."""

    def __init__(self, policies: Sequence[ChildPolicy], limit: int) -> None:
        self._wants = [Want(each.name, each.selectors) for each in policies]
        self._limit = limit

    def __iter__(self) -> Iterator[Want]:
        return iter(self._wants)

    @property
    def first(self) -> Want:
        """The one that IKE_AUTH makes."""
        return self._wants[0]

    @property
    def due(self) -> list[float]:
        """When the next ones are to be asked for."""
        return [each.due for each in self._wants if each.due is not None and not each.is_asked]

    def narrow(
        self, offered: Selectors, is_covered: Callable[[Want], bool], only: Want | None = None
    ) -> tuple[Want, Selectors] | None:
        """Return which of them an offer is for, and what of it is allowed; None: no part of it.

        The one that takes the offer's first selectors goes before others, for
        they may be those of the packet that the peer wants to send.
        """
        best: tuple[Want, Selectors] | None = None
        best_score = (False, False, False)
        packet = Selectors(offered.local[:1], offered.remote[:1])
        for want in self._wants if only is None else [only]:
            narrowed = want.selectors.narrowed_to(offered)
            if narrowed is None:
                continue
            score = (
                want.selectors.narrowed_to(packet) is not None,
                selector_set(narrowed) == selector_set(offered),
                not is_covered(want),
            )
            if best is None or score > best_score:
                best, best_score = (want, narrowed), score
        return best

    def split(self, want: Want, now: float) -> bool:
        """Ask for each pair of a want by itself; return whether it has more than one."""
        single = pairs(want.selectors)
        if len(single) < 2:
            return False
        self._wants.remove(want)
        self._add(want.name, single, now)
        return True

    def add_rest(self, want: Want, given: Selectors, now: float) -> None:
        """Ask for each pair of a want that the peer has left out of a child SA."""
        self._add(want.name, [each for each in pairs(want.selectors) if given.narrowed_to(each) is None], now)

    def _add(self, name: str, selectors: Sequence[Selectors], now: float) -> None:
        known = {selector_set(each.selectors) for each in self._wants}
        for each in selectors:
            if selector_set(each) not in known and len(self._wants) < self._limit:
                want = Want(name, each)
                want.due = now
                self._wants.append(want)


def pairs(selectors: Selectors) -> list[Selectors]:
    """Return each pair of a local and a remote selector of one IP version."""
    return [
        Selectors((local,), (remote,))
        for local in selectors.local
        for remote in selectors.remote
        if local.version == remote.version
    ]
