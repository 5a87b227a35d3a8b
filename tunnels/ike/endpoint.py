"""All of IKE on one node: every site's peer, and every message from anyone.

A message is told by our SPI to belong to a session, or is a stranger's first.
Nothing here raises for what the network sent; what leads nowhere is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from enum import StrEnum

from policies.addresses import ProviderAddress
from policies.errors import MalformedPacket, Rejected
from policies.secret import Secret
from policies.token_bucket import TokenBucket
from tunnels.deadlines import Deadlines
from tunnels.effects import Effect, Path, SendDatagram, SiteDown, SiteKey, SiteTrouble, StrangerRefused
from tunnels.ike import wire
from tunnels.ike.admission import Admission, Admitted
from tunnels.ike.constants import MAJOR_VERSION, ExchangeType, NotifyType
from tunnels.ike.cookies import CookieJar
from tunnels.ike.entropy import Entropy
from tunnels.ike.life import State
from tunnels.ike.liveness import Traffic
from tunnels.ike.payloads import Header, Notify
from tunnels.ike.peer import REMOVED, STOPPED, Peer
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.session import IkeSession
from tunnels.ike.spis import NO_SPI, never_twice

# Answers a second to messages that belong to no session: enough for peers that we have
# forgotten, too few to be of use to anybody else.
STRAY_ANSWERS = 20.0
# Times a second that a site's trouble is told which somebody caused who has proved nothing.
UNPROVEN_TROUBLES = 1.0

TrafficOf = Callable[[SiteKey], Traffic]
"""When a site's authenticated packets last came and went."""

_First = tuple[bytes, ProviderAddress]
"""The initiator's SPI and address: what a first message that comes again is known by."""


class IkeDrop(StrEnum):
    """Why a message has come to nothing."""

    MALFORMED = "ike-malformed"
    NO_SESSION = "ike-no-session"
    """It names a session that is not ours, or no longer."""
    NO_SITE = "ike-no-site"
    """No site's peer may dial from there."""
    TOO_MANY = "ike-too-many"
    """More first messages than are answered."""
    COOKIE_ASKED = "ike-cookie-asked"
    """Not lost: the sender is to repeat it with a cookie."""
    VERSION = "ike-version"


class IkeEndpoint:
    """The sessions of one node, and who may begin one."""

    def __init__(self, entropy: Entropy, traffic_of: TrafficOf) -> None:
        self.drops: Counter[IkeDrop] = Counter()
        self.peers: dict[SiteKey, Peer] = {}
        self._entropy = entropy
        self._allocate_spi = never_twice(entropy)
        self._traffic_of = traffic_of
        self._admission = Admission(CookieJar(Secret(entropy.octets(32))))
        self._sessions: dict[bytes, IkeSession] = {}
        self._half_open: dict[_First, IkeSession] = {}
        """Its first message may come more than once."""
        self._first_of: dict[IkeSession, _First] = {}
        self._named: dict[ProviderAddress, list[PeerPolicy]] = {}
        self._dialling_in: list[PeerPolicy] = []
        self._candidates: dict[tuple[ProviderAddress, ProviderAddress | None], Sequence[PeerPolicy]] = {}
        """By our address and the peer's, which is None where no site names it."""
        self._leaving: list[Peer] = []
        self._deadlines: Deadlines[IkeSession | Peer] = Deadlines()
        self._stray_answers = TokenBucket(STRAY_ANSWERS, STRAY_ANSWERS)
        self._unproven_troubles = TokenBucket(UNPROVEN_TROUBLES, UNPROVEN_TROUBLES)

    @property
    def deadline(self) -> float:
        """When `handle_timeout` wants calling; infinity if never."""
        return self._deadlines.earliest

    @property
    def half_open(self) -> int:
        return self._admission.half_open

    def configure(self, policies: Iterable[PeerPolicy], now: float) -> list[Effect]:
        """Take these sites, and only these: new ones begin, changed ones authenticate again, others end."""
        wanted = {policy.site: policy for policy in policies}
        self._named.clear()
        self._candidates.clear()
        self._dialling_in = [policy for policy in wanted.values() if policy.remote_address is None]
        for policy in wanted.values():
            if policy.remote_address is not None:
                self._named.setdefault(policy.remote_address, []).append(policy)
        effects: list[Effect] = []
        for site in [site for site in self.peers if site not in wanted]:
            effects += self._remove(site, now, REMOVED)
        for site, policy in wanted.items():
            known = self.peers.get(site)
            if known is not None:
                effects += self._after(known, known.reconfigure(policy, now), now)
                continue
            peer = self.peers[site] = Peer(policy, self._entropy, self._dial)
            effects += self._after(peer, peer.begin(now), now)
        return effects

    def wanted(self, site: SiteKey, now: float) -> list[Effect]:
        """A packet wants to go to a site that has no tunnel."""
        peer = self.peers.get(site)
        return self._after(peer, peer.wanted(now), now) if peer is not None else []

    def expiring(self, site: SiteKey, inbound_spi: int, now: float) -> list[Effect]:
        """A child SA has carried so much that it is to be replaced."""
        effects: list[Effect] = []
        for session in self._sessions_with(site, inbound_spi):
            effects += self._heed(session, session.expiring(inbound_spi, now), now)
        return effects

    def moved(self, site: SiteKey, inbound_spi: int, path: Path, now: float) -> list[Effect]:
        """Authentic packets of a child SA come from another place (RFC 7296 section 2.23)."""
        effects: list[Effect] = []
        for session in self._sessions_with(site, inbound_spi):
            effects += self._heed(session, session.moved(path), now)
        return effects

    def close(self, now: float) -> list[Effect]:
        """End every session, at the peers too, and begin none any more."""
        self._named.clear()
        self._candidates.clear()
        self._dialling_in = []
        return [effect for site in list(self.peers) for effect in self._remove(site, now, STOPPED)]

    def _remove(self, site: SiteKey, now: float, why: str) -> list[Effect]:
        peer = self.peers.pop(site)
        self._leaving.append(peer)
        return self._after(peer, peer.remove(now, why), now)

    @property
    def is_closed(self) -> bool:
        """Whether no session is left that waits for its peer."""
        return all(session.state is State.CLOSED for session in self._sessions.values())

    def handle_datagram_untrusted(
        self, path: Path, datagram: bytes, now: float, utc: datetime
    ) -> list[Effect]:
        """Take a message from anyone. `utc` is what certificates are judged by."""
        try:
            header = wire.decode_header_untrusted(datagram)
        except MalformedPacket:
            return self._dropped(IkeDrop.MALFORMED)
        if header.major_version > MAJOR_VERSION:
            return self._answer_stray(
                IkeDrop.VERSION, NotifyType.INVALID_MAJOR_VERSION, path, header, datagram, now
            )
        is_first = header.exchange == ExchangeType.IKE_SA_INIT and not header.is_response
        if is_first and header.responder_spi == NO_SPI:
            return self._first(path, header, datagram, now, utc)
        own_spi = header.responder_spi if header.from_initiator else header.initiator_spi
        session = self._sessions.get(own_spi)
        if session is None or session.is_initiator == header.from_initiator:
            return self._answer_stray(
                IkeDrop.NO_SESSION, NotifyType.INVALID_IKE_SPI, path, header, datagram, now
            )
        return self._deliver(session, path, datagram, now, utc)

    def handle_timeout(self, now: float) -> list[Effect]:
        """Do everything that is due."""
        effects: list[Effect] = []
        for sleeper in list(self._deadlines.due(now)):
            if isinstance(sleeper, Peer):
                effects += self._after(sleeper, sleeper.handle_timeout(now), now)
            elif sleeper.own_spi in self._sessions:
                traffic = (
                    self._traffic_of(sleeper.policy.site) if sleeper.policy is not None else Traffic.none()
                )
                effects += self._heed(sleeper, sleeper.handle_timeout(now, traffic), now)
        return effects

    def _deliver(
        self, session: IkeSession, path: Path, datagram: bytes, now: float, utc: datetime
    ) -> list[Effect]:
        was_half_open = session.state is State.HALF_OPEN
        effects = session.handle_datagram_untrusted(path, datagram, now, utc)
        if was_half_open and session.state is State.CLOSED:
            self._admission.failed(path.remote.address, now)
            if session.failure is not None and not any(isinstance(each, SiteTrouble) for each in effects):
                effects.append(StrangerRefused(path, session.failure))
        elif was_half_open and session.state is State.ESTABLISHED and not self._may_call(session, now):
            self._admission.failed(path.remote.address, now)
        return self._heed(session, effects, now)

    def _may_call(self, session: IkeSession, now: float) -> bool:
        """Whether a site's peer has called seldom enough: it could keep us busy with nothing but calls."""
        peer = self.peers.get(session.policy.site) if session.policy is not None else None
        return peer is None or peer.calls.take(1, now)

    def _first(self, path: Path, header: Header, datagram: bytes, now: float, utc: datetime) -> list[Effect]:
        repeated = self._half_open.get((header.initiator_spi, path.remote.address))
        if repeated is not None:
            return self._deliver(repeated, path, datagram, now, utc)
        try:
            request = wire.decode_message_untrusted(datagram)
        except (MalformedPacket, Rejected):
            return self._dropped(IkeDrop.MALFORMED)
        candidates = self._candidates_for(path)
        if not candidates:
            return self._dropped(IkeDrop.NO_SITE)
        source = path.remote.address
        admitted = self._admission.judge(source, request, len(datagram), now)
        if admitted is Admitted.NO:
            return self._dropped(IkeDrop.TOO_MANY)
        if admitted is Admitted.COOKIE:
            cookie = Notify(NotifyType.COOKIE, self._admission.cookie(source, request, now))
            return self._answer(IkeDrop.COOKIE_ASKED, cookie, path, header, datagram)
        session, effects = IkeSession.respond(
            candidates, path, request, datagram, self._entropy, now, allocate_spi=self._allocate_spi
        )
        if session is None:
            may_tell = self._unproven_troubles.take(1, now)
            return [
                each for each in effects if may_tell or not isinstance(each, SiteTrouble | StrangerRefused)
            ]
        first = (header.initiator_spi, source)
        self._half_open[first] = session
        self._first_of[session] = first
        self._admission.opened(session.own_spi, source)
        return self._heed(session, effects, now)

    def _candidates_for(self, path: Path) -> Sequence[PeerPolicy]:
        """The sites whose peer may be dialling from there; all have the first one's proposals.

        Kept until the next configuration, as a flood of strangers would ask for each of its messages.
        """
        local, remote = path.local.address, path.remote.address
        named = self._named.get(remote, ())
        key = (local, remote if named else None)
        candidates = self._candidates.get(key)
        if candidates is None:
            found = [policy for policy in (*named, *self._dialling_in) if local in policy.local_addresses]
            candidates = [policy for policy in found if policy.ike_proposals == found[0].ike_proposals]
            self._candidates[key] = candidates
        return candidates

    def _dial(self, policy: PeerPolicy, path: Path, is_only_one: bool) -> IkeSession:
        return IkeSession.initiate(
            policy,
            path,
            self._entropy,
            initial_contact=is_only_one,
            allocate_spi=self._allocate_spi,
        )

    def _sessions_with(self, site: SiteKey, inbound_spi: int) -> list[IkeSession]:
        peer = self.peers.get(site)
        sessions = peer.sessions if peer is not None else ()
        return [each for each in sessions if each.children is not None and inbound_spi in each.children.spis]

    def _heed(self, session: IkeSession, effects: list[Effect], now: float) -> list[Effect]:
        """File a session after something happened to it, and tell its peer's keeper."""
        # The one that has been replaced comes first: it says who follows.
        family = sorted((session, *session.kin), key=lambda each: each.successor is None)
        for each in family:
            self._file(each)
        peer = self._peer_of(session)
        if peer is None:
            return effects
        for each in family:
            if each.state is not State.CONNECTING or each is session:
                effects = effects + peer.heed(each, now)
        return self._after(peer, effects, now)

    def _peer_of(self, session: IkeSession) -> Peer | None:
        if session.policy is None:
            return None
        for leaving in self._leaving:
            if session in leaving.sessions:
                return leaving
        return self.peers.get(session.policy.site)

    def _after(self, peer: Peer, effects: list[Effect], now: float) -> list[Effect]:
        """File all that a peer's keeper may have touched."""
        for session in list(peer.sessions):
            self._file(session)
            if session.state is State.CLOSED:
                effects = effects + peer.heed(session, now)
        self._deadlines.set(peer, peer.deadline)
        if peer.is_over and peer in self._leaving:
            self._leaving.remove(peer)
            self._deadlines.set(peer, None)
        if peer.session is not None:
            # One of several sessions has ended, and not the tunnel.
            return [each for each in effects if not isinstance(each, SiteDown)]
        return effects

    def _file(self, session: IkeSession) -> None:
        self._deadlines.set(session, session.deadline)
        if session.state is State.CLOSED and session.deadline is None:
            self._sessions.pop(session.own_spi, None)
        else:
            # One that has ended may still repeat its last response for a peer that missed it.
            self._sessions[session.own_spi] = session
        if session.state is not State.HALF_OPEN and session in self._first_of:
            self._admission.settled(session.own_spi)
            del self._half_open[self._first_of.pop(session)]

    def _dropped(self, reason: IkeDrop) -> list[Effect]:
        self.drops[reason] += 1
        return []

    def _answer_stray(
        self, reason: IkeDrop, notify: NotifyType, path: Path, header: Header, datagram: bytes, now: float
    ) -> list[Effect]:
        """Tell the sender of a request, not too often, what is wrong with it (RFC 7296 section 2.21.4)."""
        if header.is_response or not self._stray_answers.take(1, now):
            return self._dropped(reason)
        return self._answer(reason, Notify(notify), path, header, datagram)

    def _answer(
        self, reason: IkeDrop, notify: Notify, path: Path, header: Header, datagram: bytes
    ) -> list[Effect]:
        """Answer in the clear with one notification, if that is no larger than what came."""
        self.drops[reason] += 1
        answer = Header(
            initiator_spi=header.initiator_spi,
            responder_spi=header.responder_spi,
            exchange=header.exchange,
            message_id=header.message_id,
            is_response=True,
            from_initiator=not header.from_initiator,
        )
        message = wire.encode_message(answer, (notify,))
        return [SendDatagram(path, message)] if len(message) <= len(datagram) else []
