"""What `isthmus sites` shows: each configured site, up or down, as plain values."""

from __future__ import annotations

import msgspec


class Moment(msgspec.Struct, frozen=True):
    """Something that happened: `at` is in seconds since 1970, UTC."""

    at: float
    what: str
    why: str


class ChildStatus(msgspec.Struct, frozen=True):
    """One pair of ESP SAs. Octets are those of customers' packets."""

    name: str
    suite: str
    inbound_spi: str
    outbound_spi: str
    local: list[str]
    remote: list[str]
    in_udp: bool
    mtu: int
    """Of a customer's packet, in octets."""


class SiteStatus(msgspec.Struct, frozen=True):
    """One site."""

    tenant: str
    site: str
    state: str
    """up, connecting, waiting (for the next attempt, the first packet, or the peer) or down."""
    since: float
    """When it came up or went down, or was configured: in seconds since 1970, UTC."""
    start: str
    peer: str
    """The configured address, or any."""
    local_id: str
    remote_id: str
    prefixes: list[str]
    path: str | None
    ike_suite: str | None
    children: list[ChildStatus]
    sent_packets: int
    sent_octets: int
    received_packets: int
    received_octets: int
    ike_rekeys: int
    child_rekeys: int
    failures: int
    """Attempts since it was up last."""
    retry_in: float | None
    """Seconds until the next attempt, where one waits."""
    last_error: Moment | None
    history: list[Moment]
