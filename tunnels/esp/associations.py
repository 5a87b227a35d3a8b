"""The child SAs that carry packets now: which one a packet takes, and which one it came by.

Nothing that fails its integrity check changes anything here but a counter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable

import msgspec

from policies.errors import MalformedPacket
from policies.facts import PacketFacts
from policies.selectors import ANY_PROTOCOL, Selectors
from tunnels.effects import ChildSa, InstallChild, Path, SiteKey
from tunnels.esp import wire
from tunnels.esp.drops import EspDrop
from tunnels.esp.transform import NotAuthentic, Overhead, opening, sealing
from tunnels.replay import ReplayWindow

LINGERING = 5.0
"""Seconds in which packets that were on their way may still come by a removed child SA."""

# What a child SA may carry beyond its soft limits at least, so that one with small limits
# lasts until it has been replaced. Of sequence numbers there are never more than there are.
GRACE_BYTES = 256 << 20
GRACE_PACKETS = 1 << 20

_UDP_HEADER = 8
_OUTER_HEADER = {4: 20, 6: 40}

# Pairs of addresses, or flows, whose choice of a child SA is remembered for each site.
_REMEMBERED = 4096

_LAST_SEQUENCE = {False: (1 << 32) - 1, True: (1 << 64) - 1}


class Opened(msgspec.Struct, frozen=True, gc=False):
    """An authentic packet. Whether it fits the child SA's selectors is for whoever reads it to ask."""

    child: ChildSa
    packet: bytes


class Sealed(msgspec.Struct, frozen=True, gc=False):
    """An ESP packet, and which way it goes."""

    path: Path
    in_udp: bool
    packet: bytes


class Moved(msgspec.Struct, frozen=True):
    """An authentic packet of a child SA came from somewhere else than the child SA sends to."""

    site: SiteKey
    inbound_spi: int
    path: Path


class Traffic:
    """What a site's child SAs have carried, all together; octets are those of the packets inside."""

    __slots__ = (
        "last_received",
        "last_sent",
        "received_bytes",
        "received_packets",
        "sent_bytes",
        "sent_packets",
    )

    def __init__(self) -> None:
        self.last_received = -math.inf
        self.last_sent = -math.inf
        self.received_packets = self.received_bytes = 0
        self.sent_packets = self.sent_bytes = 0


class _Association:
    """One child SA at work."""

    __slots__ = (
        "byte_limit",
        "child",
        "ends_at",
        "hard_bytes",
        "hard_packets",
        "in_udp",
        "is_reported",
        "opening",
        "packet_limit",
        "path",
        "received_bytes",
        "received_packets",
        "sealing",
        "seen_path",
        "sees_flows",
        "sent_bytes",
        "sent_packets",
        "site",
        "window",
    )

    def __init__(self, child: ChildSa, site: _Site) -> None:
        self.child = child
        self.site = site
        self.path = self.seen_path = child.path
        self.in_udp = child.in_udp
        self.sealing = sealing(child.suite, child.outbound_spi, child.outbound)
        self.opening = opening(child.suite, child.inbound_spi, child.inbound)
        self.window = ReplayWindow(extended=child.suite.extended_sequence_numbers)
        # The number of packets sent is the last sequence number used.
        self.sent_packets = self.sent_bytes = self.received_packets = self.received_bytes = 0
        self.hard_bytes = child.soft_bytes + max(child.soft_bytes // 10, GRACE_BYTES)
        last = _LAST_SEQUENCE[child.suite.extended_sequence_numbers]
        self.hard_packets = min(child.soft_packets + max(child.soft_packets // 10, GRACE_PACKETS), last)
        # The soft ones, and the hard ones once the soft ones are reported.
        self.is_reported = False
        self.byte_limit = child.soft_bytes
        self.packet_limit = min(child.soft_packets, last - last // 10)
        self.ends_at = math.inf
        self.sees_flows = _sees_flows(child.selectors)


class _Site:
    """The child SAs by which one site is sent to; the one that began sending last comes first."""

    __slots__ = ("chosen", "key", "sees_flows", "sending", "traffic")

    def __init__(self, key: SiteKey) -> None:
        self.key = key
        self.sending: list[_Association] = []
        self.traffic = Traffic()
        self.changed()

    def changed(self) -> None:
        """Forget what was chosen, after the child SAs have changed."""
        self.chosen: dict[tuple[object, ...], _Association] = {}
        self.sees_flows = any(each.sees_flows for each in self.sending)

    def choose(self, facts: PacketFacts) -> _Association | None:
        key = _flow(facts) if self.sees_flows else (facts.source, facts.destination)
        association = self.chosen.get(key)
        if association is None:
            for association in self.sending:
                if association.child.selectors.admit_outbound(facts):
                    break
            else:
                return None
            if len(self.chosen) >= _REMEMBERED:
                self.chosen.clear()
            self.chosen[key] = association
        return association


class Associations:
    """The database of child SAs, inbound by SPI and outbound by site and selectors (RFC 4301 section 4.4)."""

    def __init__(self) -> None:
        self.drops: Counter[tuple[EspDrop, SiteKey | None]] = Counter()
        """How many packets ended here, and whose they were where that is known."""
        self._inbound: dict[int, _Association] = {}
        self._sites: dict[SiteKey, _Site] = {}
        self._expiring: list[ChildSa] = []
        self._moved: list[Moved] = []
        self._changed_sites: set[SiteKey] = set()
        self._lingering: list[_Association] = []
        # By address and outbound SPI; made when it is asked for, as forged reports may ask often.
        self._sent_to: dict[tuple[bytes, int], SiteKey] | None = None

    def __contains__(self, inbound_spi: int) -> bool:
        return inbound_spi in self._inbound

    def install(self, order: InstallChild) -> None:
        """Accept packets of a child SA, and send by it if told so.

        Raises ValueError where another has its SPI, or the keys don't fit the suite.
        """
        child = order.child
        if child.inbound_spi in self._inbound:
            raise ValueError(f"SPI {child.inbound_spi:08x} is in use")
        site = self._sites.get(child.site) or self._sites.setdefault(child.site, _Site(child.site))
        association = _Association(child, site)
        self._inbound[child.inbound_spi] = association
        if order.sending:
            self._start_sending(association)

    def send_by(self, inbound_spi: int) -> None:
        """Send by this child SA from now on; an unknown one has ended meanwhile."""
        association = self._inbound.get(inbound_spi)
        if association is not None and association.ends_at == math.inf:
            self._start_sending(association)

    def remove(self, inbound_spi: int, *, linger: bool, now: float) -> None:
        """Stop sending by a child SA, and receiving now or after `LINGERING` seconds."""
        association = self._inbound.get(inbound_spi)
        if association is None:
            return
        site = association.site
        if association in site.sending:
            site.sending.remove(association)
            self._changed(site)
        if not linger:
            self._forget(association)
        elif association.ends_at == math.inf:
            association.ends_at = now + LINGERING
            self._lingering.append(association)

    def move(self, inbound_spis: Iterable[int], path: Path) -> None:
        """Send by another path from now on; the child SAs that are unknown have ended meanwhile."""
        for association in filter(None, map(self._inbound.get, inbound_spis)):
            association.path = association.seen_path = path
            association.child = msgspec.structs.replace(association.child, path=path)
            self._changed(association.site)

    def keep_only(self, sites: Collection[SiteKey]) -> None:
        """Forget all other sites, which are not configured any more, with what was counted of them."""
        for association in [each for each in self._inbound.values() if each.site.key not in sites]:
            self._forget(association)
        for site in self._sites.keys() - set(sites):
            del self._sites[site]
        for counted in [key for key in self.drops if key[1] is not None and key[1] not in sites]:
            del self.drops[counted]

    def handle_timeout(self, now: float) -> None:
        """Forget the removed child SAs whose time is up."""
        for association in [each for each in self._lingering if each.ends_at <= now]:
            self._forget(association)

    @property
    def has_news(self) -> bool:
        """Whether `take_expiring`, `take_moved` or `take_changed` has something to say."""
        return bool(self._expiring or self._moved or self._changed_sites)

    def take_expiring(self) -> list[ChildSa]:
        """Return the child SAs that have reached a soft limit since the last call."""
        expiring, self._expiring = self._expiring, []
        return expiring

    def take_moved(self) -> list[Moved]:
        """Return the child SAs whose peer sends from somewhere else since the last call."""
        moved, self._moved = self._moved, []
        return moved

    def take_changed(self) -> set[SiteKey]:
        """Return the sites that are sent to by other child SAs or paths since the last call."""
        changed, self._changed_sites = self._changed_sites, set()
        return changed

    def traffic(self, site: SiteKey) -> Traffic:
        """Return what a site's child SAs have carried; the object goes on counting."""
        found = self._sites.get(site)
        return found.traffic if found is not None else Traffic()

    def children(self, site: SiteKey) -> tuple[ChildSa, ...]:
        """Return the child SAs by which a site is sent to, the newest first."""
        found = self._sites.get(site)
        return tuple(each.child for each in found.sending) if found is not None else ()

    def site_sent_to(self, address: bytes, outbound_spi: int) -> SiteKey | None:
        """Return which site is sent to at an address with this SPI.

        Whoever reports a path MTU about any other packet has not seen ours (RFC 4301 section 8.2.1).
        """
        if self._sent_to is None:
            self._sent_to = {
                (each.path.remote.address, each.child.outbound_spi): site.key
                for site in self._sites.values()
                for each in site.sending
            }
        return self._sent_to.get((address, outbound_spi))

    def site_of_untrusted(self, packet: bytes) -> SiteKey | None:
        """Return whose child SA an ESP packet says that it is for, be it authentic or not."""
        association = self._inbound.get(int.from_bytes(packet[:4]))
        return association.site.key if association is not None else None

    def open_untrusted(self, path: Path, packet: bytes, now: float) -> Opened | EspDrop:
        """Check, decrypt and unwrap an ESP packet that came by a path; port 0 is outside UDP.

        The first packet that comes by a child SA makes it the one to send by.
        """
        try:
            spi, low = wire.decode_header_untrusted(packet)
        except MalformedPacket:
            return self._drop(EspDrop.MALFORMED, None)
        association = self._inbound.get(spi)
        if association is None or association.ends_at <= now:
            return self._drop(EspDrop.UNKNOWN_SPI, None)
        site = association.site
        sequence = association.window.sequence_of(low)
        if sequence is None:
            return self._drop(EspDrop.REPLAYED, site)
        if len(packet) < association.opening.shortest:
            return self._drop(EspDrop.MALFORMED, site)
        if (
            association.received_packets >= association.packet_limit
            or association.received_bytes >= association.byte_limit
        ) and self._is_spent(association, association.received_packets, association.received_bytes):
            return self._drop(EspDrop.EXHAUSTED, site)
        try:
            payload = association.opening.open_untrusted(sequence, packet)
        except NotAuthentic:
            return self._drop(EspDrop.NOT_AUTHENTIC, site)
        is_newest = association.window.accept(sequence)
        if path is not association.seen_path and is_newest:
            self._notice_path(association, path)
        site.traffic.last_received = now
        association.received_packets += 1
        association.received_bytes += len(payload)
        if association.sent_packets == 0 and association not in site.sending:
            self.send_by(spi)
        try:
            inner = wire.decode_payload(payload)
        except MalformedPacket:
            return self._drop(EspDrop.MALFORMED, site)
        if inner is None:
            return self._drop(EspDrop.DUMMY, site)
        site.traffic.received_packets += 1
        site.traffic.received_bytes += len(inner)
        return Opened(association.child, inner)

    def seal(self, key: SiteKey, facts: PacketFacts, packet: bytes, now: float) -> Sealed | EspDrop:
        """Encrypt an IP packet to a site, by the child SA whose selectors it fits."""
        site = self._sites.get(key)
        association = site.choose(facts) if site is not None else None
        if site is None or association is None:
            return self._drop(EspDrop.NO_CHILD, site)
        sent = association.sent_packets
        if (
            sent >= association.packet_limit or association.sent_bytes >= association.byte_limit
        ) and self._is_spent(association, sent, association.sent_bytes):
            return self._drop(EspDrop.EXHAUSTED, site)
        sealed = association.sealing.seal(sent + 1, packet)
        association.sent_packets = sent + 1
        association.sent_bytes += len(packet)
        traffic = site.traffic
        traffic.last_sent = now
        traffic.sent_packets += 1
        traffic.sent_bytes += len(packet)
        return Sealed(association.path, association.in_udp, sealed)

    def _start_sending(self, association: _Association) -> None:
        site = association.site
        if association in site.sending:
            site.sending.remove(association)
        site.sending.insert(0, association)
        self._changed(site)

    def _changed(self, site: _Site) -> None:
        site.changed()
        self._changed_sites.add(site.key)
        self._sent_to = None

    def _forget(self, association: _Association) -> None:
        self._inbound.pop(association.child.inbound_spi, None)
        if association in self._lingering:
            self._lingering.remove(association)
        if association in association.site.sending:
            association.site.sending.remove(association)
        self._changed(association.site)

    def _is_spent(self, association: _Association, packets: int, octets: int) -> bool:
        """Report a child SA that has come to its soft limits, and say whether it is at the hard ones."""
        if not association.is_reported:
            association.is_reported = True
            association.byte_limit, association.packet_limit = (
                association.hard_bytes,
                association.hard_packets,
            )
            self._expiring.append(association.child)
        return packets >= association.hard_packets or octets >= association.hard_bytes

    def _notice_path(self, association: _Association, path: Path) -> None:
        association.seen_path = path
        # Only UDP passes a NAT, which may change an address or a port (RFC 7296 section 2.23).
        if association.in_udp and path.remote.port and path != association.path:
            self._moved.append(Moved(association.site.key, association.child.inbound_spi, path))

    def _drop(self, reason: EspDrop, site: _Site | None) -> EspDrop:
        self.drops[reason, site.key if site is not None else None] += 1
        return reason


def inner_mtu(child: ChildSa, underlay_mtu: int) -> int:
    """Return the largest packet, in octets, that a child SA carries in outer packets of `underlay_mtu`."""
    outer = _OUTER_HEADER[child.path.remote.address.version] + (_UDP_HEADER if child.in_udp else 0)
    return Overhead(child.suite).largest_within(underlay_mtu - outer)


def _sees_flows(selectors: Selectors) -> bool:
    """Whether the choice depends on more than the addresses."""
    return any(
        each.protocol != ANY_PROTOCOL or not each.has_any_port
        for each in (*selectors.local, *selectors.remote)
    )


def _flow(facts: PacketFacts) -> tuple[object, ...]:
    return (
        facts.source,
        facts.destination,
        facts.protocol,
        facts.source_port,
        facts.destination_port,
        facts.icmp_type,
        facts.icmp_code,
        facts.is_later_fragment,
    )
