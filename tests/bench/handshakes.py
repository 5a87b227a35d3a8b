"""How many tunnels one core can set up a second: two endpoints in this process, joined back to back.

Each handshake is an IKE_SA_INIT and an IKE_AUTH exchange with pre-shared keys, x25519 and
AES-256-GCM, and leaves an IKE SA and a child SA at both ends. No sockets.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from policies.addresses import ProviderAddress
from policies.ipsec import MODERN_ESP, MODERN_IKE, Lifetimes, SiteStart
from policies.secret import Secret
from policies.selectors import Selectors, TrafficSelector
from tests.bench.results import Result
from tunnels.effects import Effect, InstallChild, Path, SendDatagram, SiteKey
from tunnels.ike.credentials import Credentials
from tunnels.ike.endpoint import IkeEndpoint
from tunnels.ike.identities import Identity
from tunnels.ike.liveness import Traffic
from tunnels.ike.policy import ChildPolicy, PeerPolicy
from tunnels.ike.service import SystemEntropy

SITES = 200
RUNS = 5
AIM = 100

EDGE = ProviderAddress.parse("192.0.2.254")
NEAR, FAR = (TrafficSelector.of(ipaddress.ip_network(each)) for each in ("10.0.1.0/24", "172.16.0.0/16"))


def benchmark() -> Iterator[Result]:
    """Set up many tunnels, one after the other."""
    runs = [_handshakes() for _ in range(RUNS)]
    suite = "PSK, x25519, AES-256-GCM"
    yield Result(
        f"handshakes on one core: both sides, {suite}",
        "handshakes/s",
        tuple(SITES / (ours + theirs) for ours, theirs in runs),
        at_least=AIM,
    )
    yield Result(
        f"handshakes on one core: responder alone, {suite}",
        "handshakes/s",
        tuple(SITES / theirs for _, theirs in runs),
        at_least=AIM,
    )


class _Side:
    """An endpoint, and the processor time that it has taken, in seconds."""

    def __init__(self, policies: Sequence[PeerPolicy]) -> None:
        self.seconds = 0.0
        self.installed = 0
        self.endpoint = IkeEndpoint(SystemEntropy(), lambda _site: Traffic.none())
        self.endpoint.configure(policies, 0.0)

    def dial(self, site: SiteKey, now: float) -> list[SendDatagram]:
        """Begin a handshake, and return what is to be sent."""
        began = time.thread_time()
        effects = self.endpoint.wanted(site, now)
        self.seconds += time.thread_time() - began
        return self._sent(effects)

    def take(self, sent: SendDatagram, now: float, utc: datetime) -> list[SendDatagram]:
        """Take what the other has sent, and return what is to be sent."""
        path = Path(sent.path.remote, sent.path.local)
        began = time.thread_time()
        effects = self.endpoint.handle_datagram_untrusted(path, sent.message, now, utc)
        self.seconds += time.thread_time() - began
        return self._sent(effects)

    def _sent(self, effects: Sequence[Effect]) -> list[SendDatagram]:
        self.installed += sum(isinstance(each, InstallChild) for each in effects)
        return [each for each in effects if isinstance(each, SendDatagram)]


def _handshakes() -> tuple[float, float]:
    """Return the seconds that all handshakes took the initiator and the responder."""
    utc = datetime.now(UTC)
    initiator = _Side([_policy(n, is_edge=False) for n in range(SITES)])
    responder = _Side([_policy(n, is_edge=True) for n in range(SITES)])
    for n in range(SITES):
        waiting = initiator.dial(_site(n), n / 10)
        sides = responder, initiator
        while waiting:
            waiting = [answer for sent in waiting for answer in sides[0].take(sent, n / 10, utc)]
            sides = sides[1], sides[0]
    if initiator.installed != SITES or responder.installed != SITES:
        raise AssertionError(f"{responder.installed} tunnels instead of {SITES}: {responder.endpoint.drops}")
    return initiator.seconds, responder.seconds


def _policy(n: int, *, is_edge: bool) -> PeerPolicy:
    device = ProviderAddress(b"\xc6\x12" + n.to_bytes(2))
    own, other = (EDGE, device) if is_edge else (device, EDGE)
    ids = Identity.parse("edge.example"), Identity.parse(f"site-{n}.example")
    local_id, remote_id = ids if is_edge else reversed(ids)
    return PeerPolicy(
        site=_site(n),
        start=SiteStart.RESPOND if is_edge else SiteStart.TRAP,
        local_addresses=(own,),
        remote_address=other,
        local_id=local_id,
        remote_id=remote_id,
        credentials=Credentials(psk=Secret(f"secret of {n}".encode())),
        ike_proposals=MODERN_IKE,
        esp_proposals=MODERN_ESP,
        children=(ChildPolicy("all", Selectors((NEAR,), (FAR,)) if is_edge else Selectors((FAR,), (NEAR,))),),
        lifetimes=Lifetimes(),
        liveness=30.0,
        force_udp=False,
    )


def _site(n: int) -> SiteKey:
    return "red", f"site-{n}"
