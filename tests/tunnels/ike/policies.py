"""What two gateways that face each other are configured to, as `PeerPolicy` says it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from policies.addresses import ProviderAddress
from policies.ipsec import MODERN_ESP, MODERN_IKE, EspProposal, IkeProposal, Lifetimes, SiteStart
from policies.secret import Secret
from policies.selectors import Selectors, TrafficSelector
from tunnels.ike.credentials import Credentials
from tunnels.ike.identities import Identity
from tunnels.ike.policy import ChildPolicy, PeerPolicy

LEFT, RIGHT = ProviderAddress.parse("192.0.2.1"), ProviderAddress.parse("198.51.100.1")
LEFT_6, RIGHT_6 = ProviderAddress.parse("2001:db8::1"), ProviderAddress.parse("2001:db8:ffff::1")
PSK = Credentials(psk=Secret(b"correct horse battery staple"))
LIFETIMES = Lifetimes()


def selectors(local: str, remote: str) -> Selectors:
    """Return selectors of prefixes, several with spaces between them."""

    def side(text: str) -> tuple[TrafficSelector, ...]:
        return tuple(TrafficSelector.of(ipaddress.ip_network(each)) for each in text.split())

    return Selectors(side(local), side(remote))


def mirrored(policies: Sequence[ChildPolicy]) -> tuple[ChildPolicy, ...]:
    """Return the same child SAs as the other side has them in its configuration."""
    return tuple(
        ChildPolicy(each.name, Selectors(each.selectors.remote, each.selectors.local)) for each in policies
    )


NET = ChildPolicy("net", selectors("10.0.1.0/24", "10.20.0.0/16"))
DMZ = ChildPolicy("dmz", selectors("10.0.2.0/24", "10.20.0.0/16"))


def policy(
    children: Sequence[ChildPolicy] | None = None,
    *,
    is_left: bool = True,
    credentials: Credentials = PSK,
    ids: tuple[str, str] = ("left.example", "right.example"),
    start: SiteStart | None = None,
    ike: tuple[IkeProposal, ...] = MODERN_IKE,
    esp: tuple[EspProposal, ...] = MODERN_ESP,
    lifetimes: Lifetimes = LIFETIMES,
    liveness: float = 10.0,
    force_udp: bool = False,
    addresses: tuple[ProviderAddress, ProviderAddress] = (LEFT, RIGHT),
) -> PeerPolicy:
    """Return one side's policy; `ids` and `addresses` are given as the left side has them."""
    order = (0, 1) if is_left else (1, 0)
    if children is None:
        children = (NET,) if is_left else mirrored([NET])
    return PeerPolicy(
        site=("red", "right") if is_left else ("blue", "left"),
        start=start or (SiteStart.START if is_left else SiteStart.RESPOND),
        local_addresses=(addresses[order[0]],),
        remote_address=addresses[order[1]],
        local_id=Identity.parse(ids[order[0]]),
        remote_id=Identity.parse(ids[order[1]]),
        credentials=credentials,
        ike_proposals=ike,
        esp_proposals=esp,
        children=tuple(children),
        lifetimes=lifetimes,
        liveness=liveness,
        force_udp=force_udp,
    )
