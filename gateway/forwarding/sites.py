"""The sites' tunnels as forwarding sees them: which stand, what they carry, and how large.

The tunnels' own machines say so, and hear which site is wanted that has none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import msgspec

from gateway.forwarding.pmtu import LOWEST_IPV6
from gateway.packets.fragmentation import LOWEST_IPV4_MTU
from policies.facts import PacketFacts
from policies.selectors import Selectors
from tunnels.effects import SiteKey


class SiteState(msgspec.Struct, frozen=True):
    """A tunnel that stands. Whoever holds one can tell by identity whether it is still so."""

    mtu: int
    """The largest customer's packet that goes through it, in octets."""
    selectors: tuple[Selectors, ...]
    """Of each child SA that packets can be sent by."""

    def mtu_of(self, version: int) -> int:
        """What senders of an IP version are told: at least 1280 octets of IPv6 (RFC 8200 section 5)."""
        return self.mtu if version == 4 else max(self.mtu, LOWEST_IPV6)

    def admits(self, facts: PacketFacts) -> bool:
        """Whether one of the child SAs carries a packet to the site."""
        return any(selectors.admit_outbound(facts) for selectors in self.selectors)


class Sites:
    """The tunnels of one gateway that stand.

    `on_wanted` is called for every packet that is dropped because its site has no
    tunnel for it: it must be quick, and calling it again must do no harm.
    """

    def __init__(self, on_wanted: Callable[[SiteKey], None] | None = None) -> None:
        self.on_wanted = on_wanted
        self._states: dict[SiteKey, SiteState] = {}

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[tuple[SiteKey, SiteState]]:
        return iter(self._states.items())

    def site_is_up(self, site: SiteKey, mtu: int, selectors: Collection[Selectors]) -> None:
        """Take note of a tunnel: what it carries, in octets of the inner packet, by which child SAs.

        Said again at each change; saying the same again forgets no flow. Raises
        ValueError for an MTU that no IPv4 link may have (RFC 791 section 3.2).
        """
        if mtu < LOWEST_IPV4_MTU:
            raise ValueError(f"an MTU of {mtu} for site {site}")
        state = SiteState(mtu, tuple(selectors))
        if self._states.get(site) != state:
            self._states[site] = state

    def site_is_down(self, site: SiteKey) -> None:
        """Take note that nothing can be sent to a site any more."""
        self._states.pop(site, None)

    def find(self, site: SiteKey) -> SiteState | None:
        """Return what is known of a site's tunnel, or None where it has none."""
        return self._states.get(site)

    def wanted(self, site: SiteKey) -> None:
        """Say that a packet was dropped for want of a tunnel."""
        if self.on_wanted is not None:
            self.on_wanted(site)

    def keep_only(self, sites: Collection[SiteKey]) -> None:
        """Forget the tunnels of all other sites: those are not configured any more."""
        for site in self._states.keys() - set(sites):
            del self._states[site]
