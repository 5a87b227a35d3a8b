"""The counters of the builtin data path, gathered from where they are counted."""

from __future__ import annotations

import errno

from gateway.forwarding.metering import Meter
from gateway.forwarding.pipeline import Forwarder
from gateway.host.ports import Ports
from gateway.operating.report import (
    DropReport,
    EspDropReport,
    FastPathReport,
    MovesReport,
    NoticesReport,
    PortsReport,
    Report,
    RewritingReport,
    SiteReport,
    SubnetReport,
    TunnelReport,
    TunnelsReport,
    UnderlayReport,
)
from gateway.sites.tunnels import SiteTunnels
from gateway.underlay.provider import Provider
from gateway.underlay.service import Underlay
from policies.model import Engine
from tunnels.effects import Cause, SiteKey
from tunnels.esp.drops import EspDrop

# To look up the value of an enumeration's member takes longer than all else that is done with it.
_CAUSES = tuple((cause.value, cause) for cause in Cause)
_REASONS = tuple((reason.value, reason) for reason in EspDrop if reason is not EspDrop.UNKNOWN_SPI)


def report(
    forwarder: Forwarder,
    underlay: Underlay,
    provider: Provider,
    ports: Ports,
    tunnels: SiteTunnels,
    fastpath: FastPathReport | None = None,
    engine_reason: str = "",
) -> Report:
    """Return the counters of one node."""
    moves, notices = forwarder.moves, forwarder.notices
    return Report(
        node=forwarder.node.name,
        engine=(Engine.PYTHON if fastpath is None else Engine.XDP).value,
        engine_reason=engine_reason,
        fastpath=fastpath,
        records=len(forwarder.directory),
        drops=[
            DropReport(reason.value, tenant, packets)
            for (reason, tenant), packets in sorted(forwarder.drops.counts.items())
        ],
        meters=[
            SubnetReport(
                tenant=entry.domain.name, subnet=entry.name, vsid=vsid, **_carried(forwarder.meters[vsid])
            )
            for vsid, entry in forwarder.tables.subnets.items()
        ],
        sites=[
            SiteReport(
                tenant=tenant,
                site=site,
                mtu=state.mtu if state is not None else None,
                tunnel=_tunnel(tunnels, (tenant, site)),
                **_carried(meter),
            )
            for (tenant, site), meter in forwarder.site_meters.items()
            for state in (forwarder.sites.find((tenant, site)),)
        ],
        sources_elsewhere=dict(forwarder.sources_elsewhere),
        moves=MovesReport(
            held=len(moves.holding),
            redirected_records=len(moves.redirects),
            redirected_packets=moves.redirects.packets,
            ahead_of_their_records=len(moves.residence),
        ),
        notices=NoticesReport(notices.sent, notices.suppressed, notices.without_source),
        underlay=UnderlayReport(underlay.kernel_drops, underlay.icmp_errors, underlay.merged),
        rewriting=_rewriting(forwarder, provider),
        tunnels=_tunnels(tunnels),
        certificates=list(tunnels.certificates()),
        ports=PortsReport(ports.kernel_drops, ports.unreadable),
    )


def _rewriting(forwarder: Forwarder, provider: Provider) -> RewritingReport:
    return RewritingReport(
        received=provider.received,
        waiting=len(forwarder.waiting),
        answered=provider.answered,
        announced=provider.announced,
        not_announced=provider.not_announced,
        contested=provider.contested,
        malformed=provider.malformed,
        merged=provider.merged,
        kernel_drops=provider.kernel_drops,
    )


def _tunnel(tunnels: SiteTunnels, site: SiteKey) -> TunnelReport | None:
    entry = tunnels.entry(site)
    if entry is None:
        return None
    drops, failed = tunnels.associations.drops, entry.failed
    return TunnelReport(
        is_up=entry.is_up,
        since=entry.since,
        turns_down=entry.turns_down,
        ike_rekeys=entry.ike_rekeys,
        child_rekeys=entry.child_rekeys,
        failures={word: failed.get(cause, 0) for word, cause in _CAUSES},
        drops={word: drops.get((reason, site), 0) for word, reason in _REASONS},
    )


def _tunnels(tunnels: SiteTunnels) -> TunnelsReport:
    sockets = tunnels.sockets
    return TunnelsReport(
        esp_drops=[
            EspDropReport(reason.value, "/".join(site) if site is not None else "", packets)
            for (reason, site), packets in tunnels.associations.drops.items()
        ],
        ike_drops={reason.value: messages for reason, messages in tunnels.ike_drops.items()},
        keepalives=sockets.keepalives,
        unsent={
            errno.errorcode.get(code, str(code)): packets
            for code, packets in sockets.unsent.items()
            if packets
        },
        kernel_drops=sockets.kernel_drops,
        icmp_errors=sockets.icmp_errors,
    )


def _carried(meter: Meter) -> dict[str, int]:
    return {
        "sent_packets": meter.sent_packets,
        "sent_octets": meter.sent_octets,
        "received_packets": meter.received_packets,
        "received_octets": meter.received_octets,
        "too_big": meter.too_big,
    }
