"""What a node has done so far, as plain values: for a person, a script, the metrics or a test."""

from __future__ import annotations

import msgspec

from gateway.operating.configuration import Configuration


class DropReport(msgspec.Struct, frozen=True, gc=False):
    """Packets dropped for one reason; of no tenant where none was known."""

    reason: str
    tenant: str
    packets: int


class Carried(msgspec.Struct, frozen=True, gc=False):
    """What was carried, as customers' IP packets: sent from there, received there."""

    sent_packets: int = 0
    sent_octets: int = 0
    received_packets: int = 0
    received_octets: int = 0

    too_big: int = 0
    """Packets to there that were dropped for their size."""


class SubnetReport(Carried, frozen=True, gc=False, kw_only=True):
    """One virtual subnet."""

    tenant: str
    subnet: str
    vsid: int


class TunnelReport(msgspec.Struct, frozen=True, gc=False):
    """The tunnel of a site that this node dials, since this node has known it."""

    is_up: bool
    """Whether packets can be sent there."""
    since: float
    """When that changed, or the site was configured: in seconds since 1970, UTC."""
    turns_down: int
    ike_rekeys: int
    child_rekeys: int
    failures: dict[str, int]
    """Attempts that came to nothing, by every `tunnels.effects.Cause`."""
    drops: dict[str, int]
    """ESP packets that came to nothing, by every `tunnels.esp.drops.EspDrop` that is of a site."""


class SiteReport(Carried, frozen=True, gc=False, kw_only=True):
    """One site of a tenant that is here."""

    tenant: str
    site: str
    mtu: int | None
    """Of a customer's packet, in octets; None while nothing carries one."""
    tunnel: TunnelReport | None = None
    """None where another gateway dials the site."""


class EspDropReport(msgspec.Struct, frozen=True, gc=False):
    """ESP packets that came to nothing; the site is TENANT/SITE, or empty where none was known."""

    reason: str
    site: str
    packets: int


class MovesReport(msgspec.Struct, frozen=True):
    """What live migration does here now, and how many packets were sent on."""

    held: int = 0
    redirected_records: int = 0
    redirected_packets: int = 0
    ahead_of_their_records: int = 0


class NoticesReport(msgspec.Struct, frozen=True):
    """ICMP errors to customers."""

    sent: int = 0
    suppressed: int = 0
    without_source: int = 0


class UnderlayReport(msgspec.Struct, frozen=True):
    """The provider addresses' sockets. What the kernel dropped came while a buffer was full."""

    kernel_drops: int = 0
    icmp_errors: int = 0
    merged: int = 0


class RewritingReport(msgspec.Struct, frozen=True):
    """What comes rewritten, to the addresses of this node's pools."""

    received: int = 0
    waiting: int = 0
    """Packets that wait for a provider address now."""
    answered: int = 0
    """Questions of neighbours for addresses that are held here."""
    announced: int = 0
    """Announcements of addresses that have come here, one for each interface."""
    not_announced: int = 0
    """Addresses that came here while too many were waiting to be announced."""
    contested: int = 0
    """Announcements of others that they have an address which is held here."""
    malformed: int = 0
    """Questions of neighbours that break the format."""
    merged: int = 0
    kernel_drops: int = 0


class TunnelsReport(msgspec.Struct, frozen=True):
    """All sites' sockets together."""

    esp_drops: list[EspDropReport] = []
    ike_drops: dict[str, int] = {}
    keepalives: int = 0
    unsent: dict[str, int] = {}
    """By the error that the kernel gave."""
    kernel_drops: int = 0
    icmp_errors: int = 0


class PortsReport(msgspec.Struct, frozen=True):
    """The VMs' ports."""

    kernel_drops: int = 0
    unreadable: int = 0


class LoopReport(msgspec.Struct, frozen=True):
    """How late an event loop was in the last minute, in seconds."""

    name: str
    """trio or asyncio."""
    most_late: float
    mean_late: float


class CertificateReport(msgspec.Struct, frozen=True, gc=False):
    """One certificate, or of a chain the one that ends first."""

    use: str
    """The section of the configuration: lookup.tls, api.tls, gateway.lookup or host.lookup; or of a site:
    `site` for our own there, `site-authority` for those that vouch for its peer."""
    expires_at: float
    """In seconds since 1970, UTC."""
    tenant: str = ""
    site: str = ""


class BridgeReport(msgspec.Struct, frozen=True):
    """The Open vSwitch bridge that carries a host's packets."""

    flows: int
    ports: list[str]
    trouble: str
    """Why the bridge is waited for; empty while it is not."""


DETACHED = "detached"


class AttachedReport(msgspec.Struct, frozen=True, gc=False):
    """An interface whose packets the fast path sees."""

    interface: str
    mode: str
    """native: in its driver; generic: in the kernel behind that; detached: no longer there."""
    why: str = ""
    """Why it is generic, where native was tried, or detached."""


class LeftReport(msgspec.Struct, frozen=True, gc=False):
    """A tenant that the fast path carries nothing of."""

    tenant: str
    why: str


class FastPathReport(msgspec.Struct, frozen=True, kw_only=True):
    """The fast path. What it drops is among all drops, and what it carries is metered with the rest."""

    interfaces: list[AttachedReport]
    pinned: bool
    """Whether it outlives the process."""
    records: int
    """That it finds; the others' packets are Python's."""
    capacity: int
    """How many it could find."""
    without_place: int
    """Records that found no place."""
    tenants: int
    """That it carries."""
    tenants_left: int
    """That it leaves to Python altogether, of which some are named."""
    left_to_python: list[LeftReport]
    hops_unresolved: int
    """Provider addresses that there is no next hop to."""
    unresolved: list[str]
    """Why, in words, of some of them."""
    hops_resyncs: int
    """How often the kernel's news of next hops were lost, so that all were asked for anew."""
    carried: int
    """Packets that it sent on."""
    passed: dict[str, int]
    """Packets that it handed to Python, by why."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of one node since its start. Each drop is counted once, under one reason.

    What the kernel dropped before this program saw it is counted for each side, not among the drops.
    """

    node: str
    version: str = ""
    started_at: float = 0.0
    """In seconds since 1970, UTC."""
    engine: str = ""
    """What decides packets: xdp, python or openvswitch; empty where none are carried."""
    engine_reason: str = ""
    """Why it is python, where the fast path was tried."""
    fastpath: FastPathReport | None = None
    loops: list[LoopReport] = []
    certificates: list[CertificateReport] = []
    configuration: Configuration | None = None
    records: int = 0
    drops: list[DropReport] = []
    meters: list[SubnetReport] = []
    sites: list[SiteReport] = []
    sources_elsewhere: dict[str, int] = {}
    moves: MovesReport = MovesReport()
    notices: NoticesReport = NoticesReport()
    underlay: UnderlayReport = UnderlayReport()
    rewriting: RewritingReport = RewritingReport()
    tunnels: TunnelsReport = TunnelsReport()
    ports: PortsReport = PortsReport()
    bridge: BridgeReport | None = None
