"""The sites of one gateway at work: the key exchange, the child SAs and the pipeline, joined.

What the key exchange decides is carried out here; decrypted packets go to the
pipeline, and what the pipeline sends to a site is encrypted.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import trio

from gateway.forwarding.drops import DropReason
from gateway.forwarding.pipeline import Forwarder
from gateway.forwarding.pmtu import PathMtu
from gateway.forwarding.verdicts import ToSite, Verdict
from gateway.operating.certificates import of_site
from gateway.operating.report import CertificateReport
from gateway.sites.ledger import Entry, Ledger, Turn
from gateway.sites.policies import secrets_shared
from gateway.sites.status import ChildStatus, Moment, SiteStatus
from gateway.taps import Deciding, Observer, Open, Seal, observed_opening, observed_sealing
from policies.addresses import ProviderAddress
from policies.ipsec import SiteStart
from policies.model import Appliance, Site
from tunnels.effects import (
    ChildSa,
    Effect,
    Endpoint,
    InstallChild,
    MoveChildren,
    Path,
    RemoveChild,
    SendBy,
    SendDatagram,
    SendKeepalive,
    SiteKey,
    SiteRekeyed,
    StrangerRefused,
)
from tunnels.esp.associations import Associations, Opened, inner_mtu
from tunnels.esp.drops import EspDrop
from tunnels.esp.service import TunnelSockets
from tunnels.ike.endpoint import IkeDrop
from tunnels.ike.liveness import Traffic
from tunnels.ike.policy import PeerPolicy
from tunnels.ike.service import IkeService

log = logging.getLogger("isthmus.sites")

# Seconds between two looks at what time alone changes: child SAs that linger, path MTUs that age.
TICK = 1.0
# Seconds between two packets of a site without a tunnel that the key exchange is told of.
WANTED_EVERY = 0.1
# Seconds between two lines about strangers that were refused.
STRANGERS_EVERY = 10.0

_REASONS = {EspDrop.NO_CHILD: DropReason.OUTSIDE_SELECTORS, EspDrop.EXHAUSTED: DropReason.SITE_DOWN}


class SiteTunnels:
    """All sites that this gateway dials."""

    def __init__(self, forwarder: Forwarder, past: Mapping[SiteKey, Sequence[Turn]] | None = None) -> None:
        """`past` is what happened to the sites before a restart."""
        self.associations = Associations()
        self.sockets = TunnelSockets()
        self._decide: Deciding = forwarder
        self._seal: Seal = self.associations.seal
        self._open: Open = self._open_untrusted
        self._observer: Observer | None = None
        self._ledger = Ledger(past)
        self._ike = IkeService(self._traffic_of, self._perform)
        self._forwarder = forwarder
        self.is_serving = False
        self._sites: dict[SiteKey, Site] = {}
        self._policies: dict[SiteKey, PeerPolicy] = {}
        self._trapped: frozenset[SiteKey] = frozenset()
        self._paths: dict[ProviderAddress, PathMtu] = {}
        self._is_flush_due = False
        self._quiet_until = -math.inf
        self._wanted_at: dict[SiteKey, float] = {}
        forwarder.sites.on_wanted = self._wanted

    @property
    def ike_drops(self) -> Counter[IkeDrop]:
        """How many IKE messages came to nothing, by why."""
        return self._ike.endpoint.drops

    async def start(
        self,
        nursery: trio.Nursery,
        addresses: Mapping[ProviderAddress, int],
        carry_out: Callable[[Verdict], None],
    ) -> None:
        """Open all sockets, and carry the sites' packets in the nursery until that is cancelled.

        `addresses` are those that peers dial, each with its interface's MTU in octets;
        `carry_out` takes what the pipeline decides of their packets.
        Raises ConfigurationError where a socket cannot be opened: a reload may try in vain,
        and nothing in the nursery is to end by it.
        """
        self._paths = {address: PathMtu(mtu) for address, mtu in addresses.items()}

        def receive_esp(path: Path, packet: bytes, ecn: int, now: float) -> None:
            opened = self._open(path, packet, ecn, now)
            if isinstance(opened, Opened):
                site, selectors = opened.child.site, opened.child.selectors
                carry_out(self._decide.from_site(site, opened.packet, selectors, ecn, now))

        await nursery.start(
            self.sockets.serve, addresses, self._receive_ike, receive_esp, self._path_mtu_reported
        )
        nursery.start_soon(self._ike.run)
        nursery.start_soon(self._tick)
        self.is_serving = True

    def observe(self, observer: Observer | None, decide: Deciding) -> None:
        """Show someone the packets from now on, or nobody, and have `decide` decide them."""
        self._observer = observer
        self._decide, self._seal, self._open = decide, self.associations.seal, self._open_untrusted
        if observer is not None:
            self._seal = observed_sealing(self._seal, observer)
            self._open = observed_opening(self._open, self.associations.site_of_untrusted, observer)

    def configure(self, appliance: Appliance, policies: Iterable[PeerPolicy]) -> None:
        """Take these sites, and only these; those that have not changed are left alone."""
        self._policies = {policy.site: policy for policy in policies}
        for words in secrets_shared(self._policies.values()):
            log.warning("%s", words, extra={"event": "shared-secret"})
        self._sites = {
            (tenant.name, site.name): site
            for tenant in appliance.network.tenants
            for site in tenant.sites
            if (tenant.name, site.name) in self._policies
        }
        self._trapped = frozenset(
            key for key, policy in self._policies.items() if policy.start is SiteStart.TRAP
        )
        self._wanted_at = {key: at for key, at in self._wanted_at.items() if key in self._trapped}
        self._ledger.configure(self._sites, _wall_clock())
        self._ike.configure(self._policies.values())
        self.associations.keep_only(self._sites)
        self._refresh_all()

    async def say_goodbye(self) -> None:
        """End every tunnel at its peer too, as far as peers answer soon."""
        await self._ike.say_goodbye()

    def send(self, packet: ToSite) -> None:
        """Encrypt a packet; it leaves when the task that sent it makes a pause."""
        sealed = self._seal(packet.site, packet.facts, packet.packet, trio.current_time())
        if isinstance(sealed, EspDrop):
            self._forwarder.drops.count(_REASONS.get(sealed, DropReason.SITE_DOWN), packet.tenant)
            return
        self.sockets.send_esp(sealed, packet.ecn)
        if not self._is_flush_due:
            self._is_flush_due = True
            trio.lowlevel.current_trio_token().run_sync_soon(self._flush)
        if self.associations.has_news:
            self._heed_news()

    def entry(self, site: SiteKey) -> Entry | None:
        """What is written down of a site, or None where it is none of ours."""
        return self._ledger.entries.get(site)

    def certificates(self) -> Iterator[CertificateReport]:
        """The certificates that the sites are dialled with."""
        for (tenant, site), policy in self._policies.items():
            yield from of_site(tenant, site, policy.credentials.certificates, policy.credentials.authorities)

    def statuses(self) -> list[SiteStatus]:
        """How each configured site is."""
        now = trio.current_time()
        return [self._status(key, site, now) for key, site in self._sites.items()]

    def _flush(self) -> None:
        self._is_flush_due = False
        self.sockets.flush()

    def _receive_ike(self, path: Path, message: bytes, _now: float) -> None:
        if self._observer is not None:
            self._observer.ike(self._site_at(path), path, message, is_inbound=True)
        self._ike.receive_untrusted(path, message)

    def _site_at(self, path: Path) -> SiteKey | None:
        """The one site whose peer is, or is configured to be, at the other end of a path."""
        address, peers = path.remote.address, self._ike.endpoint.peers  # which has none left at the end
        found = {
            key
            for key, site in self._sites.items()
            if site.peer == address
            or ((peer := peers.get(key)) is not None and peer.session and peer.session.path == path)
        }
        return next(iter(found)) if len(found) == 1 else None

    def _open_untrusted(self, path: Path, packet: bytes, _ecn: int, now: float) -> Opened | EspDrop:
        opened = self.associations.open_untrusted(path, packet, now)
        if self.associations.has_news:
            self._heed_news()
        return opened

    def _heed_news(self) -> None:
        """Tell the pipeline what sites carry now, and the key exchange what it should know.

        That is which child SAs near their end, and which peers have moved.
        """
        self._refresh_changed()
        for child in self.associations.take_expiring():
            self._ike.expiring(child.site, child.inbound_spi)
        for moved in self.associations.take_moved():
            self._ike.moved(moved.site, moved.inbound_spi, moved.path)

    def _wanted(self, site: SiteKey) -> None:
        now = trio.current_time()
        if site in self._trapped and now >= self._wanted_at.get(site, 0.0) + WANTED_EVERY:
            self._wanted_at[site] = now
            self._ike.wanted(site)

    def _traffic_of(self, site: SiteKey) -> Traffic:
        traffic = self.associations.traffic(site)
        return Traffic(traffic.last_received, traffic.last_sent)

    def _perform(self, effect: Effect) -> None:
        """Carry out what the key exchange asks for."""
        match effect:
            case SendDatagram(path=path, message=message):
                if self._observer is not None:
                    self._observer.ike(self._site_at(path), path, message, is_inbound=False)
                self.sockets.send_ike(path, message)
            case SendKeepalive(path=path):
                self.sockets.send_keepalive(path)
            case InstallChild():
                self.associations.install(effect)
            case SendBy(inbound_spi=inbound_spi):
                self.associations.send_by(inbound_spi)
            case RemoveChild(inbound_spi=inbound_spi, linger=linger):
                self.associations.remove(inbound_spi, linger=linger, now=trio.current_time())
            case MoveChildren(inbound_spis=inbound_spis, path=path):
                self.associations.move(inbound_spis, path)
            case StrangerRefused(path=path, reason=reason):
                self._log_stranger(path, reason)
            case SiteRekeyed(site=site, what=what):
                self._ledger.note(effect, _wall_clock())
                _say(site, "rekeyed", what)
            case _:
                _log(effect.site, self._ledger.note(effect, _wall_clock()))
        self._refresh_changed()

    def _refresh_changed(self) -> None:
        for key in self.associations.take_changed():
            self._refresh(key)

    def _log_stranger(self, path: Path, reason: str) -> None:
        """Say it, but not so often that strangers could fill a disk."""
        now = trio.current_time()
        if now >= self._quiet_until:
            self._quiet_until = now + STRANGERS_EVERY
            log.warning("refused a peer at %s: %s", path.remote, reason, extra={"event": "stranger-refused"})

    def _refresh_all(self) -> None:
        for key in self._sites:
            self._refresh(key)

    def _refresh(self, key: SiteKey) -> None:
        """Tell the pipeline what a site's child SAs carry now."""
        children = self.associations.children(key)
        site = self._sites.get(key)
        if self._ledger.is_up(key) != bool(children):
            words = "; ".join(f"{child.suite} for {child.selectors}" for child in children) or None
            _log(key, self._ledger.carries(key, words, _wall_clock()))
        if not children or site is None:
            self._forwarder.sites.site_is_down(key)
            return
        mtu = min(self._mtu(child, site) for child in children)
        selectors = dict.fromkeys(child.selectors for child in children)
        self._forwarder.sites.site_is_up(key, mtu, tuple(selectors))

    def _mtu(self, child: ChildSa, site: Site) -> int:
        """The largest customer's packet that goes through a child SA, in octets."""
        path = self._paths[child.path.local.address]
        carried = inner_mtu(child, path.outer_mtu(child.path.remote.address, trio.current_time()))
        return min(carried, site.mtu or carried)

    def _path_mtu_reported(self, destination: Endpoint, spi: int, mtu: int, now: float) -> None:
        """Heed what the network says of the path to a peer, if it has seen one of our packets."""
        site = self.associations.site_sent_to(destination.address, spi)
        if site is None:
            return
        for address, path in self._paths.items():
            if address.version == destination.address.version:
                path.report(destination.address, mtu, now, (destination.address,))
        self._refresh(site)

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK)
            now = trio.current_time()
            self.associations.handle_timeout(now)
            self._refresh_changed()
            aged = [path.expire(now) for path in self._paths.values()]
            if any(aged):
                self._refresh_all()

    def _status(self, key: SiteKey, site: Site, now: float) -> SiteStatus:
        entry = self._ledger.entries[key]
        peer = self._ike.endpoint.peers[key]
        session = peer.session
        traffic = self.associations.traffic(key)
        children = self.associations.children(key)
        if entry.is_up:
            state = "up"
        elif peer.is_connecting:
            state = "connecting"
        elif site.start is SiteStart.START:
            state = "down"
        else:
            state = "waiting"
        tenant, name = key
        return SiteStatus(
            tenant=tenant,
            site=name,
            state=state,
            since=entry.since,
            start=site.start.value,
            peer=str(site.peer) if site.peer is not None else "any",
            local_id=site.ike.local_id,
            remote_id=site.ike.remote_id,
            prefixes=[str(prefix) for prefix in site.prefixes],
            path=str(session.path) if session is not None else None,
            ike_suite=str(session.suite) if session is not None else None,
            children=[self._child_status(child, site) for child in children],
            sent_packets=traffic.sent_packets,
            sent_octets=traffic.sent_bytes,
            received_packets=traffic.received_packets,
            received_octets=traffic.received_bytes,
            ike_rekeys=entry.ike_rekeys,
            child_rekeys=entry.child_rekeys,
            failures=entry.failures,
            retry_in=max(0.0, peer.retry_at - now) if peer.retry_at is not None else None,
            last_error=_moment(entry.last_error) if entry.last_error is not None else None,
            history=[_moment(turn) for turn in entry.history],
        )

    def _child_status(self, child: ChildSa, site: Site) -> ChildStatus:
        return ChildStatus(
            name=child.name,
            suite=str(child.suite),
            inbound_spi=f"{child.inbound_spi:08x}",
            outbound_spi=f"{child.outbound_spi:08x}",
            local=[str(selector) for selector in child.selectors.local],
            remote=[str(selector) for selector in child.selectors.remote],
            in_udp=child.in_udp,
            mtu=self._mtu(child, site),
        )


def _wall_clock() -> float:
    return datetime.now(UTC).timestamp()


def _moment(turn: Turn) -> Moment:
    return Moment(turn.at, turn.what, turn.why)


def _log(site: SiteKey, turn: Turn | None) -> None:
    if turn is not None:
        _say(site, turn.what, turn.why)


def _say(site: SiteKey, what: str, why: str) -> None:
    level = logging.WARNING if what in ("down", "trouble") else logging.INFO
    tenant, name = site
    about = {"event": f"site-{what}", "tenant": tenant, "site": name}
    log.log(level, "%s%s", what, f": {why}" if why else "", extra=about)
