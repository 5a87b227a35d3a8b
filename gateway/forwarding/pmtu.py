"""The path MTU to each provider address, as soft state (RFC 7637 section 4.4, RFC 2003 section 5.1).

The NVGRE packet is never fragmented, so what a path carries decides what the
tenants may send: the reports of the underlay's routers are kept here and aged.
"""

from __future__ import annotations

from collections.abc import Collection

# What NVGRE adds in front of the inner IP packet: outer IP, GRE with key, inner Ethernet.
OVERHEAD_IPV4 = 20 + 8 + 14
OVERHEAD_IPV6 = 40 + 8 + 14

# RFC 1191 section 6.3 suggests ten minutes before a larger size is tried again.
LIFETIME = 600.0

# A smaller report is not believed: every IPv4 host takes 576 octets, every IPv6
# link 1280, and a forged report must not strangle a tenant.
LOWEST_IPV4 = 576
LOWEST_IPV6 = 1280


class PathMtu:
    """MTUs in octets of the outer IP packet; `customer_mtu` in octets of the inner one."""

    def __init__(self, underlay_mtu: int) -> None:
        self.underlay_mtu = underlay_mtu
        self._reported: dict[bytes, tuple[int, float]] = {}

    def report(self, destination: bytes, mtu: int, now: float, members: Collection[bytes]) -> bool:
        """Believe a router's report, if it is plausible, and say whether it was.

        Only members of the underlay are remembered, so the state is bounded.
        """
        lowest = LOWEST_IPV4 if len(destination) == 4 else LOWEST_IPV6
        if destination not in members or not lowest <= mtu < self.underlay_mtu:
            return False
        self._reported[destination] = (mtu, now + LIFETIME)
        return True

    def take_over(self, other: PathMtu) -> None:
        """Know what another knows now."""
        self._reported = dict(other._reported)

    def customer_mtu(self, destination: bytes, version: int, now: float) -> int:
        """The largest inner packet of an IP version that is sent to a provider address in one piece.

        IPv6 packets of 1280 octets are always sent: no sender may be told less (RFC 8200
        section 5), so a path that carries less loses them in any case, and one that
        carries them after all, against a forged report, keeps the tenant's IPv6 alive.
        """
        lowest = LOWEST_IPV6 if version == 6 else 0
        overhead = OVERHEAD_IPV4 if len(destination) == 4 else OVERHEAD_IPV6
        return max(self.outer_mtu(destination, now) - overhead, lowest)

    def outer_mtu(self, destination: bytes, now: float) -> int:
        """The largest packet of the underlay's that the path to an address carries, as far as is known.

        That is an outer one, or one that goes as it is, rewritten.
        """
        reported = self._reported.get(destination)
        if reported is None:
            return self.underlay_mtu
        mtu, expires = reported
        return mtu if now < expires else self.underlay_mtu

    def expire(self, now: float) -> bool:
        """Forget what was reported too long ago, and say whether there was anything."""
        old = [destination for destination, (_, expires) in self._reported.items() if expires <= now]
        for destination in old:
            del self._reported[destination]
        return bool(old)
