"""What the tunnels' machines ask their drivers to do, and the values that they hand over.

The key exchange knows nothing of ESP and the reverse: a `ChildSa` is all that
passes from one to the other, now or to another engine.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from policies.addresses import ProviderAddress
from policies.ipsec import EspSuite, IkeSuite
from policies.secret import Secret
from policies.selectors import Selectors

IKE_PORT = 500
NAT_PORT = 4500

SiteKey = tuple[str, str]
"""Tenant and site, by their names."""


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """An address in the underlay, and a UDP port."""

    address: ProviderAddress
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


class Path(msgspec.Struct, frozen=True):
    """Between which endpoints a tunnel runs."""

    local: Endpoint
    remote: Endpoint

    def __str__(self) -> str:
        return f"{self.local} to {self.remote}"


class EspKeys(msgspec.Struct, frozen=True):
    """Of one direction. With AEAD the last 4 octets of `encryption` are the salt (RFC 4106 section 8.1)."""

    encryption: Secret
    integrity: Secret


class ChildSa(msgspec.Struct, frozen=True):
    """A pair of ESP SAs, as agreed on. The inbound SPI is ours and names the pair here."""

    site: SiteKey
    name: str
    inbound_spi: int
    outbound_spi: int
    suite: EspSuite
    inbound: EspKeys
    outbound: EspKeys
    selectors: Selectors
    path: Path
    """With `in_udp` the ports count, else only the addresses."""
    in_udp: bool
    soft_bytes: int
    """Of either direction: when they are reached, the pair is to be replaced."""
    soft_packets: int


class SendDatagram(msgspec.Struct, frozen=True):
    """Send an IKE message. From port 4500 it goes behind a Non-ESP Marker (RFC 3948 section 2.2)."""

    path: Path
    message: bytes


class SendKeepalive(msgspec.Struct, frozen=True):
    """Send one octet 0xFF, so that a NAT keeps its mapping (RFC 3948 section 2.3)."""

    path: Path


class InstallChild(msgspec.Struct, frozen=True):
    """Accept packets of a child SA from now on, and send by it if told so.

    Where it is not `sending` yet, sending starts with the first packet that
    arrives by it, or with `SendBy`: the peer has it then.
    """

    child: ChildSa
    sending: bool


class SendBy(msgspec.Struct, frozen=True):
    """Send by this child SA from now on."""

    inbound_spi: int


class RemoveChild(msgspec.Struct, frozen=True):
    """Stop sending by a child SA; accept packets that are on their way for some seconds if told to linger."""

    inbound_spi: int
    linger: bool


class MoveChildren(msgspec.Struct, frozen=True):
    """The peer's address or port behind its NAT has changed (RFC 7296 section 2.23)."""

    inbound_spis: tuple[int, ...]
    path: Path


class SiteUp(msgspec.Struct, frozen=True):
    """The peer has proved who it is, and an IKE SA stands."""

    site: SiteKey
    suite: IkeSuite
    path: Path


class SiteDown(msgspec.Struct, frozen=True):
    """No IKE SA is left; the reason is for people."""

    site: SiteKey
    reason: str


class Cause(StrEnum):
    """Why an attempt failed, in few words that never change: for counters. The reason says more."""

    NO_ANSWER = "no-answer"
    NO_PROPOSAL = "no-proposal"
    """The two sides have no algorithms in common."""
    AUTHENTICATION = "authentication"
    """A wrong identity, or a wrong proof of it."""
    CERTIFICATE = "certificate"
    """The peer's certificate is not to be trusted."""
    SELECTORS = "selectors"
    """The two sides have no networks in common."""
    REFUSED = "refused"
    """One side refused for another reason."""
    OTHER = "other"


class SiteTrouble(msgspec.Struct, frozen=True):
    """An attempt failed; the reason is for people, as in "the peer offered only modp1024"."""

    site: SiteKey
    reason: str
    cause: Cause = Cause.OTHER
    goes_on: bool = False
    """Whether the attempt is not over yet: what was said is not authentic."""


class StrangerRefused(msgspec.Struct, frozen=True):
    """Somebody who called has proved to be no site's peer; the reason is for people."""

    path: Path
    reason: str


class SiteRekeyed(msgspec.Struct, frozen=True):
    """An SA has been replaced: `what` is "ike" or the child's name."""

    site: SiteKey
    what: str


Effect = (
    SendDatagram
    | SendKeepalive
    | InstallChild
    | SendBy
    | RemoveChild
    | MoveChildren
    | SiteUp
    | SiteDown
    | SiteTrouble
    | SiteRekeyed
    | StrangerRefused
)
