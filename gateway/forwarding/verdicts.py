"""What the pipeline decides, and what is to be sent because of it."""

from __future__ import annotations

import msgspec

from gateway.forwarding.drops import DropReason, Drops
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.facts import PacketFacts
from tunnels.effects import SiteKey

PortKey = tuple[Vsid, MacAddress]
"""What names a VM's port on a host."""


Awaited = tuple[Vsid, CustomerAddress] | ProviderAddress
"""What a packet waits for: the provider address of a CA, or whose a provider address is."""


class PlainHeader(msgspec.Struct, frozen=True, gc=False):
    """The provider addresses that a rewritten packet came with."""

    source: ProviderAddress
    destination: ProviderAddress


class OuterHeader(msgspec.Struct, frozen=True, gc=False):
    """What the underlay's IP header said of an NVGRE packet, or would have said of a rewritten one's."""

    source: bytes
    destination: bytes
    ecn: int = 0
    """The two bits of RFC 3168."""
    hop_limit: int = 64
    plain: PlainHeader | None = None
    """For what has been rewritten: ECN field and hop limit are the packet's own."""


class ToUnderlay(msgspec.Struct, frozen=True, gc=False):
    """Send `payload`, a GRE header and a frame, from one provider address to another.

    The outer packet is never fragmented (RFC 7637 section 4.4).
    """

    source: ProviderAddress
    destination: ProviderAddress
    ecn: int
    payload: bytes
    vsid: Vsid
    tenant: str
    hop_limit: int = 64


class ToProvider(msgspec.Struct, frozen=True, gc=False):
    """Send an IP packet as it is: its addresses have been rewritten to provider addresses.

    It is a tenant's own packet otherwise, and no router may be told to fragment it or not.
    """

    packet: bytes
    vsid: Vsid
    """Of the virtual subnet that it goes to."""
    tenant: str
    via: ProviderAddress | None = None
    """The neighbour that it goes to, whatever the link believes of where its destination is."""


class ToPort(msgspec.Struct, frozen=True, gc=False):
    """Give a VM's port a frame with finished checksums."""

    port: PortKey
    frame: bytes
    tenant: str
    outer: OuterHeader | None = None
    """What it came in, from the underlay: where it must not go back to if its VM has left."""


class ToSite(msgspec.Struct, frozen=True, gc=False):
    """Send an IP packet through a site's tunnel.

    It is within the selectors of one of the site's child SAs, whichever that is.
    """

    site: SiteKey
    packet: bytes
    facts: PacketFacts
    """What selectors read of it, as of every packet of its flow and of all its fragments: the
    addresses, the protocol and the ports. The rest may be an earlier packet's of the flow."""
    ecn: int
    tenant: str


Emission = ToUnderlay | ToProvider | ToPort | ToSite


class Forward(msgspec.Struct, frozen=True):
    """The frame goes on; several emissions where it was replicated or fragmented."""

    emissions: tuple[Emission, ...]
    lost: tuple[DropReason, ...] = ()
    """Why some copies of a replicated frame do not go on, while others do."""


class Answer(msgspec.Struct, frozen=True):
    """The frame was for us, and this is what we say to it."""

    emissions: tuple[Emission, ...]


class Drop(msgspec.Struct, frozen=True):
    """The frame ends here. `emissions` tells its sender, where it may be told."""

    reason: DropReason
    tenant: str = ""
    emissions: tuple[Emission, ...] = ()


class Held(msgspec.Struct, frozen=True):
    """The packet waits, for a moment, until it is known by which provider address it goes on, or came."""

    wanted: Awaited
    tenant: str = ""
    emissions: tuple[Emission, ...] = ()


Verdict = Forward | Answer | Drop | Held


def counted(verdict: Verdict, drops: Drops) -> Verdict:
    """Count what a verdict loses, and return it."""
    if isinstance(verdict, Drop):
        drops.count(verdict.reason, verdict.tenant)
    elif isinstance(verdict, Forward) and verdict.lost:
        for reason in verdict.lost:
            drops.count(reason, verdict.emissions[0].tenant)
    return verdict
