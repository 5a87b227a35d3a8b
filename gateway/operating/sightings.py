"""What the data path shows of its packets, each put in its place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from gateway.emissions import is_missing_port, reason_of
from gateway.forwarding.directory import Holder
from gateway.forwarding.verdicts import (
    Drop,
    Forward,
    Held,
    OuterHeader,
    ToPort,
    ToProvider,
    ToUnderlay,
    Verdict,
)
from gateway.operating.seen import ESP, GRE, Outer, Plain, Seen, ends_untrusted
from gateway.packets import ip, nvgre
from gateway.packets.rewriting import rewritten
from policies.addresses import Vsid
from policies.errors import MalformedPacket
from policies.facts import UDP
from policies.model import Lease, LookupRecord, Port
from policies.tables import Tables
from tunnels.effects import NAT_PORT, Path, SiteKey
from tunnels.esp.associations import Opened, Sealed
from tunnels.esp.drops import EspDrop
from tunnels.sockets import NON_ESP_MARKER

HELD = "held: its port is not there"
"""Of a frame that waits; if it waits in vain, that is counted when it is given up."""

WAITS = "held: waits for a provider address"
"""Of a packet that nobody here can rewrite yet, or tell whose it is."""


class Sightings:
    """Observes a data path, and offers what it sees. Nothing of what it is shown has to be well formed."""

    def __init__(
        self,
        tables: Callable[[], Tables],
        holder: Callable[[bytes], Holder | None],
        offer: Callable[[Seen], None],
    ) -> None:
        """`holder` says whose a provider address is that stands for one CA alone."""
        self._tables = tables
        self._holder = holder
        self._offer = offer
        self.tenants: frozenset[str] | None = None
        """Whose packets alone are offered; None: everybody's."""
        self._came_by: tuple[bytes, ...] = ()

    def underlay_in(self, outer: OuterHeader, payload: bytes, verdict: Verdict) -> None:
        """GRE has come from the underlay."""
        vsid, tenant, place = None, "", ""
        with suppress(MalformedPacket):  # else it is nobody's
            vsid = Vsid(nvgre.decode_untrusted(payload).vsid)
            tenant, place = self._subnet(vsid)
        if self._is_unwanted(tenant):
            return
        self._offer(
            Seen(
                tenant=tenant,
                is_inbound=True,
                dropped=_why(verdict),
                vsid=vsid if tenant else None,
                inner=payload[nvgre.HEADER_LENGTH :] if tenant else None,
                inner_place=place,
                outer=Outer(
                    outer.source,
                    outer.destination,
                    GRE,
                    payload,
                    is_inbound=True,
                    ecn=outer.ecn,
                    hop_limit=outer.hop_limit,
                ),
                nodes=(outer.source, outer.destination),
            )
        )

    def underlay_out(self, packet: ToUnderlay, lost: OSError | None) -> None:
        """NVGRE has been sent, or could not be."""
        if self._is_unwanted(packet.tenant):
            return
        _, place = self._subnet(packet.vsid)
        self._offer(
            Seen(
                tenant=packet.tenant,
                is_inbound=False,
                dropped=reason_of(lost).value if lost is not None else "",
                vsid=packet.vsid,
                inner=packet.payload[nvgre.HEADER_LENGTH :],
                inner_place=place,
                outer=Outer(
                    packet.source,
                    packet.destination,
                    GRE,
                    packet.payload,
                    is_inbound=False,
                    ecn=packet.ecn,
                    hop_limit=packet.hop_limit,
                ),
                nodes=(packet.source, packet.destination),
            )
        )

    def provider_in(self, packet: bytes, verdict: Verdict) -> None:
        """A rewritten packet has come from the underlay: it is whose it is for."""
        source, destination = self._holders(packet)
        vsid = destination.vsid if destination is not None else None
        tenant, place = self._subnet(vsid) if vsid is not None else ("", "")
        if self._is_unwanted(tenant):
            return
        if isinstance(destination, Lease) and isinstance(source, LookupRecord):
            # A distant CA is in no virtual subnet, or not by this way: its sender's is meant.
            sender, its_place = self._subnet(source.vsid)
            vsid, place = (source.vsid, its_place) if sender == tenant else (vsid, place)
        self._plain(tenant, vsid, place, packet, _why(verdict), is_inbound=True)

    def provider_out(self, packet: ToProvider, lost: OSError | None) -> None:
        """A rewritten packet has been sent, or could not be."""
        if self._is_unwanted(packet.tenant):
            return
        _, place = self._subnet(packet.vsid)
        why = reason_of(lost).value if lost is not None else ""
        self._plain(packet.tenant, packet.vsid, place, packet.packet, why, is_inbound=False)

    def port_in(self, port: Port, frame: bytes, verdict: Verdict) -> None:
        """A VM has sent a frame at its port."""
        self._at_port(port, frame, _why(verdict), is_inbound=True)

    def port_out(self, port: Port, frame: ToPort, lost: OSError | None) -> None:
        """A port has been given a frame, or could not be."""
        why = "" if lost is None else HELD if is_missing_port(lost) else reason_of(lost).value
        self._at_port(port, frame.frame, why, is_inbound=False)

    def site_in(self, site: SiteKey, packet: bytes, verdict: Verdict) -> None:
        """A site's tunnel has brought a packet."""
        tenant, name = site
        if self._is_unwanted(tenant):
            return
        self._offer(
            Seen(
                tenant=tenant,
                is_inbound=True,
                dropped=_why(verdict),
                site=name,
                inner=packet,
                is_ethernet=False,
                inner_place=f"{tenant}/{name}",
                nodes=self._came_by,  # it has been decrypted just now
            )
        )

    def site_out(self, site: SiteKey, packet: bytes, sealed: Sealed | EspDrop) -> None:
        """A packet has been encrypted to a site, or why not."""
        tenant, name = site
        if self._is_unwanted(tenant):
            return
        outer = None
        if isinstance(sealed, Sealed):
            # RFC 6040 section 4.1: the outer header has the ECN field of the inner.
            ecn = (packet[1] if packet[0] >> 4 == 4 else packet[1] >> 4) & 3
            outer = _datagram(sealed.path, sealed.packet, ecn, is_inbound=False, in_udp=sealed.in_udp)
        self._offer(
            Seen(
                tenant=tenant,
                is_inbound=False,
                dropped=f"esp: {sealed.value}" if isinstance(sealed, EspDrop) else "",
                site=name,
                inner=packet,
                is_ethernet=False,
                inner_place=f"{tenant}/{name}",
                outer=outer,
                nodes=(outer.source, outer.destination) if outer is not None else (),
            )
        )

    def esp_in(
        self, site: SiteKey | None, path: Path, packet: bytes, ecn: int, opened: Opened | EspDrop
    ) -> None:
        """An ESP packet has come, and been decrypted, or why not."""
        tenant, name = site if site is not None else ("", None)
        if self._is_unwanted(tenant):
            return
        outer = _datagram(path, packet, ecn, is_inbound=True, in_udp=path.remote.port != 0)
        self._came_by = outer.source, outer.destination
        is_dropped = isinstance(opened, EspDrop) and opened is not EspDrop.DUMMY
        self._offer(
            Seen(
                tenant=tenant,
                is_inbound=True,
                dropped=f"esp: {opened.value}" if isinstance(opened, EspDrop) and is_dropped else "",
                site=name,
                inner=opened.packet if isinstance(opened, Opened) else None,
                is_ethernet=False,
                outer=outer,
                nodes=self._came_by,
            )
        )

    def ike(self, site: SiteKey | None, path: Path, message: bytes, *, is_inbound: bool) -> None:
        """A message of the key exchange has come, or is sent."""
        tenant, name = site if site is not None else ("", None)
        if self._is_unwanted(tenant):
            return
        shares_port = path.local.port == NAT_PORT
        payload = NON_ESP_MARKER + message if shares_port else message
        outer = _datagram(path, payload, 0, is_inbound=is_inbound, in_udp=True)
        nodes = outer.source, outer.destination
        self._offer(Seen(tenant=tenant, is_inbound=is_inbound, site=name, outer=outer, nodes=nodes))

    def _holders(self, packet: bytes) -> tuple[Holder | None, Holder | None]:
        """Return whose the two provider addresses of a rewritten packet are."""
        ends = ends_untrusted(packet)
        return (self._holder(ends[0]), self._holder(ends[1])) if ends else (None, None)

    def _plain(
        self, tenant: str, vsid: Vsid | None, place: str, packet: bytes, dropped: str, *, is_inbound: bool
    ) -> None:
        holders = [holder for holder in self._holders(packet) if holder is not None]
        names = (holder.host if isinstance(holder, LookupRecord) else holder.node for holder in holders)
        self._offer(
            Seen(
                tenant=tenant,
                is_inbound=is_inbound,
                dropped=dropped,
                vsid=vsid if tenant else None,
                inner=self._as_sent(tenant, packet) if tenant else None,
                is_ethernet=False,
                inner_place=place,
                outer=Plain(packet),
                nodes=ends_untrusted(packet),
                names=tuple(names),
            )
        )

    def _as_sent(self, tenant: str, packet: bytes) -> bytes | None:
        """Return a rewritten packet as its tenant knows it; None if one of its addresses is another's."""
        try:
            facts = ip.decode_untrusted(packet)
        except MalformedPacket:
            return None
        source = self._customer(tenant, facts.source)
        destination = self._customer(tenant, facts.destination)
        if source is None or destination is None:
            return None
        quoted = None
        if facts.quoted is not None:
            ends = facts.quoted.source, facts.quoted.destination
            # What is nobody's, or another's, is shown as it is.
            quoted = self._customer(tenant, ends[0]) or ends[0], self._customer(tenant, ends[1]) or ends[1]
        return rewritten(packet[: facts.total_length], source, destination, quoted)

    def _customer(self, tenant: str, pa: bytes) -> bytes | None:
        """Return the CA of a tenant that a provider address stands for."""
        holder = self._holder(pa)
        if holder is None or len(holder.ca) != len(pa) or self._subnet(holder.vsid)[0] != tenant:
            return None
        return holder.ca

    def _is_unwanted(self, tenant: str) -> bool:
        return self.tenants is not None and tenant not in self.tenants

    def _at_port(self, port: Port, frame: bytes, dropped: str, *, is_inbound: bool) -> None:
        if self._is_unwanted(port.tenant):
            return
        _, place = self._subnet(port.vsid)
        self._offer(
            Seen(
                tenant=port.tenant,
                is_inbound=is_inbound,
                dropped=dropped,
                vsid=port.vsid,
                inner=frame,
                inner_place=f"{place or port.tenant} {port.interface}",
            )
        )

    def _subnet(self, vsid: Vsid) -> tuple[str, str]:
        """Return whose a virtual subnet is, and its place; nobody's where there is none."""
        entry = self._tables().subnets.get(vsid)
        return (entry.domain.name, f"{entry.domain.name}/{entry.name}") if entry is not None else ("", "")


def _datagram(path: Path, packet: bytes, ecn: int, *, is_inbound: bool, in_udp: bool) -> Outer:
    local, remote = path.local, path.remote
    source, destination = (remote, local) if is_inbound else (local, remote)
    return Outer(
        source.address,
        destination.address,
        UDP if in_udp else ESP,
        packet,
        is_inbound=is_inbound,
        ecn=ecn,
        ports=(source.port, destination.port) if in_udp else None,
    )


def _why(verdict: Verdict) -> str:
    if isinstance(verdict, Drop):
        return verdict.reason.value
    if isinstance(verdict, Held):
        return WAITS
    if isinstance(verdict, Forward) and verdict.lost:
        return f"copies: {', '.join(reason.value for reason in verdict.lost)}"
    return ""
