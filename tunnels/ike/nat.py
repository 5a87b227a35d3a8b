"""Whether a NAT is on the path, on whose side, and what follows from it (RFC 7296 section 2.23)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from tunnels.effects import IKE_PORT, NAT_PORT, Endpoint, Path
from tunnels.ike.constants import NotifyType
from tunnels.ike.payloads import Notify, Payload

# Octets of the IP datagram with an IKE fragment that every network should carry whole (RFC 7383
# section 2.5.1). Ten small fragments once in some hours cost less than one that is lost for ever.
_DATAGRAM = {4: 576, 6: 1280}
_IP_HEADER = {4: 20, 6: 40}
_UDP_HEADER = 8
_NON_ESP_MARKER = 4


class Nat(msgspec.Struct, frozen=True):
    """What the two digests in the peer's IKE_SA_INIT message say."""

    ours: bool = False
    """We are behind a NAT: it needs keepalives, and the peer follows us rather than we the peer."""
    peers: bool = False
    """The peer is, or pretends to be: ESP has to go in UDP."""

    @property
    def is_there(self) -> bool:
        return self.ours or self.peers


class Route:
    """Where IKE and ESP of a site go now; shared by the IKE SAs that follow one another by rekeying."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nat = Nat()
        self.is_forced = False
        """Whether ESP goes in UDP though no NAT needs that."""

    @property
    def in_udp(self) -> bool:
        """Whether ESP goes in UDP: behind a NAT it has to, and never on port 500."""
        return (self.nat.is_there or self.is_forced) and self.path.local.port == NAT_PORT

    def follow(self, path: Path) -> bool:
        """Go where an authentic, new message of the peer's has come from; return whether that is elsewhere.

        Only a NAT before the peer gives it another address. Who follows without that, or is
        behind a NAT itself, could be led away by an attacker who has caught one message
        and sent it on. From 4500 there is no way back to 500.
        """
        if path == self.path or self.nat.ours or (self.in_udp and path.local.port != NAT_PORT):
            return False
        if path.remote.address != self.path.remote.address and not self.nat.peers:
            return False
        self.path = path
        return True


def detection_payloads(
    initiator_spi: bytes, responder_spi: bytes, path: Path, *, pretend: bool
) -> tuple[Notify, Notify]:
    """Return the notifications of an IKE_SA_INIT message that is sent along a path.

    To `pretend` to be behind a NAT makes the peer put ESP in UDP: its source
    is then said to be one that no packet can come from.
    """
    source = Endpoint(path.local.address, 0) if pretend else path.local
    return (
        Notify(NotifyType.NAT_DETECTION_SOURCE_IP, _digest(initiator_spi, responder_spi, source)),
        Notify(NotifyType.NAT_DETECTION_DESTINATION_IP, _digest(initiator_spi, responder_spi, path.remote)),
    )


def detected(initiator_spi: bytes, responder_spi: bytes, path: Path, payloads: Iterable[Payload]) -> Nat:
    """Compare a received IKE_SA_INIT message's notifications with the path that it came along.

    Several sources are given by a sender that doesn't know which of its addresses is used. A
    peer that gives none doesn't know of NAT.
    """
    sources, destinations = set(), set()
    for each in payloads:
        if isinstance(each, Notify) and each.type == NotifyType.NAT_DETECTION_SOURCE_IP:
            sources.add(each.data)
        elif isinstance(each, Notify) and each.type == NotifyType.NAT_DETECTION_DESTINATION_IP:
            destinations.add(each.data)
    if not sources or not destinations:
        return Nat()
    return Nat(
        ours=_digest(initiator_spi, responder_spi, path.local) not in destinations,
        peers=_digest(initiator_spi, responder_spi, path.remote) not in sources,
    )


def on_nat_port(path: Path) -> Path:
    """Return the path from our port 4500 to the peer's, which an initiator changes to."""
    remote_port = NAT_PORT if path.remote.port == IKE_PORT else path.remote.port
    return Path(Endpoint(path.local.address, NAT_PORT), Endpoint(path.remote.address, remote_port))


def fragment_limit(path: Path) -> int:
    """Return how many octets of an IKE message fit into a datagram that is not fragmented on its way."""
    version = path.remote.address.version
    return _DATAGRAM[version] - _IP_HEADER[version] - _UDP_HEADER - _NON_ESP_MARKER


def _digest(initiator_spi: bytes, responder_spi: bytes, endpoint: Endpoint) -> bytes:
    # SHA-1 is what the RFC says; nothing is kept secret or proved by it.
    octets = initiator_spi + responder_spi + endpoint.address + endpoint.port.to_bytes(2)
    return hashlib.sha1(octets, usedforsecurity=False).digest()
