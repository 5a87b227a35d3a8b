"""INFORMATIONAL: what one side tells the other about the IKE SA itself (RFC 7296 section 1.4)."""

from __future__ import annotations

from collections.abc import Iterable

from tunnels.effects import Effect
from tunnels.ike.constants import ExchangeType, NotifyType, Protocol
from tunnels.ike.payloads import Delete, Notify, Payload


class Telling:
    """A request whose answer says only that it has arrived, or is for the session to read."""

    def __init__(
        self,
        *payloads: Payload,
        exchange: ExchangeType = ExchangeType.INFORMATIONAL,
        is_last: bool = False,
    ) -> None:
        self.exchange = exchange
        self.is_last = is_last
        """Whether the IKE SA ends with its answer."""
        self._payloads = payloads

    def request(self, _now: float) -> tuple[Payload, ...]:
        return self._payloads

    def answered(self, _payloads: tuple[Payload, ...], _now: float) -> list[Effect]:
        return []


def probe() -> Telling:
    """Ask whether the peer is there: nothing is said, and the answer counts (section 2.4)."""
    return Telling()


def goodbye() -> Telling:
    """Delete the IKE SA at the peer, and all child SAs with it (section 1.4.1)."""
    return Telling(Delete(Protocol.IKE), is_last=True)


def distrust() -> Telling:
    """Tell a responder that its proof is none: it has an IKE SA that we don't have (section 2.21.2)."""
    return Telling(Notify(NotifyType.AUTHENTICATION_FAILED), is_last=True)


def ends_ike_sa(payloads: Iterable[Payload]) -> bool:
    """Whether the peer has deleted the IKE SA."""
    return any(isinstance(each, Delete) and each.protocol == Protocol.IKE for each in payloads)


def rejects_proof(payloads: Iterable[Payload]) -> bool:
    """Whether the initiator says that our proof is none (section 2.21.2)."""
    return any(
        isinstance(each, Notify) and each.type == NotifyType.AUTHENTICATION_FAILED for each in payloads
    )
