"""An IKE SA as it was agreed on: whose SPIs, which algorithms, which keys (RFC 7296 section 1.2)."""

from __future__ import annotations

import msgspec

from policies.ipsec import IkeSuite
from tunnels.effects import SiteKey
from tunnels.ike.keys import IkeKeys


class IkeSa(msgspec.Struct, frozen=True):
    """What both sides hold once keys are exchanged. SPIs are 8 octets, none of them all zeros."""

    site: SiteKey
    is_initiator: bool
    """Whether we began this IKE SA. After a rekey of it that is whoever began the rekey (section 2.18)."""
    own_spi: bytes
    peer_spi: bytes
    suite: IkeSuite
    keys: IkeKeys

    @property
    def initiator_spi(self) -> bytes:
        return self.own_spi if self.is_initiator else self.peer_spi

    @property
    def responder_spi(self) -> bytes:
        return self.peer_spi if self.is_initiator else self.own_spi
