"""What a session with one site's peer is held to: the site's configuration, made ready for IKE."""

from __future__ import annotations

import msgspec

from policies.addresses import ProviderAddress
from policies.ipsec import EspProposal, IkeProposal, Lifetimes, SiteStart
from policies.selectors import Selectors
from tunnels.effects import SiteKey
from tunnels.ike.credentials import Credentials
from tunnels.ike.identities import Identity


class ChildPolicy(msgspec.Struct, frozen=True):
    """One child SA that the site shall have: an offer of ours, a bound for the peer's."""

    name: str
    selectors: Selectors


class PeerPolicy(msgspec.Struct, frozen=True):
    """Everything about one site's peer. A change of any of it means to authenticate again."""

    site: SiteKey
    start: SiteStart
    local_addresses: tuple[ProviderAddress, ...]
    """Where the peer may dial us; we dial from the first of the peer's family."""
    remote_address: ProviderAddress | None
    """None: it dials in, from anywhere."""
    local_id: Identity
    remote_id: Identity
    credentials: Credentials
    ike_proposals: tuple[IkeProposal, ...]
    esp_proposals: tuple[EspProposal, ...]
    children: tuple[ChildPolicy, ...]
    lifetimes: Lifetimes
    liveness: float
    """Seconds of silence, while we send, after which the peer is taken for dead."""
    force_udp: bool
