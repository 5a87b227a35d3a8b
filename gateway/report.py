"""What this node has done so far, as plain values: for a person, a script or a test."""

from __future__ import annotations

import errno
from typing import Any

from gateway.forwarding.metering import Meter
from gateway.forwarding.pipeline import Forwarder
from gateway.host.ports import Ports
from gateway.sites.tunnels import SiteTunnels
from gateway.underlay.service import Underlay


def report(forwarder: Forwarder, underlay: Underlay, ports: Ports, tunnels: SiteTunnels) -> dict[str, Any]:
    """Return the counters of one node: drops by reason and tenant, meters by virtual subnet and by site.

    What the kernel dropped before this program saw it is counted for each side, not among the drops.
    """
    return {
        "node": forwarder.node.name,
        "records": len(forwarder.directory),
        "drops": [
            {"reason": reason.value, "tenant": tenant, "packets": packets}
            for (reason, tenant), packets in sorted(forwarder.drops.counts.items())
        ],
        "meters": [
            {
                "tenant": entry.domain.name,
                "subnet": entry.name,
                "vsid": vsid,
                **_carried(forwarder.meters[vsid]),
            }
            for vsid, entry in forwarder.tables.subnets.items()
        ],
        "sites": [
            {
                "tenant": tenant,
                "site": site,
                "mtu": state.mtu if state is not None else None,
                **_carried(meter),
            }
            for (tenant, site), meter in forwarder.site_meters.items()
            for state in (forwarder.sites.find((tenant, site)),)
        ],
        "sources_elsewhere": dict(forwarder.sources_elsewhere),
        "moves": {
            "held": len(forwarder.moves.holding),
            "redirected_records": len(forwarder.moves.redirects),
            "redirected_packets": forwarder.moves.redirects.packets,
            "ahead_of_their_records": len(forwarder.moves.residence),
        },
        "notices": {
            "sent": forwarder.notices.sent,
            "suppressed": forwarder.notices.suppressed,
            "without_source": forwarder.notices.without_source,
        },
        "underlay": {
            "kernel_drops": underlay.kernel_drops,
            "icmp_errors": underlay.icmp_errors,
            "merged": underlay.merged,
        },
        "tunnels": {
            "esp_drops": [
                {
                    "reason": reason.value,
                    "site": "/".join(site) if site is not None else "",
                    "packets": packets,
                }
                for (reason, site), packets in tunnels.associations.drops.items()
            ],
            "ike_drops": {reason.value: messages for reason, messages in tunnels.ike_drops.items()},
            "keepalives": tunnels.sockets.keepalives,
            "unsent": {
                errno.errorcode.get(code, str(code)): packets
                for code, packets in tunnels.sockets.unsent.items()
                if packets
            },
            "kernel_drops": tunnels.sockets.kernel_drops,
            "icmp_errors": tunnels.sockets.icmp_errors,
        },
        "ports": {"kernel_drops": ports.kernel_drops, "unreadable": ports.unreadable},
    }


def _carried(meter: Meter) -> dict[str, int]:
    return {
        "sent_packets": meter.sent_packets,
        "sent_octets": meter.sent_octets,
        "received_packets": meter.received_packets,
        "received_octets": meter.received_octets,
    }
