"""Our requests about child SAs, each made when its turn comes, when it may be needed no longer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnels.effects import Effect
from tunnels.ike.child import Child, State, Want
from tunnels.ike.child_exchange import ChildOffer
from tunnels.ike.constants import ExchangeType, NotifyType, Protocol
from tunnels.ike.ike_rekey import IkeRekey
from tunnels.ike.payloads import Delete, Notify, Payload

if TYPE_CHECKING:
    from tunnels.ike.children import Children


class CreateChild:
    """Ask for a child SA that policy wants (RFC 7296 section 1.3.1)."""

    exchange = ExchangeType.CREATE_CHILD_SA

    def __init__(self, children: Children, want: Want) -> None:
        self.want = want
        self._children, self._sa = children, children.sa
        self._offer: ChildOffer | None = None

    def request(self, _now: float) -> tuple[Payload, ...] | None:
        """Say what we offer, unless the peer has made such a child SA meanwhile."""
        if self._sa is not self._children.sa:
            return None
        if self._children.covers(self.want):
            self.want.is_asked, self.want.due = False, None
            return None
        self._offer = self._children.offer(self.want.selectors, self.want.group)
        self._children.begin(self)
        return self._offer.payloads()

    def answered(self, payloads: tuple[Payload, ...], now: float) -> list[Effect]:
        """Install what was agreed on, or ask again later."""
        self._children.end(self)
        self.want.is_asked = False
        return (
            self._children.created(self.want, self._offer, payloads, now) if self._offer is not None else []
        )


class RekeyChild:
    """Replace a child SA (section 1.3.3)."""

    exchange = ExchangeType.CREATE_CHILD_SA

    def __init__(self, children: Children, child: Child) -> None:
        self.child = child
        self._children, self._sa = children, children.sa
        self._offer: ChildOffer | None = None

    def request(self, _now: float) -> tuple[Payload, ...] | None:
        """Say what we offer, unless it has been replaced or deleted meanwhile."""
        if self._sa is not self._children.sa:
            return None
        child = self.child
        if not self._children.has(child) or child.state is not State.CURRENT:
            child.is_rekeying = False
            return None
        # Neither narrower nor wider than what there is (section 2.9.2).
        self._offer = self._children.offer(child.sa.selectors, child.group)
        self._children.begin(self)
        spi = child.sa.inbound_spi.to_bytes(4)
        return (Notify(NotifyType.REKEY_SA, b"", Protocol.ESP, spi), *self._offer.payloads())

    def answered(self, payloads: tuple[Payload, ...], now: float) -> list[Effect]:
        """Send by the new one and delete the old one, or whatever the collision asks for."""
        self._children.end(self)
        self.child.is_rekeying = False
        return (
            self._children.rekeyed(self.child, self._offer, payloads, now) if self._offer is not None else []
        )


class DeleteChildren:
    """Delete child SAs at the peer (section 1.4.1)."""

    exchange = ExchangeType.INFORMATIONAL

    def __init__(self, children: Children) -> None:
        self._children, self._sa = children, children.sa
        self._deleted: list[Child] = []

    def request(self, _now: float) -> tuple[Payload, ...] | None:
        """List all that wait for deletion."""
        if self._sa is not self._children.sa:
            return None
        spis, self._deleted = self._children.take_deletions()
        if not spis:
            return None
        self._children.begin(self)
        return (Delete(Protocol.ESP, tuple(spi.to_bytes(4) for spi in spis)),)

    def answered(self, _payloads: tuple[Payload, ...], now: float) -> list[Effect]:
        """Remove them here. Whether the peer had them still makes no difference."""
        self._children.end(self)
        return self._children.deleted(self._deleted, now)


class RekeyIkeSa:
    """Replace the IKE SA (section 1.3.2)."""

    exchange = ExchangeType.CREATE_CHILD_SA

    def __init__(self, children: Children, rekey: IkeRekey) -> None:
        self._children, self._rekey = children, rekey

    def request(self, _now: float) -> tuple[Payload, ...] | None:
        """Say what we offer, unless the peer has replaced it meanwhile."""
        return self._rekey.request()

    def answered(self, payloads: tuple[Payload, ...], now: float) -> list[Effect]:
        """Go over to the new one, or whatever the collision asks for."""
        return self._children.ike_rekeyed(self._rekey, payloads, now)
